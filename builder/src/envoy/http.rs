//! The HTTP connection managers: one hardened form, three uses.
//!
//! `use_remote_address` is true wherever somebody else connects: what the filter reads as the source address is then the
//! peer that is really connected, whatever `x-forwarded-for` says (SEMANTICS.md), so that `ipBlocks` cannot be talked
//! round. And nobody counts as "internal": `x-envoy-*` of a caller steers no timeout and no retry here.

use super::access_log;
use super::lifetimes::{Lifetimes, in_seconds};
use super::types::{
    CidrRange, Empty, Extension, Http2ProtocolOptions, HttpConnectionManager, HttpProtocolOptions,
    InternalAddressConfig, RouteConfiguration, SetCurrentClientCertDetails, UpgradeConfig,
};

/// Prefix of the counters of what comes in without TLS: as long as `http.inbound_plaintext.downstream_rq_total` (of TCP
/// `tcp.inbound_plaintext.downstream_cx_total`) grows, somebody would be shut out by STRICT.
pub const PLAIN_TEXT: &str = "inbound_plaintext";

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Other sidecars, by mTLS.
    Inbound(Inbound),
    /// The application of this pod.
    Outbound,
    /// The world.
    Edge,
    /// kubelet, and who reads metrics.
    Health,
}

/// What differs among inbound managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The client's certificate was checked.
    pub mtls: bool,
    /// A policy asks for the original client (`remoteIpBlocks`): the address that the last proxy of the mesh wrote into
    /// `x-forwarded-for`. Any caller of the mesh can write one, too, so that it is as true as the callers are honest.
    pub original_client: bool,
    pub lifetimes: Lifetimes,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound(_) => "inbound",
            Self::Outbound => "outbound",
            Self::Edge => "edge",
            Self::Health => "health",
        }
    }
}

/// Limits of Envoy's own guide for edge proxies ("Configuring Envoy as an edge proxy").
pub fn http2_limits() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: 100,
        initial_stream_window_size: 65_536,
        initial_connection_window_size: 1_048_576,
    }
}

/// An empty list would mean Envoy's default: loopback and all private addresses. This address is nobody's.
fn nobody_is_internal() -> InternalAddressConfig {
    InternalAddressConfig {
        cidr_ranges: vec![CidrRange { address_prefix: "255.255.255.255", prefix_len: 32 }],
    }
}

/// A connection manager as a network filter, with the filters given and the router behind them.
pub fn connection_manager(side: Side, routes: RouteConfiguration, filters: Vec<Extension>) -> Extension {
    // Outbound, paths stay as the application wrote them: the callee's sidecar normalises, judges and counts them.
    let hardened = side != Side::Outbound;
    let inbound = match side {
        Side::Inbound(inbound) => Some(inbound),
        _ => None,
    };
    let mtls = inbound.is_some_and(|inbound| inbound.mtls);
    let mut http_filters = filters;
    http_filters.push(Extension::new(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        Empty {},
    ));
    let manager = HttpConnectionManager {
        stat_prefix: if inbound.is_some() && !mtls { PLAIN_TEXT } else { side.name() }.to_owned(),
        codec_type: "AUTO",
        route_config: routes,
        http_filters,
        access_log: if side == Side::Health { Vec::new() } else { access_log::http(side.name()) },
        use_remote_address: hardened,
        xff_num_trusted_hops: inbound.and_then(|inbound| inbound.original_client.then_some(1)),
        // The address of the own application says nothing to anybody.
        skip_xff_append: !hardened,
        internal_address_config: nobody_is_internal(),
        // Behind mTLS the header says who called, and it says nothing but that; elsewhere there is none, forged or not.
        forward_client_cert_details: if mtls { "SANITIZE_SET" } else { "SANITIZE" },
        set_current_client_cert_details: mtls.then_some(SetCurrentClientCertDetails { uri: true }),
        preserve_external_request_id: inbound.is_some(),
        server_header_transformation: if side == Side::Edge { "OVERWRITE" } else { "PASS_THROUGH" },
        normalize_path: hardened,
        merge_slashes: hardened,
        path_with_escaped_slashes_action: if hardened { "REJECT_REQUEST" } else { "KEEP_UNCHANGED" },
        common_http_protocol_options: HttpProtocolOptions {
            idle_timeout: "3600s".into(),
            max_requests_per_connection: None,
            max_connection_duration: inbound.map(|inbound| in_seconds(inbound.lifetimes.connection)),
            max_stream_duration: inbound.map(|inbound| in_seconds(inbound.lifetimes.stream)),
            // `x_user` and `x-user` are one header to many applications, and two to a policy.
            headers_with_underscores_action: hardened.then_some("REJECT_REQUEST"),
        },
        http2_protocol_options: http2_limits(),
        request_headers_timeout: "10s",
        // The world gets no time for a slow request body; among sidecars a stream may be long (gRPC, MCP).
        request_timeout: (side == Side::Edge).then_some("300s"),
        stream_idle_timeout: "300s",
        drain_timeout: "5s",
        upgrade_configs: if side == Side::Health {
            Vec::new()
        } else {
            vec![UpgradeConfig { upgrade_type: "websocket" }]
        },
    };
    Extension::new(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        manager,
    )
}

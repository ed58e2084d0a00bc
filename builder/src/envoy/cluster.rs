//! Where connections go: the own application, the own admin interface, and the sidecars of the callees.

use std::collections::BTreeMap;

use serde_json::json;

use super::http::http2_limits;
use super::lifetimes::{Lifetimes, in_seconds};
use super::placement::{Place, Target};
use super::types::{
    Address, Any, AnyValue, CircuitBreakers, Cluster, ClusterLoadAssignment, Empty, Endpoint,
    HttpProtocolOptions, LbEndpoint, LocalityLbEndpoints, OriginalDstLbConfig, Pipe, Thresholds,
    UpstreamHttp, UseDownstreamProtocol,
};
use super::{agent, native, tls};
use crate::compile;
use crate::mesh::model::Protocol;
use crate::mesh::{RateLimitService, Resolved, Service, ports};
use crate::native::ForCall;
use crate::policy::Mode;

/// The own application and the own admin interface. No service can have these names: they have an underscore.
pub const APPLICATION: &str = "local_application";
pub const ADMIN: &str = "local_admin";
/// What was caught on its way out of the mesh, to where it was going.
pub const PASSED: &str = "captured_outside";

/// Concurrency towards the own application is its own affair and that of the limits that a policy sets: Envoy's
/// defaults (1024) would answer 503 in its place.
const UNLIMITED: u32 = 1_000_000;

/// A cluster of one address, or of none.
pub fn at(name: &str, address: Option<Address>) -> Cluster {
    let lb_endpoints =
        address.map(|address| LbEndpoint { endpoint: Endpoint { address } }).into_iter().collect();
    Cluster {
        name: name.to_owned(),
        discovery_type: "STATIC",
        connect_timeout: "5s".to_owned(),
        dns_lookup_family: None,
        dns_refresh_rate: None,
        lb_policy: None,
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints }],
        }),
        original_dst_lb_config: None,
        circuit_breakers: None,
        outlier_detection: None,
        common_lb_config: None,
        transport_socket: None,
        typed_extension_protocol_options: BTreeMap::new(),
    }
}

/// SPIRE's agent at its socket.
pub fn agent(socket: &str) -> Cluster {
    let mut cluster = at(agent::CLUSTER, Some(Address::Pipe(Pipe { path: socket.to_owned() })));
    cluster.typed_extension_protocol_options = grpc();
    cluster
}

/// HTTP upstream in the protocol of the downstream.
fn http_options(
    max_connection_duration: Option<String>,
    call: ForCall<'_>,
) -> BTreeMap<&'static str, AnyValue> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let pool = call.connection_pool.and_then(|pool| pool.http.as_ref());
    let idle = pool.and_then(|pool| pool.idle_timeout.as_ref());
    let most = pool.and_then(|pool| pool.max_requests_per_connection.as_ref());
    let options = UpstreamHttp {
        common_http_protocol_options: HttpProtocolOptions {
            idle_timeout: idle.map_or("300s".into(), |idle| idle.value.to_envoy().into()),
            max_connection_duration,
            max_requests_per_connection: most.map(|most| most.value),
            max_stream_duration: None,
            headers_with_underscores_action: None,
        },
        use_downstream_protocol_config: UseDownstreamProtocol {
            http_protocol_options: Empty {},
            http2_protocol_options: http2_limits(),
        },
    };
    BTreeMap::from([(NAME, Any::new(NAME, options).erase())])
}

/// The application of this pod. `None` for an edge, which has none.
pub fn application(service: &Service, place: &Place<'_>) -> Option<Cluster> {
    let mut cluster = at(APPLICATION, Some(Address::ip(place.loopback, service.port?)));
    cluster.circuit_breakers = Some(unlimited());
    if service.protocol == Protocol::Http {
        cluster.typed_extension_protocol_options = http_options(None, ForCall::default());
    }
    Some(cluster)
}

fn unlimited() -> CircuitBreakers {
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: Some(UNLIMITED),
            max_pending_requests: Some(UNLIMITED),
            max_requests: Some(UNLIMITED),
            max_retries: None,
            retry_budget: None,
            track_remaining: false,
        }],
    }
}

/// The admin interface, for the health listener.
pub fn admin(place: &Place<'_>) -> Cluster {
    at(ADMIN, Some(Address::ip(place.loopback, ports::ADMIN)))
}

/// For gRPC: HTTP/2 alone.
pub fn grpc() -> BTreeMap<&'static str, AnyValue> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = json!({
        "@type": format!("type.googleapis.com/{NAME}"),
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    BTreeMap::from([(NAME, options)])
}

/// The service that counts limits of the whole mesh. A name with several addresses is asked by turns.
pub fn rate_limit_service(service: &RateLimitService, place: &Place<'_>) -> Cluster {
    let numbers = service.host.parse().ok();
    let address = match numbers {
        Some(numbers) => Address::ip(numbers, service.port),
        None => Address::name(service.host.clone(), service.port),
    };
    let mut cluster = at(compile::RATE_LIMIT_CLUSTER, Some(address));
    if numbers.is_none() {
        cluster.discovery_type = "STRICT_DNS";
        cluster.dns_lookup_family = Some("V4_PREFERRED");
        cluster.dns_refresh_rate = Some("5s");
    }
    // Nobody waits for it for long.
    cluster.connect_timeout = "1s".to_owned();
    if let Some(identity) = &service.identity {
        // An address is no server name (RFC 6066, 3).
        let name = if numbers.is_some() { String::new() } else { service.host.clone() };
        cluster.transport_socket = Some(tls::upstream(&place.secrets, name, identity.clone()));
    }
    cluster.typed_extension_protocol_options = grpc();
    cluster
}

/// The sidecars of a callee: mTLS, and no other identity than the callee's.
pub fn callee(mesh: &Resolved, caller: &Service, callee: &Service, place: &Place<'_>) -> Cluster {
    let target = place.sidecar_of(mesh, &callee.name);
    let address = match &target {
        Target::Name(name) => Some(Address::name(name.clone(), ports::INBOUND)),
        Target::Address(address) => Some(Address::ip(*address, ports::INBOUND)),
        Target::Nowhere => None,
    };
    let mut cluster = at(&callee.name, address);
    if let Target::Name(_) = target {
        // The Services are headless: DNS gives every ready pod, and Envoy balances over them itself.
        cluster.discovery_type = "STRICT_DNS";
        cluster.dns_lookup_family = Some("V4_PREFERRED");
        cluster.dns_refresh_rate = Some("5s");
    }
    cluster.lb_policy = Some("LEAST_REQUEST");
    // Plain text only where the callee takes nothing else.
    if mesh.mode(callee) != Mode::Disable {
        cluster.transport_socket = Some(tls::upstream(&place.secrets, callee.fqdn(), mesh.spiffe_id(callee)));
    }
    let call = crate::native::for_call(mesh, caller, callee);
    native::protect(&mut cluster, call);
    if callee.protocol == Protocol::Http {
        cluster.typed_extension_protocol_options =
            http_options(Some(in_seconds(Lifetimes::of(mesh).upstream)), call);
    }
    cluster
}

pub fn captured_name(callee: &Service) -> String {
    format!("captured_{}", callee.name)
}

/// A TCP callee at the address that was meant: its sidecar there, by mTLS, and no other identity than the callee's.
pub fn captured(mesh: &Resolved, caller: &Service, to: &Service, place: &Place<'_>) -> Cluster {
    let name = captured_name(to);
    let address = OriginalDstLbConfig { upstream_port_override: ports::INBOUND };
    Cluster { original_dst_lb_config: Some(address), ..original(callee(mesh, caller, to, place), name) }
}

/// Whatever is not in the mesh, as it is.
pub fn passed() -> Cluster {
    let mut cluster = original(at(PASSED, None), PASSED.to_owned());
    cluster.circuit_breakers = Some(unlimited());
    cluster.typed_extension_protocol_options = http_options(None, ForCall::default());
    cluster
}

/// The same towards the address that a captured connection was meant for.
fn original(cluster: Cluster, name: String) -> Cluster {
    Cluster {
        name,
        discovery_type: "ORIGINAL_DST",
        dns_lookup_family: None,
        dns_refresh_rate: None,
        lb_policy: Some("CLUSTER_PROVIDED"),
        load_assignment: None,
        ..cluster
    }
}

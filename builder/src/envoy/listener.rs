//! The listeners: inbound, outbound, one for each TCP callee, the edge, health.

use std::time::Duration;

use super::filter::{self, Layer};
use super::http::{self, Inbound, Side};
use super::lifetimes::{Lifetimes, in_seconds};
use super::placement::Place;
use super::types::{
    AdditionalAddress, Address, Empty, Extension, FilterChain, FilterChainMatch, Listener, TcpProxy,
};
use super::{access_log, captured, cluster, routes, tls};
use crate::compile::{self, Plugins};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service, ports};
use crate::policy::Mode;

/// Bytes that a connection may hold up before Envoy reads no more from it.
const BUFFER_LIMIT: u32 = 1 << 20;
/// A client that does not finish its handshake in this time is gone.
const HANDSHAKE_TIMEOUT: &str = "10s";

/// Files of the filter's configuration, beside `envoy.yaml`.
pub const INBOUND_FILE: &str = "filter-inbound.yaml";
pub const OUTBOUND_FILE: &str = "filter-outbound.yaml";

fn listener(name: &str, direction: &'static str, address: Address, chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: name.to_owned(),
        address,
        additional_addresses: Vec::new(),
        traffic_direction: direction,
        per_connection_buffer_limit_bytes: BUFFER_LIMIT,
        listener_filters: Vec::new(),
        filter_chains: chains,
        filter_chain_matcher: None,
        listener_filters_timeout: None,
    }
}

pub(super) fn chain(name: &str, filters: Vec<Extension>) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: None,
        filters,
        transport_socket: None,
        transport_socket_connect_timeout: None,
    }
}

/// 15001: mTLS, the filter, the guard, the application; plain text too where a PeerAuthentication says PERMISSIVE, and
/// alone where it says DISABLE.
pub fn inbound(mesh: &Resolved, service: &Service, place: &Place<'_>, plugins: &Plugins) -> Listener {
    let original_client = compile::wants_original_client(mesh, service);
    let inbound = |mtls| Inbound { mtls, original_client, lifetimes: Lifetimes::of(mesh) };
    let filters = |mtls| inbound_filters(mesh, service, place, plugins, inbound(mtls));
    let mode = mesh.mode(service);
    let mut chains = Vec::new();
    if mode != Mode::Disable {
        let alpn: &[&'static str] = match service.protocol {
            Protocol::Http => &["h2", "http/1.1"],
            Protocol::Tcp => &[],
        };
        let mut domains = vec![mesh.trust_domain.as_str()];
        domains.extend(mesh.trust_domain_aliases.iter().chain(&mesh.federates_with).map(String::as_str));
        chains.push(FilterChain {
            filter_chain_match: Some(FilterChainMatch { transport_protocol: "tls" }),
            transport_socket: Some(tls::downstream(&place.secrets, tls::Peers::TrustDomains(domains), alpn)),
            transport_socket_connect_timeout: Some(HANDSHAKE_TIMEOUT),
            ..chain("mtls", filters(true))
        });
    }
    if mode != Mode::Strict {
        chains.push(FilterChain {
            filter_chain_match: Some(FilterChainMatch { transport_protocol: "raw_buffer" }),
            ..chain("plain-text", filters(false))
        });
    }
    let mut listener = listener("inbound", "INBOUND", Address::ip(place.bind, ports::INBOUND), chains);
    // Tells the server name (`connection.sni` in policies), and TLS from plain text.
    listener.listener_filters = vec![Extension::new(
        "envoy.filters.listener.tls_inspector",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        Empty {},
    )];
    listener.listener_filters_timeout = Some(HANDSHAKE_TIMEOUT);
    listener
}

fn inbound_filters(
    mesh: &Resolved,
    service: &Service,
    place: &Place<'_>,
    plugins: &Plugins,
    inbound: Inbound,
) -> Vec<Extension> {
    let layer = match service.protocol {
        Protocol::Http => Layer::Http,
        Protocol::Tcp => Layer::Network,
    };
    let deny_all = &plugins.inbound_deny_all;
    let filter = filter::discovered(layer, &place.config, INBOUND_FILE, &place.filter, deny_all);
    let mut checked = vec![filter, filter::guard(layer)];
    if let Some(file) = service.replicas_file.as_ref().filter(|_| compile::limits_are_shared(mesh, service)) {
        checked.insert(0, filter::replicas(layer, file));
    }
    match service.protocol {
        Protocol::Http => vec![http::connection_manager(Side::Inbound(inbound), routes::inbound(), checked)],
        Protocol::Tcp => {
            let name = if inbound.mtls { "inbound" } else { http::PLAIN_TEXT };
            // As long as the protocol on them likes, but not for ever.
            checked.push(tcp_proxy(name, cluster::APPLICATION, Some(inbound.lifetimes.tcp), true));
            checked
        }
    }
}

/// 15006: plain HTTP from the own application, and what is caught of it.
pub fn outbound(
    mesh: &Resolved,
    service: &Service,
    callees: &[&Service],
    place: &Place<'_>,
    plugins: &Plugins,
) -> Listener {
    let filters = outbound_filters(place, plugins);
    let routes = routes::outbound(mesh, service, callees);
    let manager = http::connection_manager(Side::Outbound, routes, filters);
    let address = Address::ip(place.loopback, ports::OUTBOUND);
    let mut listener = listener("outbound", "OUTBOUND", address, vec![chain("http", vec![manager])]);
    if let Some(interception) = place.interception(mesh) {
        captured::extend(&mut listener, interception, mesh, service, place, plugins);
    }
    listener
}

pub(super) fn outbound_filters(place: &Place<'_>, plugins: &Plugins) -> Vec<Extension> {
    let deny_all = &plugins.outbound_deny_all;
    let filter = filter::discovered(Layer::Http, &place.config, OUTBOUND_FILE, &place.filter, deny_all);
    vec![filter, filter::guard(Layer::Http)]
}

/// A port of the own application's loopback, for one TCP callee.
pub fn tcp_callee(callee: &Service, port: u16, place: &Place<'_>) -> Listener {
    let name = format!("outbound-{}", callee.name);
    let proxy = tcp_proxy(&name, &callee.name, None, false);
    listener(&name, "OUTBOUND", Address::ip(place.loopback, port), vec![chain("tcp", vec![proxy])])
}

/// Plain HTTP from outside.
pub fn edge(
    mesh: &Resolved,
    service: &Service,
    edge: &crate::mesh::Edge,
    place: &Place<'_>,
    plugins: &Plugins,
) -> Listener {
    let routes = routes::edge(mesh, service, edge);
    let manager = http::connection_manager(Side::Edge, routes, outbound_filters(place, plugins));
    let address = Address::ip(place.bind, edge.port);
    let mut listener = listener("edge", "INBOUND", address, vec![chain("http", vec![manager])]);
    let also = place.edge_also.map(|address| AdditionalAddress { address: Address::ip(address, edge.port) });
    listener.additional_addresses = also.into_iter().collect();
    listener
}

/// 15021: readiness, metrics and the application's probes.
pub fn health(service: &Service, place: &Place<'_>) -> Listener {
    let manager = http::connection_manager(Side::Health, routes::health(service), Vec::new());
    listener(
        "health",
        "UNSPECIFIED",
        Address::ip(place.bind, ports::HEALTH),
        vec![chain("http", vec![manager])],
    )
}

/// `checked`: the connection to the application waits for the first bytes, and so for the filter's word on them. Else
/// a server that speaks first would greet a caller that nobody has looked at yet.
pub(super) fn tcp_proxy(
    stat_prefix: &str,
    cluster: &str,
    max_duration: Option<Duration>,
    checked: bool,
) -> Extension {
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster: cluster.to_owned(),
        idle_timeout: "3600s",
        max_downstream_connection_duration: max_duration.map(in_seconds),
        upstream_connect_mode: checked.then_some("ON_DOWNSTREAM_DATA"),
        max_early_data_bytes: checked.then_some(65_536),
        access_log: access_log::tcp(stat_prefix),
    };
    Extension::new(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        proxy,
    )
}

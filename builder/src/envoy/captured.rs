//! What the application sends without knowing of its sidecar: caught by the rules of [`crate::kube::redirect`], taken in by
//! the outbound listener.
//!
//! The rules keep the address that was meant, and `original_dst` reads it. Without a control plane nobody knows whose that
//! address is; so the port says what is spoken. On the ports of HTTP callees, and on 80, it is HTTP, and `Host` says for
//! whom. On the port of a TCP callee it is for that callee: the connection goes to the very address that was meant, at the
//! sidecar's port there, by mTLS, and to no other identity. All else passes as it is, or is refused.
//!
//! INVARIANT: what is meant for the listener's own port stays in its chain `http`, which leads to named clusters only:
//! nothing that is sent to the listener comes back to it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cluster::{self, PASSED};
use super::http::{self, Side};
use super::listener::{chain, outbound_filters, tcp_proxy};
use super::placement::Place;
use super::routes;
use super::types::{Any, AnyValue, Cluster, Empty, Extension, Listener};
use crate::compile::Plugins;
use crate::mesh::model::{Outside, Protocol};
use crate::mesh::{Interception, Resolved, Service, ports};

/// Chains of the listener. The first is the one that the application can also call itself.
const OWN: &str = "http";
const HTTP: &str = "captured-http";
const OUTSIDE: &str = "captured-outside";

/// The callees of a service, as far as captured traffic is concerned.
struct Callees<'a> {
    http: Vec<&'a Service>,
    /// With the port by which they are known.
    tcp: BTreeMap<u16, &'a Service>,
}

impl<'a> Callees<'a> {
    fn of(mesh: &'a Resolved, service: &Service) -> Self {
        let mut callees = Self { http: Vec::new(), tcp: BTreeMap::new() };
        for call in &service.calls {
            let Some(callee) = mesh.service(&call.service) else { continue };
            match (callee.protocol, callee.port) {
                (Protocol::Http, _) => callees.http.push(callee),
                // One that has another port here is reached there, on the loopback.
                (Protocol::Tcp, Some(port)) if call.port == Some(port) => {
                    callees.tcp.insert(port, callee);
                }
                (Protocol::Tcp, _) => {}
            }
        }
        callees
    }

    /// The ports on which HTTP is spoken.
    fn http_ports(&self) -> Vec<u16> {
        let mut all: Vec<u16> = self.http.iter().filter_map(|callee| callee.port).collect();
        all.push(80);
        all.retain(|port| !self.tcp.contains_key(port));
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The chains for captured traffic, beside the one of the outbound listener.
pub fn extend(
    listener: &mut Listener,
    interception: &Interception,
    mesh: &Resolved,
    service: &Service,
    place: &Place<'_>,
    plugins: &Plugins,
) {
    let callees = Callees::of(mesh, service);
    let mut by_port = BTreeMap::from([(ports::OUTBOUND, OWN.to_owned())]);
    let routes = routes::captured(mesh, service, &callees.http, interception.outside);
    let manager = http::connection_manager(Side::Outbound, routes, outbound_filters(place, plugins));
    listener.filter_chains.push(chain(HTTP, vec![manager]));
    by_port.extend(callees.http_ports().into_iter().map(|port| (port, HTTP.to_owned())));
    for (port, callee) in &callees.tcp {
        let name = format!("captured-tcp-{}", callee.name);
        let stat_prefix = format!("outbound-{}", callee.name);
        let proxy = tcp_proxy(&stat_prefix, &cluster::captured_name(callee), None, false);
        listener.filter_chains.push(chain(&name, vec![proxy]));
        by_port.insert(*port, name);
    }
    let outside = match interception.outside {
        Outside::Pass => {
            let proxy = tcp_proxy("outbound-outside", PASSED, None, false);
            listener.filter_chains.push(chain(OUTSIDE, vec![proxy]));
            Some(OUTSIDE)
        }
        // No chain: the connection is closed.
        Outside::Refuse => None,
    };
    listener.filter_chain_matcher = Some(matcher(&by_port, outside));
    listener.listener_filters.push(Extension::new(
        "envoy.filters.listener.original_dst",
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        Empty {},
    ));
}

/// Where captured traffic goes that has no cluster yet.
pub fn clusters(
    interception: &Interception,
    mesh: &Resolved,
    service: &Service,
    place: &Place<'_>,
) -> Vec<Cluster> {
    let callees = Callees::of(mesh, service);
    let mut all: Vec<Cluster> =
        callees.tcp.values().map(|callee| cluster::captured(mesh, service, callee, place)).collect();
    if interception.outside == Outside::Pass {
        all.push(cluster::passed());
    }
    all
}

/// `xds.type.matcher.v3.Matcher`: by the port that was meant, a chain's name.
fn matcher(by_port: &BTreeMap<u16, String>, otherwise: Option<&str>) -> AnyValue {
    #[derive(Serialize)]
    struct Matcher {
        matcher_tree: Tree,
        #[serde(skip_serializing_if = "Option::is_none")]
        on_no_match: Option<OnMatch>,
    }
    #[derive(Serialize)]
    struct Tree {
        input: Extension,
        exact_match_map: Map,
    }
    #[derive(Serialize)]
    struct Map {
        map: BTreeMap<String, OnMatch>,
    }
    #[derive(Serialize)]
    struct OnMatch {
        action: Action,
    }
    #[derive(Serialize)]
    struct Action {
        name: String,
        typed_config: AnyValue,
    }
    #[derive(Serialize)]
    struct StringValue {
        value: String,
    }
    let on_match = |chain: &str| OnMatch {
        action: Action {
            name: chain.to_owned(),
            typed_config: Any::new("google.protobuf.StringValue", StringValue { value: chain.to_owned() })
                .erase(),
        },
    };
    let input = Extension::new(
        "destination-port",
        "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput",
        Empty {},
    );
    let map = by_port.iter().map(|(port, chain)| (port.to_string(), on_match(chain))).collect();
    let matcher = Matcher {
        matcher_tree: Tree { input, exact_match_map: Map { map } },
        on_no_match: otherwise.map(on_match),
    };
    // String keys only, so that it always is JSON.
    serde_json::to_value(matcher).unwrap_or(AnyValue::Null)
}

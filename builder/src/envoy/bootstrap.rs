//! The bootstrap: everything of a sidecar that does not change while it runs.

use meshward_engine::stats;

use super::placement::{Place, Secrets};
use super::types::{
    Address, Admin, Bootstrap, Extension, Node, OverloadAction, OverloadManager, StaticResources,
    StatsConfig, TagSpecifier, Threshold, Trigger,
};
use super::{captured, cluster, listener};
use crate::compile::{self, Plugins};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service, ports};

/// Connections that a sidecar holds at once; beyond, new ones are closed.
const MAX_CONNECTIONS: u64 = 50_000;
/// Heap at which a sidecar starts to refuse (the VMs' memory is outside of it).
const MAX_HEAP_BYTES: u64 = 1 << 30;

/// The whole sidecar of a service.
pub fn bootstrap(mesh: &Resolved, service: &Service, place: &Place<'_>, plugins: &Plugins) -> Bootstrap {
    let callees: Vec<&Service> =
        service.calls.iter().filter_map(|call| mesh.service(&call.service)).collect();
    let http: Vec<&Service> =
        callees.iter().copied().filter(|callee| callee.protocol == Protocol::Http).collect();
    let tcp = service.calls.iter().filter_map(|call| Some((mesh.service(&call.service)?, call.port?)));
    let mut listeners = Vec::new();
    match &service.edge {
        Some(edge) => listeners.push(listener::edge(mesh, service, edge, place, plugins)),
        None => {
            listeners.push(listener::inbound(mesh, service, place, plugins));
            listeners.push(listener::outbound(mesh, service, &http, place, plugins));
        }
    }
    listeners.extend(tcp.map(|(callee, port)| listener::tcp_callee(callee, port, place)));
    listeners.push(listener::health(service, place));
    let mut clusters: Vec<_> = cluster::application(service, place).into_iter().collect();
    clusters.extend(callees.iter().map(|callee| cluster::callee(mesh, service, callee, place)));
    if let Some(interception) = place.interception(mesh).filter(|_| !service.is_edge()) {
        clusters.extend(captured::clusters(interception, mesh, service, place));
    }
    clusters.push(cluster::admin(place));
    if let Some(counts) = &mesh.rate_limit_service
        && compile::asks_rate_limit_service(mesh, service)
    {
        clusters.push(cluster::rate_limit_service(counts, place));
    }
    if let Secrets::Agent { socket, .. } = &place.secrets {
        clusters.push(cluster::agent(socket));
    }
    Bootstrap {
        // SDS and ECDS by file need both.
        node: Node { id: format!("{}.{}", service.name, service.namespace), cluster: service.name.clone() },
        admin: Admin { address: Address::ip(place.loopback, ports::ADMIN) },
        static_resources: StaticResources { listeners, clusters },
        stats_config: StatsConfig { stats_tags: stats_tags() },
        overload_manager: overload_manager(),
    }
}

/// Labels of the filter's metrics: the ABI knows none, so they are in the names, and taken out of them here.
fn stats_tags() -> Vec<TagSpecifier> {
    stats::TAGS
        .iter()
        .map(|tag| TagSpecifier { tag_name: tag.name.to_owned(), regex: tag.regex.to_owned() })
        .collect()
}

fn overload_manager() -> OverloadManager {
    #[derive(serde::Serialize)]
    struct FixedHeap {
        max_heap_size_bytes: u64,
    }
    #[derive(serde::Serialize)]
    struct Connections {
        max_active_downstream_connections: u64,
    }
    let heap = "envoy.resource_monitors.fixed_heap";
    let at = |value| vec![Trigger { name: heap, threshold: Threshold { value } }];
    OverloadManager {
        refresh_interval: "0.25s",
        resource_monitors: vec![
            Extension::new(
                heap,
                "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                FixedHeap { max_heap_size_bytes: MAX_HEAP_BYTES },
            ),
            Extension::new(
                "envoy.resource_monitors.global_downstream_max_connections",
                "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                Connections { max_active_downstream_connections: MAX_CONNECTIONS },
            ),
        ],
        actions: vec![
            OverloadAction { name: "envoy.overload_actions.shrink_heap", triggers: at(0.95) },
            OverloadAction { name: "envoy.overload_actions.stop_accepting_requests", triggers: at(0.98) },
        ],
    }
}

//! Services and NetworkPolicies: how pods are found, and what may reach them.

use super::types::{
    IngressRule, LabelSelector, NetworkPolicySpec, NetworkPort, Object, ServicePort, ServiceSpec, Spec,
};
use super::{object, selector};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service, ports};

/// Headless, so that DNS gives every ready pod and the callers' sidecars balance over them; the edge's has an address.
pub fn service(mesh: &Resolved, service: &Service) -> Object<Spec<ServiceSpec>> {
    let port = |name, port, target_port| ServicePort { name, port, target_port };
    let (cluster_ip, ports) = match (&service.edge, service.port) {
        (Some(edge), _) => (None, vec![port("http", 80, edge.port)]),
        (None, application) => {
            let name = match service.protocol {
                Protocol::Http => "http",
                Protocol::Tcp => "tcp",
            };
            let mut ports = vec![port("mtls", ports::INBOUND, ports::INBOUND)];
            // For debugging; the NetworkPolicy below keeps it shut for all but the node itself.
            ports.extend(application.map(|number| port(name, number, number)));
            (Some("None"), ports)
        }
    };
    let spec = ServiceSpec { cluster_ip, selector: selector(service), ports };
    object(mesh, service, "v1", "Service", Spec { spec })
}

/// In on the mTLS port alone, and at the edge on the edge's port alone. What is let in there is for the sidecar to
/// judge, by identity and not by address.
pub fn policy(mesh: &Resolved, service: &Service) -> Object<Spec<NetworkPolicySpec>> {
    let port = service.edge.as_ref().map_or(ports::INBOUND, |edge| edge.port);
    let spec = NetworkPolicySpec {
        pod_selector: LabelSelector { match_labels: selector(service) },
        policy_types: vec!["Ingress"],
        ingress: vec![IngressRule { from: Vec::new(), ports: vec![NetworkPort { protocol: "TCP", port }] }],
    };
    object(mesh, service, "networking.k8s.io/v1", "NetworkPolicy", Spec { spec })
}

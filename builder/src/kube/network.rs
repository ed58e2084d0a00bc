//! Services and NetworkPolicies: how pods are found, and what may reach them.

use super::types::{
    IngressRule, LabelSelector, NetworkPolicySpec, NetworkPort, Object, ServicePort, ServiceSpec, Spec,
};
use super::{object, selector};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service, ports};
use crate::policy::Mode;

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
/// judge, by identity and not by address. Where plain text is let in and caught, on the application's port, too: a network
/// plugin looks before the pod's own rules lead it to the sidecar.
pub fn policy(mesh: &Resolved, service: &Service) -> Object<Spec<NetworkPolicySpec>> {
    let port = service.edge.as_ref().map_or(ports::INBOUND, |edge| edge.port);
    let caught = mesh.interception.is_some() && mesh.mode(service) != Mode::Strict;
    let mut ports = vec![NetworkPort { protocol: "TCP", port }];
    ports.extend(service.port.filter(|_| caught).map(|port| NetworkPort { protocol: "TCP", port }));
    let excluded = mesh.interception.iter().flat_map(|interception| &interception.inbound_ports);
    ports.extend(
        excluded.filter(|_| !service.is_edge()).map(|port| NetworkPort { protocol: "TCP", port: *port }),
    );
    let spec = NetworkPolicySpec {
        pod_selector: LabelSelector { match_labels: selector(service) },
        policy_types: vec!["Ingress"],
        ingress: vec![IngressRule { from: Vec::new(), ports }],
    };
    object(mesh, service, "networking.k8s.io/v1", "NetworkPolicy", Spec { spec })
}

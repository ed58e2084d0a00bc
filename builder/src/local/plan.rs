//! Which service has which address, and every port that will be listened on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use super::check::{Place, Places};
use super::network::{Network, Port};
use super::state::State;
use crate::diagnostic::Diagnostic;
use crate::envoy::{LocalPlace, Placement};
use crate::mesh::{Resolved, Service, ports};

/// The addresses of a whole mesh.
#[derive(Clone, Debug)]
pub struct Plan {
    addresses: BTreeMap<String, Ipv4Addr>,
    /// 127.0.0.1, when the edge's port is free there.
    pub edge_also: Option<IpAddr>,
}

impl Plan {
    /// Gives every service an address of the remembered or a free network.
    ///
    /// # Errors
    /// More services than addresses; ports that are taken.
    pub fn make(mesh: &Resolved, network_file: &Path, edge_on_localhost: bool) -> Result<Self, Diagnostic> {
        if mesh.services.len() > 254 {
            let message =
                format!("{} services are too many for one machine's network of 254", mesh.services.len());
            return Err(Diagnostic::error("too-many-services", message)
                .help("run a part of the mesh: a smaller mesh.yaml"));
        }
        let network = Network::choose(network_file, |network| ports_of(mesh, network))?;
        let addresses = addresses(mesh, network);
        let localhost = Ipv4Addr::LOCALHOST;
        let edge = mesh.services.iter().find_map(|service| service.edge.as_ref());
        let edge_also = edge
            .filter(|edge| edge_on_localhost && TcpListener::bind((localhost, edge.port)).is_ok())
            .map(|_| localhost.into());
        Ok(Self { addresses, edge_also })
    }

    /// Loopback where a service has none: only for a service of another mesh.
    pub fn address(&self, service: &str) -> IpAddr {
        self.addresses.get(service).copied().unwrap_or(Ipv4Addr::LOCALHOST).into()
    }

    /// What the renderer needs.
    pub fn placement(&self, mesh: &Resolved, state: &State, filter: &Path) -> Placement {
        let place = |service: &Service| LocalPlace {
            address: self.address(&service.name),
            edge_also: self.edge_also,
            config: state.envoy(&service.name),
            certificates: state.certificates(&service.name),
        };
        let services = mesh.services.iter().map(|service| (service.name.clone(), place(service))).collect();
        Placement::Local { filter: filter.to_path_buf(), services }
    }

    /// What the checks need.
    pub fn places(&self, mesh: &Resolved, state: &State) -> Places {
        let place = |service: &Service| Place {
            address: self.address(&service.name),
            access_log: state.log(&access_log(&service.name)),
        };
        mesh.services.iter().map(|service| (service.name.clone(), place(service))).collect()
    }
}

/// The name of the log with what a sidecar writes to standard output.
pub fn access_log(service: &str) -> String {
    format!("{service}.access")
}

fn addresses(mesh: &Resolved, network: Network) -> BTreeMap<String, Ipv4Addr> {
    let pairs = mesh.services.iter().enumerate();
    pairs.filter_map(|(index, service)| Some((service.name.clone(), network.address(index)?))).collect()
}

fn ports_of(mesh: &Resolved, network: Network) -> Vec<Port> {
    let addresses = addresses(mesh, network);
    let mut found = Vec::new();
    for service in &mesh.services {
        let Some(address) = addresses.get(&service.name).copied() else { continue };
        let mut add = |port: u16, what: &str| {
            found.push(Port { address, port, what: format!("the {what} of {}", service.name) });
        };
        add(ports::ADMIN, "admin interface");
        add(ports::HEALTH, "health listener");
        if let Some(edge) = &service.edge {
            add(edge.port, "edge listener");
        } else {
            add(ports::INBOUND, "inbound listener");
            add(ports::OUTBOUND, "outbound listener");
        }
        if let Some(port) = service.port {
            add(port, "application");
        }
        for call in &service.calls {
            if let Some(port) = call.port {
                add(port, &format!("way to {}", call.service));
            }
        }
    }
    found
}

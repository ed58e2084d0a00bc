//! Where a sidecar lives: in a pod, or on this machine. The same renderer serves both, so that what `up` runs is what
//! Kubernetes runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::mesh::{Interception, Resolved, Service};

/// Addresses and folders of every sidecar.
#[derive(Clone, Debug)]
pub enum Placement {
    /// In the pod: listeners for others on all addresses, the application on loopback, callees by DNS.
    Kubernetes {
        /// The first twelve hexadecimal digits of the module's SHA-256.
        filter_sha12: String,
    },
    /// On this machine: every service has a loopback address of its own, which stands for its pod's address and for
    /// loopback in its pod at once, so that all ports are the same as in the pod.
    Local {
        /// The module.
        filter: PathBuf,
        /// By service. One that is missing here is as unreachable as a service without pods.
        services: BTreeMap<String, LocalPlace>,
    },
}

/// The place of one service on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPlace {
    pub address: IpAddr,
    /// Where an edge listens too: people look for it at 127.0.0.1.
    pub edge_also: Option<IpAddr>,
    /// Holds `envoy.yaml` and the files beside it: `/etc/envoy` in the pod.
    pub config: PathBuf,
    /// Holds `tls.crt`, `tls.key` and `ca.crt`: `/etc/certs` in the pod.
    pub certificates: PathBuf,
}

/// Mount points in the pod.
pub mod pod {
    pub const CONFIG: &str = "/etc/envoy";
    pub const CERTIFICATES: &str = "/etc/certs";
    pub const FILTER: &str = "/etc/meshward";
}

/// The file name of a module: its content is in the name, since Envoy does not watch a `.wasm` file.
pub fn filter_file_name(sha12: &str) -> String {
    format!("meshward-{sha12}.wasm")
}

/// Where a sidecar gets its certificate and its trust from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Files beside its configuration, which point to its certificates.
    Files { directory: String },
    /// SPIRE's agent, with the names of both secrets there.
    Agent { socket: String, certificate: String, trust: String },
}

/// One service's view of the placement.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    placement: &'a Placement,
    /// For listeners that others reach.
    pub bind: IpAddr,
    /// For the application, and for listeners that only it reaches.
    pub loopback: IpAddr,
    /// A second address of an edge's listener.
    pub edge_also: Option<IpAddr>,
    pub config: String,
    pub certificates: String,
    /// The module's path.
    pub filter: String,
    pub secrets: Secrets,
}

impl<'a> Place<'a> {
    /// Whether traffic is caught here: in a pod it can be, on this machine there is only the one network.
    pub fn interception<'m>(&self, mesh: &'m Resolved) -> Option<&'m Interception> {
        mesh.interception.as_ref().filter(|_| matches!(self.placement, Placement::Kubernetes { .. }))
    }

    pub fn of(placement: &'a Placement, service: &Service) -> Self {
        let text = |path: &Path| path.display().to_string();
        match placement {
            Placement::Kubernetes { filter_sha12 } => Self {
                placement,
                bind: Ipv4Addr::UNSPECIFIED.into(),
                loopback: Ipv4Addr::LOCALHOST.into(),
                edge_also: None,
                config: pod::CONFIG.to_owned(),
                certificates: pod::CERTIFICATES.to_owned(),
                filter: format!("{}/{}", pod::FILTER, filter_file_name(filter_sha12)),
                secrets: Secrets::Files { directory: pod::CONFIG.to_owned() },
            },
            Placement::Local { filter, services } => {
                let own = services.get(&service.name);
                let address = own.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |own| own.address);
                let config = own.map_or_else(String::new, |own| text(&own.config));
                Self {
                    placement,
                    bind: address,
                    loopback: address,
                    edge_also: own.and_then(|own| own.edge_also),
                    secrets: Secrets::Files { directory: config.clone() },
                    config,
                    certificates: own.map_or_else(String::new, |own| text(&own.certificates)),
                    filter: text(filter),
                }
            }
        }
    }

    /// Where the sidecar of `callee` is reached: an address, or a name to resolve.
    pub fn sidecar_of(&self, mesh: &Resolved, callee: &str) -> Target {
        match self.placement {
            Placement::Kubernetes { .. } => {
                Target::Name(mesh.service(callee).map_or_else(|| callee.to_owned(), Service::fqdn))
            }
            Placement::Local { services, .. } => {
                services.get(callee).map_or(Target::Nowhere, |place| Target::Address(place.address))
            }
        }
    }
}

/// Where a callee is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Name(String),
    Address(IpAddr),
    Nowhere,
}

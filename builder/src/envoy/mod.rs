//! A service of the mesh → the files of its Envoy.
//!
//! Typed fragments under Envoy's field names; no text is pasted together anywhere. The bootstrap holds what stays; the
//! filter's configuration (ECDS) and the certificates (SDS) are files of their own that Envoy watches, so that neither a
//! new policy nor a new certificate drains a connection.

mod access_log;
mod agent;
mod bootstrap;
mod captured;
mod cluster;
pub mod filter;
mod http;
mod lifetimes;
mod listener;
mod native;
mod placement;
mod routes;
mod tls;
pub mod types;

pub use listener::{INBOUND_FILE, OUTBOUND_FILE};
pub use placement::{LocalPlace, Placement, filter_file_name, pod};
pub use routes::{METRICS_PATH, READY_PATH, probe_path};
pub use tls::{CERTIFICATE_FILE, TRUST_FILE};

use crate::compile;
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service};
use filter::Layer;
use placement::{Place, Secrets};

/// The bootstrap's file, beside the others.
pub const BOOTSTRAP_FILE: &str = "envoy.yaml";

/// One file of a sidecar: `/etc/envoy/<name>` in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub name: &'static str,
    pub text: String,
}

/// All files of the sidecar of `service`, `envoy.yaml` first. The same input gives the same bytes.
///
/// # Errors
/// Mistakes in the policies that only show once they are compiled for this workload.
pub fn render(mesh: &Resolved, service: &Service, placement: &Placement) -> Result<Vec<File>, Failure> {
    let place = Place::of(placement, service);
    let mut files = of_place(mesh, service, &place)?;
    files.push(file(CERTIFICATE_FILE, &tls::certificate_file(&place.certificates))?);
    files.push(file(TRUST_FILE, &tls::trust_file(&place.certificates, tls::Trust::of(mesh)))?);
    Ok(files)
}

/// The same with certificate and trust from SPIRE's agent at `socket`, which takes the place of the two files of secrets.
///
/// # Errors
/// As [`render`].
pub fn render_with_agent(
    mesh: &Resolved,
    service: &Service,
    placement: &Placement,
    socket: &str,
) -> Result<Vec<File>, Failure> {
    let mut place = Place::of(placement, service);
    place.secrets = Secrets::Agent {
        socket: socket.to_owned(),
        certificate: mesh.spiffe_id(service),
        trust: match tls::Trust::of(mesh) {
            tls::Trust::Federated => agent::ALL_BUNDLES.to_owned(),
            tls::Trust::Roots | tls::Trust::RootsAndList => format!("spiffe://{}", mesh.trust_domain),
        },
    };
    of_place(mesh, service, &place)
}

fn of_place(mesh: &Resolved, service: &Service, place: &Place<'_>) -> Result<Vec<File>, Failure> {
    let plugins = compile::plugins(mesh, service)?;
    let bootstrap = bootstrap::bootstrap(mesh, service, place, &plugins);
    let mut files = vec![
        file(BOOTSTRAP_FILE, &bootstrap)?,
        file(OUTBOUND_FILE, &filter::discovery_file(Layer::Http, &place.filter, &plugins.outbound))?,
    ];
    if !service.is_edge() {
        let layer = match service.protocol {
            Protocol::Http => Layer::Http,
            Protocol::Tcp => Layer::Network,
        };
        files.insert(1, file(INBOUND_FILE, &filter::discovery_file(layer, &place.filter, &plugins.inbound))?);
    }
    Ok(files)
}

fn file<T: serde::Serialize>(name: &'static str, content: &T) -> Result<File, Failure> {
    Ok(File { name, text: crate::yaml::to_string(content).map_err(|error| unwritable(name, &error))? })
}

/// Our own types always can be written; should one not, it is told and not hidden.
fn unwritable(name: &str, error: &str) -> Diagnostic {
    Diagnostic::error("unwritable", format!("`{name}` cannot be written as YAML: {error}"))
}

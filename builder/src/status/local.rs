//! The sidecars of a `meshward up` on this machine: its state folder says where they listen.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use super::Admin;
use crate::diagnostic::Diagnostic;
use crate::envoy::BOOTSTRAP_FILE;
use crate::local::client::{self, Request};
use crate::local::ledger;

/// An admin interface that this machine reaches.
#[derive(Clone, Copy, Debug)]
pub struct Direct(pub SocketAddr);

impl Admin for Direct {
    fn get(&self, path: &str) -> Result<String, String> {
        let request = request(path);
        let answer = client::connect(self.0)
            .and_then(|mut socket| client::exchange(&mut socket, &request))
            .map_err(|error| format!("no admin interface answers at {}: {error}", self.0))?;
        if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{path}: HTTP {}", answer.status)) }
    }
}

/// A GET of the admin interface's.
pub fn request(path: &str) -> Request<'_> {
    Request { method: "GET", path, host: "admin", headers: &[], body: b"" }
}

/// The sidecars that the `up` of this folder has started: their services, and where their admin interfaces are.
///
/// # Errors
/// Nothing of it runs.
pub fn sidecars(state: &Path) -> Result<Vec<(String, SocketAddr)>, Diagnostic> {
    let entries = ledger::entries(&state.join("run.json"));
    if !entries.iter().any(ledger::Entry::alive) {
        let message = format!("no `meshward up` runs from `{}`", state.display());
        return Err(Diagnostic::error("nothing-runs", message)
            .help("start one, name its folder with --state, or a cluster's namespace with -n, or an admin interface with --admin"));
    }
    let mut found = Vec::new();
    let folders = std::fs::read_dir(state.join("envoy")).into_iter().flatten().flatten();
    for folder in folders {
        let service = folder.file_name().to_string_lossy().into_owned();
        // Left behind by a mesh.yaml with another service.
        let started = |entry: &ledger::Entry| {
            entry.name == service || entry.name.strip_prefix("the sidecar of ") == Some(service.as_str())
        };
        if let Some(address) = admin(&folder.path()).filter(|_| entries.iter().any(started)) {
            found.push((service, address));
        }
    }
    found.sort();
    Ok(found)
}

/// Where the bootstrap has the admin interface.
fn admin(folder: &Path) -> Option<SocketAddr> {
    #[derive(Deserialize)]
    struct Bootstrap {
        admin: At,
    }
    #[derive(Deserialize)]
    struct At {
        address: Address,
    }
    #[derive(Deserialize)]
    struct Address {
        socket_address: Socket,
    }
    #[derive(Deserialize)]
    struct Socket {
        address: IpAddr,
        port_value: u16,
    }
    let text = std::fs::read_to_string(folder.join(BOOTSTRAP_FILE)).ok()?;
    let Bootstrap { admin: At { address: Address { socket_address: at } } } =
        serde_saphyr::from_str(&text).ok()?;
    Some(SocketAddr::new(at.address, at.port_value))
}

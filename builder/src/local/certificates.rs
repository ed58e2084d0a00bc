//! The CA and the certificates of a mesh on this machine: what `meshward certs init-ca` and `certs issue` do, in the state
//! folder. So every other verb of `certs` works on them too: `meshward certs inspect --dir .meshward/certs`.
//!
//! A leaf is ours to make again at any time, so a bad one is replaced, and that is said. The CA is not: whoever made
//! other things trust it would be surprised, so a bad CA is an error.

use std::collections::BTreeMap;
use std::path::Path;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::client::Identity;
use super::state::State;
use crate::console::Console;
use crate::diagnostic::Diagnostic;
use crate::mesh::Resolved;
use crate::pki::authority::{self, KeyPlace};
use crate::pki::error::stamp;
use crate::pki::ledger::Ledger;
use crate::pki::renewal::{self, Done, Reason};
use crate::pki::store::{FolderStore, Store as _, leaf_set};
use crate::pki::{self, Authority, Ca, CaOptions, SvidRequest, folder, revoke, svid};

/// The CA of the state folder, made when there is none, and a good certificate for every service.
///
/// # Errors
/// A CA that is damaged, has expired, or is of another trust domain; a folder that cannot be written.
pub fn prepare(
    state: &State,
    mesh: &Resolved,
    now: OffsetDateTime,
    console: &mut Console<'_>,
) -> Result<Ca, Diagnostic> {
    let mut store = FolderStore::open(&state.certs(), &mut |words| console.note(words))?;
    let (mut authority, ca) = authority(&mut store, mesh, now, console)?;
    let mut ledger = Ledger::load(&store)?;
    if mesh.revocation.crl {
        revoke::ensure_list(&mut store, &mut authority, &mut ledger, None, now)?;
    }
    let mut wanted = BTreeMap::new();
    for service in &mesh.services {
        let (namespace, account) = (&service.namespace, &service.service_account);
        let request = SvidRequest::for_service(ca.trust_domain(), namespace, account, &service.name)?;
        wanted.insert(leaf_set(&service.name), request);
    }
    let mut damaged = BTreeMap::new();
    let trust = authority.trust_files()?;
    for service in &mesh.services {
        let set = leaf_set(&service.name);
        let Some(request) = wanted.get(&set) else { continue };
        let current = store.read(&set)?;
        let place = store.place(&set);
        if let Err(why) = renewal::need(&place, current.as_ref(), request, &authority, &trust, &ledger, now) {
            console.note(&format!("making a new certificate for {}: {why}", service.name));
            damaged.insert(set, request.clone());
        }
    }
    let mut open = || authority.ca(None);
    renewal::reconcile(&mut store, &authority, &mut ledger, &damaged, &mut open, true, now)?;
    for outcome in renewal::reconcile(&mut store, &authority, &mut ledger, &wanted, &mut open, false, now)? {
        if let Done::Issued { reason, .. } = outcome.done
            && !matches!(reason, Reason::Missing | Reason::Due)
        {
            console.note(&format!("made a new certificate in {}: {reason}", outcome.set));
        }
    }
    Ok(ca)
}

fn authority(
    store: &mut FolderStore,
    mesh: &Resolved,
    now: OffsetDateTime,
    console: &mut Console<'_>,
) -> Result<(Authority, Ca), Diagnostic> {
    let root = store.root().to_owned();
    let place = store.folder(authority::SET);
    let unusable = |why: String| {
        Diagnostic::error("ca-unusable", format!("the CA in `{}` cannot be used: {why}", place.display()))
            .help(format!(
                "remove it, and a new one is made with new certificates: `rm -r {}`",
                root.display()
            ))
    };
    let authority = match Authority::load(store).map_err(|error| unusable(error.to_string()))? {
        Some(authority) => authority,
        None => {
            let trust_domain = svid::trust_domain(&mesh.trust_domain)?;
            let made = Authority::create(&trust_domain, &CaOptions::default(), &KeyPlace::default(), now)?;
            made.save(store)?;
            console.note(&format!("made a CA for the trust domain `{trust_domain}` in {}", place.display()));
            made
        }
    };
    let ca = authority.ca(None).map_err(|error| unusable(error.to_string()))?;
    if ca.trust_domain().as_str() != mesh.trust_domain {
        return Err(unusable(format!(
            "it is of the trust domain `{}`, and the mesh is of `{}`",
            ca.trust_domain(),
            mesh.trust_domain
        )));
    }
    if ca.not_after() <= now {
        return Err(unusable(format!("it expired at {}", stamp(ca.not_after()))));
    }
    if ca.not_before() > now {
        return Err(unusable(format!(
            "it is not valid before {}; is this machine's clock right?",
            stamp(ca.not_before())
        )));
    }
    Ok((authority, ca))
}

/// A sidecar of a mesh with federation takes nobody's certificate as long as it has no bundle of each trust domain.
///
/// # Errors
/// One is missing.
pub fn known_bundles(state: &State, mesh: &Resolved) -> Result<(), Diagnostic> {
    let Some(authority) = Authority::load(&FolderStore::peek(&state.certs()))? else { return Ok(()) };
    let missing = mesh.federates_with.iter().find(|other| !authority.federated().contains_key(*other));
    let Some(other) = missing else { return Ok(()) };
    let message = format!("the mesh federates with `{other}`, whose trust bundle is not known here");
    Err(Diagnostic::error("federation", message).help(format!(
        "get its bundle, then: `meshward certs federate {other}=FILE --dir {}`",
        state.certs().display()
    )))
}

/// The certificate and key that a service's sidecar has, for a client that acts in its place.
///
/// # Errors
/// They cannot be read.
pub fn identity(state: &State, service: &str) -> Result<Identity, Diagnostic> {
    read_identity(&state.certificates(service))
}

/// The same from the folder that holds `tls.crt` and `tls.key`.
///
/// # Errors
/// They cannot be read.
pub fn read_identity(place: &Path) -> Result<Identity, Diagnostic> {
    let files = folder::read(place).map_err(Diagnostic::from)?.unwrap_or_default();
    let chain = pki::pem::certificates("the certificate", files.get("tls.crt").unwrap_or_default())?;
    let key = pki::key::decode("the key", files.get("tls.key").unwrap_or_default(), None)?;
    Ok(Identity { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) })
}

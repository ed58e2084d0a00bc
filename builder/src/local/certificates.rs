//! The CA and the certificates of a mesh on this machine: made once, kept, replaced when they would not do.
//!
//! A leaf is ours to make again at any time, so a bad one is replaced, and that is said. The CA is not: whoever made
//! other things trust it would be surprised, so a bad CA is an error.

use std::path::Path;
use std::time::Duration as StdDuration;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::client::Identity;
use super::state::State;
use crate::console::Console;
use crate::diagnostic::Diagnostic;
use crate::mesh::{Resolved, Service};
use crate::pki::{self, Ca, CaOptions, SvidRequest, folder};

/// Replaced when less than this is left; `up` looks again every few minutes while it runs.
const LEAST_LEFT: Duration = Duration::hours(8);

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
    let ca = authority(state, mesh, now, console)?;
    for service in &mesh.services {
        let kept = state.certificates(&service.name);
        if let Err(why) = good(&ca, &kept, &mesh.spiffe_id(service), now) {
            if let Some(why) = why {
                console.note(&format!("making a new certificate for {}: {why}", service.name));
            }
            issue(&ca, mesh, service, &kept, now)?;
        }
    }
    Ok(ca)
}

fn authority(
    state: &State,
    mesh: &Resolved,
    now: OffsetDateTime,
    console: &mut Console<'_>,
) -> Result<Ca, Diagnostic> {
    let place = state.ca();
    let unusable = |why: String| {
        Diagnostic::error("ca-unusable", format!("the CA in `{}` cannot be used: {why}", place.display()))
            .help(format!(
                "remove it, and a new one is made with new certificates: `rm -r {} {}`",
                place.display(),
                state.folder().join("certs").display()
            ))
    };
    if !place.exists() {
        let trust_domain = pki::svid::trust_domain(&mesh.trust_domain).map_err(Diagnostic::from)?;
        let ca = Ca::create(&trust_domain, &CaOptions::default(), now).map_err(Diagnostic::from)?;
        ca.save(&place, None).map_err(Diagnostic::from)?;
        console.note(&format!("made a CA for the trust domain `{trust_domain}` in {}", place.display()));
        return Ok(ca);
    }
    let ca = Ca::load(&place, None).map_err(|error| unusable(error.to_string()))?;
    if ca.trust_domain().to_string() != mesh.trust_domain {
        return Err(unusable(format!(
            "it is of the trust domain `{}`, and the mesh is of `{}`",
            ca.trust_domain(),
            mesh.trust_domain
        )));
    }
    if ca.not_after() < now + LEAST_LEFT {
        return Err(unusable(format!("it expires at {}", ca.not_after())));
    }
    if ca.not_before() > now {
        return Err(unusable(format!(
            "it is not valid before {}; is this machine's clock right?",
            ca.not_before()
        )));
    }
    Ok(ca)
}

/// Whether what is in the folder serves for that identity; if not, why, unless there is nothing at all.
fn good(ca: &Ca, place: &Path, id: &str, now: OffsetDateTime) -> Result<(), Option<String>> {
    let files = match folder::read(place) {
        Ok(Some(files)) => files,
        Ok(None) => return Err(None),
        Err(error) => return Err(Some(error.to_string())),
    };
    let file = |name: &str| files.get(name).ok_or_else(|| Some(format!("`{name}` is missing")));
    let text = |error: pki::Error| Some(error.to_string());
    let chain = pki::pem::certificates("the certificate", file("tls.crt")?).map_err(text)?;
    let key = pki::key::decode("its key", file("tls.key")?, None).map_err(text)?;
    if file("ca.crt")? != ca.bundle_pem().as_bytes() {
        return Err(Some("its trust bundle is another CA's".into()));
    }
    let (Some((leaf, intermediates)), Some(root)) = (chain.split_first(), ca.path().last()) else {
        return Err(Some("it is empty".into()));
    };
    let certificate =
        EndEntityCert::try_from(leaf).map_err(|error| Some(format!("it is damaged: {error}")))?;
    let anchor = anchor_from_trusted_cert(root).map_err(|error| Some(error.to_string()))?;
    for (time, word) in [(now, "is not in force"), (now + LEAST_LEFT, "expires soon")] {
        let seconds = u64::try_from(time.unix_timestamp()).unwrap_or_default();
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&anchor),
                intermediates,
                UnixTime::since_unix_epoch(StdDuration::from_secs(seconds)),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| {
                Some(match error {
                    webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                        format!("it {word}")
                    }
                    error => format!("it is not of this CA: {error}"),
                })
            })?;
    }
    if !certificate.valid_uri_names().eq([id]) {
        return Err(Some(format!("it is not `{id}`'s")));
    }
    if !pki::key::matches(&key, certificate.subject_public_key_info().as_ref()) {
        return Err(Some("its key is another certificate's".into()));
    }
    Ok(())
}

fn issue(
    ca: &Ca,
    mesh: &Resolved,
    service: &Service,
    place: &Path,
    now: OffsetDateTime,
) -> Result<(), Diagnostic> {
    let request = SvidRequest::for_service(
        ca.trust_domain(),
        &service.namespace,
        &service.service_account,
        &service.name,
    )
    .map_err(Diagnostic::from)?;
    debug_assert_eq!(request.id.to_string(), mesh.spiffe_id(service));
    let issued = pki::issue(ca, &request, now).map_err(Diagnostic::from)?;
    let mut files = folder::Files::new();
    files.insert("tls.crt", issued.chain_pem);
    files.insert("tls.key", issued.key_pem.map(|key| key.as_bytes().to_vec()).unwrap_or_default());
    files.insert("ca.crt", issued.bundle_pem);
    folder::replace(place, &files).map_err(Diagnostic::from)
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

//! A CA, a service's request, a clock; and other implementations to ask.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use rustls_pki_types::{CertificateDer, UnixTime};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::pki::authority::KeyPlace;
use crate::pki::folder::Files;
use crate::pki::ledger::Ledger;
use crate::pki::renewal::{self, Outcome};
use crate::pki::rotate::{Direction, Rotation, Step};
use crate::pki::store::{MemoryStore, leaf_set};
use crate::pki::{Authority, Ca, CaOptions, Error, SvidRequest, pem, svid};

pub const NOW: OffsetDateTime = datetime!(2026-11-24 02:00:00 UTC);

pub fn ca() -> Ca {
    ca_with(&CaOptions::default())
}

pub fn ca_with(options: &CaOptions) -> Ca {
    Ca::create(&svid::trust_domain("cluster.local").unwrap(), options, NOW).unwrap()
}

pub fn request() -> SvidRequest {
    SvidRequest::for_service(&svid::trust_domain("cluster.local").unwrap(), "default", "bookapi", "bookapi")
        .unwrap()
}

/// Verifies by webpki, for both usages, against the bundle's last certificate.
pub fn webpki(
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    at: OffsetDateTime,
) -> Result<(), webpki::Error> {
    let anchor = webpki::anchor_from_trusted_cert(root)?;
    let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
    let seconds = u64::try_from(at.unix_timestamp()).unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &chain[1..],
            time,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

/// `openssl verify`; none when OpenSSL is not installed.
pub fn openssl_verify(
    folder: &Path,
    chain_pem: &str,
    bundle_pem: &str,
    at: OffsetDateTime,
) -> Option<Result<(), String>> {
    std::fs::write(folder.join("chain.pem"), chain_pem).unwrap();
    std::fs::write(folder.join("bundle.pem"), bundle_pem).unwrap();
    let output = Command::new("openssl")
        .current_dir(folder)
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            "bundle.pem",
            "-untrusted",
            "chain.pem",
        ])
        .args(["-attime", &at.unix_timestamp().to_string(), "chain.pem"])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(cause) => {
            drop(writeln!(std::io::stderr(), "SKIPPED: openssl verify: {cause}"));
            return None;
        }
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(if output.status.success() { Ok(()) } else { Err(text) })
}

pub const HOUR: Duration = Duration::hours(1);

/// A mesh in memory: a CA, two services, a clock that tests move.
pub struct World {
    pub store: MemoryStore,
    pub now: OffsetDateTime,
    pub settle: Duration,
}

impl World {
    pub fn new(options: &CaOptions) -> Self {
        let mut store = MemoryStore::default();
        let trust_domain = svid::trust_domain("cluster.local").unwrap();
        let authority = Authority::create(&trust_domain, options, &KeyPlace::default(), NOW).unwrap();
        Ledger::default().save(&mut store).unwrap();
        authority.save(&mut store).unwrap();
        let mut world = Self { store, now: NOW, settle: Duration::minutes(5) };
        world.issue(&["bookapi", "pgadmin"]).unwrap();
        world
    }

    pub fn authority(&self) -> Authority {
        Authority::load(&self.store).unwrap().unwrap()
    }

    pub fn ledger(&self) -> Ledger {
        Ledger::load(&self.store).unwrap()
    }

    pub fn issue(&mut self, services: &[&str]) -> Result<Vec<Outcome>, Error> {
        let trust_domain = svid::trust_domain("cluster.local").unwrap();
        let request = |name: &str| SvidRequest::for_service(&trust_domain, "default", name, name).unwrap();
        let wanted = services.iter().map(|name| (leaf_set(name), request(name))).collect();
        self.reconcile(&wanted, false)
    }

    pub fn reconcile(
        &mut self,
        wanted: &std::collections::BTreeMap<String, SvidRequest>,
        force: bool,
    ) -> Result<Vec<Outcome>, Error> {
        let authority = self.authority();
        let mut ledger = self.ledger();
        let mut open = || authority.ca(None);
        renewal::reconcile(&mut self.store, &authority, &mut ledger, wanted, &mut open, force, self.now)
    }

    pub fn renew(&mut self) -> Result<Vec<Outcome>, Error> {
        let authority = self.authority();
        let mut ledger = self.ledger();
        self.rotation().settle_sets(&authority, &mut ledger)
    }

    pub fn rotation(&mut self) -> Rotation<'_> {
        Rotation { store: &mut self.store, place: KeyPlace::default(), settle: self.settle, now: self.now }
    }

    pub fn step(&mut self, direction: Direction) -> Result<Step, Error> {
        self.rotation().step(direction)
    }

    /// Each service's chain and bundle, as pods have them.
    pub fn pods(&self) -> Vec<(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>)> {
        let sets = self.store.0.iter().filter(|(name, _)| name.ends_with("-mtls-cert"));
        let certificates =
            |files: &Files, name: &str| pem::certificates(name, files.get(name).unwrap()).unwrap();
        sets.map(|(_, files)| (certificates(files, "tls.crt"), certificates(files, "ca.crt"))).collect()
    }
}

/// Every pod accepts every other, in both directions, by webpki.
pub fn all_trust_all(
    pods: &[(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>)],
    at: OffsetDateTime,
) -> Result<(), String> {
    for (caller, (chain, _)) in pods.iter().enumerate() {
        for (callee, (_, bundle)) in pods.iter().enumerate() {
            let accepted = bundle.iter().any(|root| webpki(chain, root, at).is_ok());
            if !accepted {
                return Err(format!("pod {callee} of {} does not accept pod {caller}", pods.len()));
            }
        }
    }
    Ok(())
}

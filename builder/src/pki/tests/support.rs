//! A CA, a service's request, a clock; and other implementations to ask.

use std::path::Path;
use std::process::Command;

use rustls_pki_types::{CertificateDer, UnixTime};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::pki::{Ca, CaOptions, SvidRequest, svid};

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
            println!("SKIPPED: openssl verify: {cause}");
            return None;
        }
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(if output.status.success() { Ok(()) } else { Err(text) })
}

pub const HOUR: Duration = Duration::hours(1);

//! Trust bundles of several trust domains, each with its own roots, never crossing.
//!
//! The SPIFFE bundle format (SPIFFE Trust Domain and Bundle, 4) for one trust domain, and the map of them that Envoy's
//! SPIFFE certificate validator reads from `trust_bundles` and watches: an ID is verified by its own trust domain's
//! roots and no others'.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use spiffe::TrustDomain;
use x509_parser::public_key::PublicKey;

use super::error::{Error, Result};
use super::{ca, pem, svid};
use crate::diagnostic::Diagnostic;

/// One trust domain's bundle: a JWK set with the use `x509-svid`.
///
/// `sequence` must grow with each change (4.1.1); peers that are pushed files do not look at it.
pub fn bundle(roots: &[CertificateDer<'static>], sequence: u64) -> Result<Value> {
    let mut keys = Vec::new();
    for root in roots {
        let certificate = ca::parse("a root certificate", root)?;
        let mut key = jwk(&certificate)?;
        key.insert("use".into(), "x509-svid".into());
        key.insert("x5c".into(), json!([BASE64_STANDARD.encode(root)]));
        keys.push(Value::Object(key));
    }
    Ok(json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": 300 }))
}

/// The map that Envoy's SPIFFE validator reads: one bundle for each trust domain.
///
/// # Errors
/// When one trust domain is given twice, or two of them have a root in common: an ID of one could then be made by the
/// other.
pub fn bundle_map(bundles: &[(TrustDomain, Value)]) -> Result<Value> {
    let mut map = Map::new();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (trust_domain, bundle) in bundles {
        for certificate in certificates_of(bundle) {
            if let Some((_, other)) = seen.iter().find(|(known, _)| *known == certificate) {
                let message = format!(
                    "the trust domains `{other}` and `{trust_domain}` have a root certificate in common"
                );
                return Err(Diagnostic::error("shared-root", message)
                    .help("give each trust domain a CA of its own")
                    .into());
            }
        }
        seen.extend(certificates_of(bundle).map(|certificate| (certificate, trust_domain.as_str())));
        if map.insert(trust_domain.to_string(), bundle.clone()).is_some() {
            let message = format!("the trust domain `{trust_domain}` is given twice");
            return Err(Diagnostic::error("trust-domain-twice", message)
                .help("put all its roots into one bundle file")
                .into());
        }
    }
    Ok(json!({ "trust_domains": map }))
}

fn certificates_of(bundle: &Value) -> impl Iterator<Item = &str> {
    let keys = bundle.get("keys").and_then(Value::as_array).into_iter().flatten();
    keys.filter_map(|key| key.get("x5c")?.get(0)?.as_str())
}

/// A bundle from a file of another trust domain: PEM certificates, or the SPIFFE bundle format.
///
/// Only keys for X.509-SVIDs are taken over from the latter (X509-SVID, 6.2).
pub fn read(what: &str, text: &[u8]) -> Result<Value> {
    parse(what, text).map_err(|error| match error {
        Error::Damaged { what, reason } => {
            Diagnostic::error("trust-bundle", format!("{what} is no trust bundle: {reason}"))
                .help("ask the other trust domain for its bundle (`meshward certs export -o spiffe-bundle`, or its root certificates in PEM)")
                .into()
        }
        other => other,
    })
}

fn parse(what: &str, text: &[u8]) -> Result<Value> {
    if !text.trim_ascii_start().starts_with(b"{") {
        let roots = pem::certificates(what, text)?;
        for root in &roots {
            ca::check_is_ca(what, &ca::parse(what, root)?)?;
        }
        return bundle(&roots, 1);
    }
    let value: Value =
        serde_json::from_slice(text).map_err(|cause| Error::damaged(what, cause.to_string()))?;
    let Some(keys) = value.get("keys").and_then(Value::as_array) else {
        return Err(Error::damaged(what, "it has no `keys`; the SPIFFE bundle format is a JWK set"));
    };
    let mut roots = Vec::new();
    for key in keys.iter().filter(|key| key.get("use").and_then(Value::as_str) == Some("x509-svid")) {
        // X509-SVID, 6.2: an entry without a certificate is to be ignored, and of several all but the first.
        let Some(encoded) = key.get("x5c").and_then(|list| list.get(0)).and_then(Value::as_str) else {
            continue;
        };
        let der = BASE64_STANDARD.decode(encoded).map_err(|cause| Error::damaged(what, cause.to_string()))?;
        let root = CertificateDer::from(der);
        ca::check_is_ca(what, &ca::parse(what, &root)?)?;
        roots.push(root);
    }
    if roots.is_empty() {
        return Err(Error::damaged(what, "it has no key with the use `x509-svid`"));
    }
    bundle(&roots, value.get("spiffe_sequence").and_then(Value::as_u64).unwrap_or(1))
}

/// `<trust domain>=<file>` as the command line has it.
pub fn parse_pair(text: &str) -> Result<(TrustDomain, std::path::PathBuf)> {
    let Some((name, file)) = text.split_once('=') else {
        return Err(Error::Identity {
            text: text.into(),
            what: "federated trust domain",
            reason: "write `<trust domain>=<bundle file>`".into(),
        });
    };
    Ok((svid::trust_domain(name)?, file.into()))
}

fn jwk(certificate: &x509_parser::prelude::X509Certificate<'_>) -> Result<Map<String, Value>> {
    let unsupported = || Error::damaged("a root certificate", "its key is neither EC P-256, P-384 nor RSA");
    let mut map = Map::new();
    let text = |bytes: &[u8]| Value::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
    match certificate.public_key().parsed() {
        Ok(PublicKey::EC(point)) => {
            // An uncompressed point: 4, then both coordinates.
            let coordinates = point.data().strip_prefix(&[4]).ok_or_else(unsupported)?;
            let curve = match coordinates.len() {
                64 => "P-256",
                96 => "P-384",
                _ => return Err(unsupported()),
            };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            map.insert("kty".into(), "EC".into());
            map.insert("crv".into(), curve.into());
            map.insert("x".into(), text(x));
            map.insert("y".into(), text(y));
        }
        Ok(PublicKey::RSA(key)) => {
            let number = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                text(bytes.get(zeros..).unwrap_or_default())
            };
            map.insert("kty".into(), "RSA".into());
            map.insert("n".into(), number(key.modulus));
            map.insert("e".into(), number(key.exponent));
        }
        _ => return Err(unsupported()),
    }
    Ok(map)
}

//! Certificates with one thing wrong, each made for one check and kept in memory alone.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use crate::local::client::Identity;
use crate::pki::{Ca, CaOptions, Error, key};

/// With which certificate a check comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// The caller's own.
    Own,
    /// None at all.
    None,
    /// The caller's ID, in force until an hour ago.
    Expired,
    /// The caller's ID, in force from an hour hence.
    NotYetValid,
    /// The caller's ID, of another CA that says it is of the same trust domain.
    ForeignCa,
    /// Of the right CA, for the caller's place in another trust domain.
    WrongTrustDomain,
    /// The caller's ID, and another beside it.
    TwoUris,
    /// A DNS name, and no URI.
    NoUri,
    /// A URI that is no SPIFFE ID.
    NotSpiffe,
    /// The caller's ID, in a certificate that may sign others.
    IsCa,
}

/// That certificate for the caller `id` (a SPIFFE ID) and its key; none for [`Certificate::Own`] and [`Certificate::None`].
///
/// # Errors
/// The certificate cannot be made.
pub fn identity(
    kind: Certificate,
    ca: &Ca,
    id: &str,
    now: OffsetDateTime,
) -> Result<Option<Identity>, Error> {
    let hour = Duration::hours(1);
    let (mut from, mut until) = (now - hour, now + hour);
    let mut uris = vec![id.to_owned()];
    match kind {
        Certificate::Own | Certificate::None => return Ok(None),
        Certificate::Expired => (from, until) = (now - hour * 2, now - hour),
        Certificate::NotYetValid => (from, until) = (now + hour, now + hour * 2),
        Certificate::ForeignCa | Certificate::IsCa => {}
        Certificate::WrongTrustDomain => uris = vec![in_another_trust_domain(id)],
        Certificate::TwoUris => uris.push(format!("{id}-too")),
        Certificate::NoUri => uris.clear(),
        Certificate::NotSpiffe => uris = vec!["https://bookstore.example/ns/default/sa/bookapi".into()],
    }
    let foreign;
    let issuer: &Issuer<'static, KeyPair> = if kind == Certificate::ForeignCa {
        foreign = Ca::create(ca.trust_domain(), &CaOptions::default(), now)?;
        foreign.issuer()
    } else {
        ca.issuer()
    };
    let mut params = CertificateParams::default();
    params.not_before = from;
    params.not_after = until;
    // rcgen's own would be the same for the same key; these keys are new, and a random number is what a CA gives.
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "a check of meshward up");
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    }
    if params.subject_alt_names.is_empty() {
        params.subject_alt_names.push(SanType::DnsName("bookapi".try_into()?));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    if kind == Certificate::IsCa {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }
    let key = key::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let mut chain = vec![certificate.der().clone()];
    if kind != Certificate::ForeignCa {
        chain.extend(ca.intermediates().iter().cloned());
    }
    Ok(Some(Identity { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) }))
}

fn in_another_trust_domain(id: &str) -> String {
    let path =
        id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map_or("", |(_, path)| path);
    format!("spiffe://elsewhere.example/{path}")
}

/// From a new key: random, and no other source of randomness is needed.
fn serial() -> Result<Vec<u8>, Error> {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(key::generate()?.public_key_raw());
    // RFC 5280, 4.1.2.2: positive, so the highest bit is not set.
    Ok(digest
        .iter()
        .take(16)
        .enumerate()
        .map(|(place, byte)| if place == 0 { byte & 0x7f | 1 } else { *byte })
        .collect())
}

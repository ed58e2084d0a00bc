//! A certificate authority of one trust domain: a root, optionally an intermediate below it, and the trust bundle.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use spiffe::TrustDomain;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::key::{self, Passphrase};
use super::{folder, pem};

/// How far behind other machines' clocks may be: certificates are valid from this long before they are made.
pub const CLOCK_SKEW: Duration = Duration::minutes(2);

/// The names of a CA's files, in its folder and in its Secret.
pub const BUNDLE: &str = "ca.crt";
pub const KEY: &str = "ca.key";
pub const ISSUER: &str = "issuer.crt";

/// What a new CA is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaOptions {
    /// Of the root, in seconds. The intermediate lives half as long.
    pub lifetime_seconds: i64,
    /// Sign with an intermediate, so that the root's key can be kept elsewhere.
    pub intermediate: bool,
    /// DNS names and suffixes that leaves may carry (RFC 5280, 4.2.1.10); none: no constraint.
    ///
    /// DNS names only. A constraint on URIs, that is on the trust domain, cannot be had: webpki (so every rustls peer)
    /// refuses all chains that carry one. That a CA signs only IDs of its trust domain is checked here when signing, and
    /// by the filter and Envoy's SPIFFE validator when trusting.
    pub permit_dns: Vec<String>,
}

impl Default for CaOptions {
    /// A root of ten years that signs by itself.
    fn default() -> Self {
        Self {
            lifetime_seconds: Duration::days(3650).whole_seconds(),
            intermediate: false,
            permit_dns: Vec::new(),
        }
    }
}

/// A CA that can sign: the issuing certificate, its key, and what is above it.
pub struct Ca {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    /// The issuing certificate first, the root last. One certificate when the root itself issues.
    path: Vec<CertificateDer<'static>>,
    /// Only straight after `create` with an intermediate: the caller decides where the root's key is to live.
    root_key: Option<KeyPair>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    permit_dns: Vec<String>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("trust_domain", &self.trust_domain).field("key", &"[redacted]").finish()
    }
}

impl Ca {
    /// A new root (and intermediate), with new keys.
    ///
    /// # Errors
    /// When the lifetime is under an hour or past the year 9999, or a permitted DNS name is not one.
    pub fn create(trust_domain: &TrustDomain, options: &CaOptions, now: OffsetDateTime) -> Result<Self> {
        let lifetime = ca_lifetime(options.lifetime_seconds, now)?;
        let root_key = key::generate()?;
        let constraints = name_constraints(&options.permit_dns)?;
        let mut params = ca_params(trust_domain, "root", &root_key, now, lifetime)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(u8::from(options.intermediate)));
        params.name_constraints.clone_from(&constraints);
        let root = params.self_signed(&root_key)?;
        let root_der = root.der().clone();
        if !options.intermediate {
            return Self::from_parts(vec![root_der], root_key);
        }
        let signing_key = key::generate()?;
        let mut params = ca_params(trust_domain, "intermediate", &signing_key, now, lifetime / 2)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.name_constraints = constraints;
        params.use_authority_key_identifier_extension = true;
        let root_issuer = Issuer::from_ca_cert_der(&root_der, &root_key)?;
        let intermediate = params.signed_by(&signing_key, &root_issuer)?;
        let mut ca = Self::from_parts(vec![intermediate.der().clone(), root_der], signing_key)?;
        ca.root_key = Some(root_key);
        Ok(ca)
    }

    /// A CA from its path (issuing certificate first, root last) and the key of the first.
    ///
    /// # Errors
    /// When a certificate is damaged or no CA, the key is another's, or the trust domain is not to be seen.
    pub fn from_parts(path: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self> {
        let (Some(first), Some(last)) = (path.first(), path.last()) else {
            return Err(Error::damaged("the CA", "it has no certificate"));
        };
        let root = parse("the root certificate", last)?;
        check_is_ca("the root certificate", &root)?;
        let trust_domain = trust_domain_of(&root)?;
        let issuing = parse("the CA certificate", first)?;
        check_is_ca("the CA certificate", &issuing)?;
        if !key::matches(&key, issuing.public_key().raw) {
            return Err(Error::KeyMismatch {
                key: "the CA key".into(),
                certificate: "the CA certificate".into(),
            });
        }
        // A path ends when its first certificate does.
        let mut not_before = issuing.validity().not_before.to_datetime();
        let mut not_after = issuing.validity().not_after.to_datetime();
        for certificate in &path {
            let parsed = parse("a certificate of the CA's chain", certificate)?;
            not_before = not_before.max(parsed.validity().not_before.to_datetime());
            not_after = not_after.min(parsed.validity().not_after.to_datetime());
        }
        let permit_dns = permitted_dns(&issuing);
        let issuer = Issuer::from_ca_cert_der(first, key)?;
        Ok(Self { trust_domain, issuer, path, root_key: None, not_before, not_after, permit_dns })
    }

    /// Reads a CA that [`Ca::save`] or `meshward certs init-ca` wrote. The passphrase is for an encrypted key.
    pub fn load(folder: &Path, passphrase: Option<&Passphrase>) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|cause| Error::io("read", &path, cause))
        };
        let name = |file: &str| format!("`{}`", folder.join(file).display());
        let path = pem::certificates(&name(ISSUER), &read(ISSUER)?)?;
        let text = Zeroizing::new(read(KEY)?);
        Self::from_parts(path, key::decode(&name(KEY), &text, passphrase)?)
    }

    /// Writes the CA into a folder of its own, atomically; the key is readable by its owner only.
    ///
    /// The root's key of a CA with an intermediate is not written here; see [`Ca::root_key`].
    pub fn save(&self, folder: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
        let mut files = folder::Files::new();
        files.insert(BUNDLE, self.bundle_pem().into_bytes());
        files.insert(ISSUER, pem::encode_certificates(&self.path).into_bytes());
        files.insert(KEY, key::encode(self.issuer.key(), passphrase)?.as_bytes().to_vec());
        folder::replace(folder, &files)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The trust bundle: what a peer needs to verify this CA's leaves.
    pub fn bundle_pem(&self) -> String {
        pem::encode_certificates(self.path.last())
    }

    /// The issuing certificate first, the root last.
    pub fn path(&self) -> &[CertificateDer<'static>] {
        &self.path
    }

    /// What a leaf must carry besides itself: the path without the root, which peers have.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        self.path.split_last().map_or(&[], |(_, above)| above)
    }

    /// The root's key, which `create` with an intermediate hands out once.
    pub fn root_key(&self) -> Option<&KeyPair> {
        self.root_key.as_ref()
    }

    pub fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// When the first certificate of the path ends.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Whether the name constraints let a leaf carry this DNS name.
    pub(crate) fn permits(&self, name: &str) -> Result<()> {
        let permitted = |base: &String| {
            let base = base.trim_start_matches('.');
            name == base || name.strip_suffix(base).is_some_and(|rest| rest.ends_with('.'))
        };
        if self.permit_dns.is_empty() || self.permit_dns.iter().any(permitted) {
            return Ok(());
        }
        Err(Error::NotPermitted { name: name.into(), permitted: self.permit_dns.clone() })
    }
}

/// A serial number of 127 random bits (RFC 5280, 4.1.2.2: positive, at most 20 octets).
///
/// Always set: rcgen's own is a hash of the key, so that a renewal with the same key would repeat it.
pub(crate) fn random_serial() -> Result<SerialNumber> {
    let mut bytes = [0u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Build("the system gives no random numbers".into()))?;
    if let Some(first) = bytes.first_mut() {
        // Never negative, never with a leading zero that encoders would drop.
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn parse<'a>(what: &str, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|cause| Error::damaged(what, cause.to_string()))?;
    if rest.is_empty() { Ok(certificate) } else { Err(Error::damaged(what, "bytes follow its end")) }
}

/// The trust domain that a CA certificate names in its URI SAN (X509-SVID, 3.1: an ID without a path).
fn trust_domain_of(root: &X509Certificate<'_>) -> Result<TrustDomain> {
    let names =
        root.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
    let uri = names.into_iter().flatten().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uri.ok_or_else(|| Error::NotACa {
        what: "the root certificate".into(),
        reason: "it names no trust domain (a URI SAN `spiffe://<trust domain>`)".into(),
    })?;
    super::names::trust_domain(uri.strip_prefix("spiffe://").unwrap_or(uri))
}

pub(crate) fn check_is_ca(what: &str, certificate: &X509Certificate<'_>) -> Result<()> {
    let refuse = |reason: &str| Err(Error::NotACa { what: what.into(), reason: reason.into() });
    if !certificate.is_ca() {
        return refuse("cA is not true");
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        _ => refuse("it lacks the key usage keyCertSign"),
    }
}

fn permitted_dns(certificate: &X509Certificate<'_>) -> Vec<String> {
    let constraints = certificate.name_constraints().ok().flatten();
    let subtrees = constraints.and_then(|extension| extension.value.permitted_subtrees.as_ref());
    let dns = |subtree: &x509_parser::extensions::GeneralSubtree<'_>| match &subtree.base {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    subtrees.into_iter().flatten().filter_map(dns).collect()
}

fn ca_lifetime(seconds: i64, now: OffsetDateTime) -> Result<Duration> {
    let lifetime = Duration::seconds(seconds);
    if lifetime < Duration::hours(1) {
        return Err(Error::Lifetime { seconds, reason: "too short for a CA" });
    }
    match now.checked_add(lifetime) {
        Some(end) if end.year() < 9999 => Ok(lifetime),
        // X.509 has no year 10000.
        _ => Err(Error::Lifetime {
            seconds,
            reason: "past the year 9999, the last that a certificate can name",
        }),
    }
}

fn ca_params(
    trust_domain: &TrustDomain,
    role: &str,
    key: &KeyPair,
    now: OffsetDateTime,
    lifetime: Duration,
) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    // The key's fingerprint in the name tells two roots of a rotation apart, for people and for path building.
    let fingerprint =
        params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain.as_str());
    name.push(DnType::CommonName, format!("meshward {role} {fingerprint}"));
    params.distinguished_name = name;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + lifetime;
    params.serial_number = Some(random_serial()?);
    params.subject_alt_names = vec![SanType::URI(ia5(&trust_domain.id_string())?)];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

pub(crate) fn ia5(text: &str) -> Result<rcgen::string::Ia5String> {
    text.try_into().map_err(|_| Error::Build(format!("`{text}` is not ASCII")))
}

fn name_constraints(permit_dns: &[String]) -> Result<Option<NameConstraints>> {
    if permit_dns.is_empty() {
        return Ok(None);
    }
    let mut permitted = Vec::new();
    for name in permit_dns {
        super::names::check_dns_name(name)?;
        permitted.push(GeneralSubtree::DnsName(name.clone()));
    }
    let no_ipv4 = GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4]));
    let no_ipv6 = GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16]));
    Ok(Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: vec![no_ipv4, no_ipv6] }))
}

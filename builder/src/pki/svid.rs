//! X.509-SVIDs: what a workload's certificate must be (SPIFFE X509-SVID), and signing one.
//!
//! Rules: exactly one URI SAN, the SPIFFE ID with a path (2, 4.2); cA=false (4.1); key usage critical, digitalSignature
//! and neither keyCertSign nor cRLSign (4.3); extended key usage serverAuth and clientAuth (4.4). The subject is empty,
//! so the SAN extension is critical (RFC 5280, 4.2.1.6). DNS SANs may stand beside the ID.

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509CertificationRequest};
use zeroize::Zeroizing;

use super::ca::{CLOCK_SKEW, Ca, ia5, random_serial};
use super::error::{Error, Result};
use super::names::check_dns_name;
pub use super::names::trust_domain;
use super::{key, pem};

/// How long a leaf lives when nothing else is asked for.
pub const DEFAULT_LIFETIME: Duration = Duration::hours(24);
/// Long enough to be seen by a sidecar; and what public CAs allow a leaf at most.
pub const LIFETIME_RANGE: std::ops::RangeInclusive<Duration> = Duration::minutes(1)..=Duration::days(397);

/// How long before it is made a leaf is valid: [`CLOCK_SKEW`], less for one of under twenty minutes, whose time for
/// renewal would otherwise have come at once.
pub fn skew(lifetime: Duration) -> Duration {
    CLOCK_SKEW.min(lifetime / 10)
}

/// What a leaf is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidRequest {
    pub id: SpiffeId,
    /// DNS SANs, in this order; may be empty.
    pub dns_names: Vec<String>,
    /// From now; cut to the CA's end.
    pub lifetime: Duration,
}

impl SvidRequest {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` with the DNS names of a Kubernetes service.
    pub fn for_service(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
        service: &str,
    ) -> Result<Self> {
        let id = spiffe_id(&format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"))?;
        let dns_names = vec![service.to_owned(), format!("{service}.{namespace}.svc.cluster.local")];
        Ok(Self { id, dns_names, lifetime: DEFAULT_LIFETIME })
    }
}

/// A signed leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf and its intermediates, for `tls.crt`.
    pub chain_pem: String,
    /// The leaf alone.
    pub cert_pem: String,
    /// The key for `tls.key`; none when a signing request was signed.
    pub key_pem: Option<Zeroizing<String>>,
    /// The trust bundle, for `ca.crt`.
    pub bundle_pem: String,
    pub certificate: CertificateDer<'static>,
    /// As unsigned big-endian bytes.
    pub serial: Vec<u8>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// A new key and an X.509-SVID for it.
///
/// # Errors
/// When the ID is of another trust domain or has no path, a DNS name is not one or not permitted, the lifetime is out
/// of range, or the CA is not valid now.
pub fn issue(ca: &Ca, request: &SvidRequest, now: OffsetDateTime) -> Result<Issued> {
    let key = key::generate()?;
    let mut issued = sign(ca, request, &key, now)?;
    issued.key_pem = Some(key::encode(&key, None)?);
    Ok(issued)
}

/// Signs the public key of a certificate signing request (PEM). The key's owner keeps it.
///
/// Only the public key is taken; what the request says of names and usages is the requester's wish, and is ignored:
/// identity comes from `request`. The signature, that is possession of the key, is checked.
pub fn sign_csr(ca: &Ca, csr_pem: &[u8], request: &SvidRequest, now: OffsetDateTime) -> Result<Issued> {
    let refused = |reason: String| Error::Csr { reason };
    let blocks = pem::blocks("the certificate signing request", csr_pem)?;
    let is_request = |block: &&::pem::Pem| block.tag().ends_with("CERTIFICATE REQUEST");
    let block = blocks
        .iter()
        .find(is_request)
        .ok_or_else(|| refused("no `BEGIN CERTIFICATE REQUEST` block".into()))?;
    let (rest, csr) =
        X509CertificationRequest::from_der(block.contents()).map_err(|cause| refused(cause.to_string()))?;
    if !rest.is_empty() {
        return Err(refused("bytes follow its end".into()));
    }
    csr.verify_signature()
        .map_err(|_| refused("its signature does not verify, so the key is not the sender's".into()))?;
    let public_key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|cause| refused(format!("its public key is of no supported kind ({cause})")))?;
    sign(ca, request, &public_key, now)
}

fn sign(
    ca: &Ca,
    request: &SvidRequest,
    public_key: &impl PublicKeyData,
    now: OffsetDateTime,
) -> Result<Issued> {
    check(ca, request, now)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(ia5(&request.id.to_string())?)];
    for name in &request.dns_names {
        params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    // X.509 counts whole seconds.
    let now = now.replace_nanosecond(0).unwrap_or(now);
    // A leaf never outlives its CA: peers would see an expired chain while the leaf itself looks fresh.
    params.not_before = (now - skew(request.lifetime)).max(ca.not_before());
    params.not_after = (now + request.lifetime).min(ca.not_after());
    let serial = random_serial()?;
    params.serial_number = Some(serial.clone());
    let certificate = params.signed_by(public_key, ca.issuer())?;
    let cert_pem = pem::encode_certificates([certificate.der()]);
    Ok(Issued {
        chain_pem: cert_pem.clone() + &pem::encode_certificates(ca.intermediates()),
        cert_pem,
        key_pem: None,
        bundle_pem: ca.bundle_pem(),
        certificate: certificate.der().clone(),
        serial: serial.to_bytes(),
        not_before: params.not_before,
        not_after: params.not_after,
    })
}

fn check(ca: &Ca, request: &SvidRequest, now: OffsetDateTime) -> Result<()> {
    if !request.id.is_member_of(ca.trust_domain()) {
        return Err(Error::ForeignTrustDomain {
            id: request.id.to_string(),
            trust_domain: ca.trust_domain().to_string(),
        });
    }
    if request.id.path().is_empty() {
        return Err(Error::Identity {
            text: request.id.to_string(),
            what: "workload's SPIFFE ID",
            reason: "it has no path, which only a CA's may lack".into(),
        });
    }
    let seconds = request.lifetime.whole_seconds();
    if request.lifetime < *LIFETIME_RANGE.start() {
        return Err(Error::Lifetime { seconds, reason: "too short" });
    }
    if request.lifetime > *LIFETIME_RANGE.end() {
        return Err(Error::Lifetime { seconds, reason: "too long for a leaf" });
    }
    if now >= ca.not_after() {
        return Err(Error::Expired { what: "the CA".into(), at: ca.not_after() });
    }
    if now < ca.not_before() {
        return Err(Error::NotYetValid { what: "the CA".into(), at: ca.not_before() });
    }
    for name in &request.dns_names {
        check_dns_name(name)?;
        ca.permits(name)?;
    }
    Ok(())
}

/// The URI and the DNS names of a certificate, in order.
pub fn names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    let names = certificate.subject_alternative_name().ok().flatten().map(|found| &found.value.general_names);
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            _ => {}
        }
    }
    (uris, dns)
}

/// Parses a SPIFFE ID strictly (SPIFFE-ID, 2): the text must already be in canonical form.
pub fn spiffe_id(text: &str) -> Result<SpiffeId> {
    let wrong = |reason: String| Error::Identity { text: text.into(), what: "SPIFFE ID", reason };
    let id = SpiffeId::new(text).map_err(|cause| wrong(pem::lower_first(&cause.to_string())))?;
    // Envoy and the filter compare bytes, so another spelling of the same ID would never match.
    if id.to_string() != text {
        return Err(wrong(format!("scheme and trust domain are lower case, so write `{id}`")));
    }
    if text.len() > 2048 {
        return Err(wrong("it is longer than 2048 bytes".into()));
    }
    Ok(id)
}

//! Checking certificates: the rules of X509-SVID, the chain (by webpki), dates, keys, names, bundles.
//!
//! Every function returns all that is wrong, as diagnostics; an empty list is a good certificate.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::error::{Error, quoted, stamp};
use super::{ca, svid};
use crate::diagnostic::{Diagnostic, Severity};

/// A leaf and its intermediates, as a peer presents them.
pub struct Chain<'a> {
    /// For messages: a file or a set, in backticks.
    pub what: &'a str,
    /// The leaf first.
    pub certificates: &'a [CertificateDer<'static>],
}

impl Chain<'_> {
    fn error(&self, code: &'static str, message: impl std::fmt::Display) -> Diagnostic {
        Diagnostic::error(code, format!("{}: {message}", self.what))
    }

    fn parsed(&self) -> Result<Vec<X509Certificate<'_>>, Diagnostic> {
        let certificates = self.certificates.iter().map(|der| ca::parse(self.what, der));
        certificates.collect::<Result<_, Error>>().map_err(Diagnostic::from)
    }

    /// The rules of X509-SVID for the leaf (2, 4, 5.2) and for what stands above it (3.2, 4.1, 4.3).
    pub fn svid(&self) -> Vec<Diagnostic> {
        let parsed = match self.parsed() {
            Ok(parsed) => parsed,
            Err(diagnostic) => return vec![diagnostic],
        };
        let Some((leaf, above)) = parsed.split_first() else {
            return vec![self.error("damaged", "it holds no certificate")];
        };
        let mut found = self.leaf(leaf);
        for (at, certificate) in above.iter().enumerate() {
            let what = format!("{}, intermediate {}", self.what, at + 1);
            if let Err(error) = ca::check_is_ca(&what, certificate) {
                found.push(error.into());
            }
        }
        found
    }

    fn leaf(&self, leaf: &X509Certificate<'_>) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut wrong = |code, message: String| found.push(self.error(code, message));
        let (uris, _) = svid::names(leaf);
        match uris.as_slice() {
            [uri] => match svid::spiffe_id(uri) {
                Ok(id) if id.path().is_empty() => {
                    wrong("svid-id", format!("`{uri}` has no path; only a CA's ID has none"))
                }
                Ok(_) => {}
                Err(error) => wrong("svid-id", error.to_string()),
            },
            [] => wrong("svid-id", "it has no URI SAN, so no SPIFFE ID".into()),
            many => wrong(
                "svid-id",
                format!("it has {} URI SANs where exactly one is allowed: {}", many.len(), quoted(many)),
            ),
        }
        match leaf.subject_alternative_name() {
            Ok(Some(sans)) if leaf.subject().iter().next().is_none() && !sans.critical => {
                wrong(
                    "svid-san-critical",
                    "its subject is empty, but its SAN extension is not critical".into(),
                );
            }
            Err(cause) => wrong("damaged", format!("its SAN extension cannot be read: {cause}")),
            _ => {}
        }
        if leaf.is_ca() {
            wrong("svid-ca", "it is a CA (cA is true); a leaf must not be".into());
        }
        match leaf.key_usage() {
            Ok(Some(usage)) => {
                if !usage.critical {
                    wrong("svid-key-usage", "its key usage is not critical".into());
                }
                if !usage.value.digital_signature() {
                    wrong("svid-key-usage", "it lacks the key usage digitalSignature".into());
                }
                if usage.value.key_cert_sign() {
                    wrong("svid-key-usage", "it has the key usage keyCertSign".into());
                }
                if usage.value.crl_sign() {
                    wrong("svid-key-usage", "it has the key usage cRLSign".into());
                }
            }
            Ok(None) => wrong("svid-key-usage", "it has no key usage".into()),
            Err(cause) => wrong("damaged", format!("its key usage cannot be read: {cause}")),
        }
        match leaf.extended_key_usage() {
            Ok(Some(usage)) if !(usage.value.any || usage.value.server_auth && usage.value.client_auth) => {
                wrong(
                    "svid-extended-key-usage",
                    "its extended key usage lacks serverAuth or clientAuth".into(),
                );
            }
            Err(cause) => wrong("damaged", format!("its extended key usage cannot be read: {cause}")),
            _ => {}
        }
        found
    }

    /// Expired, not valid yet: each certificate of the chain.
    pub fn dates(&self, at: OffsetDateTime) -> Vec<Diagnostic> {
        let Ok(parsed) = self.parsed() else { return Vec::new() };
        let mut found = Vec::new();
        for (number, certificate) in parsed.iter().enumerate() {
            let what = if number == 0 {
                self.what.to_owned()
            } else {
                format!("{}, intermediate {number}", self.what)
            };
            let begin = certificate.validity().not_before.to_datetime();
            let end = certificate.validity().not_after.to_datetime();
            if at > end {
                found.push(Error::Expired { what, at: end }.into());
            } else if at < begin {
                found.push(Error::NotYetValid { what, at: begin }.into());
            }
        }
        found
    }

    /// The chain up to a root of the bundle, for server and client use. Dates are `dates`' concern: the chain is looked
    /// at within the leaf's own validity, so that an expired one is told from a foreign one.
    pub fn trust(
        &self,
        bundle_name: &str,
        bundle: &[CertificateDer<'static>],
        at: OffsetDateTime,
    ) -> Vec<Diagnostic> {
        let Ok(parsed) = self.parsed() else { return Vec::new() };
        let (Some(leaf), Some((first, above))) = (parsed.first(), self.certificates.split_first()) else {
            return Vec::new();
        };
        let validity = leaf.validity();
        let at = at.clamp(validity.not_before.to_datetime(), validity.not_after.to_datetime());
        let mut anchors: Vec<TrustAnchor<'_>> = Vec::new();
        for root in bundle {
            match webpki::anchor_from_trusted_cert(root) {
                Ok(anchor) => anchors.push(anchor),
                Err(cause) => {
                    return vec![
                        self.error("damaged", format!("a root of {bundle_name} cannot be read: {cause}")),
                    ];
                }
            }
        }
        let end_entity = match webpki::EndEntityCert::try_from(first) {
            Ok(end_entity) => end_entity,
            Err(cause) => return vec![self.error("damaged", cause)],
        };
        let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            let verdict = end_entity.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                above,
                time,
                usage,
                None,
                None,
            );
            if let Err(cause) = verdict {
                let diagnostic =
                    self.error("untrusted", format!("no chain to a root of {bundle_name}: {}", why(&cause)));
                return vec![match cause {
                    webpki::Error::UnknownIssuer => diagnostic.help(
                        "the bundle lacks the root that issued it, or the file lacks an intermediate; \
                         a mesh of this CA is mended by `meshward certs renew`",
                    ),
                    _ => diagnostic,
                }];
            }
        }
        Vec::new()
    }

    /// The ID and the DNS names are those asked for.
    pub fn names(&self, id: &str, dns_names: &[String]) -> Vec<Diagnostic> {
        let Ok(parsed) = self.parsed() else { return Vec::new() };
        let Some(leaf) = parsed.first() else { return Vec::new() };
        let (uris, dns) = svid::names(leaf);
        let mut found = Vec::new();
        if uris.first().map(String::as_str) != Some(id) {
            found.push(
                self.error("names", format!("its SPIFFE ID is {}, not `{id}`", quoted(&uris)))
                    .help("issue it anew: `meshward certs renew`"),
            );
        }
        let missing: Vec<_> = dns_names.iter().filter(|name| !dns.contains(name)).collect();
        if !missing.is_empty() {
            found.push(
                self.error("names", format!("it lacks the DNS name {}", quoted(&missing)))
                    .help("issue it anew: `meshward certs renew`"),
            );
        }
        found
    }

    /// The key belongs to the leaf.
    pub fn key(&self, key_name: &str, key_text: &[u8]) -> Vec<Diagnostic> {
        let Ok(parsed) = self.parsed() else { return Vec::new() };
        let Some(leaf) = parsed.first() else { return Vec::new() };
        match super::key::decode(key_name, key_text, None) {
            Err(error) => vec![error.into()],
            Ok(key) if super::key::matches(&key, leaf.public_key().raw) => Vec::new(),
            Ok(_) => vec![Error::KeyMismatch { key: key_name.into(), certificate: self.what.into() }.into()],
        }
    }
}

/// Roots: they are CAs, in date, and name at most one trust domain, without a path (X509-SVID, 3.1, 4.1).
pub fn bundle(what: &str, roots: &[CertificateDer<'static>], at: OffsetDateTime) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut alive = 0;
    for root in roots {
        let parsed = match ca::parse(what, root) {
            Ok(parsed) => parsed,
            Err(error) => {
                found.push(error.into());
                continue;
            }
        };
        if let Err(error) = ca::check_is_ca(what, &parsed) {
            found.push(error.into());
        }
        let end = parsed.validity().not_after.to_datetime();
        if at > end {
            found.push(
                Diagnostic::warning("root-expired", format!("{what}: a root expired at {}", stamp(end)))
                    .help("drop it: `meshward certs rotate-ca`"),
            );
        } else if at < parsed.validity().not_before.to_datetime() {
            let begin = parsed.validity().not_before.to_datetime();
            found.push(Error::NotYetValid { what: format!("{what}: a root"), at: begin }.into());
        } else {
            alive += 1;
        }
        let sans = parsed.subject_alternative_name().ok().flatten().map(|sans| &sans.value.general_names);
        for name in sans.into_iter().flatten() {
            if let GeneralName::URI(uri) = name
                && let Some(rest) = uri.strip_prefix("spiffe://")
                && let Err(error) = svid::trust_domain(rest)
            {
                found.push(Diagnostic::error("svid-ca", format!("{what}: {error}")));
            }
        }
    }
    if alive == 0 && !found.iter().any(|found| found.severity == Severity::Error) {
        let dead =
            Diagnostic::error("expired", format!("{what}: no root in it is valid, so it trusts nobody"));
        found.push(dead.help("`meshward certs rotate-ca`; or set this machine's clock"));
    }
    found
}

fn why(cause: &webpki::Error) -> String {
    match cause {
        webpki::Error::UnknownIssuer => "its issuer is not known".into(),
        webpki::Error::CertExpired { .. } => "a certificate above it has expired".into(),
        webpki::Error::CertNotValidYet { .. } => "a certificate above it is not valid yet".into(),
        webpki::Error::NameConstraintViolation => "a CA above it does not permit one of its names".into(),
        webpki::Error::InvalidSignatureForPublicKey => "a signature is wrong".into(),
        webpki::Error::PathLenConstraintViolated => "a CA above it does not permit so long a chain".into(),
        other => other.to_string(),
    }
}

//! What can go wrong with certificates, each variant with its usual cause, and the remedy a user is told.

use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::diagnostic::{Diagnostic, Failure};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written: permissions, a full disk, a folder that is not there.
    #[error("cannot {doing} `{path}`: {cause}")]
    Io { doing: &'static str, path: PathBuf, cause: io::Error },

    /// A SPIFFE ID or trust domain that the standard does not allow.
    #[error("`{text}` is not a {what}: {reason}")]
    Identity { text: String, what: &'static str, reason: String },

    /// A DNS name that cannot go into a certificate.
    #[error("`{name}` cannot be a DNS name of a certificate: {reason}")]
    DnsName { name: String, reason: String },

    /// Material that is not what its name says: truncated, another format, edited by hand.
    #[error("{what} is damaged: {reason}")]
    Damaged { what: String, reason: String },

    /// A key in a format that is not PKCS#8 (`openssl ecparam -genkey` writes SEC 1, `openssl genrsa -traditional` PKCS#1).
    #[error("{what} is a `{label}`; only PKCS#8 (`PRIVATE KEY`) is read")]
    KeyFormat { what: String, label: String },

    /// The key is encrypted and no passphrase was given.
    #[error("{what} is encrypted, and no passphrase was given")]
    PassphraseMissing { what: String },

    /// The passphrase does not open the key.
    #[error("the passphrase does not open {what}")]
    PassphraseWrong { what: String },

    /// The key does not belong to the certificate: files of two runs or two tools mixed.
    #[error("{key} does not belong to {certificate}")]
    KeyMismatch { key: String, certificate: String },

    /// A certificate that may not sign others where one that may is needed.
    #[error("{what} may not issue certificates: {reason}")]
    NotACa { what: String, reason: String },

    /// Outside the validity period: an old certificate, or a clock that is wrong.
    #[error("{what} expired at {}", stamp(*at))]
    Expired { what: String, at: OffsetDateTime },

    /// Outside the validity period: made by a machine whose clock is ahead, or this one's is behind.
    #[error("{what} is not valid before {}", stamp(*at))]
    NotYetValid { what: String, at: OffsetDateTime },

    /// A lifetime that makes no usable certificate.
    #[error("a lifetime of {seconds} s is {reason}")]
    Lifetime { seconds: i64, reason: &'static str },

    /// A certificate signing request that cannot be signed.
    #[error("the certificate signing request is refused: {reason}")]
    Csr { reason: String },

    /// The identity asked for is not of the trust domain that the CA signs for.
    #[error("`{id}` is not in the trust domain `{trust_domain}` of this CA")]
    ForeignTrustDomain { id: String, trust_domain: String },

    /// A leaf of another CA where one of ours belongs: another tool wrote it, or the CA was made anew.
    #[error("{what} was not issued by this CA (trust domain `{trust_domain}`)")]
    Foreign { what: String, trust_domain: String },

    /// The name constraints that the CA was made with forbid a DNS name.
    #[error("the CA's name constraints do not permit the DNS name `{name}`")]
    NotPermitted { name: String, permitted: Vec<String> },

    /// The library refused to build something that was checked before: a bug, or no entropy.
    #[error("the certificate could not be made: {0}")]
    Build(String),

    /// Anything that already is a message for the user.
    #[error("{}", .0.message)]
    Other(Box<Diagnostic>),
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), cause }
    }

    pub(crate) fn damaged(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), reason: reason.into() }
    }

    /// Stable, kebab-case; part of the command's interface.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "certs-io",
            Self::Identity { .. } => "spiffe-id",
            Self::DnsName { .. } => "dns-name",
            Self::Damaged { .. } => "damaged",
            Self::KeyFormat { .. } => "key-format",
            Self::PassphraseMissing { .. } | Self::PassphraseWrong { .. } => "passphrase",
            Self::KeyMismatch { .. } => "key-mismatch",
            Self::NotACa { .. } => "not-a-ca",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Lifetime { .. } => "lifetime",
            Self::Csr { .. } => "csr",
            Self::ForeignTrustDomain { .. } => "foreign-trust-domain",
            Self::Foreign { .. } => "foreign-certificate",
            Self::NotPermitted { .. } => "name-constraints",
            Self::Build(_) => "certificate-build",
            Self::Other(diagnostic) => diagnostic.code,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Io { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                "run it as the owner of the folder, or give another one: `--dir DIR`".into()
            }
            Self::Io { .. } | Self::Identity { .. } | Self::DnsName { .. } | Self::Build(_) => return None,
            Self::Other(_) => return None,
            Self::Damaged { .. } => {
                "restore it from your backup, or, if it is a leaf, issue it anew: `meshward certs issue --force SERVICE`".into()
            }
            Self::KeyFormat { .. } => "convert it: `openssl pkcs8 -topk8 -nocrypt -in old.key -out new.key`".into(),
            Self::PassphraseMissing { .. } => {
                "give it in a file: `--passphrase-file FILE` (`-` reads standard input)".into()
            }
            Self::PassphraseWrong { .. } => {
                "its first line is taken, without the line's end: is it the passphrase that `init-ca` was given?".into()
            }
            Self::KeyMismatch { .. } => "put the pair that was issued together in place, or issue a new one: `meshward certs issue --force SERVICE`".into(),
            Self::NotACa { .. } => "give a certificate with cA=true and keyCertSign, or make one: `meshward certs init-ca`".into(),
            Self::Expired { .. } => {
                "a CA: `meshward certs rotate-ca`; a leaf: `meshward certs renew`; if both are fresh, set this machine's clock".into()
            }
            Self::NotYetValid { .. } => "set this machine's clock, or that of the machine that issued it".into(),
            Self::Lifetime { .. } => "give one between 1m and 397d, e.g. `--lifetime 24h`".into(),
            Self::Csr { .. } => {
                "make one with a P-256 key: `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -subj / -out pod.csr`".into()
            }
            Self::ForeignTrustDomain { trust_domain, .. } => {
                format!("ask for `spiffe://{trust_domain}/...`, or use the CA of that trust domain (`--dir`)")
            }
            Self::Foreign { .. } => {
                "if nobody needs it any more, replace it: `meshward certs issue --force SERVICE`; else give another `--dir`".into()
            }
            Self::NotPermitted { permitted, .. } => {
                format!("it permits {}; leave the name out, or make a CA with `--permit-dns` for it", quoted(permitted))
            }
        })
    }
}

/// RFC 3339, UTC, whole seconds: how every time is shown and stored.
pub(crate) fn stamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let at = at.replace_nanosecond(0).unwrap_or(at);
    // Years past 9999 have no such form; the debug form is honest.
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// `a`, `b` and so on, each in backticks.
pub(crate) fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

impl From<Error> for Diagnostic {
    fn from(error: Error) -> Self {
        if let Error::Other(diagnostic) = error {
            return *diagnostic;
        }
        let diagnostic = Diagnostic::error(error.code(), error.to_string());
        match error.remedy() {
            Some(remedy) => diagnostic.help(remedy),
            None => diagnostic,
        }
    }
}

impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Other(Box::new(diagnostic))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Diagnostic::from(error).into()
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Build(error.to_string())
    }
}

//! SPIFFE IDs and trust domains, parsed strictly: what is not valid by the letter of the standard is refused.
//!
//! [SPIFFE-ID] section 2. Deliberately absent: lenient reading. An upper-case scheme or trust domain is refused and
//! not folded, as go-spiffe does, since Envoy compares SANs byte by byte.
//!
//! [SPIFFE-ID]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md

use alloc::sync::Arc;
use core::fmt;

use serde::{Deserialize, Serialize};

/// The scheme and the `//` in front of a trust domain. SPIFFE-ID 2: the scheme is `spiffe`.
pub const SCHEME: &str = "spiffe://";
/// Longest SPIFFE ID in bytes. SPIFFE-ID 2.3: 2048 must be supported, more must not be generated.
pub const MAX_ID_LENGTH: usize = 2048;
/// Longest trust domain in bytes. SPIFFE-ID 2.1: the limit of a host, RFC 3986 section 3.2.2.
pub const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

/// Why a text is not a SPIFFE ID or not a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Nothing at all; usual cause: a template variable that was not filled in.
    #[error("it is empty")]
    Empty,
    /// Another scheme, usually `https://`, or none.
    #[error("it does not start with `spiffe://`")]
    WrongScheme,
    /// `spiffe:///path`.
    #[error("the trust domain is missing")]
    MissingTrustDomain,
    /// Upper case, a port, user info, percent-encoding.
    #[error("a trust domain is made of a-z, 0-9, `.`, `-` and `_` only")]
    TrustDomainCharacter,
    /// More than [`MAX_TRUST_DOMAIN_LENGTH`] bytes.
    #[error("the trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    /// A query, a fragment, percent-encoding, a character that is not ASCII.
    #[error("a path segment is made of a-z, A-Z, 0-9, `.`, `-` and `_` only")]
    PathCharacter,
    /// `//` in the path.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// `spiffe://td/`.
    #[error("the path ends with `/`")]
    TrailingSlash,
    /// [`SpiffeIdRef::from_parts`] with a path that does not start with `/`.
    #[error("the path does not start with `/`")]
    NoLeadingSlash,
    /// More than [`MAX_ID_LENGTH`] bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

/// A valid SPIFFE ID, borrowed: no allocation, for the hot path.
///
/// INVARIANT: `text` is a valid SPIFFE ID and `path_start` is where its path begins (its length, without a path).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeIdRef<'a> {
    text: &'a str,
    path_start: usize,
}

impl<'a> SpiffeIdRef<'a> {
    /// Parses the bytes of a URI SAN. SPIFFE-ID section 2.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SpiffeError> {
        if bytes.is_empty() {
            return Err(SpiffeError::Empty);
        }
        if bytes.len() > MAX_ID_LENGTH {
            return Err(SpiffeError::TooLong);
        }
        let rest = bytes.strip_prefix(SCHEME.as_bytes()).ok_or(SpiffeError::WrongScheme)?;
        let domain_length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at_checked(domain_length).ok_or(SpiffeError::MissingTrustDomain)?;
        check_trust_domain(domain)?;
        check_path(path)?;
        // Only ASCII has passed, so this never fails; checked rather than assumed.
        let text = core::str::from_utf8(bytes).map_err(|_| SpiffeError::PathCharacter)?;
        Ok(Self { text, path_start: SCHEME.len() + domain_length })
    }

    /// The whole ID, `spiffe://` included.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The trust domain, for example `example.org`.
    #[must_use]
    pub fn trust_domain(&self) -> &'a str {
        self.text.get(SCHEME.len()..self.path_start).unwrap_or("")
    }

    /// The path with its leading `/`, or nothing.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.text.get(self.path_start..).unwrap_or("")
    }

    /// The ID without `spiffe://`, as Istio writes principals: `td/ns/web/sa/shop`.
    #[must_use]
    pub fn principal(&self) -> &'a str {
        self.text.get(SCHEME.len()..).unwrap_or("")
    }

    /// The Kubernetes namespace of an ID `/ns/<namespace>/…`, when something follows the namespace.
    #[must_use]
    pub fn namespace(&self) -> Option<&'a str> {
        self.workload().map(|(namespace, _)| namespace)
    }

    /// The service account of an ID `/ns/<namespace>/…/sa/<account>`.
    ///
    /// Istio's expression lets segments stand between the namespace and `sa`, and after the account; so it is here.
    #[must_use]
    pub fn service_account(&self) -> Option<&'a str> {
        let (_, mut rest) = self.workload()?;
        loop {
            let (segment, after) = rest.split_once('/')?;
            if segment == "sa" {
                let account = after.split_once('/').map_or(after, |(account, _)| account);
                return (!account.is_empty()).then_some(account);
            }
            rest = after;
        }
    }

    /// Namespace, and what follows it after the `/`.
    fn workload(&self) -> Option<(&'a str, &'a str)> {
        self.path().strip_prefix("/ns/")?.split_once('/')
    }

    /// An owned copy.
    #[must_use]
    pub fn to_owned(&self) -> SpiffeId {
        SpiffeId { text: Arc::from(self.text), path_start: self.path_start }
    }
}

impl fmt::Display for SpiffeIdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for SpiffeIdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// A valid SPIFFE ID, owned. See [`SpiffeIdRef`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    path_start: usize,
}

impl SpiffeId {
    /// Parses a SPIFFE ID. SPIFFE-ID section 2.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        SpiffeIdRef::parse(text.as_bytes()).map(|id| id.to_owned())
    }

    /// The ID of a trust domain and a path, which is empty or starts with `/`.
    pub fn from_parts(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeError> {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(SpiffeError::NoLeadingSlash);
        }
        Self::parse(&[SCHEME, trust_domain.as_str(), path].concat())
    }

    /// The ID of a Kubernetes service account: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
    pub fn for_service_account(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        check_segment(namespace.as_bytes())?;
        check_segment(service_account.as_bytes())?;
        Self::from_parts(trust_domain, &["/ns/", namespace, "/sa/", service_account].concat())
    }

    /// The borrowed form, which has the accessors.
    #[must_use]
    pub fn as_ref(&self) -> SpiffeIdRef<'_> {
        SpiffeIdRef { text: &self.text, path_start: self.path_start }
    }

    /// The whole ID, `spiffe://` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The name of a trust domain, for example `example.org`. SPIFFE-ID section 2.1.
///
/// Istio itself checks no more of a mesh's `trustDomain` than that it is a host name, and of `trustDomains` in a policy that
/// there is no `/`; so it takes `Example.ORG`, for which no valid SPIFFE ID exists. Here that is an error where a name
/// is written out, and a pattern that never matches where one is compared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a name such as `example.org`; an ID (`spiffe://example.org/…`) stands for its trust domain.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() {
            return Err(SpiffeError::MissingTrustDomain);
        }
        if text.starts_with(SCHEME) {
            return SpiffeIdRef::parse(text.as_bytes()).map(|id| Self(Arc::from(id.trust_domain())));
        }
        if text.contains(":/") {
            return Err(SpiffeError::WrongScheme);
        }
        check_trust_domain(text.as_bytes())?;
        Ok(Self(Arc::from(text)))
    }

    /// The name, for example `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own ID, `spiffe://example.org`.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: Arc::from([SCHEME, &self.0].concat()), path_start: SCHEME.len() + self.0.len() }
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::parse(text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SPIFFE-ID 2.1: lower-case letters, digits, `.`, `-`, `_`; so no port, user info or percent-encoding.
fn check_trust_domain(domain: &[u8]) -> Result<(), SpiffeError> {
    if domain.is_empty() {
        return Err(SpiffeError::MissingTrustDomain);
    }
    if !domain.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
        return Err(SpiffeError::TrustDomainCharacter);
    }
    if domain.len() > MAX_TRUST_DOMAIN_LENGTH {
        return Err(SpiffeError::TrustDomainTooLong);
    }
    Ok(())
}

/// SPIFFE-ID 2.2. Empty is allowed here: the ID of a trust domain has no path.
pub fn check_path(path: &[u8]) -> Result<(), SpiffeError> {
    let Some(rest) = path.strip_prefix(b"/") else {
        return if path.is_empty() { Ok(()) } else { Err(SpiffeError::NoLeadingSlash) };
    };
    let mut segments = rest.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_none() {
            return Err(SpiffeError::TrailingSlash);
        }
        check_segment(segment)?;
    }
    Ok(())
}

/// One segment of a path. SPIFFE-ID 2.2.
pub fn check_segment(segment: &[u8]) -> Result<(), SpiffeError> {
    match segment {
        b"" => Err(SpiffeError::EmptySegment),
        b"." | b".." => Err(SpiffeError::DotSegment),
        _ if segment
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_')) =>
        {
            Ok(())
        }
        _ => Err(SpiffeError::PathCharacter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id = SpiffeId::parse("spiffe://example.org/ns/web/sa/shop").unwrap();
        let id = id.as_ref();
        assert_eq!(id.trust_domain(), "example.org");
        assert_eq!(id.path(), "/ns/web/sa/shop");
        assert_eq!(id.principal(), "example.org/ns/web/sa/shop");
        assert_eq!((id.namespace(), id.service_account()), (Some("web"), Some("shop")));
    }

    #[test]
    fn namespace_and_account_only_where_they_belong() {
        for (path, namespace, account) in [
            ("", None, None),
            ("/ns/a", None, None),
            ("/x/ns/a/sa/b", None, None),
            ("/ns/a/sa", Some("a"), None),
            ("/ns/a/sa/b", Some("a"), Some("b")),
            ("/ns/a/x/sa/b/y", Some("a"), Some("b")),
            ("/sa/b/ns/a", None, None),
        ] {
            let id = SpiffeId::parse(&format!("spiffe://td{path}")).unwrap();
            assert_eq!(
                (id.as_ref().namespace(), id.as_ref().service_account()),
                (namespace, account),
                "{path}"
            );
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for (text, fault) in [
            ("", SpiffeError::Empty),
            ("https://td/a", SpiffeError::WrongScheme),
            ("SPIFFE://td/a", SpiffeError::WrongScheme),
            ("spiffe:///a", SpiffeError::MissingTrustDomain),
            ("spiffe://TD/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://td:1/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://u@td/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://td/", SpiffeError::TrailingSlash),
            ("spiffe://td/a/", SpiffeError::TrailingSlash),
            ("spiffe://td//a", SpiffeError::EmptySegment),
            ("spiffe://td/a/../b", SpiffeError::DotSegment),
            ("spiffe://td/%61", SpiffeError::PathCharacter),
            ("spiffe://td/a?b", SpiffeError::PathCharacter),
            ("spiffe://td/a#b", SpiffeError::PathCharacter),
            ("spiffe://td/ü", SpiffeError::PathCharacter),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(fault), "{text}");
        }
        let long = format!("spiffe://td/{}", "a".repeat(MAX_ID_LENGTH));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeError::TooLong));
        assert!(SpiffeId::parse(&long[..MAX_ID_LENGTH]).is_ok());
    }
}

//! The names that certificates have: trust domains and DNS names.

use spiffe::TrustDomain;

use super::error::{Error, Result};
use super::pem;

/// Parses the name of a trust domain, without a scheme.
pub fn trust_domain(text: &str) -> Result<TrustDomain> {
    let wrong = |reason: String| Error::Identity { text: text.into(), what: "trust domain", reason };
    let name = TrustDomain::new(text).map_err(|cause| wrong(pem::lower_first(&cause.to_string())))?;
    if name.as_str() != text {
        return Err(wrong(format!("write `{name}`")));
    }
    Ok(name)
}

/// A DNS name as certificates have it: lower-case labels (RFC 1123), `*.` allowed in front, no dot at the end.
pub(crate) fn check_dns_name(name: &str) -> Result<()> {
    let wrong = |reason: &str| Err(Error::DnsName { name: name.into(), reason: reason.into() });
    if name.is_empty() || name.len() > 253 {
        return wrong("it must have 1 to 253 characters");
    }
    for label in name.strip_prefix("*.").unwrap_or(name).split('.') {
        if label.is_empty() || label.len() > 63 {
            return wrong("each label between dots must have 1 to 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return wrong("only `a`-`z`, `0`-`9`, `-` and `.` are allowed");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("no label may begin or end with `-`");
        }
    }
    Ok(())
}

//! The peer's leaf certificate: is it an X509-SVID, and whose.
//!
//! TLS has checked the chain, the signature and the time before; here are the rules that TLS does not know,
//! [X509-SVID] sections 2 to 5 (SEMANTICS.md, Identity). Deliberately absent: chains, signatures, intermediate certificates.
//!
//! [X509-SVID]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md

use alloc::vec::Vec;

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Class, Decode, Reader, SliceReader, Tag, TagNumber};

use crate::spiffe::{SpiffeError, SpiffeIdRef};

/// DER of the object identifiers that matter (RFC 5280 section 4.2.1).
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Bits of the first byte of KeyUsage (RFC 5280 section 4.2.1.3; bit 0 is the most significant one).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

/// Longest certificate in bytes that is looked at. Envoy itself reads at most 16 KiB of a handshake message's chain
/// per record; a leaf of more is nobody's.
pub const MAX_CERTIFICATE: usize = 64 * 1024;

/// Why a certificate is not an X509-SVID's leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No `-----BEGIN CERTIFICATE-----`, or damaged base64; usual cause: an empty property, a file that is no PEM.
    #[error("it is no PEM certificate")]
    Pem,
    /// Damaged DER, or version 1.
    #[error("it is no X.509 version 3 certificate")]
    Der,
    /// An extension twice: RFC 5280 section 4.2.
    #[error("an extension is there twice")]
    DuplicateExtension,
    /// X509-SVID section 2; usual cause: a certificate made for host names.
    #[error("it has no URI in its subject alternative name")]
    NoUri,
    /// X509-SVID section 2: a validator must refuse it, even when all are equal.
    #[error("it has more than one URI in its subject alternative name")]
    SeveralUris,
    /// X509-SVID section 2.
    #[error("its URI is no SPIFFE ID: {0}")]
    Id(SpiffeError),
    /// X509-SVID section 3.1; usual cause: a CA's certificate.
    #[error("its SPIFFE ID has no path")]
    RootPath,
    /// X509-SVID section 4.1.
    #[error("it is a CA certificate")]
    Ca,
    /// X509-SVID section 4.3.
    #[error("it has no key usage, or one that is not critical")]
    KeyUsage,
    /// X509-SVID section 4.3.
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// X509-SVID section 4.3.
    #[error("its key usage has keyCertSign or cRLSign")]
    SigningUsage,
    /// X509-SVID section 4.4.
    #[error("its extended key usage lacks serverAuth or clientAuth")]
    ExtendedKeyUsage,
    /// X509-SVID section 3.1, RFC 5280 section 4.1.2.6.
    #[error("its subject is empty, and its subject alternative name is not critical")]
    SubjectAltNameNotCritical,
}

impl SvidError {
    /// A stable name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Der => "der",
            Self::DuplicateExtension => "duplicate_extension",
            Self::NoUri => "no_uri",
            Self::SeveralUris => "several_uris",
            Self::Id(_) => "bad_id",
            Self::RootPath => "root_path",
            Self::Ca => "ca",
            Self::KeyUsage => "key_usage",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::SigningUsage => "signing_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::SubjectAltNameNotCritical => "san_not_critical",
        }
    }
}

impl From<der::Error> for SvidError {
    fn from(_: der::Error) -> Self {
        Self::Der
    }
}

/// A leaf certificate that keeps all rules of X509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Svid<'a> {
    /// Whose it is.
    pub id: SpiffeIdRef<'a>,
    /// Serial number, big-endian, without leading zeroes.
    pub serial: &'a [u8],
    /// First second of validity, since 1970.
    pub not_before: u64,
    /// Last second of validity, since 1970.
    pub not_after: u64,
}

impl<'a> Svid<'a> {
    /// Checks the DER of a leaf certificate.
    pub fn parse(der: &'a [u8]) -> Result<Self, SvidError> {
        let mut whole = SliceReader::new(der)?;
        let mut certificate = read(&mut whole, Tag::Sequence)?;
        whole.finish()?;
        let mut tbs = read(&mut certificate, Tag::Sequence)?;
        // Version 3 is `[0] { INTEGER 2 }`; earlier ones have no extensions.
        let version = AnyRef::decode(&mut tbs)?;
        if !is_context(version.header().tag(), 0) || version.value() != [2, 1, 2] {
            return Err(SvidError::Der);
        }
        let serial = value(&mut tbs, Tag::Integer)?;
        value(&mut tbs, Tag::Sequence)?; // signature algorithm
        value(&mut tbs, Tag::Sequence)?; // issuer
        let mut validity = read(&mut tbs, Tag::Sequence)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        let subject = value(&mut tbs, Tag::Sequence)?;
        value(&mut tbs, Tag::Sequence)?; // public key
        let extensions = Extensions::read(&mut tbs)?;
        let id = extensions.check(subject.is_empty())?;
        let serial = serial.iter().position(|byte| *byte != 0).and_then(|at| serial.get(at..)).unwrap_or(&[]);
        Ok(Self { id, serial, not_before, not_after })
    }

    /// Whether the certificate is valid at a time, in seconds since 1970 (RFC 5280 section 4.1.2.5: both ends count).
    #[must_use]
    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// The extensions that matter.
#[derive(Default)]
struct Extensions<'a> {
    subject_alt_name: Option<Extension<'a>>,
    basic_constraints: Option<Extension<'a>>,
    key_usage: Option<Extension<'a>>,
    extended_key_usage: Option<Extension<'a>>,
}

struct Extension<'a> {
    critical: bool,
    /// DER of what the extension's octet string holds.
    content: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// What follows the public key: two obsolete identifiers, `[1]` and `[2]`, and the extensions, `[3]`.
    fn read(tbs: &mut SliceReader<'a>) -> Result<Self, SvidError> {
        let mut found = Self::default();
        while !tbs.is_finished() {
            let field = AnyRef::decode(tbs)?;
            if is_context(field.header().tag(), 3) {
                let mut explicit = SliceReader::new(field.value())?;
                let mut list = read(&mut explicit, Tag::Sequence)?;
                explicit.finish()?;
                while !list.is_finished() {
                    found.add(&mut list)?;
                }
            }
        }
        Ok(found)
    }

    fn add(&mut self, list: &mut SliceReader<'a>) -> Result<(), SvidError> {
        let mut extension = read(list, Tag::Sequence)?;
        let oid = value(&mut extension, Tag::ObjectIdentifier)?;
        let mut next = AnyRef::decode(&mut extension)?;
        // DEFAULT FALSE, so DER never writes it as false.
        let critical = next.header().tag() == Tag::Boolean;
        if critical {
            next = AnyRef::decode(&mut extension)?;
        }
        extension.finish()?;
        if next.header().tag() != Tag::OctetString {
            return Err(SvidError::Der);
        }
        let content = next.value();
        let slot = match oid {
            SUBJECT_ALT_NAME => &mut self.subject_alt_name,
            BASIC_CONSTRAINTS => &mut self.basic_constraints,
            KEY_USAGE => &mut self.key_usage,
            EXTENDED_KEY_USAGE => &mut self.extended_key_usage,
            _ => return Ok(()),
        };
        match slot.replace(Extension { critical, content }) {
            Some(_) => Err(SvidError::DuplicateExtension),
            None => Ok(()),
        }
    }

    fn check(&self, empty_subject: bool) -> Result<SpiffeIdRef<'a>, SvidError> {
        let names = self.subject_alt_name.as_ref().ok_or(SvidError::NoUri)?;
        let id = only_uri(names.content)?;
        if id.path().is_empty() {
            return Err(SvidError::RootPath);
        }
        if empty_subject && !names.critical {
            return Err(SvidError::SubjectAltNameNotCritical);
        }
        if let Some(constraints) = &self.basic_constraints
            && is_ca(constraints.content)?
        {
            return Err(SvidError::Ca);
        }
        let usage = self.key_usage.as_ref().filter(|usage| usage.critical).ok_or(SvidError::KeyUsage)?;
        check_key_usage(usage.content)?;
        if let Some(usages) = &self.extended_key_usage {
            check_extended_key_usage(usages.content)?;
        }
        Ok(id)
    }
}

/// `GeneralNames`, of which exactly one is a URI (`[6]`); DNS names and others may stand beside it.
fn only_uri(content: &[u8]) -> Result<SpiffeIdRef<'_>, SvidError> {
    let mut outer = SliceReader::new(content)?;
    let mut names = read(&mut outer, Tag::Sequence)?;
    outer.finish()?;
    let mut uri = None;
    while !names.is_finished() {
        let name = AnyRef::decode(&mut names)?;
        if is_context(name.header().tag(), 6) && uri.replace(name.value()).is_some() {
            return Err(SvidError::SeveralUris);
        }
    }
    SpiffeIdRef::parse(uri.ok_or(SvidError::NoUri)?).map_err(SvidError::Id)
}

/// `BasicConstraints { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER OPTIONAL }`.
fn is_ca(content: &[u8]) -> Result<bool, SvidError> {
    let mut outer = SliceReader::new(content)?;
    let mut constraints = read(&mut outer, Tag::Sequence)?;
    outer.finish()?;
    if constraints.is_finished() {
        return Ok(false);
    }
    let first = AnyRef::decode(&mut constraints)?;
    Ok(first.header().tag() == Tag::Boolean && first.value() != [0])
}

fn check_key_usage(content: &[u8]) -> Result<(), SvidError> {
    let mut outer = SliceReader::new(content)?;
    let bits = value(&mut outer, Tag::BitString)?;
    outer.finish()?;
    // The first byte counts the unused bits of the last one.
    let usage = bits.get(1).copied().unwrap_or(0);
    if usage & (KEY_CERT_SIGN | CRL_SIGN) != 0 {
        return Err(SvidError::SigningUsage);
    }
    if usage & DIGITAL_SIGNATURE == 0 {
        return Err(SvidError::NoDigitalSignature);
    }
    Ok(())
}

fn check_extended_key_usage(content: &[u8]) -> Result<(), SvidError> {
    let mut outer = SliceReader::new(content)?;
    let mut usages = read(&mut outer, Tag::Sequence)?;
    outer.finish()?;
    let (mut server, mut client) = (false, false);
    while !usages.is_finished() {
        let usage = value(&mut usages, Tag::ObjectIdentifier)?;
        server |= usage == SERVER_AUTH;
        client |= usage == CLIENT_AUTH;
    }
    if server && client { Ok(()) } else { Err(SvidError::ExtendedKeyUsage) }
}

/// The content of the next value, which has this tag.
fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> Result<&'a [u8], SvidError> {
    let any = AnyRef::decode(reader)?;
    if any.header().tag() == tag { Ok(any.value()) } else { Err(SvidError::Der) }
}

/// A reader over the content of the next value, which has this tag.
fn read<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> Result<SliceReader<'a>, SvidError> {
    Ok(SliceReader::new(value(reader, tag)?)?)
}

fn is_context(tag: Tag, number: u32) -> bool {
    tag.class() == Class::ContextSpecific && tag.number() == TagNumber(number)
}

fn time(reader: &mut SliceReader) -> Result<u64, SvidError> {
    let time = AnyRef::decode(reader)?;
    let since_1970 = match time.header().tag() {
        Tag::UtcTime => time.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => time.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    };
    Ok(since_1970.as_secs())
}

/// The DER of the first certificate of a PEM text, as a file has it or as Envoy's `connection.peer_certificate` has
/// it: URL-encoded. Replaces the content of `der`, whose memory can so be used again.
pub fn decode_pem(text: &[u8], der: &mut Vec<u8>) -> Result<(), SvidError> {
    der.clear();
    // Only spaces, `+`, `/`, `=` and line ends are ever encoded, so a text without `%20` is plain.
    let (begin, end): (&[u8], &[u8]) = if find(text, b"-----BEGIN%20").is_some() {
        (b"-----BEGIN%20CERTIFICATE-----", b"-----END%20CERTIFICATE-----")
    } else {
        (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----")
    };
    let start = find(text, begin).ok_or(SvidError::Pem)? + begin.len();
    let body = text.get(start..).ok_or(SvidError::Pem)?;
    let body = body.get(..find(body, end).ok_or(SvidError::Pem)?).ok_or(SvidError::Pem)?;
    if body.len() > MAX_CERTIFICATE * 2 {
        return Err(SvidError::Pem);
    }
    der.reserve(body.len() / 4 * 3 + 3);
    decode_base64(body, der)
}

/// Base64 (RFC 4648 section 4) with line ends in it, any character of it URL-encoded or not.
fn decode_base64(text: &[u8], der: &mut Vec<u8>) -> Result<(), SvidError> {
    let (mut bits, mut count, mut padding) = (0u32, 0u8, 0u8);
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                let (high, low) = (digit().ok_or(SvidError::Pem)?, digit().ok_or(SvidError::Pem)?);
                u8::try_from(high * 16 + low).map_err(|_| SvidError::Pem)?
            }
            other => *other,
        };
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\r' | b'\n' => continue,
            b'=' => {
                padding += 1;
                if padding > 2 {
                    return Err(SvidError::Pem);
                }
                continue;
            }
            _ => return Err(SvidError::Pem),
        };
        if padding != 0 {
            return Err(SvidError::Pem);
        }
        bits = bits << 6 | u32::from(six);
        count += 1;
        if count == 4 {
            let [_, a, b, c] = bits.to_be_bytes();
            der.extend_from_slice(&[a, b, c]);
            (bits, count) = (0, 0);
        }
    }
    match (count, padding) {
        (0, 0) => {}
        (2, 2) => der.push((bits >> 4).to_be_bytes()[3]),
        (3, 1) => {
            let [_, _, a, b] = (bits >> 2).to_be_bytes();
            der.extend_from_slice(&[a, b]);
        }
        _ => return Err(SvidError::Pem),
    }
    Ok(())
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests;

//! PEM in and out. Reading takes every certificate of a file and refuses what it cannot read; nothing is skipped.

use ::pem::{EncodeConfig, LineEnding, Pem};
use rustls_pki_types::CertificateDer;

use super::error::{Error, Result};

/// What files in a folder, a Secret and a pod hold has Unix line ends on every platform.
const CONFIG: EncodeConfig = EncodeConfig::new().set_line_ending(LineEnding::LF);

pub fn encode(label: &str, der: &[u8]) -> String {
    ::pem::encode_config(&Pem::new(label, der), CONFIG)
}

/// One or more certificates, in order.
pub fn encode_certificates<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    certificates.into_iter().map(|certificate| encode("CERTIFICATE", certificate)).collect()
}

/// All certificates of a PEM text, in order, at least one. `what` names the text in an error.
///
/// Keys in the text are passed over (a `key-and-cert.pem` is usual); an encoding that is broken is an error.
pub fn certificates(what: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let blocks = blocks(what, text)?;
    let mut found = Vec::new();
    for block in blocks {
        if block.tag() == "CERTIFICATE" {
            found.push(CertificateDer::from(block.into_contents()));
        }
    }
    if found.is_empty() {
        return Err(Error::damaged(what, "it holds no `BEGIN CERTIFICATE` block"));
    }
    Ok(found)
}

/// Every PEM block of a text.
pub fn blocks(what: &str, text: &[u8]) -> Result<Vec<Pem>> {
    let blocks =
        ::pem::parse_many(text).map_err(|cause| Error::damaged(what, lower_first(&cause.to_string())))?;
    // The parser stops in silence at a block without an end: a file cut off while it was written.
    let begun = text.windows(11).filter(|window| window == b"-----BEGIN ").count();
    if begun != blocks.len() {
        return Err(Error::damaged(what, "a PEM block is not complete"));
    }
    Ok(blocks)
}

pub(crate) fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_second_block_is_not_skipped() {
        let whole = encode("CERTIFICATE", b"one") + &encode("CERTIFICATE", b"two");
        assert_eq!(certificates("x", whole.as_bytes()).unwrap().len(), 2);
        for cut in 1..whole.len() - 1 {
            let result = certificates("x", &whole.as_bytes()[..cut]);
            let first = encode("CERTIFICATE", b"one").len();
            // Cut within the white space or the dashes that lead to the second block: one whole certificate is left.
            if (first - 1..first + 11).contains(&cut) {
                continue;
            }
            assert!(result.is_err(), "cut at {cut} gave {result:?}");
        }
    }

    #[test]
    fn nothing_at_all_is_an_error() {
        assert!(certificates("x", b"").is_err());
        assert!(certificates("x", b"hello").is_err());
    }
}

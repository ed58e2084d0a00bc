//! Private keys: EC P-256 by default, PKCS#8, at rest in the clear (mode 0600) or encrypted with a passphrase.

use std::fmt;

use pkcs8::der::Decode as _;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use rcgen::{KeyPair, PublicKeyData as _};
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::pem;

const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// A passphrase. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// One line end at the end is the editor's, not the user's.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self(Zeroizing::new(bytes))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A new EC P-256 key.
pub fn generate() -> Result<KeyPair> {
    Ok(KeyPair::generate()?)
}

/// The key as PEM: in the clear, or encrypted (PKCS#8 PBES2: scrypt, AES-256-CBC; OpenSSL reads it).
pub fn encode(key: &KeyPair, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(pem::encode(PLAIN, key.serialized_der())));
    };
    let info =
        PrivateKeyInfoRef::from_der(key.serialized_der()).map_err(|cause| Error::Build(cause.to_string()))?;
    let sealed = info.encrypt(&*passphrase.0).map_err(|cause| Error::Build(cause.to_string()))?;
    Ok(Zeroizing::new(pem::encode(ENCRYPTED, sealed.as_bytes())))
}

/// Whether the text holds an encrypted key.
pub fn is_encrypted(text: &[u8]) -> bool {
    text.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED.as_bytes())
}

/// The one key of a PEM text. `what` names it in errors.
pub fn decode(what: &str, text: &[u8], passphrase: Option<&Passphrase>) -> Result<KeyPair> {
    let blocks = pem::blocks(what, text)?;
    // OpenSSL writes the curve in a block of its own before the key.
    let mut keys = blocks.iter().filter(|block| block.tag().ends_with("PRIVATE KEY"));
    let Some(block) = keys.next() else {
        return Err(Error::damaged(what, "it holds no `BEGIN PRIVATE KEY` block"));
    };
    if keys.next().is_some() {
        return Err(Error::damaged(what, "it holds more than one key"));
    }
    match block.tag() {
        PLAIN => parse(what, block.contents()),
        ENCRYPTED => {
            let passphrase = passphrase.ok_or_else(|| Error::PassphraseMissing { what: what.into() })?;
            let sealed = EncryptedPrivateKeyInfoRef::from_der(block.contents())
                .map_err(|cause| Error::damaged(what, cause.to_string()))?;
            let opened = sealed.decrypt(&*passphrase.0).map_err(|cause| match cause {
                pkcs8::Error::EncryptedPrivateKey(_) => Error::PassphraseWrong { what: what.into() },
                other => Error::damaged(what, other.to_string()),
            })?;
            parse(what, opened.as_bytes())
        }
        other => Err(Error::KeyFormat { what: what.into(), label: other.into() }),
    }
}

fn parse(what: &str, der: &[u8]) -> Result<KeyPair> {
    KeyPair::try_from(der).map_err(|cause| Error::damaged(what, pem::lower_first(&cause.to_string())))
}

/// Whether the key is the one whose public half a certificate carries (SubjectPublicKeyInfo, DER).
pub fn matches(key: &KeyPair, subject_public_key_info: &[u8]) -> bool {
    key.subject_public_key_info() == subject_public_key_info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_seals_and_only_it_opens() {
        let key = generate().unwrap();
        let passphrase = Passphrase::new(b"correct horse\n".to_vec());
        let text = encode(&key, Some(&passphrase)).unwrap();
        assert!(is_encrypted(text.as_bytes()));
        let again =
            decode("the key", text.as_bytes(), Some(&Passphrase::new(b"correct horse".to_vec()))).unwrap();
        assert_eq!(again.serialized_der(), key.serialized_der());
        assert!(matches!(decode("k", text.as_bytes(), None), Err(Error::PassphraseMissing { .. })));
        let wrong = Passphrase::new(b"wrong".to_vec());
        assert!(matches!(decode("k", text.as_bytes(), Some(&wrong)), Err(Error::PassphraseWrong { .. })));
        assert_eq!(format!("{passphrase:?}"), "[redacted]");
    }

    #[test]
    fn foreign_formats_are_named() {
        let text = pem::encode("EC PRIVATE KEY", b"x");
        let error = decode("`a.key`", text.as_bytes(), None).unwrap_err();
        assert!(error.to_string().contains("EC PRIVATE KEY"), "{error}");
        assert!(decode("k", pem::encode("CERTIFICATE", b"x").as_bytes(), None).is_err());
        assert!(decode("k", pem::encode(PLAIN, b"x").as_bytes(), None).is_err());
    }
}

//! Who built a module: a plain Ed25519 signature (RFC 8032) over its bytes, in a file beside it.
//!
//! The cryptography is ring's. The public key is a PEM `PUBLIC KEY`, so that OpenSSL checks the same signature:
//! `base64 -d m.wasm.sig > sig && openssl pkeyutl -verify -pubin -inkey filter.pub -rawin -in m.wasm -sigfile sig`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use crate::diagnostic::Diagnostic;
use crate::pki;

/// RFC 8410: `id-Ed25519`.
const ED25519_OID: &str = "1.3.101.112";

/// A new key pair: the private key (PKCS#8) and the public one, both PEM.
pub struct Keys {
    pub private: Zeroizing<String>,
    pub public: String,
}

/// Makes a key pair.
///
/// # Errors
/// The system gives no random numbers.
pub fn generate() -> Result<Keys, Diagnostic> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .map_err(|error| Diagnostic::error("key", format!("no key can be made: {error}")))?;
    Ok(Keys { private: Zeroizing::new(key.serialize_pem()), public: key.public_key_pem() })
}

/// The signature of a module, as it stands in its file: base64 on one line.
///
/// # Errors
/// A text that is no Ed25519 key.
pub fn sign(module: &[u8], private: &[u8], name: &str) -> Result<String, Diagnostic> {
    let bad = |why: String| {
        Diagnostic::error("bad-key", format!("`{name}` is no Ed25519 private key: {why}"))
            .help("make one with `meshward filter keygen`")
    };
    let blocks = pki::pem::blocks(name, private).map_err(|error| bad(error.to_string()))?;
    let block = blocks.iter().find(|block| block.tag() == "PRIVATE KEY");
    let block = block.ok_or_else(|| bad("it holds no `BEGIN PRIVATE KEY` block".to_owned()))?;
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(block.contents())
        .map_err(|error| bad(error.to_string()))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(key.sign(module)) + "\n")
}

/// Whether the owner of the key signed these bytes.
///
/// # Errors
/// They did not; or the key or the signature is none.
pub fn verify(module: &[u8], signature: &[u8], public: &[u8], name: &str) -> Result<(), Diagnostic> {
    let key = public_key(public).map_err(|why| {
        Diagnostic::error("bad-key", format!("the public key is no Ed25519 key: {why}"))
            .help("`meshward filter keygen` writes one beside the private key, with `.pub` at its end")
    })?;
    let refused = |why: &str| {
        Diagnostic::error("not-signed", format!("the module `{name}` {why}"))
            .help("build it from sources that you trust, or get the one that was signed; then `meshward filter sign`")
    };
    let text: Vec<u8> = signature.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| refused("has a signature that is no base64"))?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(module, &bytes)
        .map_err(|_| refused("is not what the owner of the key signed"))
}

fn public_key(pem: &[u8]) -> Result<Vec<u8>, String> {
    let blocks = pki::pem::blocks("the public key", pem).map_err(|error| error.to_string())?;
    let block = blocks.iter().find(|block| block.tag() == "PUBLIC KEY");
    let block = block.ok_or("it holds no `BEGIN PUBLIC KEY` block")?;
    let (_, info) = SubjectPublicKeyInfo::from_der(block.contents()).map_err(|error| error.to_string())?;
    if info.algorithm.algorithm.to_id_string() != ED25519_OID {
        return Err("it is a key of another kind".to_owned());
    }
    Ok(info.subject_public_key.data.to_vec())
}

/// Where the signature of a module is: `m.wasm.sig`.
pub fn file_of(module: &Path) -> PathBuf {
    let mut name = module.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// Reads a module's signature and the key, and checks them.
///
/// # Errors
/// As [`verify`]; or a file that cannot be read.
pub fn check(module: &Path, signature: Option<&Path>, public: &Path) -> Result<(), Diagnostic> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
        })
    };
    let signature = signature.map_or_else(|| file_of(module), Path::to_owned);
    let name = module.display().to_string();
    let signed = read(&signature).map_err(|error| {
        error.help(
            "a module is only taken with its signature, since a public key is set: `meshward filter sign`",
        )
    })?;
    verify(&read(module)?, &signed, &read(public)?, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_taken() {
        let (keys, others) = (generate().unwrap(), generate().unwrap());
        let signature = sign(b"module", keys.private.as_bytes(), "k").unwrap();
        let check = |module: &[u8], signature: &str, public: &str| {
            verify(module, signature.as_bytes(), public.as_bytes(), "m.wasm").map_err(|error| error.code)
        };
        assert_eq!(check(b"module", &signature, &keys.public), Ok(()));
        assert_eq!(check(b"Module", &signature, &keys.public), Err("not-signed"));
        assert_eq!(check(b"module", &signature, &others.public), Err("not-signed"));
        assert_eq!(check(b"module", "!", &keys.public), Err("not-signed"));
        assert_eq!(check(b"module", &signature, &keys.private), Err("bad-key"));
        let ec = rcgen::KeyPair::generate().unwrap();
        assert_eq!(check(b"module", &signature, &ec.public_key_pem()), Err("bad-key"));
        assert_eq!(sign(b"m", ec.serialize_pem().as_bytes(), "k").unwrap_err().code, "bad-key");
    }

    /// RFC 8032, 7.1, test 2: this is Ed25519 and nothing like it.
    #[test]
    fn a_vector_of_the_rfc_is_verified() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let mut der = hex("302a300506032b6570032100");
        der.extend(hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
        let signature = hex(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        let encoded = base64::engine::general_purpose::STANDARD.encode(signature);
        let public = pki::pem::encode("PUBLIC KEY", &der);
        verify(&[0x72], encoded.as_bytes(), public.as_bytes(), "m").unwrap();
    }
}

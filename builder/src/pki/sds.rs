//! Envoy SDS files: a set's certificate and trust bundle as the two resources that a sidecar reads.
//!
//! One resource a file (Envoy takes one per path), each with a `watched_directory`, so that the swap of `..data` is seen
//! whatever the file's own path is.

use std::path::Path;

use serde_json::{Value, json};

use super::authority::CRL;
use super::error::{Error, Result};
use super::store::{LEAF_BUNDLE, LEAF_CERTIFICATE, LEAF_KEY};

/// The names of the resources, as in `render`'s listeners.
pub const CERTIFICATE: &str = "certificate";
pub const TRUST: &str = "trust";

/// The resource of the leaf and its key in `folder`.
pub fn certificate(folder: &Path) -> Value {
    secret(
        CERTIFICATE,
        "tls_certificate",
        json!({
            "certificate_chain": file(folder, LEAF_CERTIFICATE),
            "private_key": file(folder, LEAF_KEY),
            "watched_directory": { "path": folder.display().to_string() },
        }),
    )
}

/// The resource of the trust bundle; with `crl`, of the revocation list beside it.
///
/// Only leaves are looked up in the list: a root or intermediate is dropped by rotation, not by a list.
pub fn trust(folder: &Path, crl: bool) -> Value {
    let mut context = json!({
        "trusted_ca": file(folder, LEAF_BUNDLE),
        "watched_directory": { "path": folder.display().to_string() },
    });
    if let (true, Some(context)) = (crl, context.as_object_mut()) {
        context.insert("crl".into(), file(folder, CRL));
        context.insert("only_verify_leaf_cert_crl".into(), true.into());
    }
    secret(TRUST, "validation_context", context)
}

/// As YAML, for a file of its own.
pub fn yaml(resource: &Value) -> Result<String> {
    crate::yaml::to_string(resource).map_err(Error::Build)
}

fn file(folder: &Path, name: &str) -> Value {
    json!({ "filename": folder.join(name).display().to_string() })
}

fn secret(name: &str, kind: &str, value: Value) -> Value {
    json!({
        "resources": [{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": name,
            kind: value,
        }]
    })
}

//! Sets as Kubernetes Secrets, for `kubectl apply -f -`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use std::collections::BTreeMap;

use super::ca::BUNDLE;
use super::error::{Error, Result};
use super::folder::Files;

#[derive(Serialize)]
struct Secret<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    /// `Opaque`, as `kubectl create secret generic` makes them: the type of an existing Secret cannot be changed.
    #[serde(rename = "type")]
    secret_type: &'static str,
    data: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    labels: BTreeMap<&'static str, &'static str>,
}

/// The Secret of a workload's set, a YAML document with its separator.
pub fn leaf_secret(name: &str, namespace: Option<&str>, files: &Files) -> Result<String> {
    secret(name, namespace, files.iter())
}

/// The Secret of the trust bundle; with `key`, of all that is needed to sign: only for renewal inside the cluster.
pub fn ca_secret(name: &str, namespace: Option<&str>, files: &Files, key: bool) -> Result<String> {
    secret(name, namespace, files.iter().filter(|(file, _)| key || *file == BUNDLE))
}

fn secret<'a>(
    name: &'a str,
    namespace: Option<&'a str>,
    files: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<String> {
    let secret = Secret {
        api_version: "v1",
        kind: "Secret",
        metadata: Metadata {
            name,
            namespace,
            labels: BTreeMap::from([("app.kubernetes.io/managed-by", "meshward")]),
        },
        secret_type: "Opaque",
        data: files.map(|(file, content)| (file, BASE64_STANDARD.encode(content))).collect(),
    };
    let text = crate::yaml::to_string(&secret).map_err(Error::Build)?;
    Ok(format!("---\n{text}"))
}

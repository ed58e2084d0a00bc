//! The filter's module as an object of a cluster: a ConfigMap named after its content.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::Cluster;
use super::error::label;
use super::kind::CONFIG_MAP;
use super::plan::Step;
use super::{MANAGER, fields};
use crate::diagnostic::Diagnostic;
use crate::envoy::filter_file_name;

/// The filter's module.
#[derive(Clone, Debug)]
pub struct Module {
    pub bytes: Vec<u8>,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Module {
    pub fn new(bytes: Vec<u8>) -> Self {
        let sha256 = sha256(&bytes);
        Self { bytes, sha256 }
    }

    fn sha12(&self) -> &str {
        self.sha256.get(..12).unwrap_or(&self.sha256)
    }

    /// The name of the ConfigMap that holds it.
    pub fn config_map(&self) -> String {
        format!("meshward-filter-{}", self.sha12())
    }

    /// What its ConfigMap holds.
    pub fn data(&self) -> Value {
        let file = filter_file_name(self.sha12());
        json!({"immutable": true, "binaryData": {file: BASE64_STANDARD.encode(&self.bytes)}})
    }

    /// The step that brings it into a namespace; None when it is there.
    ///
    /// # Errors
    /// Something else is there under its name, or the server's words.
    pub fn step(&self, cluster: &Cluster, namespace: &str) -> Result<Option<Step>, Diagnostic> {
        let (name, file) = (self.config_map(), filter_file_name(self.sha12()));
        let there = cluster
            .get(&CONFIG_MAP, namespace, &name)
            .map_err(|error| error.diagnostic(&CONFIG_MAP, Some(namespace), &name, &["get"]))?;
        let encoded = BASE64_STANDARD.encode(&self.bytes);
        if let Some(there) = there {
            let same =
                there.pointer("/binaryData").and_then(|data| data.get(&file)?.as_str()) == Some(&encoded);
            let message = format!(
                "{} is there and holds something else than the module with the sha256 {}",
                label(&CONFIG_MAP, Some(namespace), &name),
                self.sha256
            );
            return if same { Ok(None) } else { Err(Diagnostic::error("other-module", message)) };
        }
        Ok(Some(Step {
            kind: &CONFIG_MAP,
            namespace: namespace.to_owned(),
            name,
            what: vec![format!("made, with the module {file} ({} bytes)", self.bytes.len())],
            diff: String::new(),
            fields: fields::merged(
                &json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": MANAGER}}}),
                &self.data(),
            ),
            read: None,
        }))
    }
}

/// 64 lower-case hexadecimal digits.
pub(super) fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Sets as Kubernetes Secrets, read and written by kubectl: how certificates are renewed inside a cluster.
//!
//! A Secret is replaced whole by the API server, and only if nobody else replaced it since it was read
//! (`resourceVersion`); so every write is atomic, and of two at once one fails and has changed nothing. Since the ledger
//! is written before any leaf is handed out, it is what two compete for.
//!
//! kubectl and not a client library: it brings the user's contexts and login plugins along, and in a pod the service
//! account. Nothing is listed, so that a Role with `get` and `update` on named Secrets is enough; what is to be kept
//! fresh is what the ledger names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::error::{Error, Result};
use super::folder::Files;
use super::ledger::{self, Ledger};
use super::store::Store;
use super::{authority, fault};
use crate::diagnostic::Diagnostic;

/// How kubectl is called.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    pub context: Option<String>,
}

pub struct SecretStore {
    kubectl: Kubectl,
    /// The namespace of the CA and the ledger.
    namespace: String,
    /// The namespaces of other sets, where they are elsewhere.
    namespaces: BTreeMap<String, String>,
    /// Objects as they were read; `Null` for one that is not there.
    read: RefCell<BTreeMap<String, Value>>,
}

impl SecretStore {
    /// Reads the CA, the ledger and all that the ledger names.
    pub fn open(kubectl: Kubectl, namespace: &str) -> Result<Self> {
        let mut store = Self {
            kubectl,
            namespace: namespace.to_owned(),
            namespaces: BTreeMap::new(),
            read: RefCell::default(),
        };
        store.fetch(namespace, &[authority::SET, ledger::SET])?;
        let ledger = Ledger::load(&store)?;
        let mut by_namespace: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (set, managed) in ledger.managed {
            let namespace = managed.namespace.unwrap_or_else(|| namespace.to_owned());
            store.namespaces.insert(set.clone(), namespace.clone());
            by_namespace.entry(namespace).or_default().push(set);
        }
        for (namespace, sets) in by_namespace {
            // One process for many, as many as a command line surely holds.
            for sets in sets.chunks(500) {
                store.fetch(&namespace, &sets.iter().map(String::as_str).collect::<Vec<_>>())?;
            }
        }
        Ok(store)
    }

    fn namespace_of(&self, name: &str) -> &str {
        self.namespaces.get(name).unwrap_or(&self.namespace)
    }

    fn fetch(&self, namespace: &str, names: &[&str]) -> Result<()> {
        let mut arguments =
            vec!["get", "secret", "--namespace", namespace, "--ignore-not-found", "--output=json"];
        arguments.extend(names);
        let text = self.run(&arguments, None)?;
        let mut read = self.read.borrow_mut();
        for name in names {
            read.insert((*name).to_owned(), Value::Null);
        }
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let answer: Value = serde_json::from_slice(&text)
            .map_err(|cause| Error::damaged("kubectl's answer", cause.to_string()))?;
        // One object by itself, several in a list.
        let items = match answer.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![answer],
        };
        for item in items {
            if let Some(name) = item.pointer("/metadata/name").and_then(Value::as_str) {
                read.insert(name.to_owned(), item.clone());
            }
        }
        Ok(())
    }

    fn run(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>> {
        let failed = |why: String| {
            Diagnostic::error(
                "kubectl",
                format!(
                    "`kubectl {}` {why}",
                    arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ")
                ),
            )
        };
        let mut command = Command::new(&self.kubectl.program);
        if let Some(context) = &self.kubectl.context {
            command.args(["--context", context]);
        }
        command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|cause| {
            Error::from(
                failed(format!("could not be started: {cause}"))
                    .help("install kubectl, or say where it is with `--kubectl FILE`"),
            )
        })?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            // A kubectl that has ended says why itself.
            let _ = pipe.write_all(input);
        }
        let output =
            child.wait_with_output().map_err(|cause| Error::from(failed(format!("was lost: {cause}"))))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.trim();
        if words.contains("(Conflict)") || words.contains("(AlreadyExists)") {
            let busy =
                Diagnostic::error("certs-busy", "another `meshward certs` changed the Secrets meanwhile");
            return Err(busy.help("run this again; it takes up what is there").into());
        }
        let mut diagnostic = failed(format!("failed: {words}"));
        if words.contains("(Forbidden)") {
            diagnostic = diagnostic
                .help("the Role must allow `get` and `update` of this Secret; it is rendered from mesh.yaml, so render and apply it again");
        }
        Err(diagnostic.into())
    }
}

impl Store for SecretStore {
    fn read(&self, name: &str) -> Result<Option<Files>> {
        if !self.read.borrow().contains_key(name) {
            self.fetch(self.namespace_of(name), &[name])?;
        }
        let read = self.read.borrow();
        let Some(data) = read.get(name).and_then(|object| object.get("data")).and_then(Value::as_object)
        else {
            return Ok(None);
        };
        let mut files = Files::new();
        for (file, content) in data {
            let content = content.as_str().unwrap_or_default();
            let decoded = BASE64_STANDARD.decode(content).map_err(|cause| {
                Error::damaged(format!("`{file}` of {}", self.place(name)), cause.to_string())
            })?;
            files.insert(file, decoded);
        }
        Ok(if files.is_empty() { None } else { Some(files) })
    }

    fn write(&mut self, name: &str, files: &Files) -> Result<()> {
        // What was read last: its labels, annotations and type stay, its resourceVersion guards the write.
        self.read(name)?;
        let before = self.read.borrow().get(name).cloned().unwrap_or(Value::Null);
        let exists = !before.is_null();
        let mut object = if exists {
            before
        } else {
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {
                    "name": name,
                    "namespace": self.namespace_of(name),
                    "labels": { "app.kubernetes.io/managed-by": "meshward" },
                },
            })
        };
        let data: serde_json::Map<_, _> = files
            .iter()
            .map(|(file, content)| (file.to_owned(), BASE64_STANDARD.encode(content).into()))
            .collect();
        if let Some(object) = object.as_object_mut() {
            object.insert("data".into(), data.into());
        }
        let text = serde_json::to_vec(&object).map_err(|cause| Error::Build(cause.to_string()))?;
        let verb = if exists { "replace" } else { "create" };
        let namespace = self.namespace_of(name).to_owned();
        let arguments = [
            verb,
            "--filename=-",
            "--namespace",
            &namespace,
            "--output=json",
            "--validate=false",
            "--field-manager=meshward",
        ];
        let answer = self.run(&arguments, Some(&text))?;
        fault::step("secret written");
        let answer = serde_json::from_slice(&answer)
            .map_err(|cause| Error::damaged("kubectl's answer", format!("after `{verb}`: {cause}")))?;
        self.read.borrow_mut().insert(name.to_owned(), answer);
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self
            .read
            .borrow()
            .iter()
            .filter(|(_, object)| !object.is_null())
            .map(|(name, _)| name.clone())
            .collect())
    }

    fn assign(&mut self, name: &str, namespace: Option<&str>) {
        let namespace = namespace.unwrap_or(&self.namespace).to_owned();
        self.namespaces.insert(name.to_owned(), namespace);
    }

    fn location(&self, name: &str) -> String {
        format!("secret/{name} in namespace {}", self.namespace_of(name))
    }
}

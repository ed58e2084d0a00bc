//! Changes to a cluster, in the order in which they are safe: shown, tried, written.
//!
//! INVARIANT: between any two steps everything that starts works, so that an API server that goes away in the middle
//! leaves nothing broken, and the same command run again does what is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::backup;
use super::client::{Cluster, How};
use super::error::{ApiError, label};
use super::kind::{Kind, WORKLOADS};
use crate::diagnostic::{Diagnostic, Failure};

/// One object, and the fields of it that are to be ours.
#[derive(Clone, Debug)]
pub struct Step {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    /// What changes, a line each.
    pub what: Vec<String>,
    /// The change as people read it; empty where there is nothing to read.
    pub diff: String,
    /// All that we want of the object; what we owned and is not in it goes.
    pub fields: Value,
    /// The object as it was read; None when it is to be made.
    pub read: Option<Value>,
}

impl Step {
    pub fn label(&self) -> String {
        label(self.kind, Some(&self.namespace), &self.name)
    }

    fn body(&self, version: Option<&str>) -> Value {
        let mut body = json!({"apiVersion": self.kind.api_version(), "kind": self.kind.name});
        let mut metadata =
            self.fields.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        metadata.insert("name".to_owned(), self.name.clone().into());
        metadata.insert("namespace".to_owned(), self.namespace.clone().into());
        if let Some(version) = version {
            metadata.insert("resourceVersion".to_owned(), version.into());
        }
        if let (Some(body), Some(fields)) = (body.as_object_mut(), self.fields.as_object()) {
            body.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
            body.insert("metadata".to_owned(), Value::Object(metadata));
        }
        body
    }

    fn verbs(&self) -> &'static [&'static str] {
        if self.read.is_some() { &["get", "patch"] } else { &["get", "create", "patch"] }
    }

    fn key(&self) -> (&'static str, String, String) {
        (self.kind.name, self.namespace.clone(), self.name.clone())
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Objects that are as they should be.
    pub unchanged: Vec<String>,
    /// What there is to know, and stops nothing.
    pub remarks: Vec<Diagnostic>,
}

/// What became of a plan.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// What was written, in words.
    pub done: Vec<String>,
    pub backups: Vec<PathBuf>,
}

/// An object's version, and the count of the changes to what it asks for.
#[derive(Clone, Debug, Default)]
struct Version {
    resource: Option<String>,
    generation: Option<i64>,
}

impl Version {
    fn of(object: &Value) -> Self {
        Self {
            resource: object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64),
        }
    }
}

impl Plan {
    /// All changes as one diff.
    pub fn diff(&self) -> String {
        self.steps.iter().map(|step| step.diff.as_str()).collect()
    }

    /// Asks the server what it would say to every step, without a change: rights, owners, versions, admission.
    ///
    /// # Errors
    /// All that it says against any of them.
    pub fn try_out(&self, cluster: &Cluster, force: bool) -> Result<(), Failure> {
        let mut mistakes = Vec::new();
        let mut versions: BTreeMap<_, Version> = BTreeMap::new();
        for step in &self.steps {
            let how = How { dry_run: true, force };
            let version = versions
                .entry(step.key())
                .or_insert_with(|| step.read.as_ref().map(Version::of).unwrap_or_default());
            if let Err(error) = apply(cluster, step, version, how) {
                mistakes.push(diagnostic(step, &error));
                if matches!(error, ApiError::NoAnswer(_)) {
                    break;
                }
            }
        }
        // One right that is missing stops many steps, in the same words.
        mistakes.dedup_by(|one, other| one.code == other.code && one.message == other.message);
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes.into()) }
    }

    /// Keeps what is there, then writes every step. `said` is told of each when it is done.
    ///
    /// # Errors
    /// The first step that fails, with what was done before it and what is left.
    pub fn write(
        &self,
        cluster: &Cluster,
        force: bool,
        backups: &Path,
        said: &mut dyn FnMut(&str),
    ) -> Result<Written, Failure> {
        let mut written = Written::default();
        for object in self.steps.iter().filter_map(|step| step.read.as_ref()) {
            let path = backup::save(backups, &cluster.name, object)?;
            if !written.backups.contains(&path) {
                written.backups.push(path);
            }
        }
        let mut versions: BTreeMap<_, Version> = BTreeMap::new();
        for (at, step) in self.steps.iter().enumerate() {
            let version = versions
                .entry(step.key())
                .or_insert_with(|| step.read.as_ref().map(Version::of).unwrap_or_default());
            match apply(cluster, step, version, How { dry_run: false, force }) {
                Ok(object) => {
                    *version = Version::of(&object);
                    let line = format!("{}: {}", step.label(), step.what.join("; "));
                    said(&line);
                    written.done.push(line);
                }
                Err(error) => return Err(self.stopped(at, &error, &written).into()),
            }
        }
        Ok(written)
    }

    fn stopped(&self, at: usize, error: &ApiError, written: &Written) -> Diagnostic {
        let step = self.steps.get(at);
        let mut mistake = step.map_or_else(
            || Diagnostic::error("cluster", "a step that is not there"),
            |step| diagnostic(step, error),
        );
        if matches!(error, ApiError::NoAnswer(_)) {
            mistake = mistake.help("whether this one was written is not known");
        }
        let done = match written.done.as_slice() {
            [] => "nothing was written before".to_owned(),
            done => format!("written before, and good as it is: {}", done.join(" · ")),
        };
        let left: Vec<String> = self.steps.iter().skip(at).map(Step::label).collect();
        mistake
            .help(done)
            .help(format!("not written: {}", left.join(", ")))
            .help("run the same again: it does what is left; `meshward unpatch` or `uninject` takes back what was done")
    }
}

fn diagnostic(step: &Step, error: &ApiError) -> Diagnostic {
    error.diagnostic(step.kind, Some(&step.namespace), &step.name, step.verbs())
}

/// One apply. A workload's status is written all the time; that is no change to what we read.
fn apply(cluster: &Cluster, step: &Step, version: &Version, how: How) -> Result<Value, ApiError> {
    const TRIES: usize = 5;
    let mut resource = version.resource.clone();
    let mut tries = 0;
    loop {
        let body = step.body(resource.as_deref());
        let result = cluster.apply(step.kind, &step.namespace, &step.name, &body, how);
        tries += 1;
        if result != Err(ApiError::Stale) || tries == TRIES || !WORKLOADS.contains(&step.kind) {
            return result;
        }
        let now = cluster.get(step.kind, &step.namespace, &step.name)?.map(|now| Version::of(&now));
        match now {
            Some(now) if now.generation.is_some() && now.generation == version.generation => {
                resource = now.resource;
            }
            _ => return result,
        }
    }
}

/// Two texts as a diff under one name; empty when they are the same.
pub fn text_diff(name: &str, before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let diff = similar::TextDiff::from_lines(before, after);
    diff.unified_diff().header(name, name).to_string()
}

/// Two objects as a diff of YAML, without what the server alone writes.
pub fn object_diff(name: &str, before: &Value, after: &Value) -> String {
    let yaml = |value: &Value| crate::yaml::to_string(&sorted(&backup::bare(value))).unwrap_or_default();
    text_diff(name, &yaml(before), &yaml(after))
}

/// Keys in order, so that only what differs differs.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, Value> =
                fields.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// `{"a": {"b": value}}` from a path.
pub fn at(path: &[&str], value: Value) -> Value {
    path.iter().rev().fold(value, |value, key| {
        let mut object = Map::new();
        object.insert((*key).to_owned(), value);
        Value::Object(object)
    })
}

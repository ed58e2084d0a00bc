//! `patch` and `unpatch` of what is in a cluster: the configurations in ConfigMaps and Secrets, the module beside them, and
//! the workloads whose Envoys read both.
//!
//! Order: the module's ConfigMap, its mount, the configuration, the checksum that replaces the pods. At every moment a pod
//! that starts finds what its configuration names. Backwards: the configuration, then mount and checksum at once.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::client::Cluster;
use super::held::{Held, Text, originals};
use super::kind::{self, CONFIG_MAP, Kind, SECRET};
use super::module::{Module, sha256};
use super::plan::Plan;
use super::rollout::{Way, Workloads};
use super::select::{Wanted, objects};
use super::{MANAGER, fields};
use crate::diagnostic::{Diagnostic, Failure, Severity, Source};
use crate::patch::sites::{self, Finding};
use crate::patch::tree::SyntaxError;
use crate::patch::{self, Outcome, Selection};

/// Which way.
pub enum Direction<'a> {
    Patch {
        edit: &'a dyn Fn(&str) -> Result<Outcome, SyntaxError>,
        /// None: Envoy finds it elsewhere.
        module: Option<&'a Module>,
    },
    Unpatch(&'a Selection),
}

impl Direction<'_> {
    fn way(&self) -> Way<'_> {
        match self {
            Self::Patch { module, .. } => Way::Forward(*module),
            Self::Unpatch(_) => Way::Back,
        }
    }
}

/// Reads what is meant and says what is to be done.
///
/// # Errors
/// All that stands against it, in any object: then nothing is to be done at all.
pub fn plan(
    cluster: &Cluster,
    wanted: &Wanted,
    direction: &Direction<'_>,
    rollout: bool,
) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let mut mistakes = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    for (kind, object) in find(cluster, wanted)? {
        match read(kind, object, direction, &mut plan.remarks) {
            Ok(Some(one)) => held.push(one),
            Ok(None) => {}
            Err(found) => mistakes.extend(found),
        }
    }
    if held.is_empty() && mistakes.is_empty() {
        mistakes.push(
            Diagnostic::error("nothing-to-do", "there is no Envoy configuration in these objects")
                .help("ConfigMaps are looked at; Secrets only with --secrets, or by name: `secret/NAME`"),
        );
    }
    let mut workloads = Workloads::default();
    let namespaces: BTreeSet<String> = held.iter().map(|one| one.namespace.clone()).collect();
    for namespace in &namespaces {
        let held: Vec<&Held> = held.iter().filter(|one| one.namespace == *namespace).collect();
        let touched = held.iter().any(|one| one.touched());
        if touched && let Direction::Patch { module: Some(module), .. } = direction {
            match module.step(cluster, namespace) {
                Ok(step) => plan.steps.extend(step),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if touched && rollout {
            match workloads.of(cluster, namespace, &held, direction.way()) {
                Ok(()) => {}
                Err(found) => mistakes.push(found),
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into());
    }
    plan.steps.append(&mut workloads.before);
    for one in held {
        match one.step() {
            Some(step) => plan.steps.push(step),
            None => plan.unchanged.push(one.label()),
        }
    }
    plan.steps.append(&mut workloads.after);
    plan.remarks.append(&mut workloads.remarks);
    Ok(plan)
}

/// The ConfigMaps and Secrets that are meant.
fn find(cluster: &Cluster, wanted: &Wanted) -> Result<Vec<(&'static Kind, Value)>, Failure> {
    let kinds: &[&'static Kind] = if wanted.secrets { &kind::HOLDERS } else { &[&CONFIG_MAP] };
    objects(cluster, wanted, kinds, &kind::HOLDERS)
}

/// The edits of one object; None when there is no configuration in it.
fn read(
    kind: &'static Kind,
    object: Value,
    direction: &Direction<'_>,
    remarks: &mut Vec<Diagnostic>,
) -> Result<Option<Held>, Vec<Diagnostic>> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let unpatch = matches!(direction, Direction::Unpatch(_));
    let (mut texts, mut mistakes) = (Vec::new(), Vec::new());
    for (field, key, value) in values(kind, &object) {
        let source = Source::new(format!("{namespace}/{}/{name}: {key}", kind.name), value.clone());
        let outcome = match direction {
            Direction::Patch { edit, .. } => edit(&value),
            Direction::Unpatch(selection) => patch::unpatch(&value, selection),
        };
        let outcome = match outcome {
            Ok(outcome) if outcome.sites == 0 && outcome.findings.is_empty() => continue,
            Ok(outcome) => outcome,
            Err(error) => {
                let message =
                    format!("this looks like an Envoy configuration, and is not read: {}", error.message);
                remarks
                    .push(Diagnostic::warning("not-yaml", message).at(&source, error.offset..error.offset));
                continue;
            }
        };
        for finding in &outcome.findings {
            let found = diagnostic(finding, &source);
            if finding.severity == Severity::Error { mistakes.push(found) } else { remarks.push(found) }
        }
        let bare = patch::unpatch(&value, &Selection { outbound: true, ..Selection::default() });
        let original = sha256(bare.map_or_else(|_| value.clone(), |bare| bare.text));
        if unpatch
            && outcome.text != value
            && let Some(before) = originals(&object).and_then(|all| all.get(&key).cloned())
            && before != sha256(&outcome.text)
        {
            let message =
                "without the filter this is not what was there before the patch: somebody changed it since";
            remarks.push(
                Diagnostic::warning("changed-since", message)
                    .at(&source, 0..0)
                    .help("their change stays; what was there before is in the backup of the patch"),
            );
        }
        texts.push(Text { key, field, before: value, after: outcome.text, original, done: outcome.done });
    }
    let held = Held { kind, namespace, name, object, texts, unpatch };
    if held.changed() && held.object.get("immutable") == Some(&Value::Bool(true)) {
        let message = format!("{} is immutable: nobody can change it", held.label());
        mistakes.push(Diagnostic::error("immutable", message).help(
            "make one under a new name with the patched configuration (`kubectl get … -o yaml | meshward patch -`), and mount that",
        ));
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    if held.changed() {
        remarks.extend(kept_elsewhere(&held));
    }
    Ok((!held.texts.is_empty()).then_some(held))
}

/// Who else will write it back one day.
fn kept_elsewhere(held: &Held) -> Option<Diagnostic> {
    let others = fields::other_managers(&held.object, MANAGER, "data");
    let others: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
    if others.is_empty() {
        return None;
    }
    let message = format!(
        "{} is written by {}: with its next change there, the {} is undone",
        held.label(),
        others.join(", "),
        if held.unpatch { "unpatch" } else { "patch" }
    );
    Some(
        Diagnostic::new(Severity::Info, "kept-elsewhere", message)
            .help("do the same to the files that it comes from: this command takes them, too"),
    )
}

/// The texts of an object that may be configurations: field, key, text.
fn values(kind: &Kind, object: &Value) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    for field in ["data", "binaryData"] {
        let encoded = field == "binaryData" || kind.name == SECRET.name;
        for (key, value) in object.get(field).and_then(Value::as_object).into_iter().flatten() {
            let Some(value) = value.as_str() else { continue };
            let text = if encoded {
                BASE64_STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok())
            } else {
                Some(value.to_owned())
            };
            found.extend(
                text.filter(|text| sites::looks_like_envoy(text)).map(|text| (field, key.clone(), text)),
            );
        }
    }
    found
}

fn diagnostic(finding: &Finding, source: &std::sync::Arc<Source>) -> Diagnostic {
    let mut found = Diagnostic::new(finding.severity, finding.code, finding.message.clone());
    found.help.extend(finding.help.clone());
    found.at(source, finding.span.clone())
}

//! `inject` and `uninject` of workloads in a cluster.
//!
//! What the sidecar is and who gets one is decided by [`crate::inject`] on the object's text, as for files; what it adds
//! becomes ours by a server-side apply, and taking it out is an apply without it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::Cluster;
use super::error::label;
use super::kind::{self, CONFIG_MAP, Kind, SECRET};
use super::module::Module;
use super::plan::{Plan, Step, object_diff};
use super::rollout::template_path;
use super::select::{Wanted, objects};
use super::{MANAGER, backup, fields};
use crate::diagnostic::{Diagnostic, Failure, Severity, Source};
use crate::inject::apply::Outcome;
use crate::inject::workload::INJECTED;
use crate::inject::{self, Options};

/// Which way.
pub enum Direction<'a> {
    Inject {
        options: &'a Options,
        /// Brought along when it is given.
        module: Option<&'a Module>,
    },
    Uninject,
}

/// Reads what is meant and says what is to be done.
///
/// # Errors
/// All that stands against it, in any object: then nothing is to be done at all.
pub fn plan(cluster: &Cluster, wanted: &Wanted, direction: &Direction<'_>) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let (mut mistakes, mut steps) = (Vec::new(), Vec::new());
    let found = objects(cluster, wanted, &kind::WORKLOADS, &kind::WORKLOADS)?;
    if found.is_empty() {
        let kinds: Vec<&str> = kind::WORKLOADS.iter().map(|kind| kind.name).collect();
        return Err(Diagnostic::error("nothing-to-do", format!("there is no {} here", kinds.join(", ")))
            .help("name a namespace with -n, or all with -A")
            .into());
    }
    for (kind, object) in found {
        match one(kind, &object, direction, &mut plan.remarks) {
            Ok(Some(step)) => steps.push(step),
            Ok(None) => plan.unchanged.push(name_of(kind, &object)),
            Err(found) => mistakes.extend(found),
        }
    }
    if let Direction::Inject { module, .. } = direction {
        let namespaces: BTreeSet<&str> = steps.iter().map(|step| step.namespace.as_str()).collect();
        for (namespace, module) in namespaces.into_iter().filter_map(|one| Some((one, (*module)?))) {
            match module.step(cluster, namespace) {
                Ok(step) => plan.steps.extend(step),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        mistakes.extend(missing(cluster, &steps, &plan.steps, &mut plan.remarks));
    }
    plan.steps.extend(steps);
    if mistakes.is_empty() { Ok(plan) } else { Err(mistakes.into()) }
}

fn name_of(kind: &Kind, object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    label(kind, Some(text("/metadata/namespace")), text("/metadata/name"))
}

/// The step of one workload; None when it is as it should be, or is left alone.
fn one(
    kind: &'static Kind,
    object: &Value,
    direction: &Direction<'_>,
    remarks: &mut Vec<Diagnostic>,
) -> Result<Option<Step>, Vec<Diagnostic>> {
    let label = name_of(kind, object);
    let unreadable =
        |why: String| vec![Diagnostic::error("unreadable", format!("{label} cannot be read: {why}"))];
    let current = backup::bare(object);
    let text = serde_json::to_string_pretty(&current).map_err(|error| unreadable(error.to_string()))?;
    let source = Source::new(label.clone(), text.clone());
    let removed = inject::uninject(&text).map_err(|error| unreadable(error.message))?;
    let outcome = match direction {
        Direction::Inject { options, .. } => inject::inject(&text, options),
        Direction::Uninject => inject::uninject(&text),
    };
    let outcome = outcome.map_err(|error| unreadable(error.message))?;
    let mistakes = sort(&outcome, &source, remarks);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let parse =
        |text: &str| serde_json::from_str::<Value>(text).map_err(|error| unreadable(error.to_string()));
    let (bare, after) = (parse(&removed.text)?, parse(&outcome.text)?);
    let owned = fields::owned(object, MANAGER);
    let old = fields::added(&bare, &current).unwrap_or_else(|| json!({}));
    let new = fields::added(&bare, &after).unwrap_or_else(|| json!({}));
    let fields = fields::merged(&fields::without(&owned, &old), &new);
    if fields::has(&current, &fields) && fields::has(&fields, &owned) {
        // What somebody else put in cannot be taken out by an apply of ours.
        if matches!(direction, Direction::Uninject) && after != current {
            let message =
                format!("the sidecar of {label} was not put in by `meshward inject` on this cluster");
            return Err(vec![Diagnostic::error("not-ours", message).help(
                "take it out of the manifest that it comes from (`meshward uninject FILE`), and apply that",
            )]);
        }
        return Ok(None);
    }
    let what = match direction {
        Direction::Inject { .. } => format!("sidecar put in ({})", outcome.done.join("; ")),
        Direction::Uninject => "sidecar taken out".to_owned(),
    };
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let ours_before = owned.pointer(&format!("/{}/metadata/annotations", template_path(kind).join("/")));
    if !removed.done.is_empty() && ours_before.and_then(|notes| notes.get(INJECTED)).is_none() {
        let message = format!(
            "{label} has a sidecar that came from a file: what is in both is shared with its manager"
        );
        remarks.push(Diagnostic::warning("shared", message));
    }
    let diff = object_diff(&format!("{namespace}/{}/{name}", kind.name), &current, &after);
    Ok(Some(Step { kind, namespace, name, what: vec![what], diff, fields, read: Some(object.clone()) }))
}

fn sort(
    outcome: &Outcome,
    source: &std::sync::Arc<Source>,
    remarks: &mut Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let mut mistakes = Vec::new();
    for finding in &outcome.findings {
        let mut found = Diagnostic::new(finding.severity, finding.code, finding.message.clone());
        found.help.extend(finding.help.clone());
        if finding.severity == Severity::Error {
            mistakes.push(found.at(source, finding.span.clone()));
        } else {
            remarks.push(found);
        }
    }
    mistakes
}

/// The ConfigMaps and Secrets that the sidecars mount and that are not there: pods would wait for them for ever.
fn missing(
    cluster: &Cluster,
    steps: &[Step],
    made: &[Step],
    remarks: &mut Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let mut asked = BTreeSet::new();
    for step in steps {
        let volumes = format!("/{}/spec/volumes", template_path(step.kind).join("/"));
        let volumes = step.fields.pointer(&volumes).and_then(Value::as_array);
        for volume in volumes.into_iter().flatten() {
            let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
            for (kind, name) in
                [(&CONFIG_MAP, text("/configMap/name")), (&SECRET, text("/secret/secretName"))]
            {
                let Some(name) = name else { continue };
                let comes = made
                    .iter()
                    .any(|one| one.kind == kind && one.name == name && one.namespace == step.namespace);
                if !comes {
                    asked.insert((kind.name, step.namespace.clone(), name.to_owned()));
                }
            }
        }
    }
    let mut mistakes = Vec::new();
    for (kind, namespace, name) in asked {
        let kind = if kind == SECRET.name { &SECRET } else { &CONFIG_MAP };
        let label = label(kind, Some(&namespace), &name);
        match cluster.get(kind, &namespace, &name) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let help = if kind == &SECRET {
                    "make it: `meshward certs issue`, then `meshward certs export -o kubernetes | kubectl apply --server-side -f -`"
                } else if name.starts_with("meshward-filter-") {
                    "bring the module along with --wasm"
                } else {
                    "make it: `meshward render`, and apply what it writes"
                };
                let message =
                    format!("the sidecar mounts {label}, which is not there: its pods would never start");
                mistakes.push(Diagnostic::error("needed-first", message).help(help));
            }
            // Whoever may not read Secrets may still inject.
            Err(error) => remarks.push(Diagnostic {
                severity: Severity::Warning,
                ..error.diagnostic(kind, Some(&namespace), &name, &["get"])
            }),
        }
    }
    mistakes
}

//! A migration of what runs in a cluster: its objects as files, and the differences of files as applies.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::inventory::documents;
use super::steps::FileChange;
use crate::diagnostic::{Diagnostic, Failure};
use crate::live::client::Cluster;
use crate::live::kind::{CONFIG_MAP, DAEMON_SET, DEPLOYMENT, Kind, SERVICE, STATEFUL_SET};
use crate::live::plan::{Plan, Step, object_diff};
use crate::live::{MANAGER, backup, fields};
use crate::patch::files;
use crate::patch::tree::Tree;
use crate::validate::foreign::located::Located;

const KINDS: [&Kind; 5] = [&SERVICE, &DEPLOYMENT, &STATEFUL_SET, &DAEMON_SET, &CONFIG_MAP];

/// Writes the objects of the namespace that a migration is about as files, one each.
///
/// # Errors
/// They cannot be read, or the folder cannot be written.
pub fn pull(cluster: &Cluster, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut written = Vec::new();
    std::fs::create_dir_all(folder).map_err(|error| super::state::unwritable(folder, &error))?;
    for kind in KINDS {
        let objects = cluster
            .list(kind, Some(&cluster.namespace), None)
            .map_err(|error| error.diagnostic(kind, Some(&cluster.namespace), "", &["list"]))?;
        for object in objects {
            let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let owned = object.pointer("/metadata/ownerReferences").is_some();
            if owned || name == "kube-root-ca.crt" || object.get("binaryData").is_some() {
                continue;
            }
            let path = folder.join(format!("{}-{name}.yaml", kind.name.to_ascii_lowercase()));
            let text = crate::yaml::to_string(&backup::bare(&object))
                .map_err(|why| Diagnostic::error("yaml", why))?;
            files::replace(&path, &text)?;
            written.push(path);
        }
    }
    Ok(written)
}

/// What the change of files means for the objects in them.
///
/// # Errors
/// An object that is to be changed is not there, or cannot be read.
pub fn plan(cluster: &Cluster, changes: &[FileChange], namespace: &str) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let mut mistakes = Vec::new();
    for change in changes {
        let before = objects(change.before.as_deref().unwrap_or_default());
        for (name, of, kind, after) in objects(&change.after) {
            let old = before
                .iter()
                .find(|(other, at, other_kind, _)| *other == name && *at == of && *other_kind == kind);
            let old = old.map(|(.., value)| value.clone());
            if old.as_ref() == Some(&after) {
                continue;
            }
            let of = if of.is_empty() { namespace.to_owned() } else { of };
            match step(cluster, kind, &of, &name, old, &after) {
                Ok(Some(step)) => plan.steps.push(step),
                Ok(None) => plan.unchanged.push(format!("{} {of}/{name}", kind.name)),
                Err(mistake) => mistakes.push(mistake),
            }
        }
    }
    if mistakes.is_empty() { Ok(plan) } else { Err(mistakes.into()) }
}

fn step(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    before: Option<Value>,
    after: &Value,
) -> Result<Option<Step>, Diagnostic> {
    let failed =
        |error: crate::live::error::ApiError| error.diagnostic(kind, Some(namespace), name, &["get"]);
    let read = cluster.get(kind, namespace, name).map_err(failed)?;
    if read.is_none() && before.is_some() {
        return Err(failed(crate::live::error::ApiError::NotFound));
    }
    let before = before.unwrap_or_else(|| json!({}));
    let owned = read.as_ref().map(|object| fields::owned(object, MANAGER)).unwrap_or_else(|| json!({}));
    let new = fields::added(&before, after).unwrap_or_else(|| json!({}));
    let gone = fields::added(after, &before).unwrap_or_else(|| json!({}));
    let fields = fields::merged(&fields::without(&owned, &gone), &new);
    if let Some(object) = &read
        && fields::has(object, &fields)
        && fields::has(&fields, &owned)
    {
        return Ok(None);
    }
    let diff = object_diff(&format!("{namespace}/{}/{name}", kind.name), &before, after);
    let what = if read.is_some() { "changed as its file" } else { "made" };
    Ok(Some(Step {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        what: vec![what.to_owned()],
        diff,
        fields,
        read,
    }))
}

/// The objects in a text that a cluster has from a migration: name, namespace, kind, fields.
fn objects(text: &str) -> Vec<(String, String, &'static Kind, Value)> {
    let mut found = Vec::new();
    for document in documents(Path::new(""), text) {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == document.kind) else { continue };
        let Some(slice) = text.get(document.range.clone()) else { continue };
        let Ok(tree) = Tree::parse(slice) else { continue };
        let Some(located) = tree.documents().first().and_then(|root| Located::read(&tree, *root, 0)) else {
            continue;
        };
        let mut value = backup::bare(&located.json());
        if let Some(fields) = value.as_object_mut() {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("name");
            metadata.remove("namespace");
        }
        found.push((document.name, document.namespace, *kind, value));
    }
    found
}

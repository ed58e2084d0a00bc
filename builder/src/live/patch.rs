//! `patch` and `unpatch` of what is in a cluster: the configurations in ConfigMaps and Secrets, the module beside them, and
//! the workloads whose Envoys read both.
//!
//! Order: the module's ConfigMap, its mount, the configuration, the checksum that replaces the pods. At every moment a pod
//! that starts finds what its configuration names. Backwards: the configuration, then mount and checksum at once.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::MANAGER;
use super::client::Cluster;
use super::error::{ApiError, label};
use super::fields;
use super::kind::{self, CONFIG_MAP, Kind, SECRET};
use super::plan::{Plan, Step, at, object_diff, text_diff};
use crate::diagnostic::{Diagnostic, Failure, Severity, Source};
use crate::envoy::{filter_file_name, pod};
use crate::patch::sites::{self, Finding};
use crate::patch::tree::SyntaxError;
use crate::patch::{self, Outcome, Selection};

/// On a ConfigMap or Secret: the sha256 of each configuration as it was before the patch.
pub const ORIGINAL: &str = "meshward.dev/original";
/// On a pod template: changes when what its Envoy reads at its start was changed.
pub const CHECKSUM: &str = "meshward.dev/config-checksum";
/// The volume with the module.
const VOLUME: &str = "meshward-filter";

/// Which objects are meant.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `KIND/NAME` or a name; none: all that hold an Envoy configuration.
    pub names: Vec<String>,
    pub selector: Option<String>,
    pub all_namespaces: bool,
    /// Secrets, too, where none is named by kind.
    pub secrets: bool,
}

/// The filter's module.
#[derive(Clone, Debug)]
pub struct Module {
    pub bytes: Vec<u8>,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Module {
    pub fn new(bytes: Vec<u8>) -> Self {
        let sha256 = hex(&Sha256::digest(&bytes));
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

/// Which way.
pub enum Direction<'a> {
    Patch {
        edit: &'a dyn Fn(&str) -> Result<Outcome, SyntaxError>,
        /// None: Envoy finds it elsewhere.
        module: Option<&'a Module>,
    },
    Unpatch(&'a Selection),
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
            match workloads.of(cluster, namespace, &held, direction) {
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

/// The objects that are meant: those named, or all of `kinds`; `known` are those that can be named.
///
/// # Errors
/// All that is not there or cannot be read.
pub fn objects(
    cluster: &Cluster,
    wanted: &Wanted,
    kinds: &[&'static Kind],
    known: &[&'static Kind],
) -> Result<Vec<(&'static Kind, Value)>, Failure> {
    let (mut found, mut mistakes) = (Vec::new(), Vec::new());
    if wanted.names.is_empty() {
        let namespace = (!wanted.all_namespaces).then_some(cluster.namespace.as_str());
        for kind in kinds {
            match cluster.list(kind, namespace, wanted.selector.as_deref()) {
                Ok(objects) => found.extend(objects.into_iter().map(|object| (*kind, object))),
                Err(error) => mistakes.push(error.diagnostic(kind, namespace, "", &["list"])),
            }
        }
    }
    for written in &wanted.names {
        let (asked, name) = match kind::named(written, known) {
            Ok(named) => named,
            Err(message) => {
                mistakes.push(Diagnostic::error("unknown-kind", message));
                continue;
            }
        };
        let asked: Vec<&'static Kind> = asked.map_or_else(|| kinds.to_vec(), |kind| vec![kind]);
        let before = found.len() + mistakes.len();
        for kind in &asked {
            match cluster.get(kind, &cluster.namespace, name) {
                Ok(object) => found.extend(object.map(|object| (*kind, object))),
                Err(error) => mistakes.push(error.diagnostic(kind, Some(&cluster.namespace), name, &["get"])),
            }
        }
        if found.len() + mistakes.len() == before
            && let Some(kind) = asked.first()
        {
            mistakes.push(ApiError::NotFound.diagnostic(kind, Some(&cluster.namespace), name, &[]));
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(mistakes.into()) }
}

/// An object that holds configurations.
struct Held {
    kind: &'static Kind,
    namespace: String,
    name: String,
    object: Value,
    texts: Vec<Text>,
    unpatch: bool,
}

struct Text {
    key: String,
    /// `data` or `binaryData`.
    field: &'static str,
    before: String,
    after: String,
    /// The sha256 of the text without a patch.
    original: String,
    /// The filter lists that have the filter, or had it.
    done: Vec<String>,
}

impl Held {
    fn label(&self) -> String {
        label(self.kind, Some(&self.namespace), &self.name)
    }

    fn changed(&self) -> bool {
        self.texts.iter().any(|text| text.before != text.after)
    }

    /// It is changed now, or was by us on this cluster, so that its workloads are ours to look after.
    fn touched(&self) -> bool {
        self.changed() || originals(&self.object).is_some()
    }

    fn step(&self) -> Option<Step> {
        let mut all = originals(&self.object).unwrap_or_default();
        let owned = fields::owned(&self.object, MANAGER);
        let mut new = json!({});
        let (mut diff, mut what) = (String::new(), Vec::new());
        for text in self.texts.iter().filter(|text| text.before != text.after) {
            let encoded = match text.field {
                "data" if self.kind.name == CONFIG_MAP.name => text.after.clone(),
                _ => BASE64_STANDARD.encode(&text.after),
            };
            new = fields::merged(&new, &at(&[text.field, &text.key], encoded.into()));
            if self.unpatch {
                all.remove(&text.key);
                what.push(format!("`{}` unpatched: {}", text.key, text.done.join(", ")));
            } else {
                all.insert(text.key.clone(), text.original.clone());
                what.push(format!("`{}` patched: {}", text.key, text.done.join(", ")));
            }
            let name = format!("{}/{}/{}: {}", self.namespace, self.kind.name, self.name, text.key);
            diff.push_str(&text_diff(&name, &text.before, &text.after));
        }
        if what.is_empty() {
            return None;
        }
        let note = at(&["metadata", "annotations", ORIGINAL], json!(""));
        let mut fields = fields::merged(&fields::without(&owned, &note), &new);
        if !all.is_empty() {
            let text = serde_json::to_string(&all).unwrap_or_default();
            fields = fields::merged(&fields, &at(&["metadata", "annotations", ORIGINAL], text.into()));
        }
        Some(Step {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            what,
            diff,
            fields,
            read: Some(self.object.clone()),
        })
    }
}

/// What the annotation says, if it is there.
fn originals(object: &Value) -> Option<BTreeMap<String, String>> {
    let text = object.pointer("/metadata/annotations")?.get(ORIGINAL)?.as_str()?;
    Some(serde_json::from_str(text).unwrap_or_default())
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
        let original = hex(&Sha256::digest(bare.map_or_else(|_| value.clone(), |bare| bare.text)));
        if unpatch
            && outcome.text != value
            && let Some(before) = originals(&object).and_then(|all| all.get(&key).cloned())
            && before != hex(&Sha256::digest(&outcome.text))
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

/// What is done to workloads, before and after the configurations.
#[derive(Default)]
struct Workloads {
    before: Vec<Step>,
    after: Vec<Step>,
    remarks: Vec<Diagnostic>,
}

impl Workloads {
    /// The workloads of a namespace that mount one of these.
    fn of(
        &mut self,
        cluster: &Cluster,
        namespace: &str,
        held: &[&Held],
        direction: &Direction<'_>,
    ) -> Result<(), Diagnostic> {
        let mut orphans: Vec<&&Held> = held.iter().filter(|one| one.changed()).collect();
        for kind in kind::WORKLOADS {
            let all = cluster.list(kind, Some(namespace), None).map_err(|error| {
                error
                    .diagnostic(kind, Some(namespace), "", &["list", "get", "patch"])
                    .help("or leave the workloads alone with --no-rollout, and restart them yourself")
            })?;
            for object in all {
                let template = template_path(kind);
                let Some(spec) = object.pointer(&format!("/{}/spec", template.join("/"))) else { continue };
                let mounted: Vec<&&Held> =
                    held.iter().filter(|one| one.touched() && mounts(spec, one).is_some()).collect();
                if mounted.is_empty() {
                    continue;
                }
                orphans.retain(|orphan| {
                    !mounted.iter().any(|one| one.name == orphan.name && one.kind == orphan.kind)
                });
                match direction {
                    Direction::Patch { module, .. } => {
                        self.forward(kind, &template, &object, spec, &mounted, *module);
                    }
                    Direction::Unpatch(_) => {
                        let others = still_patched(cluster, namespace, spec, held);
                        self.back(kind, &template, &object, &mounted, others);
                    }
                }
            }
        }
        for orphan in orphans {
            let message = format!(
                "no Deployment, StatefulSet, DaemonSet or CronJob mounts {}: restart what reads it yourself",
                orphan.label()
            );
            self.remarks.push(Diagnostic::new(Severity::Info, "not-mounted", message));
        }
        Ok(())
    }

    fn forward(
        &mut self,
        kind: &'static Kind,
        template: &[&str],
        object: &Value,
        spec: &Value,
        held: &[&&Held],
        module: Option<&Module>,
    ) {
        let mut owned = fields::owned(object, MANAGER);
        if let Some(module) = module {
            let mut pod = json!({"volumes": [{"name": VOLUME, "configMap": {"name": module.config_map()}}]});
            let mut own_mount = Vec::new();
            for (list, container) in held.iter().filter_map(|one| mounts(spec, one)).flatten() {
                if has_its_own(spec, list, &container) {
                    own_mount.push(container);
                    continue;
                }
                let mount = json!({"name": VOLUME, "mountPath": pod::FILTER, "readOnly": true});
                let entry = json!({list: [{"name": container, "volumeMounts": [mount]}]});
                pod = fields::merged(&pod, &entry);
            }
            for container in own_mount {
                let message = format!(
                    "container `{container}` of {} has something of its own at {}: the module must be in it",
                    step_label(kind, object),
                    pod::FILTER
                );
                self.remarks.push(Diagnostic::warning("own-mount", message));
            }
            let part = at(template, json!({"spec": pod}));
            if pod.as_object().is_some_and(|pod| pod.len() > 1) && !fields::has(object, &part) {
                owned = fields::merged(&owned, &part);
                let what = format!("mounts {}", module.config_map());
                self.before.push(step(kind, object, owned.clone(), &fields::merged(object, &part), what));
            } else if pod.as_object().is_some_and(|pod| pod.len() > 1) {
                owned = fields::merged(&owned, &part);
            }
        }
        let sum = checksum(held, module);
        let note = at(template, json!({"metadata": {"annotations": {CHECKSUM: sum}}}));
        if !fields::has(object, &note) {
            let after = fields::merged(object, &note);
            let new = fields::merged(&owned, &note);
            self.after.push(step(kind, object, new, &after, "its pods are replaced".to_owned()));
        }
    }

    fn back(
        &mut self,
        kind: &'static Kind,
        template: &[&str],
        object: &Value,
        held: &[&&Held],
        others: bool,
    ) {
        let owned = fields::owned(object, MANAGER);
        let note = at(template, json!({"metadata": {"annotations": {CHECKSUM: ""}}}));
        let mut gone = note;
        if !others {
            gone = fields::merged(&gone, &module_parts(template, &owned));
        }
        let mut left = fields::without(&owned, &gone);
        let mut after = fields::without(object, &gone);
        let what = if others {
            // Another configuration of it is still patched: it needs the module, and new pods all the same.
            let sum = at(template, json!({"metadata": {"annotations": {CHECKSUM: checksum(held, None)}}}));
            left = fields::merged(&left, &sum);
            after = fields::merged(&after, &sum);
            "its pods are replaced".to_owned()
        } else {
            "its pods are replaced; the module is no longer mounted".to_owned()
        };
        if left != owned {
            self.after.push(step(kind, object, left, &after, what));
        }
    }
}

fn step_label(kind: &Kind, object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    label(kind, Some(text("/metadata/namespace")), text("/metadata/name"))
}

fn step(kind: &'static Kind, object: &Value, fields: Value, after: &Value, what: String) -> Step {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let diff = object_diff(&format!("{namespace}/{}/{name}", kind.name), object, after);
    Step { kind, namespace, name, what: vec![what], diff, fields, read: Some(object.clone()) }
}

/// Where the pods' template is.
pub fn template_path(kind: &Kind) -> Vec<&'static str> {
    if kind.name == kind::CRON_JOB.name {
        vec!["spec", "jobTemplate", "spec", "template"]
    } else {
        vec!["spec", "template"]
    }
}

/// The volume and the mounts of the module among what we own.
fn module_parts(template: &[&str], owned: &Value) -> Value {
    let Some(spec) = owned.pointer(&format!("/{}/spec", template.join("/"))) else { return json!({}) };
    let mut pod = json!({});
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            let mounts: Vec<&Value> = items(container, "volumeMounts")
                .filter(|mount| mount.get("name").and_then(Value::as_str) == Some(VOLUME))
                .collect();
            // A whole sidecar is not ours to take apart here: it came by `inject`.
            if !mounts.is_empty() && container.get("image").is_none() {
                let entry = json!({list: [{"name": container.get("name"), "volumeMounts": mounts}]});
                pod = fields::merged(&pod, &entry);
            }
        }
    }
    if pod.as_object().is_some_and(serde_json::Map::is_empty) {
        return json!({});
    }
    let volumes: Vec<&Value> = items(spec, "volumes")
        .filter(|volume| volume.get("name").and_then(Value::as_str) == Some(VOLUME))
        .collect();
    at(template, json!({"spec": fields::merged(&pod, &json!({"volumes": volumes}))}))
}

fn items<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    value.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// The containers that mount an object, with the list that each is in; None when its pods do not have it as a volume.
fn mounts(spec: &Value, held: &Held) -> Option<Vec<(&'static str, String)>> {
    let names: Vec<&str> = items(spec, "volumes")
        .filter(|volume| sources(volume).contains(&(held.kind.name, held.name.as_str())))
        .filter_map(|volume| volume.get("name")?.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            let mounted = items(container, "volumeMounts").any(|mount| {
                mount.get("name").and_then(Value::as_str).is_some_and(|name| names.contains(&name))
            });
            if let (true, Some(name)) = (mounted, container.get("name").and_then(Value::as_str)) {
                found.push((list, name.to_owned()));
            }
        }
    }
    Some(found)
}

/// The ConfigMaps and Secrets behind a volume.
fn sources(volume: &Value) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    for value in std::iter::once(volume)
        .chain(volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten())
    {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        found.extend(text("/configMap/name").map(|name| (CONFIG_MAP.name, name)));
        // A volume calls it `secretName`, a projection `name`.
        let secret = text("/secret/secretName").or_else(|| text("/secret/name"));
        found.extend(secret.map(|name| (SECRET.name, name)));
    }
    found
}

/// The container has something that is not ours where the module goes.
fn has_its_own(spec: &Value, list: &str, container: &str) -> bool {
    items(spec, list)
        .filter(|one| one.get("name").and_then(Value::as_str) == Some(container))
        .flat_map(|one| items(one, "volumeMounts"))
        .any(|mount| {
            let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
            text("mountPath").trim_end_matches('/') == pod::FILTER && text("name") != VOLUME
        })
}

/// Whether a pod has another configuration that we patched and that stays.
fn still_patched(cluster: &Cluster, namespace: &str, spec: &Value, going: &[&Held]) -> bool {
    items(spec, "volumes").flat_map(sources).any(|(kind, name)| {
        let goes = going.iter().any(|one| {
            one.kind.name == kind
                && one.name == name
                && one.texts.iter().all(|text| text.after != text.before)
        });
        let holder = if kind == SECRET.name { &SECRET } else { &CONFIG_MAP };
        // One that cannot be read keeps its module.
        !goes
            && match cluster.get(holder, namespace, name) {
                Ok(object) => object.is_some_and(|object| originals(&object).is_some()),
                Err(_) => kind == CONFIG_MAP.name,
            }
    })
}

fn checksum(held: &[&&Held], module: Option<&Module>) -> String {
    let mut all = Sha256::new();
    all.update(module.map_or("", |module| module.sha256.as_str()));
    for text in held.iter().flat_map(|one| &one.texts) {
        all.update(text.key.as_bytes());
        all.update([0]);
        all.update(text.after.as_bytes());
        all.update([0]);
    }
    hex(&all.finalize()).get(..12).unwrap_or_default().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

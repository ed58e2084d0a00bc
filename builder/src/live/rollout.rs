//! The workloads whose Envoys read a configuration that is changed: the module mounted before, new pods after.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::Cluster;
use super::error::label;
use super::held::{Held, originals};
use super::kind::{self, CONFIG_MAP, Kind, SECRET};
use super::module::Module;
use super::plan::{Step, at, object_diff};
use super::{MANAGER, fields};
use crate::diagnostic::{Diagnostic, Severity};
use crate::envoy::pod;

/// On a pod template: changes when what its Envoy reads at its start was changed.
pub const CHECKSUM: &str = "meshward.dev/config-checksum";
/// The volume with the module.
const VOLUME: &str = "meshward-filter";

/// Which way.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// With the module, unless Envoy finds it elsewhere.
    Forward(Option<&'a Module>),
    Back,
}

/// What is done to workloads, before and after the configurations.
#[derive(Default)]
pub(super) struct Workloads {
    pub before: Vec<Step>,
    pub after: Vec<Step>,
    pub remarks: Vec<Diagnostic>,
}

impl Workloads {
    /// The workloads of a namespace that mount one of these.
    pub fn of(
        &mut self,
        cluster: &Cluster,
        namespace: &str,
        held: &[&Held],
        way: Way<'_>,
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
                match way {
                    Way::Forward(module) => {
                        self.forward(kind, &template, &object, spec, &mounted, module);
                    }
                    Way::Back => {
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
    all.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

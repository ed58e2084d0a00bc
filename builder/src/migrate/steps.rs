//! One step, as files before and after. Nothing is written here.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::inventory::documents;
use super::plan::{Object, Step, What};
use super::settings::{self, Callee};
use super::state::State;
use crate::diagnostic::{Diagnostic, Failure, Severity, Source};
use crate::envoy::{self, BOOTSTRAP_FILE, Placement};
use crate::inject::{self, Options};
use crate::kube::{self, Filter};
use crate::live::module::Module;
use crate::mesh::{self, Resolved, ports};
use crate::patch::edit::Editor;
use crate::patch::splice::{self, Edit};
use crate::patch::tree::{NodeId, Tree};

/// A file, its text before (None: there is no file) and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    pub path: PathBuf,
    pub before: Option<String>,
    pub after: String,
}

/// What a step would change; nothing where it is done by people.
///
/// # Errors
/// What stands against it; then nothing is to be changed.
pub fn changes(state: &State, step: &Step, store: &Path) -> Result<Vec<FileChange>, Failure> {
    match &step.what {
        What::Backup => backup(state, store),
        What::Mesh { text } => {
            if state.mesh.exists() {
                let message = format!("`{}` is there already", state.mesh.display());
                return Err(Diagnostic::error("exists", message)
                    .help("plan with --mesh and another name, or move it away")
                    .into());
            }
            // What is proposed must be what we read.
            mesh::load_sources(&[Source::new(state.mesh.display().to_string(), text.clone())])?;
            Ok(vec![FileChange { path: state.mesh.clone(), before: None, after: text.clone() }])
        }
        What::Config => config(state, &mesh::load(std::slice::from_ref(&state.mesh))?),
        What::Certificates | What::Watch => Ok(Vec::new()),
        What::Inject { workload, service } => {
            let options = options(state, &mesh::load(std::slice::from_ref(&state.mesh))?, service)?;
            edit(workload, |slice| injected(slice, &options))
        }
        What::Expose { service, port } => edit(service, |slice| expose(slice, *port)),
        What::Setting { object, key, from, to, callee, aliases } => {
            let mut all: Vec<FileChange> = Vec::new();
            let key = key.split('#').next().unwrap_or(key);
            let changed = edit(object, |slice| {
                let at = position(slice, callee, key, from).ok_or_else(|| {
                    let message = format!("`{key}` of {} {} no longer has {from}", object.kind, object.name);
                    Diagnostic::error("changed-meanwhile", message).help("change it by hand, or plan anew")
                })?;
                splice::apply(slice, &[Edit { range: at, text: to.clone() }]).ok_or_else(cannot_edit)
            })?;
            all.extend(changed);
            for (workload, host) in aliases {
                let before =
                    all.iter().find(|change| change.path == workload.file).map(|change| change.after.clone());
                let changed = edit_text(workload, before.as_deref(), |slice| alias(slice, host))?;
                put(&mut all, changed);
            }
            Ok(all)
        }
        What::Strict => marked(state, "PERMISSIVE", "STRICT"),
        What::Enforce => marked(state, "ALLOW", "DENY"),
    }
}

/// Further changes of files, some of which are changed already.
fn put(all: &mut Vec<FileChange>, more: Vec<FileChange>) {
    for change in more {
        match all.iter_mut().find(|known| known.path == change.path) {
            Some(known) => known.after = change.after,
            None => all.push(change),
        }
    }
}

fn injected(slice: &str, options: &Options) -> Result<String, Diagnostic> {
    let outcome =
        inject::inject(slice, options).map_err(|error| Diagnostic::error("not-yaml", error.message))?;
    let against =
        outcome.findings.iter().find(|found| found.severity == Severity::Error || found.code == "left-alone");
    match against {
        Some(found) => Err(Diagnostic::error("not-injected", found.message.clone())),
        None => Ok(outcome.text),
    }
}

fn cannot_edit() -> Diagnostic {
    Diagnostic::error(
        "cannot-edit",
        "this is written in a way that cannot be edited without touching the rest of it",
    )
    .help("write it in block style, and try again")
}

fn read(path: &Path) -> Result<String, Diagnostic> {
    fs::read_to_string(path).map_err(|error| {
        Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
    })
}

fn backup(state: &State, store: &Path) -> Result<Vec<FileChange>, Failure> {
    let mut changes = Vec::new();
    for input in crate::patch::files::read(&state.files)? {
        let Some(path) = input.path else { continue };
        // The way there is in the name, so that two files of one name are two.
        let parts: Vec<String> = path
            .components()
            .filter_map(|part| match part {
                std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                _ => None,
            })
            .collect();
        let copy = store.join("backup").join(parts.join("/"));
        changes.push(FileChange { path: copy, before: None, after: input.source.text.clone() });
    }
    Ok(changes)
}

/// The module that the sidecars load.
fn module(state: &State) -> Result<Module, Diagnostic> {
    fs::read(&state.wasm).map(Module::new).map_err(|error| {
        Diagnostic::error(
            "unreadable",
            format!("the module `{}` cannot be read: {error}", state.wasm.display()),
        )
        .help("build it with `meshward build`, and plan with --wasm")
    })
}

/// The sidecars' ConfigMaps, out of what `render` writes, and the module's.
fn config(state: &State, mesh: &Resolved) -> Result<Vec<FileChange>, Failure> {
    let module = module(state)?;
    let filter = Filter { sha256: module.sha256.clone(), ..Filter::default() };
    let mut changes = Vec::new();
    let mut put = |name: String, after: String| -> Result<(), Diagnostic> {
        let path = state.folder.join(name);
        let before = if path.exists() { Some(read(&path)?) } else { None };
        if before.as_deref() != Some(after.as_str()) {
            changes.push(FileChange { path, before, after });
        }
        Ok(())
    };
    for (path, text) in kube::render(mesh, &filter)? {
        if !path.starts_with("base/") {
            continue;
        }
        for document in documents(Path::new(&path), &text) {
            if let ("ConfigMap", Some(slice)) = (document.kind.as_str(), text.get(document.range.clone())) {
                put(format!("{}.yaml", document.name), slice.trim_start_matches('\n').to_owned())?;
            }
        }
    }
    let namespaces: std::collections::BTreeSet<&str> =
        mesh.services.iter().map(|service| service.namespace.as_str()).collect();
    for namespace in namespaces {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": module.config_map(), "namespace": namespace}});
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), module.data()) {
            object.extend(fields);
        }
        let text = crate::yaml::to_string(&object).map_err(|why| Diagnostic::error("yaml", why))?;
        let infix = if namespace == mesh.namespace { String::new() } else { format!(".{namespace}") };
        put(format!("{}{infix}.yaml", module.config_map()), text)?;
    }
    Ok(changes)
}

/// How one service's workload gets its sidecar, as `meshward inject --mesh` gives it.
fn options(state: &State, mesh: &Resolved, service: &str) -> Result<Options, Failure> {
    let filter = Filter { sha256: module(state)?.sha256, ..Filter::default() };
    let Some(found) = mesh.service(service) else {
        let message = format!("`{}` has no service `{service}`", state.mesh.display());
        return Err(Diagnostic::error("unknown-service", message).into());
    };
    let placement = Placement::Kubernetes { filter_sha12: filter.sha12().to_owned() };
    let files = envoy::render(mesh, found, &placement)?;
    let bootstrap = files.iter().find(|file| file.name == BOOTSTRAP_FILE);
    let hash: String = bootstrap
        .map(|file| Sha256::digest(&file.text).iter().take(6).map(|byte| format!("{byte:02x}")).collect())
        .unwrap_or_default();
    Ok(Options {
        image: mesh.envoy_image.clone(),
        filter,
        service: Some(service.to_owned()),
        services: Some(BTreeMap::from([(service.to_owned(), hash)])),
        redirects: inject::redirects(mesh),
        ..Options::default()
    })
}

fn edit(
    object: &Object,
    change: impl FnOnce(&str) -> Result<String, Diagnostic>,
) -> Result<Vec<FileChange>, Failure> {
    edit_text(object, None, change)
}

/// Edits the document of an object, and nothing around it.
fn edit_text(
    object: &Object,
    text: Option<&str>,
    change: impl FnOnce(&str) -> Result<String, Diagnostic>,
) -> Result<Vec<FileChange>, Failure> {
    let on_disk = read(&object.file)?;
    let text = text.unwrap_or(&on_disk);
    let document = documents(&object.file, text)
        .into_iter()
        .find(|document| document.kind == object.kind && document.name == object.name);
    let Some(range) = document.map(|document| document.range) else {
        let message = format!("`{}` no longer has {} {}", object.file.display(), object.kind, object.name);
        return Err(Diagnostic::error("changed-meanwhile", message).help("plan anew").into());
    };
    let slice = text.get(range.clone()).unwrap_or_default();
    let edited = change(slice).map_err(|mistake| {
        mistake.help(format!("in {} {} of `{}`", object.kind, object.name, object.file.display()))
    })?;
    let after = splice::apply(text, &[Edit { range, text: edited }]).ok_or_else(cannot_edit)?;
    if after == *text {
        return Ok(Vec::new());
    }
    Ok(vec![FileChange { path: object.file.clone(), before: Some(on_disk), after }])
}

/// Where an address is in a document.
fn position(slice: &str, callee: &Callee, key: &str, from: &str) -> Option<Range<usize>> {
    let found = settings::find(slice, std::slice::from_ref(callee));
    found
        .into_iter()
        .find(|address| address.key == key && address.written == from)
        .map(|address| address.range)
}

/// The Service gets the port for mTLS, and the one that it has leads to the sidecar, too.
fn expose(slice: &str, port: u16) -> Result<String, Diagnostic> {
    let tree = Tree::parse(slice).map_err(|error| Diagnostic::error("not-yaml", error.message))?;
    let editor = Editor { text: slice, tree: &tree, takes_lines: true };
    let list = tree
        .documents()
        .first()
        .and_then(|root| tree.value(tree.value(*root, "spec")?, "ports"))
        .ok_or_else(|| Diagnostic::error("no-ports", "the Service has no ports"))?;
    let items: Vec<NodeId> = tree.items(list).to_vec();
    let inbound = ports::INBOUND.to_string();
    let mut edits = Vec::new();
    let leads = |item: &NodeId| tree.text_at(*item, "targetPort").or_else(|| tree.text_at(*item, "port"));
    for (at, item) in items.iter().enumerate() {
        let mut new: Vec<(&str, Value)> = Vec::new();
        // Of several ports each needs a name.
        if tree.value(*item, "name").is_none() && items.len() == 1 {
            new.push(("name", json!("app")));
        }
        let meant = leads(item) == Some(port.to_string().as_str())
            || (at == 0 && leads(item).is_some_and(|text| text.parse::<u16>().is_err()));
        if meant {
            match tree.value(*item, "targetPort") {
                Some(target) => {
                    edits.push(Edit { range: tree.node(target).span.clone(), text: inbound.clone() })
                }
                None => new.push(("targetPort", json!(ports::INBOUND))),
            }
        }
        if !new.is_empty() {
            let entries = tree.entries(*item).count();
            edits.push(editor.insert_entries(*item, entries, &new).ok_or_else(cannot_edit)?);
        }
    }
    if !items.iter().any(|item| tree.text_at(*item, "port") == Some(inbound.as_str())) {
        let own = json!({"name": "mtls", "port": ports::INBOUND, "targetPort": ports::INBOUND});
        edits.push(editor.insert_items(list, items.len(), &[own]).ok_or_else(cannot_edit)?);
    }
    merge(slice, edits)
}

const LOOPBACK: &str = "127.0.0.1";

/// The pod finds a name on its own loopback.
fn alias(slice: &str, host: &str) -> Result<String, Diagnostic> {
    let tree = Tree::parse(slice).map_err(|error| Diagnostic::error("not-yaml", error.message))?;
    let editor = Editor { text: slice, tree: &tree, takes_lines: true };
    let spec = tree
        .documents()
        .first()
        .and_then(|root| tree.value(tree.value(tree.value(*root, "spec")?, "template")?, "spec"))
        .ok_or_else(|| Diagnostic::error("no-pod", "the workload has no pod template"))?;
    let own = json!({"ip": LOOPBACK, "hostnames": [host]});
    let edit = match tree.value(spec, "hostAliases") {
        Some(list) => {
            let names = tree.items(list).iter().filter_map(|item| tree.value(*item, "hostnames"));
            let there = names.flat_map(|names| tree.items(names)).any(|name| tree.text(*name) == Some(host));
            if there {
                return Ok(slice.to_owned());
            }
            // An address is there once: it is the list's key for the API server.
            let known = tree.items(list).iter().find(|item| tree.text_at(**item, "ip") == Some(LOOPBACK));
            match known.and_then(|item| tree.value(*item, "hostnames")) {
                Some(names) => editor.insert_items(names, tree.items(names).len(), &[json!(host)]),
                None => editor.insert_items(list, tree.items(list).len(), &[own]),
            }
        }
        None => editor.insert_entries(spec, 0, &[("hostAliases", json!([own]))]),
    };
    merge(slice, vec![edit.ok_or_else(cannot_edit)?])
}

/// Several insertions at one place are one, in their order.
fn merge(slice: &str, edits: Vec<Edit>) -> Result<String, Diagnostic> {
    let mut merged: Vec<Edit> = Vec::new();
    for edit in edits {
        match merged.iter_mut().find(|known| known.range == edit.range && edit.range.is_empty()) {
            Some(known) => known.text.push_str(&edit.text),
            None => merged.push(edit),
        }
    }
    merged.sort_by_key(|edit| edit.range.start);
    let after = splice::apply(slice, &merged).ok_or_else(cannot_edit)?;
    Tree::parse(&after).map(|_| after.clone()).map_err(|_| cannot_edit())
}

/// Changes a marked line of mesh.yaml, and what is rendered from it.
fn marked(state: &State, from: &str, to: &str) -> Result<Vec<FileChange>, Failure> {
    let before = read(&state.mesh)?;
    let mark = format!("{from} # migrate: {to}");
    if before.matches(&mark).count() != 1 {
        let message = format!("`{}` has no line with `{mark}`", state.mesh.display());
        return Err(Diagnostic::error("no-mark", message)
            .help(format!("change {from} to {to} yourself, and apply what `meshward render` writes"))
            .into());
    }
    let after = before.replace(&mark, to);
    let mesh = mesh::load_sources(&[Source::new(state.mesh.display().to_string(), after.clone())])?;
    let mut changes = vec![FileChange { path: state.mesh.clone(), before: Some(before), after }];
    changes.extend(config(state, &mesh)?);
    // Envoy reads its listeners when it starts: pods whose sidecar has others now are replaced.
    for step in &state.steps {
        if let What::Inject { workload, service } = &step.what
            && state.is_done(&step.name)
        {
            let options = options(state, &mesh, service)?;
            let text =
                changes.iter().find(|change| change.path == workload.file).map(|change| change.after.clone());
            put(&mut changes, edit_text(workload, text.as_deref(), |slice| injected(slice, &options))?);
        }
    }
    Ok(changes)
}

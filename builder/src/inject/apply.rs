//! `inject` and `uninject` of one stream of manifests.
//!
//! An injection first takes out an earlier one, then puts in what is wanted now: twice is once, and a newer sidecar
//! replaces an older one. What was not there before and had to be made (a list of volumes, the annotations) is noted in
//! the annotation `meshward.dev/injected`, so that taking it out is exact. INVARIANT: that is checked before anything is
//! given out.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::sidecar::{CONTAINER, COPY, Options, REDIRECT, VOLUMES};
use super::workload::{CHECKSUM, INJECTED, SERVICE, Workload, find};
use crate::diagnostic::Severity;
use crate::mesh::ports;
use crate::patch::edit::Editor;
use crate::patch::sites::{Finding, unsafe_edit};
use crate::patch::splice::{self, Edit};
use crate::patch::tree::{Kind, NodeId, SyntaxError, Tree};

/// What became of a stream.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The stream after it; the one that was given if nothing was to be done, or an error was found.
    pub text: String,
    pub findings: Vec<Finding>,
    /// Workloads seen.
    pub workloads: usize,
    /// One line for each workload that has a sidecar now (or had one, for `uninject`).
    pub done: Vec<String>,
}

impl Outcome {
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Gives every workload of the stream that does not ask otherwise a sidecar.
///
/// # Errors
/// When the text is neither YAML nor JSON. What else goes wrong is in the findings, and then nothing is changed.
pub fn inject(text: &str, options: &Options) -> Result<Outcome, SyntaxError> {
    let bare = uninject(text)?;
    if bare.failed() {
        return Ok(Outcome { text: text.to_owned(), done: Vec::new(), ..bare });
    }
    let tree = Tree::parse(&bare.text)?;
    let editor = Editor { text: &bare.text, tree: &tree, takes_lines: true };
    let mut outcome = Outcome::default();
    let mut edits = Vec::new();
    for workload in find(&tree) {
        outcome.workloads += 1;
        let place = head(&tree, workload.root);
        match service(&tree, &workload, options) {
            Err(reason) => {
                let message = format!("{} gets no sidecar: {reason}", workload.label());
                outcome.findings.push(Finding::new(Severity::Info, "left-alone", message, place));
            }
            // A line break behind it would become the scalar's.
            Ok(_) if editor.ends_open() => {
                let message = "the last line is a block scalar's, and has no line break";
                let finding = Finding::error("no-line-break", message, place);
                outcome.findings.push(finding.help("end the file with a line break, and try again"));
            }
            Ok(_) if workload.is_shared(&tree) => {
                let message = format!(
                    "what the sidecar of {} would be put into is somewhere else, too, by an alias",
                    workload.label()
                );
                let finding = Finding::error("shared", message, place);
                outcome.findings.push(finding.help("write it out for this workload, without the anchor"));
            }
            Ok(service) if unfit(&tree, &workload, options, &service).is_some() => {
                outcome.findings.extend(unfit(&tree, &workload, options, &service));
            }
            Ok(service) => match add(&editor, &workload, options, &service) {
                Some(added) => {
                    outcome.findings.extend(workload.remark(&tree, place));
                    edits.extend(added);
                    outcome.done.push(format!("{}, as service `{service}`", workload.label()));
                }
                None => outcome.findings.push(unsafe_edit(place)),
            },
        }
    }
    outcome.text = if outcome.failed() {
        text.to_owned()
    } else {
        match splice::apply(&bare.text, &edits)
            .filter(|after| checked(&bare.text, &tree, after, outcome.done.len()))
        {
            Some(after) => after,
            None => {
                outcome.findings.push(unsafe_edit(0..0));
                text.to_owned()
            }
        }
    };
    if outcome.failed() {
        outcome.done.clear();
    }
    Ok(outcome)
}

/// Takes the sidecars out: the bytes from before.
///
/// # Errors
/// When the text is neither YAML nor JSON.
pub fn uninject(text: &str) -> Result<Outcome, SyntaxError> {
    let tree = Tree::parse(text)?;
    let editor = Editor { text, tree: &tree, takes_lines: true };
    let mut outcome = Outcome { text: text.to_owned(), ..Outcome::default() };
    let mut edits = Vec::new();
    for workload in find(&tree) {
        outcome.workloads += 1;
        let Some(ours) = Ours::of(&tree, &workload) else { continue };
        match ours.removal(&editor) {
            Some(removal) => {
                edits.extend(removal);
                outcome.done.push(workload.label());
            }
            None => outcome.findings.push(unsafe_edit(head(&tree, workload.root))),
        }
    }
    splice::settle_end(text, &mut edits);
    match splice::apply(text, &edits).filter(|after| Tree::parse(after).is_ok()) {
        Some(after) if !outcome.failed() => outcome.text = after,
        Some(_) => {}
        None => outcome.findings.push(unsafe_edit(0..0)),
    }
    if outcome.failed() {
        outcome.done.clear();
    }
    Ok(outcome)
}

/// Whether `after` reads as `before` with the sidecars left out, and taking them out gives `before`.
fn checked(before: &str, tree_before: &Tree, after: &str, sidecars: usize) -> bool {
    let Ok(tree) = Tree::parse(after) else { return false };
    let ours: Vec<Ours> = find(&tree).iter().filter_map(|workload| Ours::of(&tree, workload)).collect();
    let skip: HashSet<NodeId> = ours.iter().flat_map(|ours| ours.nodes(&tree)).collect();
    let filled: HashSet<NodeId> =
        ours.iter().flat_map(|ours| ours.filled.iter().map(|(_, value)| *value)).collect();
    let read = |tree: &Tree, skip: &dyn Fn(NodeId) -> bool, filled: &dyn Fn(NodeId) -> bool| -> Vec<String> {
        tree.documents().iter().map(|root| tree.fingerprint(*root, skip, filled)).collect()
    };
    // A key that had no value has a list or mapping now; with ours left out nothing is left of it but its brackets.
    let written = read(&tree, &|id| skip.contains(&id), &|id| filled.contains(&id));
    let expected = read(tree_before, &|_| false, &|_| false);
    ours.len() == sidecars
        && (!filled.is_empty() || written == expected)
        && uninject(after).is_ok_and(|back| back.text == before)
}

/// The service that a workload is, or why it is left alone.
fn service(tree: &Tree, workload: &Workload, options: &Options) -> Result<String, String> {
    if let Some(reason) = workload.skip(tree).or_else(|| taken(tree, workload)) {
        return Err(reason);
    }
    let named = workload.annotation(tree, SERVICE).map(str::to_owned).or_else(|| options.service.clone());
    let service = named.unwrap_or_else(|| workload.name.clone());
    match &options.services {
        _ if service.is_empty() => Err("it has no name that could be its service's".to_owned()),
        Some(services) if !services.contains_key(&service) => {
            Err(format!("the mesh has no service `{service}` (annotation `{SERVICE}` names another)"))
        }
        _ => Ok(service),
    }
}

/// Why the traffic of a workload cannot be led to a sidecar.
fn unfit(tree: &Tree, workload: &Workload, options: &Options, service: &str) -> Option<Finding> {
    let redirect = options.redirects.get(service)?;
    if let Some(place) = workload.user(tree, crate::mesh::INTERCEPTING_USER) {
        let message = format!(
            "{} runs as user {}, which is the sidecar's: what it sends would not be intercepted",
            workload.label(),
            crate::mesh::INTERCEPTING_USER
        );
        return Some(
            Finding::error("sidecar-user", message, place).help("run the application as another user"),
        );
    }
    let (container, kind, place) = workload.probed(tree, &redirect.open)?;
    let message = format!(
        "the {kind} of container `{container}` comes over the network, without a certificate, to a port that is intercepted"
    );
    let help = "name its path in mesh.yaml (`services[].probes`), and probe port 15021 at `/healthz/readiness` (`liveness`, `startup`)";
    Some(Finding::error("captured-probe", message, place).help(help))
}

/// A container or volume of somebody else that has one of our names.
fn taken(tree: &Tree, workload: &Workload) -> Option<String> {
    if let Some(name) = workload.containers(tree).find(|name| [COPY, REDIRECT].contains(name)) {
        return Some(format!("it has a container `{name}` of its own: give that one another name"));
    }
    if let Some((container, port)) = workload.ports(tree).find(|(_, port)| ports::RESERVED.contains(port)) {
        return Some(format!("its container `{container}` has port {port}, which is the sidecar's"));
    }
    if workload.containers(tree).any(|name| name == CONTAINER) {
        let patch = "load the filter into its configuration with `meshward patch`, or give it another name";
        return Some(format!(
            "it has a container `{CONTAINER}` already; if that is an Envoy of your own, {patch}"
        ));
    }
    let volumes = tree.value(workload.spec, "volumes").map(|volumes| tree.items(volumes)).unwrap_or_default();
    let names = volumes.iter().filter_map(|volume| tree.text_at(*volume, "name"));
    let name = names.into_iter().find(|name| VOLUMES.contains(name))?;
    Some(format!("it has a volume `{name}` of its own: give that one another name"))
}

fn add(editor: &Editor<'_>, workload: &Workload, options: &Options, service: &str) -> Option<Vec<Edit>> {
    let tree = editor.tree;
    let native = options.native || workload.ends(tree);
    let mut edits = Vec::new();
    let mut made: Vec<&str> = Vec::new();
    let spec = Place { editor, mapping: workload.spec };
    let mut before: Vec<Value> = options.init_container().into_iter().collect();
    let redirect = options.redirects.get(service).map(|redirect| redirect.container.clone());
    let others = tree.value(workload.spec, "initContainers").is_some_and(|list| !tree.items(list).is_empty());
    let mut after = Vec::new();
    if native {
        before.extend(redirect);
        before.push(options.container(service, true));
    } else {
        // Others before the application reach the network as ever: there is no sidecar yet.
        if others {
            after.extend(redirect)
        } else {
            before.extend(redirect)
        }
        let containers = tree.value(workload.spec, "containers")?;
        let last = tree.items(containers).len();
        edits.push(editor.insert_items(containers, last, &[options.container(service, false)])?);
    }
    // Behind the item above, which may go to the same place: a list that is made comes after it.
    if !before.is_empty() {
        edits.push(spec.first("initContainers", before, "containers", &mut made)?);
    }
    if !after.is_empty() {
        edits.push(spec.last("initContainers", after, "containers", &mut made)?);
    }
    edits.push(spec.last("volumes", options.volumes(service), "containers", &mut made)?);
    let annotated = |made: &[&str]| {
        vec![
            (
                INJECTED,
                json!(if made.is_empty() {
                    "sidecar".to_owned()
                } else {
                    format!("sidecar,{}", made.join(","))
                }),
            ),
            (CHECKSUM, json!(options.checksum(service))),
        ]
    };
    let object = |entries: &[(&str, Value)]| -> Value {
        Value::Object(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    };
    match (workload.metadata(tree), workload.annotations(tree)) {
        (Some(_), Some(annotations)) if tree.is_mapping(annotations) => {
            let index = entries(tree, annotations).len();
            edits.push(editor.insert_entries(annotations, index, &annotated(&made))?);
        }
        (Some(metadata), Some(annotations))
            if tree.is_null(annotations) && tree.node(annotations).span.is_empty() =>
        {
            made.push("in:annotations");
            let (key, _) = tree.entry(metadata, "annotations")?;
            edits.push(editor.fill(key, &object(&annotated(&made)))?);
        }
        (Some(metadata), None) if tree.is_mapping(metadata) && !entries(tree, metadata).is_empty() => {
            made.push("annotations");
            let new = [("annotations", object(&annotated(&made)))];
            edits.push(editor.insert_entries(metadata, entries(tree, metadata).len(), &new)?);
        }
        (Some(metadata), None) if tree.is_mapping(metadata) => {
            made.push("annotations");
            edits.push(editor.insert_entries(metadata, 0, &[("annotations", object(&annotated(&made)))])?);
        }
        (None, _) => {
            made.push("metadata");
            let value = json!({"annotations": object(&annotated(&made))});
            edits.push(editor.insert_entries(workload.template, 0, &[("metadata", value)])?);
        }
        _ => return None,
    }
    Some(edits)
}

/// A mapping that gets items into one of its lists.
struct Place<'a, 'b> {
    editor: &'a Editor<'b>,
    mapping: NodeId,
}

impl Place<'_, '_> {
    fn first(
        &self,
        key: &'static str,
        items: Vec<Value>,
        after: &str,
        made: &mut Vec<&'static str>,
    ) -> Option<Edit> {
        self.put(key, items, after, made, 0)
    }

    fn last(
        &self,
        key: &'static str,
        items: Vec<Value>,
        after: &str,
        made: &mut Vec<&'static str>,
    ) -> Option<Edit> {
        self.put(key, items, after, made, usize::MAX)
    }

    /// Items into the list under `key`, which is made behind the key `after` when it is not there.
    fn put(
        &self,
        key: &'static str,
        items: Vec<Value>,
        after: &str,
        made: &mut Vec<&'static str>,
        index: usize,
    ) -> Option<Edit> {
        let tree = self.editor.tree;
        match tree.entry(self.mapping, key) {
            Some((_, list)) if tree.is_sequence(list) => {
                let list = tree.resolve(list);
                self.editor.insert_items(list, index.min(tree.items(list).len()), &items)
            }
            Some((name, value)) if tree.is_null(value) && tree.node(value).span.is_empty() => {
                made.push(match key {
                    "volumes" => "in:volumes",
                    _ => "in:initContainers",
                });
                self.editor.fill(name, &Value::Array(items))
            }
            Some(_) => None,
            None => {
                made.push(key);
                let behind = entries(tree, self.mapping)
                    .iter()
                    .rposition(|(name, _)| tree.text(*name) == Some(after))?;
                self.editor.insert_entries(self.mapping, behind + 1, &[(key, Value::Array(items))])
            }
        }
    }
}

/// What an earlier injection put into a workload.
struct Ours {
    /// List, and the range of items in it.
    items: Vec<(NodeId, std::ops::Range<usize>)>,
    /// Mapping, and the range of entries in it.
    entries: Vec<(NodeId, std::ops::Range<usize>)>,
    /// Keys that had no value, with the collections that they have now.
    filled: Vec<(NodeId, NodeId)>,
}

impl Ours {
    /// None when there is no injection.
    fn of(tree: &Tree, workload: &Workload) -> Option<Self> {
        let annotations = workload.annotations(tree)?;
        let note = tree.text_at(annotations, INJECTED)?;
        let made: Vec<&str> = note.split(',').collect();
        let mut ours = Self { items: Vec::new(), entries: Vec::new(), filled: Vec::new() };
        for (key, names) in [
            ("containers", &[CONTAINER][..]),
            ("initContainers", &[CONTAINER, COPY, REDIRECT]),
            ("volumes", &VOLUMES),
        ] {
            ours.list(tree, workload.spec, key, names, &made);
        }
        if made.contains(&"metadata") {
            ours.entry(tree, workload.template, "metadata");
        } else if made.contains(&"annotations") {
            ours.entry(tree, workload.metadata(tree)?, "annotations");
        } else if made.contains(&"in:annotations") {
            ours.filled.push(tree.entry(workload.metadata(tree)?, "annotations")?);
        } else {
            let at = |key: &str| {
                entries(tree, annotations).iter().position(|(name, _)| tree.text(*name) == Some(key))
            };
            let mut indices: Vec<usize> = [at(INJECTED), at(CHECKSUM)].into_iter().flatten().collect();
            indices.sort_unstable();
            ours.entries.extend(runs(&indices).into_iter().map(|run| (annotations, run)));
        }
        // What was made side by side goes in one piece: each alone would take the separator between them.
        ours.entries.sort_by_key(|(mapping, range)| (*mapping, range.start));
        let mut merged: Vec<(NodeId, std::ops::Range<usize>)> = Vec::new();
        for (mapping, range) in ours.entries {
            match merged.last_mut() {
                Some((last, before)) if *last == mapping && before.end == range.start => {
                    before.end = range.end
                }
                _ => merged.push((mapping, range)),
            }
        }
        ours.entries = merged;
        Some(ours)
    }

    fn list(&mut self, tree: &Tree, spec: NodeId, key: &str, names: &[&str], made: &[&str]) {
        let Some((name, list)) = tree.entry(spec, key) else { return };
        let list = tree.resolve(list);
        let ours = |item: &NodeId| tree.text_at(*item, "name").is_some_and(|name| names.contains(&name));
        let items = tree.items(list);
        let indices: Vec<usize> = (0..items.len()).filter(|at| items.get(*at).is_some_and(ours)).collect();
        let all = indices.len() == items.len() && !indices.is_empty();
        if all && made.contains(&key) {
            self.entry(tree, spec, key);
        } else if all && made.iter().any(|made| made.strip_prefix("in:") == Some(key)) {
            self.filled.push((name, list));
        } else {
            self.items.extend(runs(&indices).into_iter().map(|run| (list, run)));
        }
    }

    fn entry(&mut self, tree: &Tree, mapping: NodeId, key: &str) {
        if let Some(at) = entries(tree, mapping).iter().rposition(|(name, _)| tree.text(*name) == Some(key)) {
            self.entries.push((tree.resolve(mapping), at..at + 1));
        }
    }

    fn removal(&self, editor: &Editor<'_>) -> Option<Vec<Edit>> {
        let mut edits = Vec::new();
        for (list, range) in &self.items {
            edits.push(editor.remove_items(*list, range.clone())?);
        }
        for (mapping, range) in &self.entries {
            edits.push(editor.remove_entries(*mapping, range.clone())?);
        }
        for (_, collection) in &self.filled {
            edits.push(editor.empty(*collection)?);
        }
        Some(edits)
    }

    /// All items and keys that are ours.
    fn nodes(&self, tree: &Tree) -> Vec<NodeId> {
        let items = self
            .items
            .iter()
            .flat_map(|(list, range)| tree.items(*list).get(range.clone()).unwrap_or_default());
        let mut nodes: Vec<NodeId> = items.map(|item| tree.resolve(*item)).collect();
        for (mapping, range) in &self.entries {
            nodes.extend(
                entries(tree, *mapping).get(range.clone()).unwrap_or_default().iter().map(|(key, _)| *key),
            );
        }
        nodes
    }
}

/// The entries of a mapping as they are written, with those that Envoy would not read.
fn entries(tree: &Tree, mapping: NodeId) -> &[(NodeId, NodeId)] {
    match &tree.node(tree.resolve(mapping)).kind {
        Kind::Mapping { entries, .. } => entries,
        _ => &[],
    }
}

/// Neighbouring indices as ranges.
fn runs(indices: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for index in indices {
        match runs.last_mut() {
            Some(run) if run.end == *index => run.end += 1,
            _ => runs.push(*index..index + 1),
        }
    }
    runs
}

/// The first key of an object: a short place to point at.
fn head(tree: &Tree, node: NodeId) -> std::ops::Range<usize> {
    tree.entries(node)
        .next()
        .map_or_else(|| tree.node(node).span.clone(), |(key, _)| tree.node(key).span.clone())
}

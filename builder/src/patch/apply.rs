//! `patch` and `unpatch` of one text: the filter and its guard put into every filter list that is asked for, and taken
//! out again.
//!
//! A patch first takes out what an earlier one put in, then puts in what is wanted now, so twice is once and a newer
//! version replaces an older one. INVARIANT: what comes out is checked before it is given out. It must read as the
//! original does with the two filters left out, and taking them out must give the original bytes.

use std::collections::HashSet;

use super::envoy::{self, Filter, List, Listener, Protocol};
use super::filters::{self, Ours, Plugin, Position};
use super::harden;
use super::selection::Selection;
use super::sites::{self, Finding, Pass, Site, Visit, unsafe_edit};
use super::splice;
use super::tree::{NodeId, SyntaxError, Tree};
use crate::diagnostic::Severity;

/// What became of a text.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The text after it; the one that was given if nothing was to be done, or an error was found.
    pub text: String,
    pub findings: Vec<Finding>,
    /// Envoy configurations seen.
    pub sites: usize,
    /// One line each: the filter lists that have the filter now (or had it, for `unpatch`).
    pub done: Vec<String>,
}

impl Outcome {
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Puts the filter and its guard into every selected list of every Envoy configuration of the text. What the listeners
/// lack beside it is in the findings; with `mend`, it is put right where that can be done.
///
/// # Errors
/// When the text is neither YAML nor JSON. What else goes wrong is in the findings, and then nothing is changed.
pub fn patch(text: &str, plugin: &Plugin, selection: &Selection, mend: bool) -> Result<Outcome, SyntaxError> {
    let bare = remove(text, selection)?;
    if bare.pass.failed() {
        return Ok(unchanged(text, bare.pass));
    }
    let mut done = Vec::new();
    let mut pass = sites::pass(&bare.pass.text, &mut |site| insert(site, plugin, selection, &mut done))?;
    pass.findings = places(std::mem::take(&mut pass.findings), &bare.pass).collect();
    if pass.failed() {
        return Ok(unchanged(text, pass));
    }
    let reversed = remove(&pass.text, selection)?;
    if reversed.pass.text != bare.pass.text || reversed.lists.len() != done.len() {
        pass.findings.push(unsafe_edit(0..0));
        return Ok(unchanged(text, pass));
    }
    // What the listeners lack is told in the text that was given, too.
    let lacking = harden::harden(&bare.pass.text, selection, false)?;
    if !mend {
        pass.findings.extend(places(lacking.findings, &bare.pass));
        return Ok(Outcome { text: pass.text, findings: pass.findings, sites: pass.sites, done });
    }
    let mended = harden::harden(&pass.text, selection, true)?;
    if mended.failed() {
        pass.findings
            .extend(mended.findings.into_iter().filter(|finding| finding.severity == Severity::Error));
        return Ok(unchanged(text, pass));
    }
    // Of a mended text the places are those of the text before; its findings are what is left of them.
    let mut left: Vec<Finding> = mended.findings;
    for finding in places(lacking.findings, &bare.pass) {
        if let Some(at) = left.iter().position(|other| other.message == finding.message) {
            let still = left.remove(at);
            pass.findings.push(Finding { span: finding.span, ..still });
        }
    }
    Ok(Outcome { text: mended.text, findings: pass.findings, sites: pass.sites, done })
}

/// Findings in a text that edits came out with, at their places in the text before.
fn places(findings: Vec<Finding>, pass: &Pass) -> impl Iterator<Item = Finding> + '_ {
    findings.into_iter().map(|mut finding| {
        finding.span.start = splice::origin(&pass.edits, finding.span.start);
        finding.span.end = splice::origin(&pass.edits, finding.span.end).max(finding.span.start);
        finding
    })
}

/// Takes the filter and its guard out of every Envoy configuration of the text, and all mends: the bytes from before.
/// When no listener or manager is named, that is all of them, outbound ones too.
///
/// # Errors
/// When the text is neither YAML nor JSON.
pub fn unpatch(text: &str, selection: &Selection) -> Result<Outcome, SyntaxError> {
    let removed = remove(text, &Selection { outbound: true, ..selection.clone() })?;
    if removed.pass.failed() {
        return Ok(unchanged(text, removed.pass));
    }
    let softened = harden::soften(&removed.pass.text)?;
    if softened.failed() {
        return Ok(unchanged(text, softened));
    }
    let findings = removed.pass.findings;
    Ok(Outcome { text: softened.text, findings, sites: softened.sites, done: removed.lists })
}

fn unchanged(text: &str, pass: Pass) -> Outcome {
    Outcome { text: text.to_owned(), findings: pass.findings, sites: pass.sites, done: Vec::new() }
}

struct Removed {
    pass: Pass,
    lists: Vec<String>,
}

fn remove(text: &str, selection: &Selection) -> Result<Removed, SyntaxError> {
    let mut lists = Vec::new();
    let pass = sites::pass(text, &mut |site| {
        let mut visit = Visit::default();
        for target in targets(site, selection, &mut Vec::new()) {
            let span = site.editor.tree.node(target.list.key).span.clone();
            match target.ours(site) {
                Ok(ours) if ours.indices.is_empty() => {}
                Ok(ours) => {
                    lists.push(target.name.clone());
                    match target.removal(site, &ours) {
                        Some(edits) => visit.edits.extend(edits),
                        None => visit.findings.push(unsafe_edit(span)),
                    }
                }
                Err(finding) => visit.findings.push(finding),
            }
        }
        visit
    })?;
    Ok(Removed { pass, lists })
}

fn insert(site: &Site<'_>, plugin: &Plugin, selection: &Selection, done: &mut Vec<String>) -> Visit {
    let mut visit = Visit::default();
    let (editor, tree) = (&site.editor, site.editor.tree);
    let targets = targets(site, selection, &mut visit.findings);
    for target in &targets {
        let single = !tree.is_sequence(target.list.value);
        let edits = plugin.filters(target.position, single).ok().and_then(|values| {
            if single {
                editor.wrap_single(target.list.key, target.list.written, &values)
            } else {
                editor.insert_items(target.list.value, target.index, &values).map(|edit| vec![edit])
            }
        });
        match edits {
            Some(edits) => visit.edits.extend(edits),
            None if single => visit.findings.push(single_mapping(tree, &target.list)),
            None => visit.findings.push(unsafe_edit(tree.node(target.list.key).span.clone())),
        }
    }
    if plugin.discovery.is_some() && !targets.is_empty() {
        visit.findings.extend(nameless(tree, site.root));
    }
    if visit.findings.iter().any(|finding| finding.severity == Severity::Error) {
        return visit;
    }
    let expected = tree.fingerprint(site.root, &|_| false, &|_| false);
    if !visit.edits.is_empty() && !reads_the_same(site, &visit, selection, targets.len(), &expected) {
        visit.findings.push(unsafe_edit(tree.node(site.root).span.clone()));
    }
    done.extend(targets.into_iter().map(|target| target.name));
    visit
}

/// A mapping where a list is meant, with an anchor that would become the list's, or beside its key.
fn single_mapping(tree: &Tree, list: &List) -> Finding {
    let key = tree.text(list.key).unwrap_or_default();
    let message =
        format!("`{key}` is one mapping where a list is meant, in a form that cannot be made a list");
    Finding::error("cannot-edit", message, tree.node(list.key).span.clone())
        .help(format!("write `{key}` as a list, with a `-` before its one item, and try again"))
}

/// Envoy subscribes to nothing, a file of its own included, without a name.
fn nameless(tree: &Tree, root: NodeId) -> Option<Finding> {
    let node = tree.value(root, "node");
    let named = |key| node.is_some_and(|node| tree.value(node, key).is_some());
    // A file of listeners has its node elsewhere.
    let bootstrap = envoy::field(tree, root, "static_resources").is_some();
    if !bootstrap || (named("id") && named("cluster")) {
        return None;
    }
    let message = "Envoy reads no configuration from files as long as it has no `node.id` and `node.cluster`";
    let help = "add them to the bootstrap, or start Envoy with --service-node and --service-cluster";
    Some(Finding::new(Severity::Warning, "no-node", message, head(tree, root)).help(help))
}

/// Whether the edited text, with the filters left out, reads as the text does now.
fn reads_the_same(
    site: &Site<'_>,
    visit: &Visit,
    selection: &Selection,
    lists: usize,
    expected: &str,
) -> bool {
    let Some(edited) = splice::apply(site.editor.text, &visit.edits) else { return false };
    let Ok(tree) = Tree::parse(&edited) else { return false };
    let Some(root) = tree.documents().first().copied() else { return false };
    let editor = super::edit::Editor { text: &edited, tree: &tree, ..site.editor };
    let after = Site { name: String::new(), editor, root };
    let (mut skip, mut unwrap) = (HashSet::new(), HashSet::new());
    let targets = targets(&after, selection, &mut Vec::new());
    for target in &targets {
        let Ok(ours) = target.ours(&after) else { return false };
        if ours.indices.len() != 2 || target.router <= ours.indices.last().copied().unwrap_or(usize::MAX) {
            return false;
        }
        skip.extend(
            ours.indices.iter().filter_map(|index| target.filters.get(*index)).map(|filter| filter.node),
        );
        if ours.single {
            unwrap.insert(tree.resolve(target.list.written));
        }
    }
    let written = tree.fingerprint(root, &|id| skip.contains(&id), &|id| unwrap.contains(&id));
    targets.len() == lists && written == *expected
}

/// A filter list that is to be patched.
struct Target {
    name: String,
    position: Position,
    list: List,
    filters: Vec<Filter>,
    /// Where the filter goes.
    index: usize,
    /// The filter that ends the list.
    router: usize,
}

impl Target {
    fn ours(&self, site: &Site<'_>) -> Result<Ours, Finding> {
        filters::ours(site.editor.tree, &self.filters).map_err(|index| {
            let node = self.filters.get(index).map_or(self.list.key, |filter| filter.node);
            let message = "a filter has the name of the mesh's own filter, and is another one";
            Finding::error("name-taken", message, site.editor.tree.node(node).span.clone())
                .help("give it another name")
        })
    }

    fn removal(&self, site: &Site<'_>, ours: &Ours) -> Option<Vec<splice::Edit>> {
        let editor = &site.editor;
        let first = ours.indices.first().copied()?;
        if ours.single && first == 0 && ours.indices.len() + 1 == self.filters.len() {
            return editor.unwrap_single(self.list.value, ours.indices.len());
        }
        // Usually the two are neighbours; if somebody put a filter between them, that one stays.
        let mut edits = Vec::new();
        let mut from = first;
        for (at, index) in ours.indices.iter().enumerate() {
            let next = ours.indices.get(at + 1).copied();
            if next != Some(index + 1) {
                edits.push(editor.remove_items(self.list.value, from..index + 1)?);
                from = next.unwrap_or_default();
            }
        }
        Some(edits)
    }
}

/// The filter lists of a site that are selected, each once, whoever shares it; and what is to be said about others.
fn targets(site: &Site<'_>, selection: &Selection, findings: &mut Vec<Finding>) -> Vec<Target> {
    let tree = site.editor.tree;
    let mut found: Vec<Target> = Vec::new();
    let listeners = envoy::listeners(tree, site.root);
    if listeners.is_empty() {
        findings.push(no_listener(tree, site));
    }
    let (mut selected, mut outbound) = (0, 0);
    for listener in &listeners {
        if !selection.listener(listener) {
            outbound += usize::from(listener.outbound && !selection.names());
            continue;
        }
        selected += 1;
        if listener.api {
            let span = head(tree, listener.node);
            let message = format!(
                "{} is an API listener without connections: it is left as it is",
                label(site, listener)
            );
            findings.push(Finding::new(Severity::Info, "api-listener", message, span));
        }
        for target in listener_targets(site, listener, selection, findings) {
            match found.iter().find(|other| other.list.is_same(tree, &target.list)) {
                None => found.push(target),
                Some(other) if other.position == target.position => {}
                Some(other) => findings.push(two_ways(tree, other, &target.name)),
            }
        }
    }
    for listener in listeners.iter().filter(|listener| !selection.listener(listener)) {
        findings.extend(left_out(site, listener, selection, &found));
    }
    if selected == 0 && !listeners.is_empty() {
        findings.push(nothing_selected(tree, site, selection, outbound));
    }
    found
}

/// The filter lists of one listener that are to be patched.
fn listener_targets(
    site: &Site<'_>,
    listener: &Listener,
    selection: &Selection,
    findings: &mut Vec<Finding>,
) -> Vec<Target> {
    let tree = site.editor.tree;
    let label = label(site, listener);
    let mut found = Vec::new();
    for chain in &listener.chains {
        if let Some(old) = chain.filters.iter().find(|filter| filter.is_v2(tree)) {
            findings.push(v2(tree, old));
            continue;
        }
        let managers: Vec<&Filter> = chain.filters.iter().filter(|filter| filter.is_manager()).collect();
        for manager in managers.iter().filter(|manager| selection.manager(tree, manager)) {
            found.extend(http_targets(tree, &label, manager, listener.outbound, findings));
        }
        // What the application itself sends out is not guarded connection by connection.
        if managers.is_empty() && selection.managers.is_empty() && !listener.outbound {
            match (chain.filters.last(), chain.list) {
                (Some(last), Some(list)) if last.ends_connections() => {
                    let router = chain.filters.len() - 1;
                    let own = filters::ours(tree, &chain.filters).unwrap_or_default();
                    let index = own.indices.first().copied().unwrap_or(router);
                    let (name, filters) = (format!("{label}, TCP"), chain.filters.clone());
                    let position = Position { protocol: Protocol::Tcp, outbound: false };
                    found.push(Target { name, position, list, filters, index, router });
                }
                (Some(last), _) => findings.push(not_covered(tree, &label, last)),
                (None, _) => {}
            }
        }
    }
    found
}

/// What is to be said of a listener that is not selected: that a list is its own too, or that it was patched before.
fn left_out(site: &Site<'_>, listener: &Listener, selection: &Selection, found: &[Target]) -> Vec<Finding> {
    let tree = site.editor.tree;
    let everything = Selection { outbound: true, ..Selection::default() };
    let mut findings = Vec::new();
    for target in listener_targets(site, listener, &everything, &mut Vec::new()) {
        if let Some(shared) = found.iter().find(|other| other.list.is_same(tree, &target.list)) {
            if shared.position == target.position {
                let message = format!("{} and {} have one list of filters", shared.name, target.name);
                let span = tree.node(target.list.key).span.clone();
                let finding = Finding::new(Severity::Warning, "shared-list", message, span);
                findings
                    .push(finding.help(
                        "the filter is for both then; write the list out for one of them to part them",
                    ));
            } else {
                findings.push(two_ways(tree, shared, &target.name));
            }
        } else if !selection.names() && target.ours(site).is_ok_and(|ours| !ours.indices.is_empty()) {
            let message =
                format!("{} has the filter from an earlier patch: it is left as it is", target.name);
            let span = tree.node(target.list.key).span.clone();
            let finding = Finding::new(Severity::Warning, "patched-before", message, span);
            findings
                .push(finding.help("with --outbound it is replaced too; `meshward unpatch` takes it out"));
        }
    }
    findings
}

/// One list of filters cannot be for what comes in and for what goes out: each way has a configuration of its own.
fn two_ways(tree: &Tree, target: &Target, other: &str) -> Finding {
    let message = format!("{} and {other} have one list of filters, and go two ways", target.name);
    Finding::error("shared-list", message, tree.node(target.list.key).span.clone())
        .help("write the list out for each of them, without the alias")
}

fn http_targets(
    tree: &Tree,
    label: &str,
    manager: &Filter,
    outbound: bool,
    findings: &mut Vec<Finding>,
) -> Vec<Target> {
    let Some(config) = manager.config else {
        let span = head(tree, manager.node);
        let message =
            format!("the HTTP connection manager of {label} comes from elsewhere (`config_discovery`)");
        findings.push(
            Finding::error("manager-elsewhere", message, span).help("patch the file that it comes from"),
        );
        return Vec::new();
    };
    let mut lists = envoy::http_lists(tree, config);
    // Envoy takes a manager without filters, and answers nothing with it.
    let empty = |lists: &[(List, Vec<Filter>)]| {
        lists
            .first()
            .is_none_or(|(list, filters)| filters.is_empty() || tree.text(list.key) == Some("filters"))
    };
    if empty(&lists) {
        let span =
            lists.first().map_or_else(|| head(tree, config), |(list, _)| tree.node(list.key).span.clone());
        let message = format!(
            "the HTTP connection manager of {label} has no filters: without a router it serves nothing, and it is left as it is"
        );
        findings.push(
            Finding::new(Severity::Warning, "no-router", message, span)
                .help("give it an `envoy.filters.http.router`"),
        );
        lists.retain(|(_, filters)| !filters.is_empty());
    }
    let mut targets = Vec::new();
    for (list, filters) in lists {
        let Some(router) = filters.iter().position(Filter::is_router) else {
            if let Some(old) = filters.iter().find(|filter| filter.is_v2(tree)) {
                findings.push(v2(tree, old));
                continue;
            }
            let message =
                format!("the HTTP filters of {label} have no router that the filter could be put before");
            findings.push(
                Finding::error("no-router", message, tree.node(list.key).span.clone())
                    .help("end the list with an `envoy.filters.http.router` with its `typed_config`"),
            );
            continue;
        };
        let authenticated = filters.iter().take(router).rposition(Filter::is_authentication);
        let index = authenticated.map_or(0, |at| at + 1);
        let name = format!("{label}, HTTP");
        let position = Position { protocol: Protocol::Http, outbound };
        targets.push(Target { name, position, list, filters, index, router });
    }
    targets
}

fn label(site: &Site<'_>, listener: &Listener) -> String {
    let mut label = if site.name.is_empty() { String::new() } else { format!("{}, ", site.name) };
    label.push_str(&match (&listener.name, listener.port) {
        (Some(name), _) => format!("listener `{name}`"),
        (None, Some(port)) => format!("the listener on port {port}"),
        (None, None) => "a listener without a name".to_owned(),
    });
    label
}

/// The first key of a mapping: a short place to point at.
fn head(tree: &Tree, node: NodeId) -> std::ops::Range<usize> {
    tree.entries(node)
        .next()
        .map_or_else(|| tree.node(node).span.clone(), |(key, _)| tree.node(key).span.clone())
}

fn v2(tree: &Tree, filter: &Filter) -> Finding {
    let name = filter.name.as_deref().unwrap_or("?");
    let message =
        format!("filter `{name}` is written for Envoy's API v2, which Envoy has not read since 1.18");
    Finding::error("v2-api", message, head(tree, filter.node))
        .help("bring the configuration to v3 (`typed_config` with an `@type` of `envoy.extensions.…`) first")
}

fn not_covered(tree: &Tree, label: &str, last: &Filter) -> Finding {
    let kind = last.kind.as_deref().or(last.name.as_deref()).unwrap_or("?");
    let message =
        format!("a chain of {label} ends in `{kind}`, which the mesh does not guard: it is left as it is");
    Finding::new(Severity::Warning, "chain-not-guarded", message, head(tree, last.node))
}

fn no_listener(tree: &Tree, site: &Site<'_>) -> Finding {
    let dynamic = envoy::field(tree, site.root, "dynamic_resources");
    let lds = dynamic.and_then(|dynamic| envoy::field(tree, dynamic, "lds_config"));
    let path = lds.and_then(|lds| {
        envoy::field(tree, lds, "path")
            .or_else(|| envoy::field(tree, envoy::field(tree, lds, "path_config_source")?, "path"))
    });
    let span = head(tree, site.root);
    let what = if site.name.is_empty() { "this configuration" } else { &site.name };
    let finding =
        Finding::new(Severity::Warning, "no-listener", format!("{what} has no listeners of its own"), span);
    match (path.and_then(|path| tree.text(path)), lds) {
        (Some(path), _) => finding.help(format!("they come from `{path}`: patch that file")),
        (None, Some(_)) => finding.help("they come from a control plane: have it add the filter"),
        (None, None) => finding,
    }
}

fn nothing_selected(tree: &Tree, site: &Site<'_>, selection: &Selection, outbound: usize) -> Finding {
    let span = head(tree, site.root);
    if outbound > 0 {
        let message = "every listener is outbound: none is left to guard";
        return Finding::new(Severity::Warning, "outbound-only", message, span)
            .help("name one with --listener, or take all with --outbound");
    }
    let wanted: Vec<String> = selection
        .listeners
        .iter()
        .cloned()
        .chain(selection.ports.iter().map(|port| format!("port {port}")))
        .collect();
    let names: Vec<String> =
        envoy::listeners(tree, site.root).into_iter().filter_map(|listener| listener.name).collect();
    let message = format!("no listener is selected by {}", wanted.join(", "));
    Finding::new(Severity::Warning, "nothing-selected", message, span).help(format!(
        "there are: {}",
        if names.is_empty() { "listeners without a name".to_owned() } else { names.join(", ") }
    ))
}

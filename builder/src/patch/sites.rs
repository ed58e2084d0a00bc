//! Where Envoy configurations are in a stream of documents, and one pass of edits over all of them.
//!
//! A site is the text itself (an Envoy configuration as a file), or a scalar in a ConfigMap, a Secret, a List of those,
//! or a kustomization's literal. The `last-applied-configuration` annotation is none: `kubectl apply` writes it anew.

use std::collections::HashSet;
use std::ops::Range;

use base64::Engine as _;

use super::edit::Editor;
use super::envoy;
use super::scalar::Decoded;
use super::splice::{self, Edit};
use super::tree::{Kind, NodeId, SyntaxError, Tree};
use crate::diagnostic::Severity;

/// A mistake or a remark at a place of the text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub code: &'static str,
    pub message: String,
    pub span: Range<usize>,
    pub help: Option<String>,
}

impl Finding {
    pub fn new(
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        span: Range<usize>,
    ) -> Self {
        Self { severity, code, message: message.into(), span, help: None }
    }

    pub fn error(code: &'static str, message: impl Into<String>, span: Range<usize>) -> Self {
        Self::new(Severity::Error, code, message, span)
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// One Envoy configuration, ready to be edited.
pub struct Site<'a> {
    /// `ConfigMap c, envoy.yaml`; empty when it is the file itself.
    pub name: String,
    pub editor: Editor<'a>,
    pub root: NodeId,
}

/// What a visitor does to a site.
#[derive(Debug, Default)]
pub struct Visit {
    /// In the site's own text.
    pub edits: Vec<Edit>,
    pub findings: Vec<Finding>,
}

/// What a pass over all sites gives.
#[derive(Debug, Default)]
pub struct Pass {
    /// The text with all edits done.
    pub text: String,
    pub edits: Vec<Edit>,
    pub findings: Vec<Finding>,
    /// How many Envoy configurations there are.
    pub sites: usize,
}

impl Pass {
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

enum Encoding {
    Plain,
    Base64,
    /// `key=text`, as in a kustomization.
    Literal,
}

struct Holder {
    name: String,
    value: NodeId,
    encoding: Encoding,
}

/// Shows every Envoy configuration of `text` to `visit`, and does the edits that it asks for.
///
/// When a finding is an error, no edit is done at all.
///
/// # Errors
/// When the text is neither YAML nor JSON.
pub fn pass(text: &str, visit: &mut dyn FnMut(&Site<'_>) -> Visit) -> Result<Pass, SyntaxError> {
    let tree = Tree::parse(text)?;
    let mut pass = Pass::default();
    let mut wanted = Vec::new();
    // A scalar that several objects share through aliases is edited once.
    let mut seen = HashSet::new();
    for (index, root) in tree.documents().iter().enumerate() {
        if envoy::is_envoy(&tree, *root) {
            if index > 0 {
                let message = "Envoy reads only the first document of a file: this one is left as it is";
                let span = tree.node(*root).span.clone();
                pass.findings.push(Finding::new(Severity::Warning, "second-document", message, span));
                continue;
            }
            let editor = Editor { text, tree: &tree, takes_lines: true };
            let visited = visit(&Site { name: String::new(), editor, root: *root });
            pass.sites += 1;
            pass.edits.extend(visited.edits);
            pass.findings.extend(visited.findings);
        } else {
            let before = pass.edits.len();
            let new = |holder: &Holder| seen.insert(tree.resolve(holder.value));
            for holder in holders(&tree, *root).into_iter().filter(new) {
                visit_holder(text, &tree, &holder, visit, &mut pass, &mut wanted);
            }
            if pass.edits.len() > before {
                pass.findings.extend(last_applied(&tree, *root));
            }
        }
    }
    if pass.failed() {
        pass.edits.clear();
    }
    pass.text = match splice::apply(text, &pass.edits) {
        Some(edited) => edited,
        None => {
            pass.findings.push(unsafe_edit(0..0));
            text.to_owned()
        }
    };
    if !pass.edits.is_empty() && !wanted.is_empty() && !holds(&pass.text, &wanted) {
        pass.findings.push(unsafe_edit(0..0));
    }
    if pass.failed() {
        pass.edits.clear();
        text.clone_into(&mut pass.text);
        let by_hand = "its lines end in a carriage return alone: write them with line feeds, and try again";
        for finding in pass.findings.iter_mut().filter(|finding| finding.code == "cannot-edit") {
            finding.help = finding.help.take().map(|help| {
                if text.contains('\r') && !text.contains('\n') { by_hand.to_owned() } else { help }
            });
        }
    }
    Ok(pass)
}

/// What is said of the annotation that holds the object as it was last applied.
fn last_applied(tree: &Tree, root: NodeId) -> Option<Finding> {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let annotations = tree.value(tree.value(root, "metadata")?, "annotations")?;
    let (key, _) = tree.entry(annotations, ANNOTATION)?;
    let message =
        "this holds the object as it was last applied: it is left as it is, `kubectl apply` writes it anew";
    Some(Finding::new(Severity::Info, "last-applied", message, tree.node(key).span.clone()))
}

/// What was computed does not come out as it should: nothing is changed then.
pub fn unsafe_edit(span: Range<usize>) -> Finding {
    let message = "this is written in a way that cannot be edited without touching the rest of it";
    Finding::error("cannot-edit", message, span)
        .help("write the list in block style, one item below the other, and try again")
}

/// Whether the scalars of `text` have these values, in this order.
fn holds(text: &str, wanted: &[String]) -> bool {
    let Ok(tree) = Tree::parse(text) else { return false };
    let mut wanted = wanted.iter();
    let mut seen = HashSet::new();
    let all = tree.documents().iter().flat_map(|root| holders(&tree, *root)).all(|holder| {
        if !seen.insert(tree.resolve(holder.value)) {
            return true;
        }
        match read(&tree, &holder) {
            Some(value) if looks_like_envoy(&value) => wanted.next().is_some_and(|wanted| *wanted == value),
            _ => true,
        }
    });
    all && wanted.next().is_none()
}

/// An Envoy configuration, or what else a key of a ConfigMap or Secret holds, with the way back to the file it is in.
pub struct Text {
    /// `ConfigMap c, envoy.yaml`; empty when it is the file itself.
    pub name: String,
    pub value: String,
    whole: Range<usize>,
    /// Begin of the value in its scalar, and the scalar with its positions. None: only where it is, as a whole.
    within: Option<(usize, Decoded)>,
    is_file: bool,
}

impl Text {
    /// The file itself.
    pub fn file(value: &str) -> Self {
        Self {
            name: String::new(),
            value: value.to_owned(),
            whole: 0..value.len(),
            within: None,
            is_file: true,
        }
    }

    /// The key in its object: the last part of its name.
    pub fn key(&self) -> &str {
        self.name.rsplit(", ").next().unwrap_or_default()
    }

    /// A place of the text in the file.
    pub fn outer(&self, span: Range<usize>) -> Range<usize> {
        match &self.within {
            Some((begin, decoded)) => decoded.outer(span.start + begin)..decoded.outer(span.end + begin),
            None if self.is_file => span,
            None => self.whole.clone(),
        }
    }
}

/// Everything that the ConfigMaps, Secrets and kustomizations of a stream hold, object by object.
///
/// # Errors
/// When the text is neither YAML nor JSON.
pub fn texts(text: &str) -> Result<Vec<Text>, SyntaxError> {
    let tree = Tree::parse(text)?;
    let holders = tree.documents().iter().flat_map(|root| holders(&tree, *root));
    Ok(holders
        .filter_map(|holder| {
            let value = read(&tree, &holder)?;
            let node = tree.node(tree.resolve(holder.value));
            let within = match (&holder.encoding, &node.kind) {
                (Encoding::Plain | Encoding::Literal, Kind::Scalar { value: whole, style }) => {
                    let begin = whole.len() - value.len().min(whole.len());
                    Decoded::new(text, &node.span, *style, whole).map(|decoded| (begin, decoded))
                }
                _ => None,
            };
            Some(Text { name: holder.name, value, whole: node.span.clone(), within, is_file: false })
        })
        .collect())
}

fn visit_holder(
    text: &str,
    tree: &Tree,
    holder: &Holder,
    visit: &mut dyn FnMut(&Site<'_>) -> Visit,
    pass: &mut Pass,
    wanted: &mut Vec<String>,
) {
    let Some(value) = read(tree, holder).filter(|value| looks_like_envoy(value)) else { return };
    let node = tree.node(tree.resolve(holder.value));
    let whole = node.span.clone();
    let inner_tree = match Tree::parse(&value) {
        Ok(inner) => inner,
        Err(error) => {
            let message = format!("{} is not read: {}", holder.name, error.message);
            let mut finding = Finding::new(Severity::Warning, "not-yaml", message, whole);
            if value.contains("{{") {
                finding = finding.help("it is a template: render it first, and patch what comes out");
            }
            pass.findings.push(finding);
            wanted.push(value);
            return;
        }
    };
    let root = inner_tree.documents().first().copied().filter(|root| envoy::is_envoy(&inner_tree, *root));
    let Some(root) = root else {
        wanted.push(value);
        return;
    };
    let decoded = match (&holder.encoding, &node.kind) {
        (Encoding::Plain | Encoding::Literal, Kind::Scalar { value, style }) => {
            Decoded::new(text, &node.span, *style, value)
        }
        _ => None,
    };
    let takes_lines = decoded.as_ref().is_none_or(Decoded::takes_lines);
    let editor = Editor { text: &value, tree: &inner_tree, takes_lines };
    let visited = visit(&Site { name: holder.name.clone(), editor, root });
    pass.sites += 1;
    // The value of a literal begins behind its key.
    let key = node.text().len() - value.len().min(node.text().len());
    let key = if matches!(holder.encoding, Encoding::Literal) { key } else { 0 };
    for finding in visited.findings {
        let span = match &decoded {
            Some(decoded) => decoded.outer(finding.span.start + key)..decoded.outer(finding.span.end + key),
            None => whole.clone(),
        };
        pass.findings.push(Finding { span, ..finding });
    }
    let Some(edited) = splice::apply(&value, &visited.edits) else {
        pass.findings.push(unsafe_edit(whole));
        return;
    };
    if !visited.edits.is_empty() {
        let edits = match (&holder.encoding, &decoded) {
            (Encoding::Base64, _) => {
                let written = text.get(whole.clone()).unwrap_or_default();
                encode(written, &value, &edited).map(|text| vec![Edit { range: whole.clone(), text }])
            }
            (_, Some(decoded)) => visited
                .edits
                .iter()
                .map(|edit| {
                    let range = edit.range.start + key..edit.range.end + key;
                    decoded.translate(text, &Edit { range, text: edit.text.clone() })
                })
                .collect(),
            _ => None,
        };
        match edits {
            Some(edits) => pass.edits.extend(edits),
            None => pass.findings.push(unsafe_edit(whole)),
        }
    }
    wanted.push(edited);
}

/// Base64 as it was written: plain or quoted, on one line or broken into lines of one length.
///
/// None where encoding the text from before does not give what was written: then it could not be given back either.
fn encode(written: &str, before: &str, after: &str) -> Option<String> {
    let engine = base64::engine::general_purpose::STANDARD;
    let quote = written.get(..1).filter(|first| ["\"", "'"].contains(first)).unwrap_or_default();
    let body = written.strip_prefix(quote)?.strip_suffix(quote)?;
    let first = body.find(char::is_whitespace);
    let write = |text: &str| {
        let encoded = engine.encode(text);
        let Some(width) = first else { return format!("{quote}{encoded}{quote}") };
        let rest = body.get(width..).unwrap_or_default();
        let separator = rest.get(..rest.len() - rest.trim_start().len()).unwrap_or_default();
        let lines: Vec<&str> = encoded
            .as_bytes()
            .chunks(width.max(1))
            .map(|line| str::from_utf8(line).unwrap_or_default())
            .collect();
        format!("{quote}{}{quote}", lines.join(separator))
    };
    (write(before) == written).then(|| write(after))
}

fn read(tree: &Tree, holder: &Holder) -> Option<String> {
    let text = tree.text(holder.value)?;
    match holder.encoding {
        Encoding::Plain => Some(text.to_owned()),
        Encoding::Literal => text.split_once('=').map(|(_, value)| value.to_owned()),
        Encoding::Base64 => {
            let packed: String = text.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(packed).ok()?;
            String::from_utf8(bytes).ok()
        }
    }
}

/// A quick look before the text is parsed: ConfigMaps hold many other things.
pub fn looks_like_envoy(text: &str) -> bool {
    [
        "static_resources",
        "staticResources",
        "dynamic_resources",
        "dynamicResources",
        "filter_chains",
        "filterChains",
    ]
    .iter()
    .any(|word| text.contains(word))
}

/// A List may hold Lists; with an alias, even itself.
const LISTS_IN_LISTS: usize = 3;

/// The scalars of a Kubernetes document that may hold a configuration.
fn holders(tree: &Tree, root: NodeId) -> Vec<Holder> {
    holders_within(tree, root, "", LISTS_IN_LISTS)
}

/// `kind` is what an item of a typed list is, which the API server does not repeat for each.
fn holders_within(tree: &Tree, root: NodeId, kind: &str, depth: usize) -> Vec<Holder> {
    let mut found = Vec::new();
    let kind = tree.text_at(root, "kind").unwrap_or(kind);
    match kind {
        "ConfigMap" => {
            collect(tree, root, kind, "data", &Encoding::Plain, &mut found);
            collect(tree, root, kind, "binaryData", &Encoding::Base64, &mut found);
        }
        "Secret" => {
            collect(tree, root, kind, "data", &Encoding::Base64, &mut found);
            collect(tree, root, kind, "stringData", &Encoding::Plain, &mut found);
        }
        _ => {}
    }
    // `kubectl get` answers with a List; ConfigMapList and the like are the same, and an OpenShift Template nearly so.
    let items = match kind.strip_suffix("List") {
        Some(item) => tree.value(root, "items").map(|items| (items, item)),
        None if kind == "Template" => tree.value(root, "objects").map(|items| (items, "")),
        None => None,
    };
    if let Some((items, item)) = items.filter(|_| depth > 0) {
        let within = |object: &NodeId| holders_within(tree, *object, item, depth - 1);
        found.extend(tree.items(items).iter().flat_map(within));
    }
    if let Some(generators) = tree.value(root, "configMapGenerator") {
        for generator in tree.items(generators) {
            let Some(literals) = tree.value(*generator, "literals") else { continue };
            for literal in tree.items(literals) {
                let key =
                    tree.text(*literal).and_then(|text| text.split_once('=')).map_or("", |(key, _)| key);
                let name = tree.text_at(*generator, "name").unwrap_or("?");
                found.push(Holder {
                    name: format!("configMapGenerator {name}, {key}"),
                    value: *literal,
                    encoding: Encoding::Literal,
                });
            }
        }
    }
    found
}

fn collect(
    tree: &Tree,
    object: NodeId,
    kind: &str,
    field: &str,
    encoding: &Encoding,
    found: &mut Vec<Holder>,
) {
    let name =
        tree.value(object, "metadata").and_then(|metadata| tree.text_at(metadata, "name")).unwrap_or("?");
    let Some(data) = tree.value(object, field) else { return };
    for (key, value) in tree.entries(data) {
        let key = tree.text(key).unwrap_or_default();
        let encoding = match encoding {
            Encoding::Plain => Encoding::Plain,
            Encoding::Base64 => Encoding::Base64,
            Encoding::Literal => Encoding::Literal,
        };
        found.push(Holder { name: format!("{kind} {name}, {key}"), value, encoding });
    }
}

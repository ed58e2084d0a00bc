//! The head of a policy: its name, its namespace, and which workloads it is for, by AuthorizationPolicy's own rules.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use meshward_engine::config::HeaderMode;

use crate::diagnostic::{Diagnostic, Source};
use crate::mesh::document::{Document, Spanned};
use crate::mesh::{Resolved, Service};
use crate::policy::authorization::Target;
use crate::policy::{self, Workload, model, select};

/// Name and target of a policy.
#[derive(Clone, Debug)]
pub struct Head {
    pub source: Arc<Source>,
    pub name: Spanned<String>,
    pub namespace: String,
    pub target: Target,
}

impl Head {
    /// `namespace/name`
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name.value)
    }

    /// Whether it is for a workload: one of its own namespace, or of any in the root namespace, whose target fits.
    pub fn is_for(&self, workload: &Workload<'_>, root_namespace: &str) -> bool {
        (self.namespace == workload.namespace || self.namespace == root_namespace)
            && select::target_fits(&self.target, workload)
    }

    /// Where its target is written; its name when it has none.
    pub fn place(&self) -> Range<usize> {
        match &self.target {
            Target::Labels { labels, span } if !labels.is_empty() => span.clone(),
            Target::Services(services) => {
                services.first().map_or(self.name.span.clone(), |service| service.span.clone())
            }
            Target::Labels { .. } => self.name.span.clone(),
        }
    }

    /// A mistake at a place in this policy.
    pub fn error(&self, code: &'static str, message: String, span: &Range<usize>) -> Diagnostic {
        Diagnostic::error(code, message).at(&self.source, span.clone())
    }

    /// It is for nobody, which is a surprise; or for the edge alone, where nothing would ask it.
    pub fn check_against(&self, mesh: &Resolved, mistakes: &mut Vec<Diagnostic>) {
        let is_for = |service: &Service| self.is_for(&mesh.workload(service), &mesh.root_namespace);
        let edge = mesh.services.iter().find(|service| service.is_edge());
        let mut chosen = mesh.services.iter().filter(|service| is_for(service)).peekable();
        if let Some(edge) = edge
            && chosen.peek().is_some()
            && chosen.all(Service::is_edge)
        {
            let message = format!(
                "`{}` is for the edge `{}`, where it has no effect: everybody comes in there, without an identity",
                self.full_name(),
                edge.name
            );
            mistakes.push(
                Diagnostic::error("edge-policy", message)
                    .at(&self.source, self.place())
                    .help("select a service behind the edge; there the edge's identity is the caller"),
            );
        }
        if !mesh.services.iter().any(is_for) {
            let message = format!("`{}` is for no workload of this mesh", self.full_name());
            mistakes.push(
                Diagnostic::warning("no-workload", message)
                    .at(&self.source, self.place())
                    .help("every service has the label `app: <name>`, in its own namespace"),
            );
        }
    }
}

/// Reads the head. `selector` and `targetRefs` are those of the policy's `spec`.
pub fn head(
    document: &Document,
    metadata: &model::Metadata,
    selector: Option<Spanned<model::Selector>>,
    target_refs: Option<Spanned<Vec<Spanned<model::TargetRef>>>>,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Head {
    let namespace = policy::check::identity(document, metadata, namespace, mistakes);
    let spec = model::AuthorizationSpec { selector, target_refs, ..model::AuthorizationSpec::default() };
    let target = policy::check::target(document, &spec, &namespace, mistakes);
    Head { source: Arc::clone(&document.source), name: metadata.name.clone(), namespace, target }
}

/// How repeated headers are read in the policy's rules. The other annotations of AuthorizationPolicy mean nothing here.
pub fn repeated_headers(
    document: &Document,
    metadata: &model::Metadata,
    mistakes: &mut Vec<Diagnostic>,
) -> HeaderMode {
    policy::check::annotations_of_limits(document, metadata, mistakes)
}

/// Two policies of one kind with one name are a mistake.
pub fn unique<'a>(kind: &str, heads: impl Iterator<Item = &'a Head>, mistakes: &mut Vec<Diagnostic>) {
    policy::check::unique(kind, heads.map(|head| (head.full_name(), &head.source, &head.name)), mistakes);
}

/// Names within a policy, of its limits or breakers, are unique and fit for counters and logs.
pub fn names<'a>(
    document: &Document,
    names: impl Iterator<Item = &'a Spanned<String>>,
    mistakes: &mut Vec<Diagnostic>,
) {
    /// As a Kubernetes label's value.
    const LONGEST: usize = 63;
    let mut seen: BTreeMap<&str, &Spanned<String>> = BTreeMap::new();
    for name in names {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(good) {
            mistakes.push(
                document
                    .error("invalid-name", format!("`{}` is no name for a limit", name.value), &name.span)
                    .help(format!(
                        "a name is made of a-z, 0-9 and `-`, and has at most {LONGEST}: `per-caller`"
                    )),
            );
        }
        if let Some(first) = seen.insert(name.value.as_str(), name) {
            let (line, _) = document.source.position(first.span.start);
            mistakes.push(
                document
                    .error("duplicate-name", format!("there is already a `{}` here", name.value), &name.span)
                    .help(format!("the first is at line {line}; give this one another name")),
            );
        }
    }
}

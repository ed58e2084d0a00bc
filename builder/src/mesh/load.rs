//! Paths → [`Resolved`]: reads every document, hands each kind to its owner, and brings all mistakes back together.

use std::path::PathBuf;
use std::sync::Arc;

use super::document::{self, Document};
use super::model::{API_VERSION, Mesh};
use super::{Resolved, discover, read, resolve};
use crate::diagnostic::{Diagnostic, Failure, Severity, Source, nearest};
use crate::limits;
use crate::native;
use crate::policy::{self, authorization::Target};

/// Who reads which kind: (kind, the API groups it may have).
const KINDS: [(&str, &[&str]); 6] = [
    ("Mesh", &[API_VERSION]),
    ("AuthorizationPolicy", &["security.istio.io/v1", "security.istio.io/v1beta1"]),
    ("PeerAuthentication", &["security.istio.io/v1", "security.istio.io/v1beta1"]),
    ("RateLimitPolicy", &[API_VERSION]),
    ("CircuitBreakerPolicy", &[API_VERSION]),
    ("DestinationRule", &native::model::API_VERSIONS),
];

impl discover::MeshFiles {
    /// Reads and checks the mesh.
    ///
    /// # Errors
    /// No file to be found, or every mistake in those found.
    pub fn load(&self) -> Result<Resolved, Failure> {
        load(&self.filename)
    }
}

/// Reads and checks the mesh that the files hold; with no path, the one that [`discover::discover`] finds.
///
/// # Errors
/// Every mistake in every file, each with its place.
pub fn load(paths: &[PathBuf]) -> Result<Resolved, Failure> {
    let found;
    let paths = if paths.is_empty() {
        found = [discover::discover()?];
        &found
    } else {
        paths
    };
    load_sources(&discover::sources(paths)?)
}

/// The same from texts already read.
///
/// # Errors
/// Every mistake in every text, each with its place.
pub fn load_sources(sources: &[Arc<Source>]) -> Result<Resolved, Failure> {
    let mut mistakes = Vec::new();
    let mut meshes = Vec::new();
    let mut policies = Vec::new();
    let mut limit_documents = Vec::new();
    for source in sources {
        for document in document::parse(source, &mut mistakes) {
            match check_kind(&document) {
                Err(mistake) => mistakes.push(*mistake),
                Ok("Mesh") => meshes.push(document),
                Ok("AuthorizationPolicy" | "PeerAuthentication") => policies.push(document),
                Ok(_) => limit_documents.push(document),
            }
        }
    }
    let mut resolved = the_mesh(&meshes, sources, &mut mistakes).and_then(|document| {
        let mesh: Mesh = read::document(document, &mut mistakes)?;
        Some(resolve::resolve(document, mesh, &mut mistakes))
    });
    // Without a usable Mesh the policies' own mistakes are told all the same.
    let namespace = resolved.as_ref().map_or(resolve::DEFAULT_NAMESPACE, |mesh| mesh.namespace.as_str());
    let checked = policy::load(&policies, namespace, &mut mistakes);
    let checked_limits = limits::load(&limit_documents, namespace, &mut mistakes);
    // In a mesh of Istio's a gateway may enforce it; in this one nobody does.
    for mistake in mistakes.iter_mut().filter(|mistake| mistake.code == policy::NO_SIDECAR) {
        mistake.severity = Severity::Error;
    }
    if let Some(mesh) = &mut resolved {
        policies_of_the_edge(mesh, &checked, &mut mistakes);
        limits::check_against(&checked_limits, mesh, &mut mistakes);
        mesh.native = native::load(&limit_documents, &checked_limits.breakers, mesh, &mut mistakes);
        native::settings::conflicts(mesh, &mut mistakes);
    }
    mistakes.sort_by_key(|mistake| {
        // By file in the order given, then by place; what has none comes first.
        let file = |name: &str| sources.iter().position(|source| source.name == name);
        mistake.location.as_ref().map(|place| (file(&place.source.name), place.span.start))
    });
    let failed = mistakes.iter().any(|mistake| mistake.severity == Severity::Error);
    match resolved {
        Some(mut resolved) if !failed => {
            resolved.warnings.append(&mut mistakes);
            resolved.policy_documents = policies;
            resolved.policies = checked;
            resolved.limit_documents = limit_documents;
            resolved.limits = checked_limits;
            Ok(resolved)
        }
        _ => Err(Failure { diagnostics: mistakes }),
    }
}

/// The edge lets everybody in and authenticates nobody; what they may do is for the services behind it to say. A policy
/// that is for the edge by name would have no effect, and somebody relies on it.
fn policies_of_the_edge(mesh: &Resolved, policies: &policy::Policies, mistakes: &mut Vec<Diagnostic>) {
    let Some(edge) = mesh.services.iter().find(|service| service.is_edge()) else { return };
    for policy in policy::select::select(policies, mesh.workload(edge), &mesh.root_namespace) {
        let (named, span) = match &policy.target {
            Target::Labels { labels, span } => (!labels.is_empty(), span),
            Target::Services(services) => (!services.is_empty(), &policy.name.span),
        };
        let others = mesh.services.iter().filter(|service| !service.is_edge());
        let only = others
            .into_iter()
            .all(|service| !policy::select::target_fits(&policy.target, &mesh.workload(service)));
        if named && only {
            let message = format!(
                "`{}` is for the edge `{}`, where it has no effect: everybody comes in there, without an identity",
                policy.full_name(),
                edge.name
            );
            mistakes.push(
                Diagnostic::error("edge-policy", message)
                    .at(&policy.source, span.clone())
                    .help("select a service behind the edge; there the edge's identity is the caller"),
            );
        }
    }
}

fn check_kind(document: &Document) -> Result<&'static str, Box<Diagnostic>> {
    let written = document.kind.value.as_str();
    let Some((kind, versions)) = KINDS.iter().find(|(kind, _)| *kind == written) else {
        let mistake = document.error(
            "unknown-kind",
            format!("`{written}` is no kind of Meshward's"),
            &document.kind.span,
        );
        return Err(Box::new(match nearest(written, KINDS.iter().map(|(kind, _)| *kind)) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake
                .help(format!("the kinds are {}", KINDS.map(|(kind, _)| format!("`{kind}`")).join(", "))),
        }));
    };
    if versions.contains(&document.api_version.value.as_str()) {
        return Ok(kind);
    }
    let message = format!("`{}` is no version of `{kind}`", document.api_version.value);
    Err(Box::new(
        document
            .error("unknown-version", message, &document.api_version.span)
            .help(format!("write `apiVersion: {}`", versions.first().copied().unwrap_or(API_VERSION))),
    ))
}

/// The one document of kind `Mesh`.
fn the_mesh<'a>(
    meshes: &'a [Document],
    sources: &[Arc<Source>],
    mistakes: &mut Vec<Diagnostic>,
) -> Option<&'a Document> {
    let (first, others) = match meshes.split_first() {
        Some(found) => found,
        None => {
            // With a text that could not be read the Mesh may well be in it.
            if mistakes.is_empty() {
                let names =
                    sources.iter().map(|source| format!("`{}`", source.name)).collect::<Vec<_>>().join(", ");
                mistakes.push(
                    Diagnostic::error("no-mesh", format!("there is no document of kind `Mesh` in {names}"))
                        .help("write a first one with `meshward init`"),
                );
            }
            return None;
        }
    };
    for other in others {
        let (line, _) = first.source.position(first.kind.span.start);
        mistakes.push(other.error("second-mesh", "there can be only one `Mesh`", &other.kind.span).help(
            format!("the first is at {}:{line}; put all services into one of them", first.source.name),
        ));
    }
    Some(first)
}

//! Texts → the documents that matter to policies, also when no Mesh is among them.
//!
//! A folder of Kubernetes manifests may hold anything, so kinds of other groups are passed over. Of Istio's security group
//! and our own nothing is: a misspelled kind there is a policy that nobody enforces.

use std::sync::Arc;

use super::API_VERSIONS;
use crate::diagnostic::{Diagnostic, Source, nearest};
use crate::mesh::document::{self, Document};
use crate::mesh::model::API_VERSION;

const KINDS: [&str; 2] = ["AuthorizationPolicy", "PeerAuthentication"];
/// Of our own group.
const OWN_KINDS: [&str; 3] = ["Mesh", "RateLimitPolicy", "CircuitBreakerPolicy"];

/// All documents; a kind of Istio's security group that is not ours to read is a mistake.
pub fn parse(sources: &[Arc<Source>], mistakes: &mut Vec<Diagnostic>) -> Vec<Document> {
    let mut documents = Vec::new();
    for source in sources {
        documents.extend(document::parse(source, mistakes));
    }
    for document in &documents {
        mistakes.extend(wrong_kind(document));
    }
    documents
}

fn wrong_kind(document: &Document) -> Option<Diagnostic> {
    let (version, kind) = (&document.api_version, &document.kind);
    if KINDS.contains(&kind.value.as_str()) {
        if API_VERSIONS.contains(&version.value.as_str()) {
            return None;
        }
        let message = format!("`{}` is no version of `{}`", version.value, kind.value);
        return Some(
            document
                .error("unknown-version", message, &version.span)
                .help(format!("write `apiVersion: {}`", API_VERSIONS.join("` or `apiVersion: "))),
        );
    }
    let kinds: &[&str] = if version.value.starts_with("security.istio.io/") {
        &KINDS
    } else if version.value.starts_with("meshward.dev/") {
        &OWN_KINDS
    } else {
        return None;
    };
    if version.value == API_VERSION && OWN_KINDS.contains(&kind.value.as_str()) {
        return None;
    }
    if version.value.starts_with("meshward.dev/") && version.value != API_VERSION {
        let message = format!("`{}` is no version of Meshward's kinds", version.value);
        let mistake = document.error("unknown-version", message, &version.span);
        return Some(mistake.help(format!("write `apiVersion: {API_VERSION}`")));
    }
    if kind.value == "RequestAuthentication" {
        return Some(
            Diagnostic::warning(
                "request-authentication",
                "a RequestAuthentication is not rendered: tokens are validated by Envoy's own filter",
            )
            .at(&document.source, kind.span.clone())
            .help("put `envoy.filters.http.jwt_authn` in front of `meshward`; `request.auth.*` reads what it validated"),
        );
    }
    let mistake = document.error(
        "unknown-kind",
        format!("`{}` is no kind of `{}`", kind.value, version.value),
        &kind.span,
    );
    Some(match nearest(&kind.value, kinds.iter().copied()) {
        Some(near) => mistake.help(format!("did you mean `{near}`?")),
        None => mistake.help(format!("the kinds are `{}`", kinds.join("`, `"))),
    })
}

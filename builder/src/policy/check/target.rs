//! `selector`, `targetRef`, `targetRefs`: which workloads a policy says it is for.

use std::collections::BTreeMap;

use super::super::authorization::Target;
use super::super::model;
use crate::diagnostic::Diagnostic;
use crate::mesh::document::{Document, Spanned};

/// Longest label key, prefix and value that Istio lets pass: Kubernetes' own limits.
const LONGEST_VALUE: usize = 63;

/// At most so many, as in Istio.
const MOST_TARGETS: usize = 16;

pub(crate) fn target(
    document: &Document,
    spec: &model::AuthorizationSpec,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Target {
    let references: Vec<&Spanned<model::TargetRef>> =
        spec.target_refs.iter().flat_map(|list| &list.value).chain(&spec.target_ref).collect();
    let both = spec.selector.is_some().then(|| references.first()).flatten();
    let twice = spec.target_ref.as_ref().filter(|_| spec.target_refs.is_some());
    if let Some(reference) = both.copied().or(twice) {
        let message = "a policy has one of `selector`, `targetRef` and `targetRefs`";
        mistakes.push(document.error("two-targets", message, &reference.span).help("keep one of them"));
    }
    if let Some(list) = &spec.target_refs
        && (list.is_empty() || list.len() > MOST_TARGETS)
    {
        mistakes.push(
            document
                .error("target-refs", format!("`targetRefs` has 1 to {MOST_TARGETS} entries"), &list.span)
                .help("leave it out to select every workload of the namespace"),
        );
    }
    if references.is_empty() {
        return labels(document, spec.selector.as_ref(), mistakes);
    }
    let services =
        references.into_iter().filter(|reference| service(document, reference, namespace, mistakes));
    Target::Services(services.map(|reference| reference.name.clone()).collect())
}

/// A target that no sidecar is: a warning, which a Mesh makes an error of, since nobody else would enforce the policy.
pub const NO_SIDECAR: &str = "target-kind";

/// Whether it stands for workloads that have a sidecar; only a Service does.
fn service(
    document: &Document,
    reference: &model::TargetRef,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> bool {
    let group = reference.group.as_ref().map_or("", |group| group.value.as_str());
    let kind = &reference.kind;
    let mut is_service = true;
    match (group, kind.value.as_str()) {
        ("" | "core", "Service") => {}
        ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
        | ("networking.istio.io", "ServiceEntry") => {
            let message = format!("a {} has no sidecar that could enforce this", kind.value);
            mistakes.push(
                Diagnostic::warning(NO_SIDECAR, message)
                    .at(&document.source, kind.span.clone())
                    .help("select workloads by their labels (`selector.matchLabels`), or name a `Service`"),
            );
            is_service = false;
        }
        _ => {
            let message = format!("there is no kind `{}` in group `{group}` to be a target", kind.value);
            let span = reference.group.as_ref().map_or(&kind.span, |group| &group.span);
            mistakes.push(
                document.error("target-kind", message, span).help("write `kind: Service` and `group: \"\"`"),
            );
        }
    }
    if reference.name.is_empty() {
        mistakes.push(
            document
                .error("target-name", "the target has no name", &reference.name.span)
                .help("name a Service of the policy's namespace"),
        );
    }
    if let Some(other) = reference.namespace.as_ref().filter(|other| other.value != namespace) {
        mistakes.push(
            document
                .error("target-namespace", "a target is in the policy's own namespace", &other.span)
                .help("take `namespace` away, or put the policy into that namespace"),
        );
    }
    is_service
}

/// The labels of a selector, checked as Istio does.
pub(crate) fn labels(
    document: &Document,
    selector: Option<&Spanned<model::Selector>>,
    mistakes: &mut Vec<Diagnostic>,
) -> Target {
    let Some(selector) = selector else { return Target::Labels { labels: BTreeMap::new(), span: 0..0 } };
    for (key, value) in &selector.match_labels {
        let problem = if key.is_empty() {
            "a label has no name".to_owned()
        } else if key.contains('*') || value.contains('*') {
            "in a label `*` stands for nothing: labels are compared whole".to_owned()
        } else if !is_label(key.rsplit('/').next().unwrap_or(key)) || value.len() > LONGEST_VALUE {
            format!("`{key}: {}` is no label of Kubernetes", value.value)
        } else {
            continue;
        };
        mistakes.push(
            document
                .error("invalid-label", problem, &value.span)
                .help("write a label that the pods have, like `app: bookapi`"),
        );
    }
    Target::Labels {
        labels: selector.match_labels.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect(),
        span: selector.span.clone(),
    }
}

fn is_label(name: &str) -> bool {
    (1..=LONGEST_VALUE).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

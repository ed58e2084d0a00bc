//! Documents → checked policies, with every mistake at its place.
//!
//! Istio's own validation (`pkg/config/validation`), and stricter where Istio is silently surprising: a dry-run annotation
//! that does not parse (Istio enforces the policy), a `*` in the middle (Istio compares it literally), an empty list
//! (Istio takes it for a missing one).

use std::collections::BTreeMap;
use std::sync::Arc;

use meshward_engine::config::{self, DenyResponse, HeaderMode, Text};

use super::authorization::AuthorizationPolicy;
use super::model;
use super::peer::{self, PeerAuthentication};
use crate::diagnostic::{Diagnostic, Severity, Source, nearest};
use crate::mesh::document::{Document, Spanned};
use crate::mesh::read;

mod rule;
mod target;

pub(crate) use rule::Reader as RuleReader;
pub(crate) use target::{NO_SIDECAR, labels, target};

/// All policies of a mesh, checked.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// In the order of the files.
    pub authorization: Vec<AuthorizationPolicy>,
    pub peer: Vec<PeerAuthentication>,
}

const DRY_RUN: &str = "istio.io/dry-run";
const DENY_STATUS: &str = "meshward.dev/deny-status";
const DENY_CONTENT_TYPE: &str = "meshward.dev/deny-content-type";
const DENY_BODY: &str = "meshward.dev/deny-body";
const REPEATED_HEADERS: &str = "meshward.dev/repeated-headers";
/// The annotations that mean something to us.
const ANNOTATIONS: [&str; 5] = [DRY_RUN, DENY_STATUS, DENY_CONTENT_TYPE, DENY_BODY, REPEATED_HEADERS];

/// Reads the policies among the documents; other kinds are somebody else's. A policy without a namespace belongs to
/// `namespace`. Mistakes are appended; what comes back beside one is only good for finding more of them.
pub fn load(documents: &[Document], namespace: &str, mistakes: &mut Vec<Diagnostic>) -> Policies {
    let mut policies = Policies::default();
    for document in documents {
        match document.kind.value.as_str() {
            "AuthorizationPolicy" => {
                let before = mistakes.len();
                if let Some(written) = read::document(document, mistakes) {
                    let whole = mistakes.len() == before;
                    policies
                        .authorization
                        .extend(authorization(document, written, whole, namespace, mistakes));
                }
            }
            "PeerAuthentication" => {
                if let Some(written) = read::document(document, mistakes) {
                    policies.peer.extend(peer::check(document, written, namespace, mistakes));
                }
            }
            _ => {}
        }
    }
    let named = policies.authorization.iter().map(|one| (one.full_name(), &one.source, &one.name));
    unique("an AuthorizationPolicy", named, mistakes);
    let named = policies
        .peer
        .iter()
        .map(|one| (format!("{}/{}", one.namespace, one.name.value), &one.source, &one.name));
    unique("a PeerAuthentication", named, mistakes);
    policies
}

/// No two policies of a kind have one name.
pub(crate) fn unique<'a>(
    kind: &str,
    policies: impl Iterator<Item = (String, &'a Arc<Source>, &'a Spanned<String>)>,
    mistakes: &mut Vec<Diagnostic>,
) {
    let mut seen: BTreeMap<String, (&Arc<Source>, &Spanned<String>)> = BTreeMap::new();
    for (full_name, source, name) in policies {
        if let Some((first, place)) = seen.get(&full_name) {
            let (line, _) = first.position(place.span.start);
            let message = format!("there is already {kind} `{full_name}`");
            mistakes.push(
                Diagnostic::error("duplicate-policy", message)
                    .at(source, name.span.clone())
                    .help(format!("the first is at {}:{line}; give this one another name", first.name)),
            );
        } else {
            seen.insert(full_name, (source, name));
        }
    }
}

/// `whole`: nothing was set aside while reading. Where something was, what is missing may well be there.
fn authorization(
    document: &Document,
    written: model::AuthorizationPolicy,
    whole: bool,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<AuthorizationPolicy> {
    let before = mistakes.len();
    let spec = written.spec.unwrap_or_default();
    let namespace = identity(document, &written.metadata, namespace, mistakes);
    let action = action(document, &spec, mistakes);
    let annotations = Annotations { document, written: &written.metadata.annotations };
    annotations.check_names(mistakes);
    let dry_run = annotations.dry_run(action, mistakes);
    let deny_response = annotations.deny_response(action, mistakes);
    let headers = annotations.repeated_headers(mistakes);
    let target = target::target(document, &spec, &namespace, mistakes);
    let rules = spec.rules.unwrap_or_default();
    if whole && action == Some(config::Action::Deny) && rules.is_empty() {
        let span =
            spec.action.as_ref().map_or_else(|| document.kind.span.clone(), |action| action.span.clone());
        mistakes.push(
            document
                .error("no-rules", "a DENY policy without `rules` never denies anything", &span)
                .help("to deny everything write `rules: [{}]`"),
        );
    }
    let rules = rules
        .value
        .into_iter()
        .map(|written| {
            rule::Reader { document, whole, namespace: &namespace, headers, mistakes }.rule(written)
        })
        .collect();
    let action = action?;
    let good = |mistake: &Diagnostic| mistake.severity != Severity::Error;
    (whole && mistakes.iter().skip(before).all(good)).then(|| AuthorizationPolicy {
        source: Arc::clone(&document.source),
        name: written.metadata.name,
        namespace,
        target,
        action,
        dry_run,
        rules,
        deny_response,
    })
}

/// The namespace, after checking it and the name.
pub(crate) fn identity(
    document: &Document,
    metadata: &model::Metadata,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> String {
    if !is_name(&metadata.name, 253, true) {
        let message = format!("`{}` is no name for a policy", metadata.name.value);
        mistakes.push(
            document
                .error("invalid-name", message, &metadata.name.span)
                .help("a name is made of a-z, 0-9, `-` and `.`, starts and ends with a letter or digit, and has at most 253"),
        );
    }
    let Some(written) = &metadata.namespace else { return namespace.to_owned() };
    if !is_name(written, 63, false) {
        let message = format!("`{}` is no name for a namespace", written.value);
        mistakes.push(
            document
                .error("invalid-name", message, &written.span)
                .help("a namespace is made of a-z, 0-9 and `-`, starts and ends with a letter or digit, and has at most 63"),
        );
    }
    written.value.clone()
}

/// RFC 1123, as Kubernetes has it: a label, or labels with dots between them.
fn is_name(text: &str, longest: usize, dots: bool) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    text.len() <= longest && if dots { text.split('.').all(label) } else { label(text) }
}

fn action(
    document: &Document,
    spec: &model::AuthorizationSpec,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<config::Action> {
    let written = spec.action.as_ref();
    let action = match written.map(|action| action.value) {
        None | Some(model::Action::Allow) => Some(config::Action::Allow),
        Some(model::Action::Deny) => Some(config::Action::Deny),
        Some(model::Action::Audit) => Some(config::Action::Audit),
        Some(model::Action::Custom) => {
            let span = written.map_or_else(|| document.kind.span.clone(), |action| action.span.clone());
            mistakes.push(
                document
                    .error(
                        "custom-action",
                        "a CUSTOM policy asks an external service, which a filter without a control plane does not",
                        &span,
                    )
                    .help("put Envoy's own `envoy.filters.http.ext_authz` in front of `meshward` in the listener")
                    .help("or say the rules themselves, with `action: ALLOW` and `action: DENY`"),
            );
            return None;
        }
    };
    if let Some(provider) = &spec.provider {
        mistakes.push(
            document
                .error("provider-without-custom", "`provider` belongs to `action: CUSTOM`", &provider.span)
                .help("take it away"),
        );
    }
    action
}

/// The annotations of a policy of `crate::limits`: of ours only the reading of repeated headers means something there.
pub(crate) fn annotations_of_limits(
    document: &Document,
    metadata: &model::Metadata,
    mistakes: &mut Vec<Diagnostic>,
) -> HeaderMode {
    let annotations = Annotations { document, written: &metadata.annotations };
    for name in metadata.annotations.keys() {
        let ours = name.starts_with("meshward.dev/") || name.starts_with(DRY_RUN);
        if ours && name != REPEATED_HEADERS {
            let mistake =
                annotations.error(name, format!("`{name}` means nothing in a {}", document.kind.value));
            mistakes.push(match name.as_str() {
                DRY_RUN => {
                    mistake.help("to try a limit without enforcing it write `mode: shadow` in the limit")
                }
                _ => mistake.help("the one that does is `meshward.dev/repeated-headers`"),
            });
        }
    }
    annotations.repeated_headers(mistakes)
}

struct Annotations<'a> {
    document: &'a Document,
    written: &'a BTreeMap<String, Spanned<String>>,
}

impl Annotations<'_> {
    fn error(&self, name: &str, message: String) -> Diagnostic {
        let span = self.written.get(name).map_or(0..0, |value| value.span.clone());
        self.document.error("invalid-annotation", message, &span)
    }

    /// Ours must exist. Everybody else's are their own business.
    fn check_names(&self, mistakes: &mut Vec<Diagnostic>) {
        let ours = |name: &&String| name.starts_with("meshward.dev/") || name.starts_with(DRY_RUN);
        for name in self.written.keys().filter(ours) {
            if !ANNOTATIONS.contains(&name.as_str()) {
                let mistake = self.error(name, format!("there is no annotation `{name}`"));
                mistakes.push(match nearest(name, ANNOTATIONS) {
                    Some(near) => mistake.help(format!("did you mean `{near}`?")),
                    None => mistake.help(format!("those of a policy are `{}`", ANNOTATIONS.join("`, `"))),
                });
            }
        }
    }

    fn dry_run(&self, action: Option<config::Action>, mistakes: &mut Vec<Diagnostic>) -> bool {
        let Some(value) = self.written.get(DRY_RUN) else { return false };
        if action == Some(config::Action::Audit) {
            mistakes.push(
                self.error(DRY_RUN, "an AUDIT policy has no dry run: it never changes an answer".to_owned())
                    .help("take the annotation away"),
            );
        }
        // What Go's strconv.ParseBool takes, which is how Istio reads it.
        match value.value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => {
                mistakes.push(self.error(DRY_RUN, format!("`{other}` is neither `true` nor `false`")).help(
                    "Istio would log this and enforce the policy; write \"true\" to try it without enforcing",
                ));
                false
            }
        }
    }

    fn repeated_headers(&self, mistakes: &mut Vec<Diagnostic>) -> HeaderMode {
        match self.written.get(REPEATED_HEADERS).map(|value| value.value.as_str()) {
            None | Some("any") => HeaderMode::Any,
            Some("joined") => HeaderMode::Joined,
            Some("all") => HeaderMode::All,
            Some(other) => {
                let mistake =
                    self.error(REPEATED_HEADERS, format!("`{other}` is no way to read a repeated header"));
                mistakes.push(mistake.help(
                    "`any`: one value that matches is enough (Envoy's, and so Istio's); `all`: every value matches; `joined`: all values as one text with `,` between them",
                ));
                HeaderMode::Any
            }
        }
    }

    fn deny_response(
        &self,
        action: Option<config::Action>,
        mistakes: &mut Vec<Diagnostic>,
    ) -> Option<DenyResponse> {
        let text = |name: &str| self.written.get(name).map(|value| value.value.as_str());
        let first =
            [DENY_STATUS, DENY_CONTENT_TYPE, DENY_BODY].into_iter().find(|name| text(name).is_some())?;
        if action == Some(config::Action::Audit) {
            mistakes.push(
                self.error(first, "an AUDIT policy denies nothing, so it has no deny response".to_owned())
                    .help("take the annotation away"),
            );
        }
        let status = text(DENY_STATUS).map_or(Some(403), |status| {
            status.parse::<u16>().ok().filter(|status| (400..600).contains(status))
        });
        if status.is_none() {
            mistakes.push(
                self.error(DENY_STATUS, "the status of a denial is a number from 400 to 599".to_owned())
                    .help("403 is what clients expect; 404 hides that there is something"),
            );
        }
        let content_type = text(DENY_CONTENT_TYPE).unwrap_or("text/plain");
        if content_type.is_empty() || content_type.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) {
            mistakes.push(
                self.error(DENY_CONTENT_TYPE, "this is no content type".to_owned())
                    .help("for example `application/problem+json` (RFC 9457)"),
            );
        }
        let body = text(DENY_BODY).unwrap_or("RBAC: access denied");
        let json = content_type.split(';').next().unwrap_or(content_type).trim();
        if (json == "application/json" || json.ends_with("+json"))
            && let Err(error) = serde_json::from_str::<serde_json::Value>(body)
        {
            let place = if text(DENY_BODY).is_some() { DENY_BODY } else { DENY_CONTENT_TYPE };
            mistakes.push(
                self.error(
                    place,
                    format!("the body is not JSON, and its content type says that it is: {error}"),
                )
                .help(format!("set `{DENY_BODY}` to a JSON text, or another `{DENY_CONTENT_TYPE}`")),
            );
        }
        Some(DenyResponse { status: status?, content_type: Text::from(content_type), body: Text::from(body) })
    }
}

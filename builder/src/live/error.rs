//! What an API server refuses, told apart by what there is to do about it.

use super::kind::Kind;
use crate::diagnostic::Diagnostic;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// No right to do it. The server's words name user, verb and object.
    Forbidden(String),
    /// Somebody else owns fields of the apply: who, and which.
    Owned(Vec<(String, String)>),
    /// The object is another one than the one that was read.
    Stale,
    NotFound,
    /// The server finds the object wrong.
    Invalid(String),
    /// No answer: it is not known whether the request was carried out.
    NoAnswer(String),
    Other(String),
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status.code, &status.message, &details(&status)),
            kube::Error::Service(_) | kube::Error::HyperError(_) => Self::NoAnswer(chain(&error)),
            other => Self::Other(chain(&other)),
        }
    }
}

impl ApiError {
    fn from_status(code: u16, message: &str, details: &serde_json::Value) -> Self {
        let message = message.to_owned();
        match code {
            403 => Self::Forbidden(message),
            404 => Self::NotFound,
            409 => {
                let causes = details.get("causes").and_then(serde_json::Value::as_array);
                let owned: Vec<_> = causes.into_iter().flatten().filter_map(owner).collect();
                if owned.is_empty() { Self::Stale } else { Self::Owned(owned) }
            }
            400 | 413 | 422 => Self::Invalid(message),
            _ => Self::Other(format!("{message} (HTTP {code})")),
        }
    }

    /// In words, for where the object is named already.
    pub fn words(&self) -> String {
        match self {
            Self::Forbidden(said) | Self::Invalid(said) | Self::NoAnswer(said) | Self::Other(said) => {
                said.clone()
            }
            Self::NotFound => "it is not there".to_owned(),
            Self::Owned(_) | Self::Stale => "it was changed meanwhile".to_owned(),
        }
    }

    /// As a message about one object. `verbs`: what was tried.
    pub fn diagnostic(&self, kind: &Kind, namespace: Option<&str>, name: &str, verbs: &[&str]) -> Diagnostic {
        let object = label(kind, namespace, name);
        match self {
            Self::Forbidden(said) => {
                let role = if namespace.is_some() { "Role" } else { "ClusterRole" };
                let verbs: Vec<String> = verbs.iter().map(|verb| format!("\"{verb}\"")).collect();
                Diagnostic::error("forbidden", format!("the cluster does not allow it for {object}: {said}"))
                    .help(format!(
                        "what is missing, as a rule of a {role}: {{apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [{}]}}",
                        kind.group,
                        kind.plural,
                        verbs.join(", ")
                    ))
            }
            Self::Owned(fields) => {
                let who: Vec<String> =
                    fields.iter().map(|(manager, field)| format!("`{field}` belongs to {manager}")).collect();
                Diagnostic::error("owned-by-others", format!("{object} is not changed: {}", who.join("; ")))
                    .help("change it where that manager has it from (`meshward patch` and `meshward inject` take files, too)")
                    .help("or take these fields over with `--force-conflicts`; the manager may write them back one day")
            }
            Self::Stale => Diagnostic::error(
                "changed-meanwhile",
                format!("{object} was changed by somebody else since it was read, and is left as it is now"),
            )
            .help("run the same again: it starts from what is there now"),
            Self::NotFound => Diagnostic::error("not-found", format!("there is no {object}")),
            Self::Invalid(said) => {
                Diagnostic::error("refused", format!("the cluster refuses {object}: {said}"))
            }
            Self::NoAnswer(said) => Diagnostic::error(
                "no-answer",
                format!("the API server does not answer (for {object}): {said}"),
            ),
            Self::Other(said) => Diagnostic::error("cluster", format!("{object}: {said}")),
        }
    }
}

/// `ConfigMap shop/bookapi-envoy-config`; the plural where it is about all.
pub fn label(kind: &Kind, namespace: Option<&str>, name: &str) -> String {
    match (namespace, name) {
        (Some(namespace), "") => format!("{} of namespace `{namespace}`", kind.plural),
        (None, "") => format!("{} of all namespaces", kind.plural),
        (Some(namespace), name) => format!("{} {namespace}/{name}", kind.name),
        (None, name) => format!("{} {name}", kind.name),
    }
}

fn details(status: &kube::core::Status) -> serde_json::Value {
    serde_json::to_value(&status.details).unwrap_or_default()
}

/// `conflict with "kubectl-client-side-apply" using v1: .data.envoy.yaml` → who.
fn owner(cause: &serde_json::Value) -> Option<(String, String)> {
    let text = |key: &str| cause.get(key).and_then(serde_json::Value::as_str);
    if text("reason") != Some("FieldManagerConflict") {
        return None;
    }
    let message = text("message").unwrap_or_default();
    let manager = message.split('"').nth(1).unwrap_or(message);
    Some((format!("`{manager}`"), text("field").unwrap_or_default().trim_start_matches('.').to_owned()))
}

/// An error with all that lies behind it, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
        source = inner.source();
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::super::kind::CONFIG_MAP;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_conflict_of_owners_and_one_of_versions_are_told_apart() {
        let causes = json!({"causes": [{"reason": "FieldManagerConflict",
            "message": "conflict with \"kubectl-client-side-apply\" using v1", "field": ".data.envoy.yaml"}]});
        let owned = ApiError::from_status(409, "Apply failed with 1 conflict", &causes);
        assert_eq!(
            owned,
            ApiError::Owned(vec![("`kubectl-client-side-apply`".into(), "data.envoy.yaml".into())])
        );
        let stale = ApiError::from_status(409, "the object has been modified", &json!(null));
        assert_eq!(stale, ApiError::Stale);
    }

    #[test]
    fn who_may_not_is_told_which_right_is_missing() {
        let text = ApiError::Forbidden("configmaps \"a\" is forbidden".into())
            .diagnostic(&CONFIG_MAP, Some("shop"), "a", &["get", "patch"])
            .render(false);
        assert!(
            text.contains(r#"a Role: {apiGroups: [""], resources: ["configmaps"], verbs: ["get", "patch"]}"#),
            "{text}"
        );
    }
}

//! AuthorizationPolicy and PeerAuthentication as they are written: Istio's fields, every value with its place.
//!
//! A field that is not here is refused at its line, never ignored. What the values mean is checked in
//! `super::authorization` and `super::peer`. The doc comments are the descriptions in the JSON Schema.
//!
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::mesh::document::Spanned;

/// The `apiVersion`s of both kinds.
pub const API_VERSIONS: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];

/// A list of values: one that matches is enough.
pub type Values = Option<Spanned<Vec<Spanned<String>>>>;

/// Who may, or may not, do what with the workloads that are selected.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// `security.istio.io/v1` or `security.istio.io/v1beta1`.
    pub api_version: Spanned<String>,
    /// Always `AuthorizationPolicy`.
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Option<AuthorizationSpec>,
    /// Written by clusters; not read.
    #[serde(default)]
    pub status: Option<serde_json::Value>,
}

/// Kubernetes' ObjectMeta. What a cluster adds on its own (`kubectl get -o yaml`) is taken and not read.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Unique in its namespace.
    pub name: Spanned<String>,
    /// In the root namespace a policy applies to all namespaces.
    #[serde(default)]
    pub namespace: Option<Spanned<String>>,
    /// `istio.io/dry-run: "true"` evaluates and counts the policy without enforcing it.
    #[serde(default)]
    pub annotations: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub labels: Option<serde_json::Value>,
    #[serde(default)]
    pub creation_timestamp: Option<serde_json::Value>,
    #[serde(default)]
    pub finalizers: Option<serde_json::Value>,
    #[serde(default)]
    pub generation: Option<serde_json::Value>,
    #[serde(default)]
    pub managed_fields: Option<serde_json::Value>,
    #[serde(default)]
    pub owner_references: Option<serde_json::Value>,
    #[serde(default)]
    pub resource_version: Option<serde_json::Value>,
    #[serde(default)]
    pub self_link: Option<serde_json::Value>,
    #[serde(default)]
    pub uid: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationSpec {
    /// The workloads, by their labels. All of the namespace when not said.
    #[serde(default)]
    pub selector: Option<Spanned<Selector>>,
    /// The services, by their names.
    #[serde(default)]
    pub target_refs: Option<Spanned<Vec<Spanned<TargetRef>>>>,
    /// One of `targetRefs`, in Istio's older spelling.
    #[serde(default)]
    pub target_ref: Option<Spanned<TargetRef>>,
    /// ALLOW when not said.
    #[serde(default)]
    pub action: Option<Spanned<Action>>,
    /// Of CUSTOM, which Meshward does not have.
    #[serde(default)]
    pub provider: Option<Spanned<Provider>>,
    /// One rule that matches is enough. None at all: nothing matches. `[{}]`: everything does.
    #[serde(default)]
    pub rules: Option<Spanned<Vec<Spanned<Rule>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// All of them must be there, with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, Spanned<String>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetRef {
    /// Empty, or `core`, for a Service.
    #[serde(default)]
    pub group: Option<Spanned<String>>,
    pub kind: Spanned<String>,
    pub name: Spanned<String>,
    /// The policy's own, when said.
    #[serde(default)]
    pub namespace: Option<Spanned<String>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    #[serde(default)]
    pub name: Option<Spanned<String>>,
}

/// `(any of from) and (any of to) and (all of when)`; what is not said matches anything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default)]
    pub from: Option<Spanned<Vec<Spanned<From>>>>,
    #[serde(default)]
    pub to: Option<Spanned<Vec<Spanned<To>>>>,
    #[serde(default)]
    pub when: Option<Spanned<Vec<Spanned<Condition>>>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct From {
    #[serde(default)]
    pub source: Option<Spanned<Source>>,
}

/// Who: all fields that are said must match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// `trust.domain/ns/namespace/sa/account`, with `*` at one end; or `spiffe://` with `*` for whole segments.
    #[serde(default)]
    pub principals: Values,
    #[serde(default)]
    pub not_principals: Values,
    /// `iss/sub` of the validated token.
    #[serde(default)]
    pub request_principals: Values,
    #[serde(default)]
    pub not_request_principals: Values,
    #[serde(default)]
    pub namespaces: Values,
    #[serde(default)]
    pub not_namespaces: Values,
    /// `account`, or `namespace/account`.
    #[serde(default)]
    pub service_accounts: Values,
    #[serde(default)]
    pub not_service_accounts: Values,
    #[serde(default)]
    pub trust_domains: Values,
    #[serde(default)]
    pub not_trust_domains: Values,
    /// The direct peer's address, single or a block.
    #[serde(default)]
    pub ip_blocks: Values,
    #[serde(default)]
    pub not_ip_blocks: Values,
    /// The original client's address, from `x-forwarded-for` as far as it is trusted.
    #[serde(default)]
    pub remote_ip_blocks: Values,
    #[serde(default)]
    pub not_remote_ip_blocks: Values,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct To {
    #[serde(default)]
    pub operation: Option<Spanned<Operation>>,
}

/// What: all fields that are said must match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Operation {
    /// `:authority` with its port, if it has one; upper and lower case are the same.
    #[serde(default)]
    pub hosts: Values,
    #[serde(default)]
    pub not_hosts: Values,
    #[serde(default)]
    pub ports: Values,
    #[serde(default)]
    pub not_ports: Values,
    #[serde(default)]
    pub methods: Values,
    #[serde(default)]
    pub not_methods: Values,
    /// Without query. `*` at one end, or a template: `{*}` is one segment, `{**}` any number of them.
    #[serde(default)]
    pub paths: Values,
    #[serde(default)]
    pub not_paths: Values,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Condition {
    /// `request.headers[name]`, `source.ip`, `remote.ip`, `source.namespace`, `source.principal`, …
    pub key: Spanned<String>,
    #[serde(default)]
    pub values: Values,
    #[serde(default)]
    pub not_values: Values,
}

/// How workloads accept connections: with a certificate, or also without one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerAuthentication {
    /// `security.istio.io/v1` or `security.istio.io/v1beta1`.
    pub api_version: Spanned<String>,
    /// Always `PeerAuthentication`.
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Option<PeerSpec>,
    /// Written by clusters; not read.
    #[serde(default)]
    pub status: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerSpec {
    #[serde(default)]
    pub selector: Option<Spanned<Selector>>,
    #[serde(default)]
    pub mtls: Option<Spanned<Mtls>>,
    /// By the application's port; only with a selector.
    #[serde(default)]
    pub port_level_mtls: Option<Spanned<BTreeMap<String, Spanned<Mtls>>>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mtls {
    #[serde(default)]
    pub mode: Option<Spanned<Mode>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// As the wider policy says.
    Unset,
    /// Plain text only.
    Disable,
    /// Both: for moving in.
    Permissive,
    /// A certificate of the mesh is required.
    Strict,
}

//! RateLimitPolicy as it is written, every value with its place. The doc comments are the descriptions in the JSON
//! Schema.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::key::KeySpec;
use super::super::rules::{From, To, When};
use crate::mesh::document::Spanned;
use crate::policy::model::{Metadata, Selector, TargetRef};

/// How often, and how much at once, callers may ask the workloads that are selected.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitPolicy {
    /// `meshward.dev/v1alpha1`.
    pub api_version: Spanned<String>,
    /// Always `RateLimitPolicy`.
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    pub spec: RateLimitSpec,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// The workloads, by their labels. All of the namespace when not said.
    #[serde(default)]
    pub selector: Option<Spanned<Selector>>,
    /// The services, by their names.
    #[serde(default)]
    pub target_refs: Option<Spanned<Vec<Spanned<TargetRef>>>>,
    /// A request is refused if one of them refuses it, and then it costs nothing with the others.
    pub limits: Spanned<Vec<Spanned<LimitSpec>>>,
}

/// One limit: `rates`, `concurrency`, or both.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitSpec {
    /// Unique in the policy. State is kept under it: a limit that is changed under its name is no fresh burst.
    pub name: Spanned<String>,
    /// Which callers, as in an AuthorizationPolicy. All when not said.
    #[serde(default)]
    pub from: From,
    /// Which requests, as in an AuthorizationPolicy. All when not said.
    #[serde(default)]
    pub to: To,
    /// Under which conditions, as in an AuthorizationPolicy.
    #[serde(default)]
    pub when: When,
    /// What has a bucket of its own: `[identity]` is one for each caller. One for all requests when not said.
    #[serde(default)]
    pub key: Option<Spanned<Vec<Spanned<KeySpec>>>>,
    /// Every one of them must have room. On a TCP service they count connections.
    #[serde(default)]
    pub rates: Option<Spanned<Vec<Spanned<RateSpec>>>>,
    /// Most requests in flight at once; on a TCP service, most open connections.
    #[serde(default)]
    pub concurrency: Option<Spanned<u32>>,
    /// How many of a rate's requests one request counts for. 1 when not said.
    #[serde(default)]
    pub cost: Option<Spanned<u32>>,
    /// `afterAuthorization` when not said: what is denied costs its caller nothing.
    #[serde(default)]
    pub stage: Option<StageSpec>,
    /// `sidecar` when not said.
    #[serde(default)]
    pub scope: Option<Spanned<ScopeSpec>>,
    /// With `scope: global`: `local` when not said.
    #[serde(default)]
    pub on_failure: Option<Spanned<OnFailureSpec>>,
    /// `enforce` when not said.
    #[serde(default)]
    pub mode: Option<ModeSpec>,
    /// Other rates for some callers: the first whose `from` fits.
    #[serde(default)]
    pub overrides: Option<Spanned<Vec<Spanned<OverrideSpec>>>>,
    /// What a refused caller gets.
    #[serde(default)]
    pub response: Option<Spanned<ResponseSpec>>,
}

/// `requests` in every `per`, continuously, and up to `burst` at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateSpec {
    /// Never more than `burst` and this many for each `per` that has passed.
    pub requests: Spanned<u32>,
    /// A number and its unit: `1s`, `1m`, `1h`, `250ms`.
    pub per: Spanned<String>,
    /// At most so many at once. As many as `requests` when not said.
    #[serde(default)]
    pub burst: Option<Spanned<u32>>,
}

/// When a limit is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StageSpec {
    /// Before it, so that denied requests count too: against floods.
    BeforeAuthorization,
    /// After it.
    AfterAuthorization,
}

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ScopeSpec {
    /// Each sidecar has all of it, exact across its workers.
    Sidecar,
    /// The service's: each of its sidecars has its share, by the number of replicas.
    Service,
    /// That of all sidecars together: the Mesh's `rateLimitService` counts, in windows that end with the clock's. One rate, of
    /// `1s`, `1m`, `1h` or `24h`.
    Global,
}

/// What becomes of requests while the rate limit service does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailureSpec {
    /// Each sidecar counts them itself, against its share by the number of replicas.
    Local,
    /// They pass.
    FailOpen,
    /// They are refused, with 503.
    FailClosed,
}

/// Whether a limit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ModeSpec {
    Enforce,
    /// Counted, and never refused.
    Shadow,
}

/// Other rates for some callers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OverrideSpec {
    /// Which callers.
    #[serde(default)]
    pub from: From,
    /// Which requests.
    #[serde(default)]
    pub to: To,
    /// Under which conditions.
    #[serde(default)]
    pub when: When,
    /// As many as the limit has, in the same order.
    #[serde(default)]
    pub rates: Option<Spanned<Vec<Spanned<RateSpec>>>>,
    /// In place of `rates`: they are not limited.
    #[serde(default)]
    pub unlimited: Option<Spanned<bool>>,
}

/// The answer to a refused request, and what callers are shown.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResponseSpec {
    /// 400 to 599; 429 when not said.
    #[serde(default)]
    pub status: Option<Spanned<u16>>,
    /// `x-ratelimit-*`, `RateLimit` and `RateLimit-Policy`: on which answers. `refused` when not said.
    #[serde(default)]
    pub headers: Option<HeadersSpec>,
    /// A body of RFC 9457, `application/problem+json`.
    #[serde(default)]
    pub problem: Option<bool>,
}

/// On which answers the limit is shown. `retry-after` is on every refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HeadersSpec {
    Never,
    Refused,
    Always,
}

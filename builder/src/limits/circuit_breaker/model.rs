//! CircuitBreakerPolicy as it is written, every value with its place. The doc comments are the descriptions in the JSON
//! Schema.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::key::KeySpec;
use super::super::rate_limit::model::ModeSpec;
use super::super::rules::{From, To, When};
use crate::mesh::document::Spanned;
use crate::native::model::EnvoySpec;
use crate::policy::model::{Metadata, Selector, TargetRef};

/// When the sidecars of the selected workloads stop sending (or taking) requests that keep failing, and try again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CircuitBreakerPolicy {
    /// `meshward.dev/v1alpha1`.
    pub api_version: Spanned<String>,
    /// Always `CircuitBreakerPolicy`.
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    pub spec: CircuitBreakerSpec,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CircuitBreakerSpec {
    /// The workloads in whose sidecars this is done, by their labels. All of the namespace when not said.
    #[serde(default)]
    pub selector: Option<Spanned<Selector>>,
    /// The services, by their names.
    #[serde(default)]
    pub target_refs: Option<Spanned<Vec<Spanned<TargetRef>>>>,
    /// The first that fits a request is its breaker.
    #[serde(default)]
    pub breakers: Option<Spanned<Vec<Spanned<BreakerSpec>>>>,
    /// Each that fits a request must have room for it.
    #[serde(default)]
    pub concurrency: Option<Spanned<Vec<Spanned<ConcurrencySpec>>>>,
    /// Envoy's own: connection limits, ejection of hosts, retries, a timeout.
    #[serde(default)]
    pub envoy: Option<Spanned<EnvoySpec>>,
}

/// Whose requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SideSpec {
    /// Those that the workload sends.
    Outbound,
    /// Those that it gets.
    Inbound,
}

/// A breaker. Closed, it counts failures; open, it answers 503 at once; after its backoff it lets a probe through, and
/// closes when that succeeds. With none of `consecutiveFailures`, `failureRatio` and `slowCalls` said it opens after 7
/// failures in a row, or when more than 20 of 100 fail.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BreakerSpec {
    /// Unique in the policy. State is kept under it.
    pub name: Spanned<String>,
    /// `outbound` when not said.
    #[serde(default)]
    pub side: Option<SideSpec>,
    /// Outbound: only calls to these services.
    #[serde(default)]
    pub destinations: Option<Spanned<Vec<Spanned<String>>>>,
    /// Inbound: which callers, as in an AuthorizationPolicy.
    #[serde(default)]
    pub from: From,
    /// Which requests, as in an AuthorizationPolicy. All when not said.
    #[serde(default)]
    pub to: To,
    /// Under which conditions, as in an AuthorizationPolicy.
    #[serde(default)]
    pub when: When,
    /// What has a breaker of its own. `[destination]` when not said, inbound `[identity]`; `[]` is one for all.
    #[serde(default)]
    pub key: Option<Spanned<Vec<Spanned<KeySpec>>>>,
    /// Opens after so many failures in a row.
    #[serde(default)]
    pub consecutive_failures: Option<Spanned<u32>>,
    /// Opens when this part of the requests of the window failed: 0.5 is half of them.
    #[serde(default)]
    pub failure_ratio: Option<Spanned<f64>>,
    /// Opens on slow answers, whether they succeed or not.
    #[serde(default)]
    pub slow_calls: Option<Spanned<SlowCallsSpec>>,
    /// The sliding window of the ratios; 10s when not said.
    #[serde(default)]
    pub window: Option<Spanned<String>>,
    /// A ratio of fewer requests than this means nothing; 5 when not said.
    #[serde(default)]
    pub min_requests: Option<Spanned<u32>>,
    /// How long it stays open.
    #[serde(default)]
    pub backoff: Option<Spanned<BackoffSpec>>,
    /// Requests that are let through to try; it closes when all of them succeed. 1 when not said.
    #[serde(default)]
    pub probes: Option<Spanned<u32>>,
    /// A probe of which nothing is heard for so long is given up, and the next one let through; one whose answer has begun
    /// well and still goes on (a stream) has succeeded then. 30s when not said.
    #[serde(default)]
    pub probe_timeout: Option<Spanned<String>>,
    /// What is a failure, besides no answer at all.
    #[serde(default)]
    pub failures: Option<Spanned<FailuresSpec>>,
    /// A caller that gives up after waiting for longer than this has met a failure; before, it says nothing of the
    /// callee. The threshold of `slowCalls` when that is said, else 5s.
    #[serde(default)]
    pub patience: Option<Spanned<String>>,
    /// An answer's own `retry-after` that opens it keeps it open for at least so long.
    #[serde(default)]
    pub honour_retry_after: Option<bool>,
    /// The answer while it is open, in place of a bare 503.
    #[serde(default)]
    pub fallback: Option<Spanned<FallbackSpec>>,
    /// `enforce` when not said.
    #[serde(default)]
    pub mode: Option<ModeSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowCallsSpec {
    /// An answer whose headers take longer is slow.
    pub threshold: Spanned<String>,
    /// Opens when this part of the window was slow; 0.5 when not said.
    #[serde(default)]
    pub ratio: Option<Spanned<f64>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackoffSpec {
    /// The first time; doubled with every probe that fails. 1s when not said.
    #[serde(default)]
    pub min: Option<Spanned<String>>,
    /// Never longer; 60s when not said.
    #[serde(default)]
    pub max: Option<Spanned<String>>,
    /// At most this part is added at random, so that callers do not come back all at once; 0.5 when not said.
    #[serde(default)]
    pub jitter: Option<Spanned<f64>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailuresSpec {
    /// HTTP statuses, `503` or `500-599`; the latter when not said.
    #[serde(default)]
    pub statuses: Option<Spanned<Vec<Spanned<StatusRange>>>>,
    /// gRPC statuses by name; DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS when not said.
    #[serde(default)]
    pub grpc: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Statuses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange(pub u16, pub u16);

impl StatusRange {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.trim().parse::<u16>().ok().filter(|one| (400..600).contains(one));
        let (first, last) = (status(first)?, status(last)?);
        (first <= last).then_some(Self(first, last))
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl serde::de::Visitor<'_> for Either {
            type Value = StatusRange;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a status (503) or a range of them (\"500-599\"), from 400 to 599")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<StatusRange, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<StatusRange, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StatusRange, E> {
                StatusRange::parse(text)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for StatusRange {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRange".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "oneOf": [
                { "type": "integer", "minimum": 400, "maximum": 599 },
                { "type": "string", "pattern": "^[45][0-9][0-9](-[45][0-9][0-9])?$" }
            ]
        })
    }
}

/// A static answer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FallbackSpec {
    /// 200 to 599; 503 when not said.
    #[serde(default)]
    pub status: Option<Spanned<u16>>,
    /// `text/plain` when not said.
    #[serde(default)]
    pub content_type: Option<Spanned<String>>,
    #[serde(default)]
    pub body: Option<Spanned<String>>,
}

/// A bulkhead: so many requests in flight, and no queue. What does not fit is answered with 503 at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConcurrencySpec {
    /// Unique in the policy.
    pub name: Spanned<String>,
    /// `inbound` when not said.
    #[serde(default)]
    pub side: Option<SideSpec>,
    /// Outbound: only calls to these services.
    #[serde(default)]
    pub destinations: Option<Spanned<Vec<Spanned<String>>>>,
    /// Inbound: which callers, as in an AuthorizationPolicy.
    #[serde(default)]
    pub from: From,
    /// Which requests, as in an AuthorizationPolicy. All when not said.
    #[serde(default)]
    pub to: To,
    /// Under which conditions, as in an AuthorizationPolicy.
    #[serde(default)]
    pub when: When,
    /// What has a count of its own: `[identity]` is one for each caller. One for all when not said.
    #[serde(default)]
    pub key: Option<Spanned<Vec<Spanned<KeySpec>>>>,
    /// Most requests in flight at once.
    pub limit: Spanned<u32>,
    /// `enforce` when not said.
    #[serde(default)]
    pub mode: Option<ModeSpec>,
}

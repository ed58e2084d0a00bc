//! Envoy's own protections as they are written: the kind `DestinationRule`, and the part `envoy` of a
//! CircuitBreakerPolicy, which has the same words where Istio has some.
//!
//! A field that is not here is refused at its line. The doc comments are the descriptions in the JSON Schema.
//!
//! <https://istio.io/latest/docs/reference/config/networking/destination-rule/>

use schemars::JsonSchema;
use serde::Deserialize;

use super::period::Period;
use crate::mesh::document::Spanned;
use crate::policy::model::{Metadata, Selector};

/// The `apiVersion`s of a DestinationRule.
pub const API_VERSIONS: [&str; 3] =
    ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];

/// How the callers of one service share and protect it: `connectionPool` and `outlierDetection` of its traffic policy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DestinationRule {
    /// `networking.istio.io/v1`, `v1beta1` or `v1alpha3`.
    pub api_version: Spanned<String>,
    /// Always `DestinationRule`.
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    pub spec: DestinationRuleSpec,
    /// Written by clusters; not read.
    #[serde(default)]
    pub status: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// A service of the mesh: its name, or its name with namespace (`bookapi.shop`, `bookapi.shop.svc.cluster.local`).
    pub host: Spanned<String>,
    #[serde(default)]
    pub traffic_policy: Option<Spanned<TrafficPolicy>>,
    /// Only these callers. All when not said.
    #[serde(default)]
    pub workload_selector: Option<Spanned<Selector>>,
    /// `*` or `.`; anything else is a namespace whose callers alone are meant.
    #[serde(default)]
    pub export_to: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicy {
    #[serde(default)]
    pub connection_pool: Option<Spanned<ConnectionPool>>,
    #[serde(default)]
    pub outlier_detection: Option<Spanned<OutlierDetection>>,
}

/// What one sidecar may have open to the service at a time; beyond, it answers 503 at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionPool {
    #[serde(default)]
    pub tcp: Option<Spanned<TcpPool>>,
    #[serde(default)]
    pub http: Option<Spanned<HttpPool>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpPool {
    /// Connections; Envoy's 1024 when not said.
    #[serde(default)]
    pub max_connections: Option<Spanned<u32>>,
    /// 5s when not said.
    #[serde(default)]
    pub connect_timeout: Option<Spanned<Period>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpPool {
    /// Requests that wait for a connection; Envoy's 1024 when not said.
    #[serde(default)]
    pub http1_max_pending_requests: Option<Spanned<u32>>,
    /// Requests under way; Envoy's 1024 when not said.
    #[serde(default)]
    pub http2_max_requests: Option<Spanned<u32>>,
    /// A connection is closed after so many requests.
    #[serde(default)]
    pub max_requests_per_connection: Option<Spanned<u32>>,
    /// Retries under way; not beside a retry budget. Envoy's 3 when not said.
    #[serde(default)]
    pub max_retries: Option<Spanned<u32>>,
    /// A connection without requests is closed after this time; 300s when not said.
    #[serde(default)]
    pub idle_timeout: Option<Spanned<Period>>,
}

/// Takes a host that keeps failing out of the balancing for a while.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// 5xx in a row; 5 when not said, 0: never for that reason.
    #[serde(default, rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<Spanned<u32>>,
    /// 502, 503 and 504 in a row; only when said, 0: never for that reason. Below `consecutive5xxErrors`, or it does
    /// nothing.
    #[serde(default)]
    pub consecutive_gateway_errors: Option<Spanned<u32>>,
    /// With `splitExternalLocalOriginErrors`: connections that failed in a row. 5 when not said.
    #[serde(default)]
    pub consecutive_local_origin_failures: Option<Spanned<u32>>,
    /// Counts what the sidecar itself saw fail (connections, timeouts) apart from what the host answered.
    #[serde(default)]
    pub split_external_local_origin_errors: Option<Spanned<bool>>,
    /// How often hosts that have served their time are looked for; 10s when not said.
    #[serde(default)]
    pub interval: Option<Spanned<Period>>,
    /// How long a host is out, times the number of times that it was; 30s when not said.
    #[serde(default)]
    pub base_ejection_time: Option<Spanned<Period>>,
    /// At most so many of 100 hosts are out. When not said: 50, and always at least one host.
    #[serde(default)]
    pub max_ejection_percent: Option<Spanned<u32>>,
    /// With fewer of 100 hosts in, all are used, those that are out as well; 0 (never) when not said.
    #[serde(default)]
    pub min_health_percent: Option<Spanned<u32>>,
}

/// Envoy's own protections, in the clusters and routes of the selected workloads.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EnvoySpec {
    /// The services that are called; all that the workload calls when not said.
    #[serde(default)]
    pub destinations: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub connection_pool: Option<Spanned<ConnectionPool>>,
    #[serde(default)]
    pub outlier_detection: Option<Spanned<OutlierDetection>>,
    #[serde(default)]
    pub retries: Option<Spanned<Retries>>,
    /// The whole answer must be there after this time, or the caller gets 504. None when not said: streams may be long.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
}

/// Requests that are sent again. Without this, only those that the callee has certainly not seen, twice.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retries {
    /// How often a request is sent again, at most.
    pub attempts: Spanned<u32>,
    /// Envoy's names of reasons (`5xx`, `gateway-error`, `reset`, `connect-failure`, `unavailable`, …). Those that the callee
    /// has certainly not seen when not said.
    #[serde(default)]
    pub retry_on: Option<Spanned<Vec<Spanned<String>>>>,
    /// Time for each try.
    #[serde(default)]
    pub per_try_timeout: Option<Spanned<Period>>,
    /// How many retries there may be at a time, so that they do not finish off what is already ill.
    #[serde(default)]
    pub budget: Option<Spanned<RetryBudget>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of 100 requests under way so many may be retries; 20 when not said.
    #[serde(default)]
    pub percent: Option<Spanned<f64>>,
    /// So many may always be; 3 when not said.
    #[serde(default)]
    pub min_retries: Option<Spanned<u32>>,
}

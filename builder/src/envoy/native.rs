//! Envoy's own protections in Envoy's words: what a policy says of a call, in its cluster and its route.

use super::types::{
    CircuitBreakers, Cluster, CommonLbConfig, OutlierDetection, Percent, RetryBudget, RetryPolicy, Thresholds,
};
use crate::native::ForCall;
use crate::native::model;
use crate::native::period::Period;

/// Tried again only where the callee has certainly not seen the request.
const UNSEEN: &str = "connect-failure,refused-stream,reset-before-request";
/// How often.
const UNSEEN_TRIES: u32 = 2;

/// Istio's and Envoy's numbers where a policy says none.
mod defaults {
    pub const CONSECUTIVE_5XX: u32 = 5;
    pub const INTERVAL: &str = "10s";
    pub const BASE_EJECTION_TIME: &str = "30s";
    /// Envoy's own 10 ejects nothing at all with fewer than ten hosts.
    pub const MAX_EJECTION_PERCENT: u32 = 50;
    pub const RETRY_PERCENT: f64 = 20.0;
    pub const MIN_RETRIES: u32 = 3;
}

/// The parts of a cluster.
pub fn protect(cluster: &mut Cluster, call: ForCall<'_>) {
    cluster.circuit_breakers = thresholds(call).map(|one| CircuitBreakers { thresholds: vec![one] });
    if let Some(outlier) = call.outlier_detection {
        cluster.outlier_detection = Some(outlier_detection(outlier));
        // Below it Envoy uses all hosts, the ejected ones too: in a small mesh at the first ejection, with its own 50.
        let value = outlier.min_health_percent.as_ref().map_or(0.0, |percent| f64::from(percent.value));
        cluster.common_lb_config = Some(CommonLbConfig { healthy_panic_threshold: Percent { value } });
    }
    let tcp = call.connection_pool.and_then(|pool| pool.tcp.as_ref());
    if let Some(timeout) = tcp.and_then(|tcp| tcp.connect_timeout.as_ref()) {
        cluster.connect_timeout = timeout.value.to_envoy();
    }
}

fn thresholds(call: ForCall<'_>) -> Option<Thresholds> {
    let http = call.connection_pool.and_then(|pool| pool.http.as_ref());
    let tcp = call.connection_pool.and_then(|pool| pool.tcp.as_ref());
    let number = |written: Option<&crate::mesh::document::Spanned<u32>>| written.map(|number| number.value);
    let thresholds = Thresholds {
        max_connections: number(tcp.and_then(|tcp| tcp.max_connections.as_ref())),
        max_pending_requests: number(http.and_then(|http| http.http1_max_pending_requests.as_ref())),
        max_requests: number(http.and_then(|http| http.http2_max_requests.as_ref())),
        max_retries: number(http.and_then(|http| http.max_retries.as_ref())),
        retry_budget: call.retries.map(|retries| {
            let budget = retries.budget.as_ref();
            let percent = budget.and_then(|budget| budget.percent.as_ref());
            let least = number(budget.and_then(|budget| budget.min_retries.as_ref()));
            RetryBudget {
                budget_percent: Percent {
                    value: percent.map_or(defaults::RETRY_PERCENT, |percent| percent.value),
                },
                min_retry_concurrency: least.unwrap_or(defaults::MIN_RETRIES),
            }
        }),
        track_remaining: false,
    };
    (thresholds != Thresholds::default()).then_some(Thresholds { track_remaining: true, ..thresholds })
}

fn outlier_detection(written: &model::OutlierDetection) -> OutlierDetection {
    // 0 turns a reason off; Envoy has a percentage for that, and takes no 0 as the number.
    let reason = |number: u32| (number.max(1), if number == 0 { 0 } else { 100 });
    let errors =
        written.consecutive_5xx_errors.as_ref().map_or(defaults::CONSECUTIVE_5XX, |number| number.value);
    let gateway = written.consecutive_gateway_errors.as_ref().map_or(0, |number| number.value);
    let (consecutive_5xx, enforcing_consecutive_5xx) = reason(errors);
    let (consecutive_gateway_failure, enforcing_consecutive_gateway_failure) = reason(gateway);
    let split = written.split_external_local_origin_errors.as_ref().is_some_and(|split| split.value);
    let local = split.then(|| {
        let number = written.consecutive_local_origin_failures.as_ref();
        reason(number.map_or(defaults::CONSECUTIVE_5XX, |number| number.value))
    });
    let time = |period: Option<&crate::mesh::document::Spanned<Period>>, default: &str| {
        period.map_or_else(|| default.to_owned(), |period| period.value.to_envoy())
    };
    OutlierDetection {
        consecutive_5xx,
        enforcing_consecutive_5xx,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: local.map(|(number, _)| number),
        enforcing_consecutive_local_origin_failure: local.map(|(_, enforcing)| enforcing),
        // As Istio: only what was asked for ejects.
        enforcing_success_rate: 0,
        interval: time(written.interval.as_ref(), defaults::INTERVAL),
        base_ejection_time: time(written.base_ejection_time.as_ref(), defaults::BASE_EJECTION_TIME),
        max_ejection_percent: written
            .max_ejection_percent
            .as_ref()
            .map_or(defaults::MAX_EJECTION_PERCENT, |percent| percent.value),
        always_eject_one_host: written.max_ejection_percent.is_none(),
    }
}

/// Which requests of a route are sent again.
pub fn retry_policy(call: ForCall<'_>) -> RetryPolicy {
    let unseen = || UNSEEN.to_owned();
    let Some(retries) = call.retries else {
        return RetryPolicy { retry_on: unseen(), num_retries: UNSEEN_TRIES, per_try_timeout: None };
    };
    let reasons = retries
        .retry_on
        .as_ref()
        .map(|list| list.iter().map(|reason| reason.value.as_str()).collect::<Vec<_>>().join(","));
    RetryPolicy {
        retry_on: reasons.unwrap_or_else(unseen),
        num_retries: retries.attempts.value,
        per_try_timeout: retries.per_try_timeout.as_ref().map(|timeout| timeout.value.to_envoy()),
    }
}

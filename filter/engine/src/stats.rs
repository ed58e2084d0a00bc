//! Names of the filter's counters, and how Envoy makes labels of them again.
//!
//! A counter of proxy-wasm has a name and no labels. So labels are part of the name, `.key.value` each, and the
//! bootstrap's `stats_config.stats_tags` takes them out again ([`TAGS`]): in Prometheus
//! `meshward_decisions{verdict="deny",reason="deny_rule",policy="shop/readers",rule="0"}`.
//!
//! INVARIANT: values come from the configuration or from this crate, never from a caller; Envoy forgets no name.

use alloc::string::String;

/// Requests and connections decided. Labels: `verdict`, `reason`, and `policy` and `rule` where a rule decided.
pub const DECISIONS: &str = "meshward_decisions";
/// What dry-run policies would have decided. Labels: `verdict`, and `policy` and `rule` where a rule matched.
pub const SHADOW: &str = "meshward_shadow";
/// Requests that an AUDIT rule matched. Labels: `policy`, `rule`.
pub const AUDIT: &str = "meshward_audit";
/// Certificates that are no valid X509-SVID. Label: `error`.
pub const IDENTITY_ERRORS: &str = "meshward_identity_errors";
/// Configurations that the filter was given, once per VM. Label: `result` (`accepted`, `rejected`).
pub const CONFIGURATIONS: &str = "meshward_configurations";

/// Requests that a rate limit was asked about. Labels: `verdict` (`allow`, `deny`, `shadow_deny`), `policy`, which is
/// `namespace/policy/limit`.
pub const RATE_LIMITS: &str = "meshward_rate_limits";
/// Gauge: how much of its burst the caller that is nearest to a rate limit has used, in percent, by the worker that counted
/// last; of the last second with requests. Label: `policy`, as of [`RATE_LIMITS`].
pub const SATURATION: &str = "meshward_rate_limit_saturation";
/// Calls of the rate limit service, each for a lease. Label: `result` (`ok`, `over_limit`, `error`).
pub const RATE_LIMIT_CALLS: &str = "meshward_rate_limit_calls";
/// Requests that a concurrency limit was asked about. Labels as of [`RATE_LIMITS`].
pub const CONCURRENCY: &str = "meshward_concurrency";
/// Requests that an open breaker refused. Labels as of [`RATE_LIMITS`].
pub const BREAKERS: &str = "meshward_breakers";
/// Changes of a breaker's state. Labels: `result` (the new state), `reason`, `policy`, and `destination` where there is a
/// breaker for each.
pub const BREAKER_TRANSITIONS: &str = "meshward_breaker_transitions";
/// Gauge: when a breaker last changed so, in seconds since 1970. Labels as of [`BREAKER_TRANSITIONS`].
pub const BREAKER_CHANGED: &str = "meshward_breaker_changed_seconds";
/// Failures that no breaker heard of, because all places for its key were taken by others that had failed. Label: `policy`.
pub const BREAKER_UNTRACKED: &str = "meshward_breaker_untracked";
/// Gauge: breakers in that state now; those that are in neither are closed. Labels: `result` (`open`, `half_open`),
/// `policy`, `destination`.
pub const BREAKER_STATES: &str = "meshward_breaker_states";

/// One entry of `stats_config.stats_tags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The label.
    pub name: &'static str,
    /// Envoy's regular expression: group 1 is cut out of the name, group 2 is the value.
    pub regex: &'static str,
}

/// The labels of all names of this module.
pub const TAGS: [Tag; 7] = [
    Tag { name: "verdict", regex: r"^wasmcustom\.meshward_.*?(\.verdict\.([^.]+))" },
    Tag { name: "reason", regex: r"^wasmcustom\.meshward_.*?(\.reason\.([^.]+))" },
    Tag { name: "policy", regex: r"^wasmcustom\.meshward_.*?(\.policy\.([^.]+))" },
    Tag { name: "rule", regex: r"^wasmcustom\.meshward_.*?(\.rule\.([^.]+))" },
    Tag { name: "error", regex: r"^wasmcustom\.meshward_.*?(\.error\.([^.]+))" },
    Tag { name: "destination", regex: r"^wasmcustom\.meshward_.*?(\.destination\.([^.]+))" },
    Tag { name: "result", regex: r"^wasmcustom\.meshward_.*?(\.result\.([^.]+))" },
];

/// A counter's name with its labels, for example `meshward_decisions.verdict.allow.reason.default_allow`.
///
/// A dot in a value becomes `_`, which no Kubernetes name has.
#[must_use]
pub fn name(base: &str, labels: &[(&str, &str)]) -> String {
    let mut name = String::from(base);
    for (key, value) in labels {
        name.push('.');
        name.push_str(key);
        name.push('.');
        name.extend(value.chars().map(|letter| if letter == '.' { '_' } else { letter }));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_the_name_and_dots_of_values_do_not_end_them() {
        let labels = [("verdict", "deny"), ("policy", "shop/v1.readers"), ("rule", "0")];
        assert_eq!(name(DECISIONS, &labels), "meshward_decisions.verdict.deny.policy.shop/v1_readers.rule.0");
        assert_eq!(name(DECISIONS, &[]), "meshward_decisions");
    }
}

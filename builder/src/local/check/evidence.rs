//! What the callee's Envoy says about the last request: the filter's counters, and the access log.
//!
//! The counters say which rule decided, an allowance too (an access log tells only refusals); the log says what Envoy
//! itself objected to. Checks run one after another, so what changed is theirs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meshward_engine::stats;

use crate::local::client::{self, Request};

/// How long a line of the access log may be on its way: Envoy is started with a flush interval well below.
const LOG_DELAY: Duration = Duration::from_secs(2);

/// Where to look, and how things were before the request.
pub struct Witness {
    admin: SocketAddr,
    access_log: PathBuf,
    counters: BTreeMap<String, u64>,
    read: usize,
}

impl Witness {
    pub fn before(admin: SocketAddr, access_log: PathBuf) -> Self {
        let read = std::fs::read(&access_log).map_or(0, |bytes| bytes.len());
        Self { admin, access_log, counters: counters(admin), read }
    }

    /// The rule that decided (`allow default/bookapi/0`), else the reason (`deny default_deny`), else Envoy's own
    /// details; empty when the callee saw nothing, as after a failed handshake.
    pub fn decided(&self, logged: bool) -> String {
        let deadline = Instant::now() + LOG_DELAY;
        loop {
            if let Some(decided) = self.counted() {
                return decided;
            }
            if let Some(details) = self.logged() {
                return details;
            }
            if !logged || Instant::now() > deadline {
                return String::new();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn counted(&self) -> Option<String> {
        let now = counters(self.admin);
        let changed: Vec<&String> = now
            .iter()
            .filter(|(name, value)| self.counters.get(*name).unwrap_or(&0) < *value)
            .map(|(name, _)| name)
            .collect();
        // What a rule allowed a limit may have refused.
        let refused = |name: &&&String| !name.contains(stats::DECISIONS) && name.contains(".verdict.deny.");
        let name = changed.iter().find(refused);
        describe(name.or_else(|| changed.iter().find(|name| name.contains(stats::DECISIONS)))?)
    }

    fn logged(&self) -> Option<String> {
        let bytes = std::fs::read(&self.access_log).ok()?;
        let text = String::from_utf8_lossy(bytes.get(self.read..)?);
        let line =
            text.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())?;
        let details =
            line.get("details").and_then(|details| details.as_str()).filter(|details| !details.is_empty())?;
        Some(format!("Envoy: {details}"))
    }
}

/// The filter's counters of decisions and limits. None when the admin interface does not answer.
fn counters(admin: SocketAddr) -> BTreeMap<String, u64> {
    let answer = client::connect(admin).and_then(|mut socket| {
        let names = [stats::DECISIONS, stats::RATE_LIMITS, stats::CONCURRENCY, stats::BREAKERS].join("%7C");
        let path = format!("/stats?usedonly&filter=({names})%5C.");
        let request = Request { method: "GET", path: &path, host: "admin", headers: &[], body: b"" };
        client::exchange(&mut socket, &request)
    });
    let text = answer.map(|answer| answer.text()).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(": "));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

/// `wasmcustom.meshward_decisions.verdict.allow.reason.allow_rule.policy.default/bookapi.rule.0` → `allow default/bookapi/0`;
/// of a limit `deny default/bookapi/per-caller`.
fn describe(name: &str) -> Option<String> {
    let (_, labels) = name.split_once("meshward_")?;
    let mut parts = labels.split('.').skip(1);
    let mut values = BTreeMap::new();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        values.insert(key, value);
    }
    let verdict = values.get("verdict")?;
    match (values.get("policy"), values.get("rule")) {
        (Some(policy), Some(rule)) => Some(format!("{verdict} {policy}/{rule}")),
        (Some(limit), None) => Some(format!("{verdict} {limit}")),
        _ => Some(format!("{verdict} {}", values.get("reason").unwrap_or(&""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_names_the_rule_or_else_the_reason() {
        let rule =
            "wasmcustom.meshward_decisions.verdict.allow.reason.allow_rule.policy.default/bookapi.rule.0";
        assert_eq!(describe(rule).as_deref(), Some("allow default/bookapi/0"));
        let reason = "wasmcustom.meshward_decisions.verdict.deny.reason.default_deny";
        assert_eq!(describe(reason).as_deref(), Some("deny default_deny"));
        let limit = "wasmcustom.meshward_rate_limits.verdict.deny.policy.default/bookapi/whoami";
        assert_eq!(describe(limit).as_deref(), Some("deny default/bookapi/whoami"));
        assert_eq!(describe("wasmcustom.other"), None);
    }
}

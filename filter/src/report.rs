//! What a decision leaves behind: counters, a log line, the response code details. Never a word to the client about
//! which rule refused it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use meshward_engine::decision::{Decision, Reason, ShadowAllow};
use meshward_engine::policy::Policy;
use meshward_engine::request::Request;
use meshward_engine::stats;

use crate::host::{self, Level};
use crate::identity::Identity;
use crate::metrics::Kind;
use crate::root::Active;

/// Filter state that says what was decided (`wasm.meshward` to other filters and the access log).
pub const PROPERTY: &str = "meshward";
/// Its value on a request that may go on: what the guard behind this filter asks for.
pub const ALLOW: &[u8] = b"allow";
/// Body of a refusal: that of Envoy's RBAC filter, so that what looks for it finds it.
pub const BODY: &[u8] = b"RBAC: access denied";
/// Details of a refusal by a filter that has no configuration.
pub const UNCONFIGURED: &str = "meshward_denied[no_configuration]";

/// Denials that are logged per second and worker; the rest is counted.
const LINES_PER_SECOND: u32 = 10;
/// Bytes of a path, method or host that a log line shows.
const SHOWN: usize = 128;

/// Body of an answer without a custom one.
pub fn body(decision: &Decision) -> &'static [u8] {
    if matches!(decision.reason, Reason::Path(_)) { b"bad request path" } else { BODY }
}

/// `meshward_denied[<namespace>/<policy>/<rule>]` where a rule decided, else `meshward_denied[<reason>]`.
pub fn details(policy: &Policy, decision: &Decision) -> String {
    let mut details = String::from("meshward_denied[");
    match decision.rule {
        Some(rule) => {
            let _ = write!(details, "{}/{}", policy.name(rule), rule.rule);
        }
        None => details.push_str(decision.reason.as_str()),
    }
    details.push(']');
    details
}

/// Counts a decision, and what dry-run and AUDIT policies said about it.
pub fn count(active: &Active, decision: &Decision) {
    let policy = |rule| active.policy.name(rule);
    let metrics = &active.metrics;
    metrics.count_rule(Kind::decision(decision.reason), decision.rule, policy);
    if decision.audit.is_some() {
        metrics.count_rule(Kind::Audit, decision.audit, policy);
    }
    if decision.shadow.deny.is_some() {
        metrics.count_rule(Kind::Shadow(false), decision.shadow.deny, policy);
    }
    match decision.shadow.allow {
        Some(ShadowAllow::Matched(rule)) => metrics.count_rule(Kind::Shadow(true), Some(rule), policy),
        Some(ShadowAllow::Missed) => metrics.count_rule(Kind::Shadow(false), None, policy),
        None => {}
    }
}

/// Logs a denial, unless there were enough of them in this second.
pub fn log_denial(active: &Active, decision: &Decision, identity: &Identity, request: &Request) {
    if let Identity::Invalid(error) = identity {
        active.metrics.count(stats::IDENTITY_ERRORS, &[("error", error)]);
    }
    let Some(silent) = active.log_limit.admit(host::now().unwrap_or_default()) else { return };
    let mut line = String::from("denied ");
    for part in [request.method, request.authority, request.path].into_iter().flatten() {
        show(&mut line, part);
        line.push(' ');
    }
    // Writing into a String cannot fail.
    let _ = write!(line, "from {}: {}", identity.describe(), details(&active.policy, decision));
    match (decision.reason, identity) {
        (Reason::Path(fault), _) => {
            let _ = write!(line, ", {}", fault.as_str());
        }
        (Reason::InvalidIdentity, Identity::Invalid(error)) => {
            let _ = write!(line, ", {error}");
        }
        _ => {}
    }
    if silent > 0 {
        let _ = write!(line, " ({silent} denials before it were not logged)");
    }
    host::log(Level::Info, &line);
}

/// Text of a caller, short and without a byte that could fake a line of the log.
fn show(line: &mut String, text: &[u8]) {
    let _ = write!(line, "{}", text.get(..SHOWN).unwrap_or(text).escape_ascii());
    if text.len() > SHOWN {
        line.push('…');
    }
}

/// Bounds the log: a caller who is refused again and again must not fill it.
#[derive(Default)]
pub struct LogLimit {
    second: Cell<u64>,
    lines: Cell<u32>,
    silent: Cell<u64>,
}

impl LogLimit {
    /// Whether a line may be written at `now`, and how many were not since the last.
    fn admit(&self, now: Duration) -> Option<u64> {
        if now.as_secs() != self.second.get() {
            self.second.set(now.as_secs());
            self.lines.set(0);
        }
        if self.lines.get() >= LINES_PER_SECOND {
            self.silent.set(self.silent.get().saturating_add(1));
            return None;
        }
        self.lines.set(self.lines.get().saturating_add(1));
        Some(self.silent.replace(0))
    }
}

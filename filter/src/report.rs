//! What a decision leaves behind: counters, a log line, the response code details. Never a word to the client about
//! which rule refused it.

use alloc::string::String;
use core::cell::Cell;
use core::time::Duration;

use meshward_engine::decision::{Decision, Reason, ShadowAllow};
use meshward_engine::policy::Policy;
use meshward_engine::request::Request;
use meshward_engine::stats;
use meshward_engine::text::{push_hexadecimal, push_number};

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
/// Bytes of an explanation that a log line shows.
const EXPLAINED: usize = 512;

/// Body of an answer without a custom one.
pub fn body(decision: &Decision) -> &'static [u8] {
    if matches!(decision.reason, Reason::Path(_)) { b"bad request path" } else { BODY }
}

/// `meshward_denied[<namespace>/<policy>/<rule>]` where a rule decided, else `meshward_denied[<reason>]`.
pub fn details(policy: &Policy, decision: &Decision) -> String {
    let mut details = String::from("meshward_denied[");
    match decision.rule {
        Some(rule) => {
            details.push_str(policy.name(rule));
            details.push('/');
            push_number(&mut details, rule.rule.into());
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

/// Counts what is wrong with a certificate, and says whether a line about the denial may be logged now.
pub fn admit_line(active: &Active, identity: &Identity) -> Option<Line> {
    if let Identity::Invalid(fault) = identity {
        active.metrics.count(stats::IDENTITY_ERRORS, &[("error", fault.as_str())]);
    }
    active.log_limit.admit(host::now().unwrap_or_default())
}

/// Logs a denial, with the rule that came nearest. `shown` is what names the request to people: method, host and path,
/// where it has them.
///
/// Asks every rule, so it is for lines that are admitted only.
pub fn log_denial(
    line: Line,
    active: &Active,
    request: &Request,
    identity: &Identity,
    shown: &[Option<&[u8]>],
) {
    let explanation = active.policy.explain(request);
    let mut text = String::from("denied ");
    for part in shown.iter().flatten() {
        show(&mut text, part, SHOWN);
        text.push(' ');
    }
    for part in ["from ", identity.describe(), ": ", &details(&active.policy, &explanation.decision), " "] {
        text.push_str(part);
    }
    show(&mut text, explanation.summary.as_bytes(), EXPLAINED);
    if let Identity::Invalid(fault) = identity {
        text.push_str(", ");
        text.push_str(fault.as_str());
    }
    if line.silent > 0 {
        text.push_str(" (");
        push_number(&mut text, line.silent);
        text.push_str(" denials before it were not logged)");
    }
    host::log(Level::Info, &text);
}

/// Text that a caller has a part in, short and without a byte that could fake a line of the log.
fn show(line: &mut String, text: &[u8], length: usize) {
    for byte in text.iter().take(length) {
        match byte {
            b' '..=b'~' => line.push(char::from(*byte)),
            other => {
                line.push_str("\\x");
                push_hexadecimal(line, (*other).into(), 2);
            }
        }
    }
    if text.len() > length {
        line.push('…');
    }
}

/// Leave to write one line.
pub struct Line {
    /// Denials since the last line that had none.
    silent: u64,
}

/// Bounds the log: a caller who is refused again and again must not fill it.
#[derive(Default)]
pub struct LogLimit {
    second: Cell<u64>,
    lines: Cell<u32>,
    silent: Cell<u64>,
}

impl LogLimit {
    /// Leave to write a line at `now`, unless there were enough in this second.
    fn admit(&self, now: Duration) -> Option<Line> {
        if now.as_secs() != self.second.get() {
            self.second.set(now.as_secs());
            self.lines.set(0);
        }
        if self.lines.get() >= LINES_PER_SECOND {
            self.silent.set(self.silent.get().saturating_add(1));
            return None;
        }
        self.lines.set(self.lines.get().saturating_add(1));
        Some(Line { silent: self.silent.replace(0) })
    }
}

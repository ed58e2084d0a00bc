//! A decision → one line of JSON.

use std::io::{self, Write};

use meshward_engine::decision::{Decision, Reason, RuleRef, ShadowAllow};
use meshward_engine::policy::{NearestMiss, Policy};
use serde::Serialize;

/// The answer to one request.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    id: &'a serde_json::Value,
    /// `allow` or `deny`.
    decision: &'static str,
    /// What the client gets: 200 stands for whatever the application answers. On TCP, 403 stands for a closed connection.
    status: u16,
    /// `namespace/name` of the policy that decided.
    policy: Option<&'a str>,
    /// The rule of it, from 0.
    rule: Option<u32>,
    /// A stable word, see [`Reason::as_str`]; of a path that is refused with the fault, `path:escaped_slash`; where no
    /// ALLOW rule matches, the one that came nearest follows behind `: `.
    reason: &'a str,
    /// What dry-run policies would have said.
    shadow: Vec<Shadow<'a>>,
    /// The AUDIT rule that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Rule<'a>>,
}

#[derive(Debug, Serialize)]
struct Shadow<'a> {
    /// What it would have answered; `deny` without a policy: no ALLOW policy in dry run matches.
    decision: &'static str,
    policy: Option<&'a str>,
    rule: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Rule<'a> {
    policy: &'a str,
    rule: u32,
}

#[derive(Debug, Serialize)]
struct Unreadable<'a> {
    id: &'a serde_json::Value,
    error: &'a str,
}

/// Writes the answer and a line feed.
pub fn write(
    out: &mut impl Write,
    id: &serde_json::Value,
    policy: &Policy,
    decision: &Decision,
    nearest: Option<&NearestMiss>,
) -> io::Result<()> {
    let text;
    let reason = match (decision.reason, nearest) {
        (Reason::Path(fault), _) => {
            text = format!("path:{}", fault.as_str());
            text.as_str()
        }
        (reason, Some(nearest)) => {
            text = format!("{}: {}", reason.as_str(), policy.in_words(nearest));
            text.as_str()
        }
        (reason, None) => reason.as_str(),
    };
    let name = |rule: RuleRef| Rule { policy: policy.name(rule), rule: rule.rule };
    let shadow = |decision, rule: Option<RuleRef>| Shadow {
        decision,
        policy: rule.map(|rule| policy.name(rule)),
        rule: rule.map(|rule| rule.rule),
    };
    let answer = Answer {
        id,
        decision: if decision.is_allowed() { "allow" } else { "deny" },
        status: policy.deny_response(decision).map_or_else(|| decision.status(), |response| response.status),
        policy: decision.rule.map(|rule| policy.name(rule)),
        rule: decision.rule.map(|rule| rule.rule),
        reason,
        shadow: [
            decision.shadow.deny.map(|rule| shadow("deny", Some(rule))),
            decision.shadow.allow.map(|allow| match allow {
                ShadowAllow::Matched(rule) => shadow("allow", Some(rule)),
                ShadowAllow::Missed => shadow("deny", None),
            }),
        ]
        .into_iter()
        .flatten()
        .collect(),
        audit: decision.audit.map(name),
    };
    line(out, &answer)
}

/// Writes that a line could not be read.
pub fn write_error(out: &mut impl Write, id: &serde_json::Value, error: &str) -> io::Result<()> {
    line(out, &Unreadable { id, error })
}

fn line(out: &mut impl Write, answer: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")
}

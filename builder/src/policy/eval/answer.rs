//! A decision → one line of JSON.

use std::io::{self, Write};

use meshward_engine::decision::{self, Decision, Reason, RuleRef, ShadowAllow};
use meshward_engine::limits::config::{Breaker, RateLimit};
use meshward_engine::limits::headers::{Header, retry_after};
use meshward_engine::limits::{Limits, RateVerdict};
use meshward_engine::policy::{NearestMiss, Policy};
use meshward_engine::rate_limit::Wait;
use serde::{Serialize, Serializer};

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
    /// The limit of it that refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    /// A stable word, see [`Reason::as_str`], or `rate_limited` or `circuit_breaker_open`; of a path that is refused with the fault, `path:escaped_slash`; where no
    /// ALLOW rule matches, the one that came nearest follows behind `: `.
    reason: &'a str,
    /// What dry-run policies and limits in shadow mode would have said.
    shadow: Vec<Shadow<'a>>,
    /// Seconds after which the request would pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// What the client is told of rate limits.
    #[serde(skip_serializing_if = "<[Header]>::is_empty", serialize_with = "as_map")]
    headers: &'a [Header],
    /// Limits of requests in flight that it would have to enter: a list of requests does not say when they end, so that is not
    /// decided here.
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    undecided: &'a [&'a str],
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
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
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

/// What rate limits said of a request.
#[derive(Debug, Default)]
pub struct Limited<'a> {
    pub refused: Option<&'a RateLimit>,
    /// Names of limits in shadow mode that would have refused.
    pub shadow: Vec<&'a str>,
    /// Names of limits that are not decided here.
    pub undecided: Vec<&'a str>,
    retry_after: Option<u64>,
    headers: Vec<Header>,
}

impl<'a> Limited<'a> {
    pub fn new(limits: &'a Limits, verdict: &RateVerdict) -> Self {
        let limit = |number: usize| limits.config().rates.get(number);
        Self {
            refused: verdict.refused.and_then(limit),
            shadow: verdict.shadow.iter().filter_map(|number| Some(&*limit(*number)?.name)).collect(),
            undecided: Vec::new(),
            retry_after: verdict.refused.map(|_| retry_after(verdict)),
            headers: limits.headers(verdict),
        }
    }
}

/// `namespace/policy` and the name of the limit.
fn parts(name: &str) -> (Option<&str>, Option<&str>) {
    name.rsplit_once('/').map_or((Some(name), None), |(policy, limit)| (Some(policy), Some(limit)))
}

fn as_map<S: Serializer>(headers: &&[Header], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

/// Writes that a rate limit refuses, and a line feed.
pub fn write_limited(
    out: &mut impl Write,
    id: &serde_json::Value,
    shadow: &decision::Shadow,
    policy: &Policy,
    limited: &Limited<'_>,
) -> io::Result<()> {
    let (name, limit) = limited.refused.map_or((None, None), |limit| parts(&limit.name));
    let answer = Answer {
        id,
        decision: "deny",
        status: limited.refused.map_or(429, |limit| limit.answer.status),
        policy: name,
        rule: None,
        limit,
        reason: "rate_limited",
        shadow: shadows(policy, shadow, limited),
        retry_after: limited.retry_after,
        headers: &limited.headers,
        undecided: &[],
        audit: None,
    };
    line(out, &answer)
}

fn shadows<'a>(policy: &'a Policy, shadow: &decision::Shadow, limited: &Limited<'a>) -> Vec<Shadow<'a>> {
    let of_rule = |decision, rule: Option<RuleRef>| Shadow {
        decision,
        policy: rule.map(|rule| policy.name(rule)),
        rule: rule.map(|rule| rule.rule),
        limit: None,
    };
    let of_policies = [
        shadow.deny.map(|rule| of_rule("deny", Some(rule))),
        shadow.allow.map(|allow| match allow {
            ShadowAllow::Matched(rule) => of_rule("allow", Some(rule)),
            ShadowAllow::Missed => of_rule("deny", None),
        }),
    ];
    let of_limits = limited.shadow.iter().map(|name| {
        let (policy, limit) = parts(name);
        Shadow { decision: "deny", policy, rule: None, limit }
    });
    of_policies.into_iter().flatten().chain(of_limits).collect()
}

/// Writes that a breaker refuses, and a line feed.
pub fn write_open(
    out: &mut impl Write,
    id: &serde_json::Value,
    decision: &Decision,
    policy: &Policy,
    limited: &Limited<'_>,
    (breaker, wait): (&Breaker, Wait),
) -> io::Result<()> {
    let (name, limit) = parts(&breaker.name);
    let answer = Answer {
        id,
        decision: "deny",
        status: breaker.fallback.as_ref().map_or(503, |fallback| fallback.status),
        policy: name,
        rule: None,
        limit,
        reason: "circuit_breaker_open",
        shadow: shadows(policy, &decision.shadow, limited),
        retry_after: Some(wait.seconds().max(1)),
        headers: &[],
        undecided: &[],
        audit: None,
    };
    line(out, &answer)
}

/// Writes the answer and a line feed.
pub fn write(
    out: &mut impl Write,
    id: &serde_json::Value,
    policy: &Policy,
    decision: &Decision,
    nearest: Option<&NearestMiss>,
    limited: &Limited<'_>,
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
    let answer = Answer {
        id,
        decision: if decision.is_allowed() { "allow" } else { "deny" },
        status: policy.deny_response(decision).map_or_else(|| decision.status(), |response| response.status),
        policy: decision.rule.map(|rule| policy.name(rule)),
        rule: decision.rule.map(|rule| rule.rule),
        limit: None,
        reason,
        shadow: shadows(policy, &decision.shadow, limited),
        retry_after: None,
        headers: &limited.headers,
        undecided: &limited.undecided,
        audit: decision.audit.map(name),
    };
    line(out, &answer)
}

/// Writes that a line could not be read.
pub fn write_error(out: &mut impl Write, id: &serde_json::Value, error: &str) -> io::Result<()> {
    line(out, &Unreadable { id, error })
}

/// Writes one object, and a line feed.
pub fn line(out: &mut impl Write, answer: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")
}

//! What callers are told about a rate limit: `retry-after`, `x-ratelimit-*` as Envoy has them, and the IETF's fields
//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
//!
//! Deliberately absent: the names of policies. Callers see the names of windows only.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Asked, Limits, RateVerdict, longest_wait};
use crate::limits::config::{HeaderMode, Window};
use crate::text::{decimal, push_number};

/// A header, its name in lower case.
pub type Header = (&'static str, String);

/// One quota, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota<'a> {
    /// Name of the window.
    pub name: &'a str,
    /// Most at once.
    pub limit: u32,
    /// Requests in a window of so many seconds; `None` if that is unknown.
    pub window: Option<(u64, u64)>,
    /// What is left.
    pub remaining: u32,
    /// Seconds until there is more, rounded up.
    pub reset: u64,
}

impl Limits {
    /// The headers of an answer, admitted or refused.
    #[must_use]
    pub fn headers<'a>(&'a self, verdict: &RateVerdict) -> Vec<Header> {
        let refused = verdict.refused.is_some();
        let mut headers = Vec::new();
        if refused {
            headers.push(("x-envoy-ratelimited", "true".into()));
            headers.push(("retry-after", decimal(retry_after(verdict))));
        }
        let mode = |asked: &Asked| {
            self.config.rates.get(asked.limit).map_or(HeaderMode::Never, |l| l.answer.headers)
        };
        let least = if refused { HeaderMode::Refused } else { HeaderMode::Always };
        let shown = verdict.asked.iter().filter(|asked| mode(asked) >= least);
        let quotas: Vec<_> =
            shown.filter_map(|asked| Some(quota(self.window(asked)?, asked, refused))).collect();
        // As Envoy's local rate limit: 0 as long as something is left.
        let at_once = |quota: &Quota<'a>| Quota {
            reset: if quota.remaining > 0 { 0 } else { quota.reset },
            ..quota.clone()
        };
        x_ratelimit(&quotas.iter().map(at_once).collect::<Vec<_>>(), &mut headers);
        ratelimit(&quotas, &mut headers);
        headers
    }

    /// The body of RFC 9457, if the refusing limit has one: the problem type that the draft registers.
    #[must_use]
    pub fn problem(&self, verdict: &RateVerdict) -> Option<String> {
        let limit = self.config.rates.get(verdict.refused?)?;
        if !limit.answer.problem {
            return None;
        }
        let mut body = String::from(
            "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
             \"title\":\"Request cannot be satisfied as assigned quota has been exceeded\",\"status\":",
        );
        push_number(&mut body, u64::from(limit.answer.status));
        text(&mut body, ",\"violated-policies\":[");
        let violated = verdict.asked.iter().filter(|asked| asked.level.wait.nanoseconds() > 0);
        for (number, window) in violated.filter_map(|asked| self.window(asked)).enumerate() {
            let separator = if number > 0 { ",\"" } else { "\"" };
            text(&mut body, separator);
            text(&mut body, &window.name);
            text(&mut body, "\"");
        }
        text(&mut body, "]}");
        Some(body)
    }
}

/// Appends; a function of its own, since in place it is ten times as much code.
#[inline(never)]
fn text(out: &mut String, part: &str) {
    out.push_str(part);
}

/// Seconds after which the request would pass: at least 1, and not too few.
#[must_use]
pub fn retry_after(verdict: &RateVerdict) -> u64 {
    longest_wait(&verdict.asked).seconds().max(1)
}

fn quota<'a>(window: &'a Window, asked: &Asked, refused: bool) -> Quota<'a> {
    /// Windows are told in whole seconds.
    const SECOND: u64 = 1_000_000_000;
    let seconds = window.period.div_ceil(SECOND).max(1);
    // In milliseconds, so that the product fits; a window shorter than one is told by its requests.
    let period = (window.period / 1_000_000).max(1);
    let requests = u64::from(window.requests).saturating_mul(seconds * 1000) / period;
    // A refusal's `t` is not before what `retry-after` says of the same window (section "Retry-After" of the draft).
    let waits = asked.level.wait.nanoseconds() > 0;
    let reset = if refused && waits { asked.level.wait.seconds().max(1) } else { asked.level.next.seconds() };
    Quota {
        name: &window.name,
        limit: asked.burst,
        window: Some(((requests / u64::from(asked.sidecars)).max(1), seconds)),
        remaining: asked.level.remaining,
        reset,
    }
}

/// `x-ratelimit-limit`, `-remaining`, `-reset`, as Envoy writes them: of the quota with the least left, and behind the
/// limit all whose window is known.
pub fn x_ratelimit(quotas: &[Quota<'_>], headers: &mut Vec<Header>) {
    let known = quotas.iter().filter(|quota| quota.limit > 0);
    let Some(tightest) = known.clone().min_by_key(|quota| (quota.remaining, u64::MAX - quota.reset)) else {
        return;
    };
    let mut limit = decimal(tightest.limit.into());
    for quota in known {
        let Some((requests, seconds)) = quota.window else { continue };
        text(&mut limit, ", ");
        push_number(&mut limit, requests);
        limit.push_str(";w=");
        push_number(&mut limit, seconds);
        if !quota.name.is_empty() {
            limit.push_str(";name=\"");
            text(&mut limit, quota.name);
            text(&mut limit, "\"");
        }
    }
    headers.push(("x-ratelimit-limit", limit));
    headers.push(("x-ratelimit-remaining", decimal(tightest.remaining.into())));
    headers.push(("x-ratelimit-reset", decimal(tightest.reset)));
}

/// `RateLimit-Policy` and `RateLimit`, an item for each quota.
pub fn ratelimit(quotas: &[Quota<'_>], headers: &mut Vec<Header>) {
    if quotas.is_empty() {
        return;
    }
    let (mut policy, mut limit) = (String::new(), String::new());
    for quota in quotas {
        for field in [&mut policy, &mut limit] {
            if !field.is_empty() {
                text(field, ", ");
            }
            text(field, "\"");
            text(field, quota.name);
            text(field, "\"");
        }
        if let Some((requests, seconds)) = quota.window {
            policy.push_str(";q=");
            push_number(&mut policy, requests);
            policy.push_str(";w=");
            push_number(&mut policy, seconds);
        }
        limit.push_str(";r=");
        push_number(&mut limit, u64::from(quota.remaining));
        limit.push_str(";t=");
        push_number(&mut limit, quota.reset);
    }
    headers.push(("ratelimit-policy", policy));
    headers.push(("ratelimit", limit));
}

//! One call through a circuit breaker: let pass or answered here, and its outcome reported once, when it is known.
//!
//! An outcome is known at the response's headers when they say failure; else at the end of the stream, since an
//! answer can still break off. A stream that ends without headers failed, unless the caller left before the callee had
//! the time that the policy gives it. What a filter or an Envoy of the mesh refuses is no outcome: a request that this
//! filter answers has no call, and a 429 or 503 that says it is of Envoy's making is not counted.
//! When the shared words cannot be had, requests pass: a breaker protects the callee's time, not its secrets.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;

use meshward_engine::circuit_breaker::{
    self, Cause, Heard, Key, Outcome, Permit, Report, State, Ticket, Transition,
};
use meshward_engine::limits::config::{Breaker, KeyPart};
use meshward_engine::limits::{Subject, outcome};
use meshward_engine::rate_limit::Wait;
use meshward_engine::stats;
use meshward_engine::text::decimal;

use crate::gauges;
use crate::host::{self, Level};
use crate::limits::{Fate, Guards, Refusal, Refused, state_name};
use crate::root::Active;
use crate::shared::Host;

/// A request that has passed a breaker.
pub struct Call {
    number: usize,
    key: Key,
    ticket: Ticket,
    started: u64,
    /// What the response's headers said.
    status: Option<u16>,
    slow: bool,
}

impl Call {
    /// Asks the breaker of a request, if it has one.
    pub fn start(guards: &Guards, subject: &Subject<'_>) -> Result<Option<Self>, Refused> {
        let Some((number, breaker, key)) = guards.limits.breaker(guards.seed, subject) else {
            return Ok(None);
        };
        let Ok(started) = host::monotonic() else { return Ok(None) };
        let Ok((permit, transition)) = circuit_breaker::ask(&Host, started, key, &breaker.settings) else {
            return Ok(None);
        };
        if let Some(transition) = transition {
            announce(guards, number, breaker, key, transition);
        }
        match permit {
            Permit::Pass(ticket) => {
                let call = Self { number, key, ticket, started, status: None, slow: false };
                Ok(Some(call))
            }
            Permit::Refuse(_) if breaker.shadow => {
                guards.count_breaker(number, &breaker.name, Fate::Shadowed);
                Ok(None)
            }
            Permit::Refuse(wait) => {
                guards.count_breaker(number, &breaker.name, Fate::Refused);
                guards.log("circuit breaker open: ", &breaker.name, number, subject);
                let fallback = breaker.fallback.as_ref();
                Err(Box::new(Refusal {
                    status: fallback.map_or(503, |fallback| fallback.status),
                    grpc_status: None,
                    details: ["meshward_breaker_open[", &breaker.name, "]"].concat(),
                    body: fallback.map_or_else(
                        || b"circuit breaker open".to_vec(),
                        |fallback| fallback.body.as_bytes().to_vec(),
                    ),
                    headers: vec![
                        ("x-envoy-overloaded", "true".into()),
                        ("retry-after", decimal(wait.seconds().max(1))),
                    ],
                    content_type: fallback.map(|fallback| fallback.content_type.as_ref().to_owned()),
                }))
            }
        }
    }

    /// The response's headers have come. Returns the call unless its outcome is known and reported.
    pub fn on_headers(mut self, active: &Rc<Active>, end_of_stream: bool) -> Option<Self> {
        self.status = number(host::response_header(":status")).and_then(|status| u16::try_from(status).ok());
        let breaker = active.guards.limits.config().breakers.get(self.number)?;
        let waited = host::monotonic().map_or(0, |now| now.saturating_sub(self.started));
        self.slow = breaker.slow_call > 0 && waited > breaker.slow_call;
        let grpc =
            if breaker.failures.grpc == 0 { None } else { number(host::response_header("grpc-status")) };
        let ends = outcome(&breaker.failures, self.status.unwrap_or(0), grpc);
        if ends == Outcome::Success && !end_of_stream && !(self.ticket.is_probe() && self.is_endless()) {
            let is_slow = self.slow && breaker.settings.slow_permille > 0;
            if self.ticket.is_probe() && !is_slow {
                self.report(active, Outcome::Begun, None);
                self.ticket = self.ticket.begun();
            }
            return Some(self);
        }
        if matches!(self.status, Some(429 | 503)) && is_of_the_mesh() {
            // Says nothing about the callee; but a probe that was refused has not succeeded.
            if self.ticket.is_probe() {
                self.report(active, Outcome::Throttled, None);
            }
            return None;
        }
        let retry_after = match ends {
            Outcome::Success => None,
            _ if !breaker.honour_retry_after => None,
            _ => number(host::response_header("retry-after")),
        };
        self.report(active, ends, retry_after);
        None
    }

    /// Whether the answer may go on for as long as it likes, so that a probe had better be judged by its headers.
    fn is_endless(&self) -> bool {
        let kind = host::response_header("content-type").ok().flatten();
        self.status == Some(101) || kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"))
    }

    /// The stream has ended.
    pub fn on_end(self, active: &Rc<Active>) {
        /// Envoy's details of a response that broke off.
        const BROKEN_OFF: &[u8] = b"upstream_reset_after_response_started";
        /// The caller's side of the stream ended first.
        const CALLER_LEFT: [&[u8]; 2] = [b"downstream_remote_disconnect", b"http2.remote_reset"];
        let details = host::property("response\0code_details").ok().flatten();
        let details = details.as_deref().unwrap_or_default();
        let Some(breaker) = active.guards.limits.config().breakers.get(self.number) else { return };
        if let Some(status) = self.status {
            if details.starts_with(BROKEN_OFF) {
                return self.report(active, Outcome::Failure, None);
            }
            // gRPC says how it went in the trailers. Not Envoy's `response.grpc_status`: it makes one up for an answer that
            // has none, and a 400 would be INTERNAL.
            let grpc =
                if breaker.failures.grpc == 0 { None } else { number(host::response_trailer("grpc-status")) };
            return self.report(active, outcome(&breaker.failures, status, grpc), None);
        }
        let caller_left = CALLER_LEFT.iter().any(|left| details.starts_with(left));
        let patience = breaker.slow_call;
        let waited = host::monotonic().map_or(0, |now| now.saturating_sub(self.started));
        if caller_left && (patience == 0 || waited <= patience) {
            // Says nothing about the callee. If it was a probe, the breaker gives it up in time.
            return;
        }
        self.report(active, Outcome::Failure, None);
    }

    #[inline(never)]
    fn report(&self, active: &Rc<Active>, ends: Outcome, retry_after: Option<u32>) {
        let guards = &active.guards;
        let Some(breaker) = guards.limits.config().breakers.get(self.number) else { return };
        let Ok(now) = host::monotonic() else { return };
        let retry_after = Wait::new(u64::from(retry_after.unwrap_or(0)) * 1_000_000_000);
        // Jitter: only a failure can open it, and needs a random number.
        let random = if matches!(ends, Outcome::Success | Outcome::Begun) {
            0
        } else {
            host::random().map_or(0, |[number, _]| number as u32)
        };
        let report = Report { outcome: ends, slow: self.slow, retry_after, random };
        match circuit_breaker::report(&Host, now, self.key, &breaker.settings, self.ticket, report) {
            Ok(Heard::Changed(transition)) => announce(guards, self.number, breaker, self.key, transition),
            Ok(Heard::Untracked) => {
                active.metrics.count(stats::BREAKER_UNTRACKED, &[("policy", &breaker.name)])
            }
            Ok(Heard::Noted) | Err(_) => {}
        }
    }
}

/// Counts and logs a change of state. Exactly one worker sees it.
#[inline(never)]
fn announce(guards: &Guards, number: usize, breaker: &Breaker, key: Key, transition: Transition) {
    let name = &*breaker.name;
    let cause = match transition.cause {
        Cause::ConsecutiveFailures => "consecutive_failures",
        Cause::FailureRatio => "failure_ratio",
        Cause::SlowRatio => "slow_ratio",
        Cause::Elapsed => "elapsed",
        Cause::ProbeFailed => "probe_failed",
        Cause::ProbesSucceeded => "probes_succeeded",
    };
    let state = state_name(transition.to);
    // A cluster's name is the configuration's; a caller is not for a label, which stays for ever, but for the log.
    let destination = subject_of(breaker, &KeyPart::Destination, "xds\0cluster_name");
    let caller = subject_of(breaker, &KeyPart::Identity, "connection\0uri_san_peer_certificate");
    let named = |base: &str, labels: &[(&str, &str)]| {
        let mut labels = labels.to_vec();
        labels.push(("policy", name));
        labels.extend(destination.as_deref().map(|destination| ("destination", destination)));
        stats::name(base, &labels)
    };
    let labels = [("result", state), ("reason", cause)];
    if let Ok(counter) = host::define_counter(&named(stats::BREAKER_TRANSITIONS, &labels)) {
        host::increment(counter);
    }
    if let (Ok(gauge), Ok(now)) = (host::define_gauge(&named(stats::BREAKER_CHANGED, &labels)), host::now()) {
        host::record(gauge, now.as_secs());
    }
    let base = guards.limits.breaker_bases().get(number).copied().unwrap_or_default();
    let of_state = |state| named(stats::BREAKER_STATES, &[("result", state_name(state))]);
    gauges::changed(guards.role, base, key.label(), &of_state);
    let mut line = ["circuit breaker ", name].concat();
    for (word, who) in [(" to ", &destination), (" of ", &caller)] {
        if let Some(who) = who {
            line.push_str(word);
            line.push_str(who);
        }
    }
    if transition.to == State::Open {
        let milliseconds = decimal(transition.open_for.nanoseconds() / 1_000_000);
        line.push_str(&[": open for ", &milliseconds, " ms, ", cause].concat());
    } else {
        line.push_str(&[": ", state, ", ", cause].concat());
    }
    host::log(Level::Info, &line);
}

/// What the request at hand has for a part of the breaker's key; `None` when its key has no such part.
#[inline(never)]
fn subject_of(breaker: &Breaker, part: &KeyPart, property: &str) -> Option<String> {
    let value = breaker.key.contains(part).then(|| host::property(property).ok().flatten())??;
    core::str::from_utf8(&value).ok().map(ToOwned::to_owned)
}

/// A refusal by Envoy (too many requests to the cluster) or by the callee's filter: both say so.
fn is_of_the_mesh() -> bool {
    let says = |name| host::response_header(name).is_ok_and(|value| value.is_some());
    says("x-envoy-overloaded") || says("x-envoy-ratelimited")
}

/// A header that is a number.
fn number(header: Result<Option<host::HostBytes>, host::HostError>) -> Option<u32> {
    core::str::from_utf8(&header.ok()??).ok()?.parse().ok()
}

//! Circuit breakers, replayed: lines say when a request comes and how it ends, and the breakers of the workload's sidecar go
//! through their states as they would.
//!
//! An outcome is heard when its latency has passed, so that of lines in the order of their times every breaker sees what
//! the filter would see. There is no jitter: the same lines give the same transitions. Deliberately absent: the state
//! machine, which is the engine's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};

use meshward_engine::circuit_breaker::{
    self, Cause, Heard, Key, Outcome, Permit, Report, State, Ticket, Transition,
};
use meshward_engine::limits::config::Breaker;
use meshward_engine::limits::{Limits, Seed, Subject, outcome};
use meshward_engine::rate_limit::{Nanoseconds, Wait};
use meshward_engine::shared_words::Memory;

use super::answer;
use super::request::Ends;

/// The breakers' state, and the outcomes that are not known yet.
#[derive(Debug, Default)]
pub struct Replay {
    words: Memory,
    /// By the time at which they are known, and the order of the lines.
    pending: RefCell<BTreeMap<(Nanoseconds, u64), Pending>>,
    /// Of the next outcome.
    order: Cell<u64>,
    /// Time of the last line with an outcome.
    last: Cell<Nanoseconds>,
}

#[derive(Debug)]
struct Pending {
    id: serde_json::Value,
    breaker: usize,
    destination: Option<String>,
    key: Key,
    ticket: Ticket,
    report: Report,
}

/// What a breaker says of a request.
#[derive(Debug)]
pub enum Said<'a> {
    Pass,
    Refuse(&'a Breaker, Wait),
    /// It would, in shadow mode.
    Shadow(&'a Breaker),
}

/// A change of state, as it is written.
#[derive(Debug, serde::Serialize)]
pub struct Change<'a> {
    /// The request that it came with.
    id: &'a serde_json::Value,
    /// `namespace/policy/breaker`.
    breaker: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    state: &'static str,
    reason: &'static str,
    /// Since the beginning.
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_for: Option<String>,
}

impl Replay {
    /// Whether a line with an outcome can be replayed: a breaker's past cannot be changed any more.
    pub fn check(&self, time: Option<Nanoseconds>) -> Result<(), String> {
        let Some(time) = time else { return Err("an `outcome` needs a `time`".to_owned()) };
        if time < self.last.replace(time.max(self.last.get())) {
            return Err(
                "its `time` is before that of an earlier line: outcomes come in the order of their times"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Hears the outcomes that are known by then, and writes what they change.
    pub fn hear(&self, limits: &Limits, now: Nanoseconds, out: &mut impl Write) -> io::Result<()> {
        loop {
            let Some(((time, _), pending)) = self.take_until(now) else { return Ok(()) };
            let Some(breaker) = limits.config().breakers.get(pending.breaker) else { continue };
            let heard = circuit_breaker::report(
                &self.words,
                time,
                pending.key,
                &breaker.settings,
                pending.ticket,
                pending.report,
            );
            // Words in memory are never out of reach.
            if let Ok(Heard::Changed(transition)) = heard {
                write(out, &pending.id, breaker, pending.destination.as_deref(), time, transition)?;
            }
        }
    }

    fn take_until(&self, now: Nanoseconds) -> Option<((Nanoseconds, u64), Pending)> {
        let mut pending = self.pending.borrow_mut();
        let first = pending.first_entry()?;
        (first.key().0 <= now).then(|| first.remove_entry())
    }

    /// Asks the breaker of a request that will end as `ends` says.
    pub fn ask<'a>(
        &self,
        limits: &'a Limits,
        (id, seed, now): (&serde_json::Value, Seed, Nanoseconds),
        subject: &Subject<'_>,
        ends: &Ends,
        out: &mut impl Write,
    ) -> io::Result<Said<'a>> {
        let Some((number, breaker, key)) = limits.breaker(seed, subject) else { return Ok(Said::Pass) };
        let destination = subject.destination.map(|name| String::from_utf8_lossy(name).into_owned());
        let Ok((permit, transition)) = circuit_breaker::ask(&self.words, now, key, &breaker.settings) else {
            return Ok(Said::Pass);
        };
        if let Some(transition) = transition {
            write(out, id, breaker, destination.as_deref(), now, transition)?;
        }
        let ticket = match permit {
            Permit::Refuse(_) if breaker.shadow => return Ok(Said::Shadow(breaker)),
            Permit::Refuse(wait) => return Ok(Said::Refuse(breaker, wait)),
            Permit::Pass(ticket) => ticket,
        };
        let latency = ends.latency.map_or(0, |latency| latency.0);
        let outcome = match ends.status {
            Some(status) => outcome(&breaker.failures, status, ends.grpc),
            None => Outcome::Failure,
        };
        let asked = ends.retry_after.filter(|_| breaker.honour_retry_after).map_or(0, |wait| wait.0);
        let report = Report {
            outcome,
            slow: breaker.slow_call > 0 && latency > breaker.slow_call,
            retry_after: Wait::new(asked),
            random: 0,
        };
        let order = self.order.get();
        self.order.set(order + 1);
        let id = id.clone();
        let one = Pending { id, breaker: number, destination, key, ticket, report };
        self.pending.borrow_mut().insert((now.saturating_add(latency), order), one);
        Ok(Said::Pass)
    }
}

fn write(
    out: &mut impl Write,
    id: &serde_json::Value,
    breaker: &Breaker,
    destination: Option<&str>,
    now: Nanoseconds,
    transition: Transition,
) -> io::Result<()> {
    let seconds = |nanoseconds: Nanoseconds| format!("{}s", nanoseconds as f64 / 1e9);
    let change = Change {
        id,
        breaker: &breaker.name,
        destination,
        state: match transition.to {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        },
        reason: match transition.cause {
            Cause::ConsecutiveFailures => "consecutive_failures",
            Cause::FailureRatio => "failure_ratio",
            Cause::SlowRatio => "slow_ratio",
            Cause::Elapsed => "elapsed",
            Cause::ProbeFailed => "probe_failed",
            Cause::ProbesSucceeded => "probes_succeeded",
        },
        time: seconds(now),
        open_for: (transition.to == State::Open).then(|| seconds(transition.open_for.nanoseconds())),
    };
    answer::line(out, &change)
}

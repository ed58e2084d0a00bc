//! A circuit breaker whose whole state is one shared word: Closed, Open, HalfOpen, the same for all workers.
//!
//! *Closed* lets requests pass and counts their outcomes; *Open* refuses until its time has come; *HalfOpen* lets a
//! set number of probes pass, and nothing else. Every change of state starts a new *generation*; a request carries
//! the generation that let it pass, and an outcome of another generation is not heard: an answer that comes when the
//! breaker has moved on says nothing about now. A probe that is never heard of again (its stream died with its
//! worker's VM) is given up after [`Settings::probe_timeout`]; one whose answer has begun well by then, and goes on (a
//! long stream), has succeeded.
//!
//! Deliberately absent: what counts as a failure (the caller classifies), the clock and the random number (arguments).

use crate::rate_limit::{Nanoseconds, Wait};
use crate::shared_words::{Region, SharedWords, Slot, Unavailable, Write, update};

mod word;

use word::{BUCKETS, Entry, Kind};

/// What a breaker does, from its policy. All times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Opens after so many failures in a row; 0: never for that reason.
    pub consecutive_failures: u32,
    /// Opens when at least so many of 1000 outcomes in the window failed; 0: never for that reason.
    pub failure_permille: u16,
    /// Opens when at least so many of 1000 outcomes in the window were slow; 0: never for that reason.
    pub slow_permille: u16,
    /// Length of the window, which moves in tenths. At least 10.
    pub window: Nanoseconds,
    /// Outcomes that the window must hold before a ratio means something.
    pub min_requests: u32,
    /// First time that it stays open; doubled with every probe that fails.
    pub backoff: Nanoseconds,
    /// The doubling ends here.
    pub max_backoff: Nanoseconds,
    /// At most so many thousandths are added to the time that it stays open, at random.
    pub jitter_permille: u16,
    /// Probes that pass in HalfOpen; it closes when all have succeeded. At least 1.
    pub probes: u8,
    /// A probe without an outcome is given up after this time.
    pub probe_timeout: Nanoseconds,
}

impl Settings {
    /// What can be the matter with them, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        if self.probes == 0
            || self.window < BUCKETS as u64
            || self.backoff == 0
            || self.max_backoff < self.backoff
        {
            return Some("a breaker needs a probe, a window, and a backoff that is at most the longest");
        }
        if self.failure_permille > 1000 || self.slow_permille > 1000 {
            return Some("a ratio is at most 1000 of 1000");
        }
        (self.consecutive_failures == 0 && self.failure_permille == 0 && self.slow_permille == 0)
            .then_some("nothing would ever open this breaker")
    }

    /// The longest time that it can stay open at a time.
    fn longest(&self) -> Nanoseconds {
        self.max_backoff.saturating_add(thousandths(self.max_backoff, self.jitter_permille.into()))
    }
}

/// Which breaker, as a hash with a seed that callers do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: Slot,
    print: u64,
    label: u32,
}

impl Key {
    /// From a hash of all that makes this breaker another one: its policy, route, caller.
    #[must_use]
    pub fn new(hash: u64) -> Self {
        Self { slot: Slot::of(Region::Breaker, hash >> 48), print: hash.max(1), label: 0 }
    }

    /// With what [`census`] knows it by: many breakers (of all callers, say) may have one label. 24 bits of it count.
    #[must_use]
    pub fn labelled(self, label: u32) -> Self {
        Self { label: label & word::LABEL, ..self }
    }

    /// The label.
    #[must_use]
    pub fn label(self) -> u32 {
        self.label
    }
}

/// The three states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// Requests are refused.
    Open,
    /// Probes pass, everything else is refused.
    HalfOpen,
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a part of the window failed.
    FailureRatio,
    /// Too large a part of the window was slow.
    SlowRatio,
    /// It was open long enough.
    Elapsed,
    /// A probe failed.
    ProbeFailed,
    /// All probes succeeded, or have begun to for so long.
    ProbesSucceeded,
}

/// A change of state, to be counted and logged by the worker that made it: exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it is now.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// If it opened: for how long.
    pub open_for: Wait,
}

/// Carried by a request that passed, until its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    generation: u32,
    probe: bool,
    begun: bool,
}

impl Ticket {
    const fn new(generation: u32, probe: bool) -> Self {
        Self { generation, probe, begun: false }
    }

    /// After [`Outcome::Begun`] was reported with it.
    #[must_use]
    pub fn begun(self) -> Self {
        Self { begun: true, ..self }
    }

    /// Whether it is a probe: its outcome decides.
    #[must_use]
    pub fn is_probe(self) -> bool {
        self.probe
    }
}

/// May a request pass?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Yes; its outcome is to be reported with the ticket.
    Pass(Ticket),
    /// No; so long until the next probe.
    Refuse(Wait),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered as it should be.
    Success,
    /// It has not ended: its answer has begun as it should, and goes on. Of a probe that is remembered, in case it goes on
    /// for longer than [`Settings::probe_timeout`]; its end is to be reported with [`Ticket::begun`].
    Begun,
    /// 5xx, a reset, a timeout, no connection, as configured.
    Failure,
    /// The callee has too much to do (429, RESOURCE_EXHAUSTED): counts in the ratio and fails a probe, and says
    /// nothing about failures in a row.
    Throttled,
}

/// An outcome with what else matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// It took longer than the policy's threshold.
    pub slow: bool,
    /// The callee asked to be left alone for so long (`retry-after`); zero: it did not, or it is not to be heard.
    pub retry_after: Wait,
    /// Any number, for the jitter.
    pub random: u32,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was counted, or says nothing about now.
    Noted,
    /// It changed the state.
    Changed(Transition),
    /// It is not kept: all places where it could be are taken by breakers with something to remember. A breaker that is
    /// not kept stays closed; it must not share another's place, or one caller's failures would be another's.
    Untracked,
}

/// Asks for one request.
pub fn ask(
    words: &dyn SharedWords,
    now: Nanoseconds,
    key: Key,
    settings: &Settings,
) -> Result<(Permit, Option<Transition>), Unavailable> {
    update(words, key.slot, |word| {
        let Some((index, mut entry)) = word::find(word, key.print) else {
            // Never heard of: closed, and nothing is written before there is something to remember.
            return ((Permit::Pass(Ticket::new(0, false)), None), Write::Keep);
        };
        let before = entry;
        let answer = entry.ask(now, settings);
        if entry == before {
            return (answer, Write::Keep);
        }
        entry.label = key.label;
        entry.quiet_at = entry.until.max(now).saturating_add(settings.longest());
        word::put(word, index, &entry);
        (answer, Write::Replace)
    })
}

/// Reports how a request ended that was let pass with `ticket`.
pub fn report(
    words: &dyn SharedWords,
    now: Nanoseconds,
    key: Key,
    settings: &Settings,
    ticket: Ticket,
    report: Report,
) -> Result<Heard, Unavailable> {
    update(words, key.slot, |word| {
        let failing = report.slow || !matches!(report.outcome, Outcome::Success | Outcome::Begun);
        let place = word::find(word, key.print).or_else(|| word::place(word, key.print, now, failing));
        let Some((index, mut entry)) = place else {
            // That somebody succeeds need not be kept.
            return (if failing { Heard::Untracked } else { Heard::Noted }, Write::Keep);
        };
        let before = entry;
        let transition = entry.hear(now, settings, ticket, report);
        if entry == before {
            return (Heard::Noted, Write::Keep);
        }
        entry.label = key.label;
        let rest = if entry.kind == Kind::Closed { settings.window } else { settings.longest() };
        entry.quiet_at = entry.until.max(now).saturating_add(rest);
        word::put(word, index, &entry);
        (transition.map_or(Heard::Noted, Heard::Changed), Write::Replace)
    })
}

/// Tells of every breaker that is not closed its label and state. One that nobody has asked for so long that its place may
/// be another's counts as closed.
pub fn census(words: &dyn SharedWords, now: Nanoseconds, mut tell: impl FnMut(u32, State)) {
    for slot in Slot::all(Region::Breaker) {
        let Some((word, _)) = words.load(slot) else { continue };
        word::not_closed(&word, now, &mut tell);
    }
}

/// The state now, without asking for a request: what `status` and gauges show.
pub fn state(words: &dyn SharedWords, key: Key) -> State {
    words.load(key.slot).and_then(|(word, _)| word::find(&word, key.print)).map_or(
        State::Closed,
        |(_, entry)| match entry.kind {
            Kind::Closed => State::Closed,
            Kind::Open => State::Open,
            Kind::HalfOpen => State::HalfOpen,
        },
    )
}

impl Entry {
    fn ask(&mut self, now: Nanoseconds, settings: &Settings) -> (Permit, Option<Transition>) {
        match self.kind {
            Kind::Closed => (Permit::Pass(Ticket::new(self.generation, false)), None),
            Kind::Open => {
                // A clock that went back must not keep it open for longer than it ever stays open.
                self.until = self.until.min(now.saturating_add(settings.longest()));
                if now < self.until {
                    return (Permit::Refuse(Wait::new(self.until - now)), None);
                }
                let transition =
                    Transition { to: State::HalfOpen, cause: Cause::Elapsed, open_for: Wait::new(0) };
                (self.first_probe(now, settings), Some(transition))
            }
            Kind::HalfOpen => {
                self.until = self.until.min(now.saturating_add(settings.probe_timeout));
                if self.issued < settings.probes {
                    self.issued += 1;
                    self.until = now.saturating_add(settings.probe_timeout);
                    return (Permit::Pass(Ticket::new(self.generation, true)), None);
                }
                if now < self.until {
                    // A probe is out; it usually answers soon.
                    let wait = (self.until - now).min(1_000_000_000);
                    return (Permit::Refuse(Wait::new(wait)), None);
                }
                if u32::from(self.good) + u32::from(self.begun) >= u32::from(settings.probes) {
                    let transition = self.close();
                    return (Permit::Pass(Ticket::new(self.generation, false)), Some(transition));
                }
                (self.first_probe(now, settings), None)
            }
        }
    }

    fn first_probe(&mut self, now: Nanoseconds, settings: &Settings) -> Permit {
        self.kind = Kind::HalfOpen;
        self.generation = self.generation.wrapping_add(1);
        (self.issued, self.good, self.begun) = (1, 0, 0);
        self.until = now.saturating_add(settings.probe_timeout);
        Permit::Pass(Ticket::new(self.generation, true))
    }

    #[inline(never)]
    fn close(&mut self) -> Transition {
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::new(self.print) };
        Transition { to: State::Closed, cause: Cause::ProbesSucceeded, open_for: Wait::new(0) }
    }

    fn hear(
        &mut self,
        now: Nanoseconds,
        settings: &Settings,
        ticket: Ticket,
        report: Report,
    ) -> Option<Transition> {
        if ticket.generation != self.generation {
            return None;
        }
        match self.kind {
            _ if report.outcome == Outcome::Begun => {
                self.begun = self.begun.saturating_add((self.kind == Kind::HalfOpen).into());
                None
            }
            Kind::Closed => {
                let cause = self.count(now, settings, report)?;
                Some(self.open(now, settings, report, cause))
            }
            Kind::HalfOpen
                if report.outcome != Outcome::Success || (report.slow && settings.slow_permille > 0) =>
            {
                Some(self.open(now, settings, report, Cause::ProbeFailed))
            }
            Kind::HalfOpen => {
                self.good = self.good.saturating_add(1);
                self.begun = self.begun.saturating_sub(ticket.begun.into());
                (self.good >= settings.probes).then(|| self.close())
            }
            // Nothing passes in Open, so no ticket has its generation.
            Kind::Open => None,
        }
    }

    /// Counts an outcome in Closed, and says why it should open, if it should. Failures in a row come before ratios.
    fn count(&mut self, now: Nanoseconds, settings: &Settings, report: Report) -> Option<Cause> {
        match report.outcome {
            Outcome::Success => self.consecutive = 0,
            Outcome::Failure => self.consecutive = self.consecutive.saturating_add(1),
            Outcome::Throttled | Outcome::Begun => {}
        }
        if settings.consecutive_failures > 0 && self.consecutive >= settings.consecutive_failures {
            return Some(Cause::ConsecutiveFailures);
        }
        if settings.failure_permille == 0 && settings.slow_permille == 0 {
            return None;
        }
        let sums = self.window.count(now, settings.window, report.outcome != Outcome::Success, report.slow);
        if sums.total < u64::from(settings.min_requests.max(1)) {
            return None;
        }
        let reached =
            |part: u64, permille: u16| permille > 0 && part * 1000 >= sums.total * u64::from(permille);
        if reached(sums.failed, settings.failure_permille) {
            return Some(Cause::FailureRatio);
        }
        reached(sums.slow, settings.slow_permille).then_some(Cause::SlowRatio)
    }

    #[inline(never)]
    fn open(&mut self, now: Nanoseconds, settings: &Settings, report: Report, cause: Cause) -> Transition {
        let doubled =
            settings.backoff.saturating_mul(1u64.checked_shl(self.openings.into()).unwrap_or(u64::MAX));
        let backoff = doubled.min(settings.max_backoff);
        let most = thousandths(backoff, settings.jitter_permille.into());
        let jitter = thousandths(most, (u64::from(report.random) * 1001) >> 32);
        let asked = report.retry_after.nanoseconds().min(settings.max_backoff);
        let open_for = backoff.saturating_add(jitter).max(asked);
        *self = Entry {
            kind: Kind::Open,
            generation: self.generation.wrapping_add(1),
            openings: self.openings.saturating_add(1),
            until: now.saturating_add(open_for),
            ..Entry::new(self.print)
        };
        Transition { to: State::Open, cause, open_for: Wait::new(open_for) }
    }
}

/// So many thousandths of a time, to the microsecond.
fn thousandths(time: Nanoseconds, parts: u64) -> Nanoseconds {
    (time / 1000).saturating_mul(parts)
}

#[cfg(test)]
mod tests;

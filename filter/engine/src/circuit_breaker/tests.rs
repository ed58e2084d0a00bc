//! The breaker by its table of transitions, and against what it promises under any order of events.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::shared_words::Memory;

const SECOND: u64 = 1_000_000_000;

fn settings() -> Settings {
    Settings {
        consecutive_failures: 3,
        failure_permille: 500,
        slow_permille: 0,
        window: 10 * SECOND,
        min_requests: 10,
        backoff: SECOND,
        max_backoff: 8 * SECOND,
        jitter_permille: 0,
        probes: 1,
        probe_timeout: 5 * SECOND,
    }
}

fn outcome(outcome: Outcome) -> Report {
    Report { outcome, slow: false, retry_after: Wait::new(0), random: 0 }
}

/// A breaker with its words and a clock.
struct Trial {
    words: Memory,
    key: Key,
    settings: Settings,
    now: u64,
}

impl Trial {
    fn new(settings: Settings) -> Self {
        assert_eq!(settings.fault(), None);
        Self { words: Memory::default(), key: Key::new(42), settings, now: 100 * SECOND }
    }

    fn ask(&self) -> Permit {
        ask(&self.words, self.now, self.key, &self.settings).unwrap().0
    }

    fn pass(&self) -> Ticket {
        match self.ask() {
            Permit::Pass(ticket) => ticket,
            Permit::Refuse(wait) => panic!("refused for {wait:?}"),
        }
    }

    fn wait(&self) -> u64 {
        match self.ask() {
            Permit::Pass(ticket) => panic!("passed with {ticket:?}"),
            Permit::Refuse(wait) => wait.nanoseconds(),
        }
    }

    fn hear(&self, ticket: Ticket, heard: Report) -> Option<Transition> {
        match self.report(ticket, heard) {
            Heard::Changed(transition) => Some(transition),
            Heard::Noted | Heard::Untracked => None,
        }
    }

    fn report(&self, ticket: Ticket, heard: Report) -> Heard {
        report(&self.words, self.now, self.key, &self.settings, ticket, heard).unwrap()
    }

    fn begin(&self, ticket: Ticket) -> Ticket {
        self.report(ticket, outcome(Outcome::Begun));
        ticket.begun()
    }

    /// Labels and states of those that are not closed.
    fn census(&self) -> Vec<(u32, State)> {
        let mut found = Vec::new();
        census(&self.words, self.now, |label, state| found.push((label, state)));
        found
    }

    fn request(&self, ends: Outcome) -> Option<Transition> {
        self.hear(self.pass(), outcome(ends))
    }

    fn state(&self) -> State {
        state(&self.words, self.key)
    }

    fn open(&self) -> Transition {
        (0..self.settings.consecutive_failures).find_map(|_| self.request(Outcome::Failure)).unwrap()
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_starts_the_row_again() {
    let trial = Trial::new(Settings { failure_permille: 0, ..settings() });
    for _ in 0..5 {
        assert_eq!(trial.request(Outcome::Failure), None);
        assert_eq!(trial.request(Outcome::Failure), None);
        assert_eq!(trial.request(Outcome::Success), None);
    }
    let opened =
        Transition { to: State::Open, cause: Cause::ConsecutiveFailures, open_for: Wait::new(SECOND) };
    assert_eq!(trial.open(), opened);
    assert_eq!(trial.wait(), SECOND);
}

#[test]
fn a_ratio_counts_only_with_enough_requests() {
    let trial = Trial::new(Settings { consecutive_failures: 0, ..settings() });
    for number in 0..9 {
        assert_eq!(trial.request(Outcome::Failure), None, "{number}");
    }
    assert_eq!(trial.request(Outcome::Failure).unwrap().cause, Cause::FailureRatio);
}

#[test]
fn slow_answers_open_it_though_they_succeed() {
    let trial = Trial::new(Settings { slow_permille: 800, ..settings() });
    let slow = Report { slow: true, ..outcome(Outcome::Success) };
    assert_eq!(trial.hear(trial.pass(), outcome(Outcome::Success)), None);
    for _ in 0..8 {
        assert_eq!(trial.hear(trial.pass(), slow), None);
    }
    assert_eq!(trial.hear(trial.pass(), slow).unwrap().cause, Cause::SlowRatio);
}

#[test]
fn throttling_is_not_a_failure_in_a_row_but_counts_in_the_ratio() {
    let trial = Trial::new(settings());
    for _ in 0..9 {
        assert_eq!(trial.request(Outcome::Throttled), None);
    }
    assert_eq!(trial.request(Outcome::Throttled).unwrap().cause, Cause::FailureRatio);
}

#[test]
fn the_backoff_doubles_to_its_end_and_starts_again_after_a_success() {
    let mut trial = Trial::new(settings());
    trial.open();
    for seconds in [1, 2, 4, 8, 8] {
        assert_eq!(trial.wait(), seconds * SECOND);
        trial.now += seconds * SECOND;
        let transition = trial.request(Outcome::Failure).unwrap();
        assert_eq!((transition.to, transition.cause), (State::Open, Cause::ProbeFailed));
    }
    trial.now += 8 * SECOND;
    assert_eq!(trial.request(Outcome::Success).unwrap().to, State::Closed);
    assert_eq!(trial.open().open_for, Wait::new(SECOND), "and the row and the window were forgotten");
}

#[test]
fn jitter_is_added_and_never_more_than_allowed() {
    for (random, nanoseconds) in
        [(0, SECOND), (u32::MAX / 2, SECOND + SECOND / 4), (u32::MAX, SECOND + SECOND / 2)]
    {
        let trial = Trial::new(Settings { jitter_permille: 500, consecutive_failures: 1, ..settings() });
        let opened = trial.hear(trial.pass(), Report { random, ..outcome(Outcome::Failure) }).unwrap();
        assert!(opened.open_for.nanoseconds().abs_diff(nanoseconds) <= SECOND / 1000, "{opened:?}");
    }
}

#[test]
fn the_callee_may_ask_for_longer_but_not_for_ever() {
    let trial = Trial::new(Settings { consecutive_failures: 1, ..settings() });
    let retry_after = Wait::new(u64::MAX);
    let opened = trial.hear(trial.pass(), Report { retry_after, ..outcome(Outcome::Failure) }).unwrap();
    assert_eq!(opened.open_for, Wait::new(8 * SECOND));
}

#[test]
fn answers_of_an_earlier_time_are_not_heard() {
    let mut trial = Trial::new(settings());
    let (old, older) = (trial.pass(), trial.pass());
    trial.open();
    assert_eq!(trial.hear(old, outcome(Outcome::Success)), None);
    trial.now += SECOND;
    let probe = trial.pass();
    assert_eq!(trial.hear(older, outcome(Outcome::Failure)), None, "not the probe");
    assert_eq!(trial.state(), State::HalfOpen);
    assert_eq!(trial.hear(probe, outcome(Outcome::Success)).unwrap().to, State::Closed);
    assert_eq!(trial.hear(probe, outcome(Outcome::Failure)), None, "once");
}

#[test]
fn a_lost_probe_is_given_up() {
    let mut trial = Trial::new(settings());
    trial.open();
    trial.now += SECOND;
    let lost = trial.pass();
    assert!(lost.is_probe());
    assert_eq!(trial.wait(), SECOND, "ask again soon");
    trial.now += trial.settings.probe_timeout;
    let second = trial.pass();
    trial.wait();
    assert_eq!(trial.hear(lost, outcome(Outcome::Success)), None, "too late");
    assert_eq!(trial.hear(second, outcome(Outcome::Success)).unwrap().to, State::Closed);
}

/// Of a long stream the end may be hours away: that it has begun well, and goes on, is enough then, and not before.
#[test]
fn a_probe_that_goes_on_for_longer_than_its_time_has_succeeded_if_it_began_well() {
    let mut trial = Trial::new(Settings { probes: 2, ..settings() });
    trial.open();
    trial.now += SECOND;
    let first = trial.begin(trial.pass());
    assert!(first.is_probe());
    let second = trial.begin(trial.pass());
    assert_eq!(trial.wait(), SECOND, "its time is not over");
    assert_eq!(trial.hear(first, outcome(Outcome::Success)), None, "one of two");
    trial.now += trial.settings.probe_timeout;
    assert!(!trial.pass().is_probe());
    assert_eq!(trial.state(), State::Closed);
    assert_eq!(trial.report(second, outcome(Outcome::Failure)), Heard::Noted, "of an earlier time");
}

#[test]
fn a_probe_that_began_well_and_ended_ill_has_failed() {
    let mut trial = Trial::new(settings());
    trial.open();
    trial.now += SECOND;
    let probe = trial.begin(trial.pass());
    assert_eq!(trial.hear(probe, outcome(Outcome::Failure)).unwrap().cause, Cause::ProbeFailed);
    trial.now += 2 * SECOND;
    // Of two that must succeed, one is never heard of.
    trial.settings.probes = 2;
    trial.begin(trial.pass());
    trial.pass();
    trial.now += trial.settings.probe_timeout;
    assert!(trial.pass().is_probe(), "begun again, with both");
}

#[test]
fn the_census_counts_what_is_not_closed_until_nobody_has_asked_for_long() {
    let mut trial = Trial::new(Settings { consecutive_failures: 1, ..settings() });
    trial.key = Key::new(1).labelled(7 | 0xff00_0000);
    trial.open();
    trial.key = Key::new(2 << 48).labelled(8);
    trial.open();
    trial.key = Key::new(3);
    trial.request(Outcome::Success);
    assert_eq!(trial.census(), [(7, State::Open), (8, State::Open)]);
    trial.now += SECOND;
    trial.key = Key::new(2 << 48).labelled(8);
    let probe = trial.pass();
    assert_eq!(trial.census(), [(7, State::Open), (8, State::HalfOpen)]);
    trial.hear(probe, outcome(Outcome::Success));
    assert_eq!(trial.census(), [(7, State::Open)]);
    trial.now += trial.settings.max_backoff;
    assert_eq!(trial.census(), [], "its place may be another's");
}

#[test]
fn a_clock_that_goes_back_keeps_it_open_no_longer_than_it_ever_is() {
    let mut trial = Trial::new(settings());
    trial.open();
    trial.now = 0;
    assert_eq!(trial.wait(), 8 * SECOND);
    trial.now = 8 * SECOND;
    trial.pass();
}

#[test]
fn callers_that_come_and_go_take_no_place_from_an_open_breaker() {
    let mut trial = Trial::new(Settings { consecutive_failures: 1, ..settings() });
    let keys: Vec<Key> = (1..=5).map(Key::new).collect();
    for key in &keys {
        trial.key = *key;
        trial.request(Outcome::Failure);
    }
    let open = |key: &Key| state(&trial.words, *key) == State::Open;
    assert_eq!(
        keys.iter().filter(|key| open(key)).count(),
        4,
        "four places; the fifth is not kept, and shares none"
    );
    assert!(!open(&keys[4]));
    assert_eq!(trial.report(trial.pass(), outcome(Outcome::Failure)), Heard::Untracked, "and it is said");
    assert_eq!(trial.report(trial.pass(), outcome(Outcome::Success)), Heard::Noted);
    trial.now += 100 * SECOND;
    trial.request(Outcome::Failure);
    assert_eq!(trial.state(), State::Open, "the others were forgotten");
}

/// With ten thousand callers there are not places for all; those that fail come first, and take none from each other.
#[test]
fn who_fails_has_a_place_before_who_does_not() {
    let mut trial = Trial::new(Settings { consecutive_failures: 2, ..settings() });
    for caller in 1..=4 {
        trial.key = Key::new(caller);
        trial.request(Outcome::Success);
    }
    trial.key = Key::new(5);
    trial.request(Outcome::Success);
    trial.request(Outcome::Failure);
    assert_eq!(trial.request(Outcome::Failure).map(|t| t.to), Some(State::Open), "it has found a place");
    for caller in 6..=8 {
        trial.key = Key::new(caller);
        trial.request(Outcome::Failure);
    }
    trial.key = Key::new(9);
    trial.request(Outcome::Failure);
    trial.request(Outcome::Failure);
    assert_eq!(trial.state(), State::Closed, "all places are taken by those that failed");
    trial.key = Key::new(5);
    assert_eq!(trial.state(), State::Open);
}

#[derive(Clone, Debug)]
enum Event {
    Ask,
    Begin(usize),
    Hear(usize, Outcome),
    Lose(usize),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let ends = prop_oneof![
        3 => Just(Outcome::Success), 3 => Just(Outcome::Failure), 1 => Just(Outcome::Throttled)
    ];
    let event = prop_oneof![
        4 => Just(Event::Ask),
        4 => (any::<usize>(), ends).prop_map(|(which, ends)| Event::Hear(which, ends)),
        1 => any::<usize>().prop_map(Event::Begin),
        1 => any::<usize>().prop_map(Event::Lose),
        1 => (0..3 * SECOND).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Under any order of events: nothing passes while it is open, never more than the set number of probes are out,
    /// it opens at exactly the failure in a row that was promised, and it is never stuck.
    #[test]
    fn keeps_its_promises_in_any_order(events in events(), probes in 1..4u8) {
        let mut trial = Trial::new(Settings { probes, failure_permille: 0, ..settings() });
        let mut out: Vec<Ticket> = Vec::new();
        // Probes of this HalfOpen: when they passed.
        let mut probing: Vec<u64> = Vec::new();
        // Their generation, those that succeeded, and those that have begun well and go on or were lost.
        let (mut current, mut good, mut begun) = (0, 0, 0);
        let (mut open_until, mut row, mut expected) = (None::<u64>, BTreeMap::<u32, u32>::new(), State::Closed);
        for event in events {
            match event {
                Event::Pass(time) => trial.now += time,
                Event::Lose(which) => {
                    if !out.is_empty() {
                        out.swap_remove(which % out.len());
                    }
                }
                Event::Begin(which) => {
                    if out.is_empty() {
                        continue;
                    }
                    let at = which % out.len();
                    if out[at].is_probe() && !out[at].begun {
                        let of_it = expected == State::HalfOpen && out[at].generation == current;
                        begun += u8::from(of_it);
                        out[at] = trial.begin(out[at]);
                    }
                }
                Event::Ask => match trial.ask() {
                    Permit::Pass(ticket) => {
                        out.push(ticket);
                        let waited = probing.last().is_some_and(|last| trial.now >= last + trial.settings.probe_timeout);
                        if expected == State::HalfOpen && probing.len() == usize::from(probes) && good + begun >= probes {
                            prop_assert!(waited && !ticket.is_probe(), "the probes go on, and are taken for good");
                            expected = State::Closed;
                        }
                        if expected == State::Open {
                            prop_assert!(open_until.is_some_and(|until| trial.now >= until), "passed while open");
                            expected = State::HalfOpen;
                            probing.clear();
                        }
                        prop_assert_eq!(ticket.is_probe(), expected == State::HalfOpen);
                        if ticket.is_probe() {
                            if probing.len() == usize::from(probes) {
                                let last = probing.last().copied().unwrap_or(0);
                                prop_assert!(trial.now >= last + trial.settings.probe_timeout, "one probe too many");
                                probing.clear();
                            }
                            if probing.is_empty() {
                                (current, good, begun) = (ticket.generation, 0, 0);
                            }
                            probing.push(trial.now);
                        }
                    }
                    Permit::Refuse(wait) => {
                        prop_assert_ne!(expected, State::Closed);
                        prop_assert!(wait.nanoseconds() > 0 && wait.nanoseconds() <= 8 * SECOND);
                        prop_assert!(expected == State::HalfOpen || open_until.is_some_and(|until| trial.now < until));
                    }
                },
                Event::Hear(which, ends) => {
                    if out.is_empty() {
                        continue;
                    }
                    let ticket = out.swap_remove(which % out.len());
                    let transition = trial.hear(ticket, outcome(ends));
                    if expected == State::HalfOpen && ticket.generation == current && ends == Outcome::Success {
                        good += 1;
                        begun -= u8::from(ticket.begun);
                        prop_assert_eq!(transition.is_some(), good == probes);
                    }
                    if expected == State::Closed {
                        let row = row.entry(ticket.generation).or_default();
                        let current = state(&trial.words, trial.key) == State::Closed;
                        match ends {
                            Outcome::Failure => *row += 1,
                            Outcome::Success => *row = 0,
                            Outcome::Throttled | Outcome::Begun => {}
                        }
                        prop_assert_eq!(current, transition.is_none());
                        if transition.is_some() {
                            prop_assert_eq!(*row, 3, "opens at the third failure in a row");
                        }
                    }
                    if let Some(Transition { to, open_for, .. }) = transition {
                        expected = to;
                        open_until = Some(trial.now + open_for.nanoseconds());
                    }
                }
            }
            prop_assert_eq!(trial.state(), expected);
        }
        // Never stuck: after the longest wait a request passes.
        trial.now += trial.settings.max_backoff.max(trial.settings.probe_timeout);
        prop_assert!(matches!(trial.ask(), Permit::Pass(_)));
    }
}

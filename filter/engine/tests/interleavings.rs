//! Workers interleaved in every order that matters: the shared words under `shuttle`, which runs each schedule.
//!
//! Each load and each compare-and-swap is a point at which another worker may go on. Small cases are explored whole
//! (depth first), larger ones by many random schedules.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

use std::collections::BTreeMap;

use meshward_engine::circuit_breaker::{self, Heard, Outcome, Permit, Report, Settings, State};
use meshward_engine::concurrency::{self, Member};
use meshward_engine::rate_limit::{Rate, Wait};
use meshward_engine::rate_limit_table::{self, Bucket};
use meshward_engine::shared_words::{Conflict, SharedWords, Slot};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

const SECOND: u64 = 1_000_000_000;

/// As in Envoy: one lock, a version for each word.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<Words>>);

type Words = BTreeMap<Slot, (Vec<u8>, u32)>;

impl SharedWords for Host {
    fn load(&self, slot: Slot) -> Option<(Vec<u8>, u32)> {
        Some(self.0.lock().unwrap().get(&slot).cloned().unwrap_or_default())
    }

    fn replace(&self, slot: Slot, version: u32, word: &[u8]) -> Result<(), Conflict> {
        let mut words = self.0.lock().unwrap();
        let (old, current) = words.entry(slot).or_default();
        if *current != version {
            return Err(Conflict);
        }
        *old = word.to_vec();
        *current += 1;
        Ok(())
    }
}

/// Runs `work` in several workers at once and gives what each returned.
fn workers<T: Send + 'static>(
    count: usize,
    host: &Host,
    work: impl Fn(&Host) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (host, work) = (host.clone(), work.clone());
            thread::spawn(move || work(&host))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn take(host: &Host, key: u64, rate: Rate) -> bool {
    let bucket = Bucket { key: rate_limit_table::Key::new(key, key), rate };
    rate_limit_table::take(host, SECOND, &[bucket], 1, &mut Vec::new()).unwrap()
}

fn one_bucket(count: usize, burst: u32) {
    let rate = Rate::new(1, SECOND, burst).unwrap();
    let host = Host::default();
    let admitted: u32 =
        workers(count, &host, move |host| (0..burst).map(|_| u32::from(take(host, 7, rate))).sum::<u32>())
            .into_iter()
            .sum();
    assert_eq!(admitted, burst, "the burst, for all workers together");
}

#[test]
fn a_burst_is_given_once() {
    shuttle::check_dfs(|| one_bucket(2, 1), None);
    shuttle::check_random(|| one_bucket(4, 2), 2000);
}

/// Two keys of one slot, each taken by its own worker: neither write is lost.
#[test]
fn neighbours_in_a_slot_do_not_undo_each_other() {
    let run = || {
        let rate = Rate::new(1, SECOND, 1).unwrap();
        let host = Host::default();
        let first = host.clone();
        let thread = thread::spawn(move || take(&first, 1, rate));
        assert!(take(&host, 2, rate));
        assert!(thread.join().unwrap());
        assert!(!take(&host, 1, rate) && !take(&host, 2, rate), "both were written");
    };
    shuttle::check_dfs(run, None);
}

fn settings(probes: u8) -> Settings {
    Settings {
        consecutive_failures: 2,
        failure_permille: 0,
        slow_permille: 0,
        window: 10 * SECOND,
        min_requests: 1,
        backoff: SECOND,
        max_backoff: 8 * SECOND,
        jitter_permille: 0,
        probes,
        probe_timeout: SECOND,
    }
}

fn request(
    host: &Host,
    now: u64,
    settings: &Settings,
    outcome: Outcome,
) -> Option<circuit_breaker::Transition> {
    let key = circuit_breaker::Key::new(1);
    let (permit, _) = circuit_breaker::ask(host, now, key, settings).unwrap();
    let Permit::Pass(ticket) = permit else { return None };
    let report = Report { outcome, slow: false, retry_after: Wait::new(0), random: 0 };
    match circuit_breaker::report(host, now, key, settings, ticket, report).unwrap() {
        Heard::Changed(transition) => Some(transition),
        Heard::Noted | Heard::Untracked => None,
    }
}

fn opens_once(count: usize) {
    let host = Host::default();
    let opened: usize = workers(count, &host, |host| {
        (0..2)
            .filter(|_| request(host, 0, &settings(1), Outcome::Failure).is_some_and(|t| t.to == State::Open))
            .count()
    })
    .into_iter()
    .sum();
    assert_eq!(opened, 1, "one worker sees the change, and it happens at the second failure");
}

#[test]
fn it_opens_at_the_promised_failure_of_all_workers_and_once() {
    shuttle::check_dfs(|| opens_once(2), Some(20_000));
    shuttle::check_random(|| opens_once(4), 2000);
}

/// Every worker asks when the time has come: exactly `probes` pass.
fn probes_pass(count: usize, probes: u8) {
    let host = Host::default();
    for _ in 0..2 {
        request(&host, 0, &settings(probes), Outcome::Failure);
    }
    let passed = workers(count, &host, move |host| {
        let key = circuit_breaker::Key::new(1);
        let (permit, transition) = circuit_breaker::ask(host, SECOND, key, &settings(probes)).unwrap();
        (matches!(permit, Permit::Pass(ticket) if ticket.is_probe()), transition.is_some())
    });
    assert_eq!(passed.iter().filter(|(probe, _)| *probe).count(), usize::from(probes));
    assert_eq!(passed.iter().filter(|(_, transition)| *transition).count(), 1);
}

#[test]
fn exactly_the_set_number_of_probes_pass() {
    shuttle::check_dfs(|| probes_pass(3, 1), Some(20_000));
    shuttle::check_random(|| probes_pass(4, 2), 2000);
}

/// The probe's answer goes on when the time for it is over: whoever asks then passes, and one worker sees it closed.
fn long_probe(count: usize) {
    let host = Host::default();
    for _ in 0..2 {
        request(&host, 0, &settings(1), Outcome::Failure);
    }
    let key = circuit_breaker::Key::new(1);
    let (permit, _) = circuit_breaker::ask(&host, SECOND, key, &settings(1)).unwrap();
    let Permit::Pass(probe) = permit else { unreachable!("the time has come") };
    let begun = Report { outcome: Outcome::Begun, slow: false, retry_after: Wait::new(0), random: 0 };
    let heard = circuit_breaker::report(&host, SECOND, key, &settings(1), probe, begun).unwrap();
    assert_eq!(heard, Heard::Noted);
    let asked = workers(count, &host, move |host| {
        let (permit, transition) = circuit_breaker::ask(host, 2 * SECOND, key, &settings(1)).unwrap();
        let passed = matches!(permit, Permit::Pass(ticket) if !ticket.is_probe());
        (passed, transition.is_some_and(|transition| transition.to == State::Closed))
    });
    assert!(asked.iter().all(|(passed, _)| *passed));
    assert_eq!(asked.iter().filter(|(_, closed)| *closed).count(), 1);
    let failed = Report { outcome: Outcome::Failure, slow: false, retry_after: Wait::new(0), random: 0 };
    let heard = circuit_breaker::report(&host, 3 * SECOND, key, &settings(1), probe.begun(), failed).unwrap();
    assert_eq!(heard, Heard::Noted, "how the stream ends says nothing about now");
}

#[test]
fn a_probe_that_has_begun_well_and_goes_on_closes_it_once() {
    shuttle::check_dfs(|| long_probe(2), Some(20_000));
    shuttle::check_random(|| long_probe(4), 2000);
}

/// Workers enter and leave: never more inside than the limit, nothing left behind.
fn bulkhead(count: usize) {
    let host = Host::default();
    let inside = Arc::new(Mutex::new(0u32));
    let counter = Arc::clone(&inside);
    workers(count, &host, move |host| {
        let key = concurrency::Key::new(5);
        let member = Member::join(host, SECOND).unwrap();
        if let Some(place) = concurrency::enter(host, &member, key, 1).unwrap() {
            let now_inside = {
                let mut inside = counter.lock().unwrap();
                *inside += 1;
                *inside
            };
            assert_eq!(now_inside, 1);
            *counter.lock().unwrap() -= 1;
            concurrency::leave(host, place).unwrap();
        }
    });
    let member = Member::join(&host, SECOND).unwrap();
    assert_eq!(concurrency::in_flight(&host, &member, concurrency::Key::new(5)), 0);
}

#[test]
fn a_bulkhead_never_overflows_and_empties() {
    shuttle::check_dfs(|| bulkhead(2), Some(20_000));
    shuttle::check_random(|| bulkhead(4), 2000);
}

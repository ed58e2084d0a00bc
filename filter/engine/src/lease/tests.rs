//! Leases against what they promise: steps by hand, and a service with several sidecars whose answers come late.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::shared_words::Memory;

const KEY: u64 = 7;

/// What the service has granted.
fn granted(words: &Memory, now: u64, key: Key, tokens: u32, said: Said) -> Result<(), Unavailable> {
    answered(words, now, key, tokens, said)
}

fn refused(words: &Memory, now: u64, key: Key, said: Said) -> Result<(), Unavailable> {
    answered(words, now, key, 0, said)
}

fn said(until: u64) -> Said {
    Said { until, more: None }
}

/// Takes until the lease is empty; how many.
fn spend(words: &Memory, now: u64) -> u32 {
    let mut spent = 0;
    while let Taken::Admitted { .. } = take(words, now, Key::new(KEY), 1).unwrap() {
        spent += 1;
    }
    spent
}

#[test]
fn a_lease_is_spent_once_and_ends_with_its_window() {
    let (words, key) = (Memory::default(), Key::new(KEY));
    assert_eq!(take(&words, 1, key, 1), Ok(Taken::Empty));
    granted(&words, 1, key, 10, said(100)).unwrap();
    assert_eq!(take(&words, 2, key, 4), Ok(Taken::Admitted { left: 6, low: false, until: 100 }));
    assert_eq!(take(&words, 2, key, 2), Ok(Taken::Admitted { left: 4, low: true, until: 100 }));
    assert_eq!(take(&words, 2, key, 1), Ok(Taken::Admitted { left: 3, low: false, until: 100 }), "one asks");
    give_back(&words, 2, key, 1, 100).unwrap();
    assert_eq!(take(&words, 2, key, 5), Ok(Taken::Empty));
    // Two grants of two windows: the earlier end counts for both.
    granted(&words, 50, key, 10, said(200)).unwrap();
    assert_eq!(take(&words, 100, key, 1), Ok(Taken::Empty));
    give_back(&words, 100, key, 1, 100).unwrap();
    granted(&words, 100, key, 3, said(200)).unwrap();
    assert_eq!(spend(&words, 199), 3, "what was left of the last window is gone");
    granted(&words, 300, key, 3, said(300)).unwrap();
    assert_eq!(spend(&words, 300), 0, "it came too late");
}

#[test]
fn leases_grow_with_what_is_used_and_shrink_with_what_is_not() {
    let (words, key) = (Memory::default(), Key::new(KEY));
    let mut sizes = Vec::new();
    for turn in 0..6 {
        let size = size(&words, turn, key, 1, 20).unwrap();
        granted(&words, turn, key, size, said(100)).unwrap();
        assert_eq!(spend(&words, turn), size);
        sizes.push(size);
    }
    assert_eq!(sizes, [1, 2, 4, 8, 16, 20]);
    assert_eq!(size(&words, 200, key, 1, 20), Ok(20), "it was used up, in the last window");
    granted(&words, 200, key, 20, said(300)).unwrap();
    for _ in 0..5 {
        take(&words, 200, key, 1).unwrap();
    }
    assert_eq!(size(&words, 300, key, 3, 20), Ok(5), "nobody wanted the others");
    granted(&words, 300, key, 5, Said { until: 400, more: Some(4) }).unwrap();
    assert_eq!(size(&words, 300, key, 1, 20), Ok(4), "there are no more");
}

#[test]
fn a_refusal_is_kept_to_until_the_window_ends() {
    let (words, key) = (Memory::default(), Key::new(KEY));
    granted(&words, 0, key, 16, said(100)).unwrap();
    assert_eq!(spend(&words, 0), 16);
    refused(&words, 1, key, Said { until: 100, more: Some(1) }).unwrap();
    assert_eq!(take(&words, 1, key, 1), Ok(Taken::Empty), "a smaller one may be granted");
    assert_eq!(size(&words, 1, key, 1, 16), Ok(1));
    refused(&words, 1, key, Said { until: 100, more: Some(0) }).unwrap();
    assert_eq!(take(&words, 40, key, 1), Ok(Taken::Refused(Wait::new(60))));
    assert_eq!(take(&words, 100, key, 1), Ok(Taken::Empty));
    assert_eq!(size(&words, 100, key, 1, 40), Ok(32), "the next window starts where this one was");
    // What the service has granted with its last token is spent before that.
    granted(&words, 100, key, 2, Said { until: 200, more: Some(0) }).unwrap();
    assert_eq!(spend(&words, 150), 2);
    assert_eq!(take(&words, 150, key, 1), Ok(Taken::Refused(Wait::new(50))));
}

#[test]
fn memory_is_bounded_and_a_key_that_is_pushed_out_has_nothing() {
    let words = Memory::default();
    let keys: Vec<Key> = (0..50).map(Key::new).collect();
    for key in &keys {
        granted(&words, 0, *key, 5, said(100 + key.print)).unwrap();
    }
    let slot = Slot::of(Region::Lease, 0);
    assert_eq!(words.load(slot).unwrap().0.len(), MAX_ENTRIES * ENTRY_BYTES);
    let admitted = |key: &Key| matches!(take(&words, 1, *key, 1), Ok(Taken::Admitted { .. }));
    let left: usize = keys.iter().map(|key| (0..9).filter(|_| admitted(key)).count()).sum();
    assert!(left <= 5 * MAX_ENTRIES, "{left}");
}

/// A service that counts in windows of 1000, and some sidecars that ask it: its answers are late by as much as they like.
#[derive(Debug, Clone, Copy)]
enum Step {
    Take(usize, u32),
    /// Ask, and have the answer after so long.
    Ask(usize, u64),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => (0..3usize, 1..4u32).prop_map(|(sidecar, cost)| Step::Take(sidecar, cost)),
        3 => (0..3usize, 0..1500u64).prop_map(|(sidecar, late)| Step::Ask(sidecar, late)),
        1 => (0..900u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(one, 0..300)
}

proptest! {
    #[test]
    fn no_window_has_more_than_its_budget(steps in steps(), tells in any::<bool>(), kept in any::<bool>()) {
        const BUDGET: u32 = 40;
        const WINDOW: u64 = 1000;
        let sidecars = [Memory::default(), Memory::default(), Memory::default()];
        let key = Key::new(KEY);
        let mut now = 1;
        let mut counted: BTreeMap<u64, u32> = BTreeMap::new();
        let mut spent: BTreeMap<u64, u32> = BTreeMap::new();
        // Arrival, sidecar, hits, whether they are granted, and what was said.
        let mut answers: Vec<(u64, usize, u32, bool, Said)> = Vec::new();
        for step in steps {
            match step {
                Step::Take(sidecar, cost) => {
                    if let Taken::Admitted { .. } = take(&sidecars[sidecar], now, key, cost).unwrap() {
                        *spent.entry(now / WINDOW).or_default() += cost;
                    }
                }
                Step::Ask(sidecar, late) => {
                    let hits = size(&sidecars[sidecar], now, key, 1, 8).unwrap();
                    prop_assert!((1..=8).contains(&hits));
                    let count = counted.entry(now / WINDOW).or_default();
                    let granted = *count + hits <= BUDGET;
                    // As Redis does it: counted even when refused; or not.
                    *count += if granted || kept { hits } else { 0 };
                    let left = BUDGET.saturating_sub(*count);
                    let more = match (tells, granted) {
                        (true, true) => Some(left),
                        (true, false) => Some(0),
                        (false, true) => None,
                        (false, false) => Some(u32::from(hits > 1)),
                    };
                    let until = (now / WINDOW + 1) * WINDOW;
                    answers.push((now + late, sidecar, hits, granted, Said { until, more }));
                }
                Step::Wait(time) => now += time,
            }
            let (arrived, later) = answers.into_iter().partition::<Vec<_>, _>(|answer| answer.0 <= now);
            answers = later;
            for (_, sidecar, hits, is_granted, said) in arrived {
                let words = &sidecars[sidecar];
                if is_granted { granted(words, now, key, hits, said) } else { refused(words, now, key, said) }.unwrap();
            }
            now += 7;
        }
        for (window, spent) in spent {
            prop_assert!(spent <= BUDGET, "{} in window {}", spent, window);
        }
    }
}

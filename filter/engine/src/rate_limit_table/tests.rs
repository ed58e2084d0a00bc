//! The table against one exact bucket per key, under pressure: few slots, many keys, owners that flood.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::shared_words::Memory;

const SECOND: u64 = 1_000_000_000;

/// Key `number` of an owner, all in one slot.
fn key(owner: u16, number: u32) -> Key {
    Key::new((u64::from(owner) << 32) | u64::from(number), u64::from(owner) + 1)
}

fn bucket(owner: u16, number: u32, rate: Rate) -> Bucket {
    Bucket { key: key(owner, number), rate }
}

fn admits(words: &Memory, now: u64, bucket: Bucket) -> bool {
    take(words, now, &[bucket], 1, &mut Vec::new()).unwrap()
}

/// Whoever has used up an hour's limit does not wait for that hour when the limit is made one of a second.
#[test]
fn a_limit_that_is_made_wider_is_wider_at_once_and_no_fresh_burst() {
    let words = Memory::default();
    let at = |rate| bucket(1, 1, rate);
    let (hourly, often) = (Rate::new(1, 3600 * SECOND, 1).unwrap(), Rate::new(10, SECOND, 10).unwrap());
    let now = 10 * SECOND;
    assert!(admits(&words, now, at(hourly)));
    assert!(!admits(&words, now, at(hourly)));
    assert!(!admits(&words, now, at(often)), "the bucket begins empty");
    let admitted = (1..=20).filter(|tenth| admits(&words, now + tenth * SECOND / 10, at(often))).count();
    assert_eq!(admitted, 20, "one for each tenth of a second");
    assert!(!admits(&words, now + 2 * SECOND, at(often)));
}

/// A worker that was held up after it had read the clock gives nobody's tokens back.
#[test]
fn a_refusal_by_a_late_worker_is_no_gain() {
    let words = Memory::default();
    let rate = Rate::new(10, SECOND, 10).unwrap();
    let (now, millisecond) = (100 * SECOND, SECOND / 1000);
    assert_eq!((0..10).filter(|_| admits(&words, now, bucket(1, 1, rate))).count(), 10);
    for late in 1..90 {
        assert!(!admits(&words, now - late * millisecond, bucket(1, 1, rate)));
    }
    assert!(!admits(&words, now + 99 * millisecond, bucket(1, 1, rate)));
    assert!(admits(&words, now + 100 * millisecond, bucket(1, 1, rate)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The promise: in any stretch of time no key gets more than `burst + rate × time`, however keys push each other.
    #[test]
    fn no_key_ever_gets_a_fresh_burst(
        steps in prop::collection::vec(
            (prop_oneof![Just(0u64), 0..SECOND / 10, 0..2 * SECOND], 0..6u16, prop_oneof![0..3u32, 0..40u32]),
            1..600,
        ),
        burst in 1..4u32,
    ) {
        let rate = Rate::new(1, SECOND, burst).unwrap();
        let words = Memory::default();
        // An exact bucket of its own per key; it follows what was admitted.
        let mut exact: BTreeMap<(u16, u32), u64> = BTreeMap::new();
        let mut now = 10 * SECOND;
        for (step, owner, number) in steps {
            now += step;
            if admits(&words, now, bucket(owner, number, rate)) {
                let full_at = exact.entry((owner, number)).or_default();
                let after = rate.take(*full_at, now, 1);
                prop_assert!(after.is_ok(), "key {number} of {owner} got more than its promise");
                *full_at = after.unwrap();
            }
        }
    }

    /// Fairness: whatever keys one owner invents, thirteen others in the same slot get exactly what they would get alone.
    #[test]
    fn a_flood_of_keys_does_not_touch_other_owners(
        steps in prop::collection::vec((0..SECOND / 3, prop::option::of(1..14u16)), 1..400),
    ) {
        let rate = Rate::new(2, SECOND, 3).unwrap();
        let words = Memory::default();
        let mut exact: BTreeMap<u16, u64> = BTreeMap::new();
        let (mut now, mut invented) = (10 * SECOND, 0);
        for (step, victim) in steps {
            now += step / 20;
            for _ in 0..5 {
                invented += 1;
                admits(&words, now, bucket(0, invented, rate));
            }
            if let Some(victim) = victim {
                let full_at = exact.entry(victim).or_default();
                let alone = rate.take(*full_at, now, 1);
                prop_assert_eq!(admits(&words, now, bucket(victim, 0, rate)), alone.is_ok());
                *full_at = alone.unwrap_or(*full_at);
            }
        }
    }

    /// Windows of one key: all or none, each within its own promise.
    #[test]
    fn several_windows_are_taken_together(steps in prop::collection::vec(0..SECOND, 1..300)) {
        let windows = [Rate::new(5, SECOND, 2).unwrap(), Rate::new(20, 60 * SECOND, 10).unwrap()];
        let first = key(1, 1);
        let buckets = [
            Bucket { key: first, rate: windows[0] },
            Bucket { key: key(2, 2).in_slot_of(first), rate: windows[1] },
        ];
        let words = Memory::default();
        let (mut exact, mut now, mut levels) = ([0u64; 2], SECOND, Vec::new());
        for step in steps {
            now += step;
            let both = [windows[0].take(exact[0], now, 1), windows[1].take(exact[1], now, 1)];
            let admitted = take(&words, now, &buckets, 1, &mut levels).unwrap();
            prop_assert_eq!(admitted, both.iter().all(Result::is_ok));
            prop_assert_eq!(levels.len(), 2);
            for (index, result) in both.iter().enumerate() {
                if admitted {
                    exact[index] = result.unwrap();
                }
                prop_assert_eq!(levels[index].remaining, windows[index].remaining(exact[index], now));
                prop_assert_eq!(levels[index].wait, result.err().unwrap_or(Wait::new(0)));
            }
        }
    }
}

#[test]
fn what_is_given_back_can_be_taken_again_and_no_more() {
    let rate = Rate::new(1, SECOND, 2).unwrap();
    let (words, one) = (Memory::default(), bucket(1, 1, rate));
    let mut levels = Vec::new();
    assert!(take(&words, 5 * SECOND, &[one], 2, &mut levels).unwrap());
    assert!(!admits(&words, 5 * SECOND, one));
    give_back(&words, &[one], &levels).unwrap();
    assert!(take(&words, 5 * SECOND, &[one], 2, &mut levels).unwrap());
    // Somebody else took meanwhile, when it had become full again: giving back would be a third token.
    assert!(take(&words, 9 * SECOND, &[one], 2, &mut Vec::new()).unwrap());
    give_back(&words, &[one], &levels).unwrap();
    assert!(!admits(&words, 9 * SECOND, one));
}

#[test]
fn a_slot_full_of_callers_counts_the_newcomer_in_the_common_bucket() {
    let rate = Rate::new(1, SECOND, 1).unwrap();
    let words = Memory::default();
    for owner in 0..15 {
        assert!(admits(&words, SECOND, bucket(owner, 0, rate)), "the slot has {WAYS} ways");
    }
    assert!(admits(&words, SECOND, bucket(20, 0, rate)), "the common bucket is full");
    assert!(!admits(&words, SECOND, bucket(21, 0, rate)), "and then empty");
    // Afterwards there is room again, and nobody gets more than the common bucket left him.
    assert!(admits(&words, 2 * SECOND, bucket(21, 0, rate)));
    assert!(!admits(&words, 2 * SECOND, bucket(21, 0, rate)));
}

#[test]
fn a_long_window_does_not_make_a_short_one_wait_for_it() {
    let (hour, short) = (Rate::new(1, 3600 * SECOND, 1).unwrap(), Rate::new(1, SECOND, 1).unwrap());
    let words = Memory::default();
    for owner in 0..14 {
        admits(&words, SECOND, bucket(owner, 0, hour));
    }
    admits(&words, SECOND, bucket(14, 0, short));
    assert!(admits(&words, SECOND, bucket(20, 0, hour)), "into the common bucket, for an hour");
    // One way is free again. The newcomer is treated as empty once, then it has its own.
    assert!(!admits(&words, 3 * SECOND, bucket(30, 0, short)));
    assert!(admits(&words, 4 * SECOND, bucket(30, 0, short)));
}

/// The probability that a caller is touched by others is that of a Poisson distribution over the slots.
#[test]
fn the_measured_probability_of_a_crowded_slot_is_the_computed_one() {
    let mut state = 1u64;
    let mut random = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let rate = Rate::new(1, 3600 * SECOND, 1).unwrap();
    let slots = f64::from(Region::RateLimit.slots());
    for busy in [2_000u32, 10_000, 14_000] {
        let words = Memory::default();
        let mut refused = 0u32;
        for number in 0..busy {
            // Every caller is new and has its whole burst: a refusal is another's doing.
            let one = Bucket { key: Key::new(random(), u64::from(number)), rate };
            refused += u32::from(!admits(&words, SECOND, one));
        }
        // A newcomer is touched when its slot has all ways taken and the common bucket was used: 16 came before.
        let mean = f64::from(busy) / slots;
        let expected: f64 = (16..60).map(|k| f64::from(k - 15) * poisson(mean, k + 1)).sum::<f64>() * slots;
        println!("{busy} busy callers: {refused} touched, {expected:.1} expected");
        assert!(
            (f64::from(refused) - expected).abs() <= 3.0 * expected.sqrt() + 3.0,
            "{busy}: {refused}, {expected}"
        );
    }
}

/// `filter/engine/SEMANTICS.md`, "Rate limits": what a flood of invented keys does to others, measured in one slot.
#[test]
fn a_flood_touches_others_as_seldom_as_computed() {
    const TRIALS: u32 = 4_000;
    let mut state = 7u64;
    let mut random = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let agrees = |what: &str, measured: u32, probability: f64| {
        let expected = f64::from(TRIALS) * probability;
        println!("{what}: {measured} of {TRIALS} touched, {expected:.1} expected");
        assert!(
            (f64::from(measured) - expected).abs() <= 4.0 * expected.sqrt() + 3.0,
            "{what}: {measured}, {expected}"
        );
    };
    let (once, twice) = (Rate::new(1, 3600 * SECOND, 1).unwrap(), Rate::new(1, 3600 * SECOND, 2).unwrap());
    let flood = |words: &Memory, owners: &[u16]| {
        for number in 0..40 {
            for owner in owners {
                admits(words, SECOND, bucket(*owner, number, once));
            }
        }
    };
    // Busy callers of one key each, floods of one and two identities, then somebody who comes for the first time.
    for (mean, floods) in [(8.0, 1u16), (10.0, 1), (10.0, 2)] {
        let (mut new, mut old) = (0, 0);
        for _ in 0..TRIALS {
            let words = Memory::default();
            let first = admits(&words, SECOND, bucket(900, 0, twice));
            // A number with a Poisson distribution: by its probabilities, summed up.
            let (chance, mut busy, mut sum) = ((random() >> 11) as f64 / (1u64 << 53) as f64, 0, 0.0);
            loop {
                sum += poisson(mean, busy);
                if sum >= chance || busy >= 60 {
                    break;
                }
                busy += 1;
            }
            // The one who was there before is one of them, as others see it.
            for other in 1..busy {
                admits(&words, SECOND, bucket(other as u16, 0, once));
            }
            let floods: Vec<u16> = (1000..1000 + floods).collect();
            flood(&words, &floods);
            new += u32::from(busy > 0 && !admits(&words, SECOND, bucket(2000, 0, once)));
            old += u32::from(!first || !admits(&words, SECOND, bucket(900, 0, twice)));
        }
        assert_eq!(old, 0, "who has a way keeps it");
        let crowded: f64 = (16 - i32::from(floods)..60).map(|busy| poisson(mean, busy)).sum();
        agrees(&format!("{mean} busy in the slot, {floods} flooding, somebody new"), new, crowded);
    }
    // The same owner's tag by chance: of 64 here, of 65,535 in truth.
    const TAGS: u64 = 64;
    let mut touched = 0;
    for _ in 0..TRIALS {
        let words = Memory::default();
        flood(&words, &[5]);
        let victim = Key::new(0xffff, random() % TAGS + 1);
        touched += u32::from(!admits(&words, SECOND, Bucket { key: victim, rate: once }));
    }
    agrees("tags of 64", touched, 1.0 / TAGS as f64);
}

fn poisson(mean: f64, k: i32) -> f64 {
    (1..=k).fold((-mean).exp(), |p, i| p * mean / f64::from(i))
}

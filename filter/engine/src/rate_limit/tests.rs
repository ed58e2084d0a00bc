//! The rate against a bucket in exact rational arithmetic, and against Envoy's own test vectors.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A token bucket with exact arithmetic: fill in units of 1/period tokens, in u128.
struct Model {
    requests: u128,
    period: u128,
    capacity: u128,
    fill: u128,
    at: u64,
}

impl Model {
    fn new(requests: u32, period: u64, burst: u32, now: u64) -> Self {
        let (requests, period) = (u128::from(requests), u128::from(period));
        let capacity = u128::from(burst) * period;
        Self { requests, period, capacity, fill: capacity, at: now }
    }

    fn pass(&mut self, now: u64) {
        let elapsed = u128::from(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        self.fill = self.capacity.min(self.fill + elapsed * self.requests);
    }

    fn take(&mut self, now: u64, cost: u32) -> bool {
        self.pass(now);
        let cost = u128::from(cost) * self.period;
        let there = self.fill >= cost;
        if there {
            self.fill -= cost;
        }
        there
    }
}

fn rates() -> impl Strategy<Value = (u32, u64, u32)> {
    let requests = prop_oneof![1..20u32, 1..100_000u32, Just(3), Just(7), Just(u32::MAX)];
    let period = prop_oneof![
        Just(SECOND),
        Just(60 * SECOND),
        Just(86_400 * SECOND),
        1..10 * SECOND,
        Just(u64::MAX),
        Just(u64::MAX / 4)
    ];
    let burst = prop_oneof![1..10u32, 1..100_000u32, Just(u32::MAX)];
    (requests, period, burst)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With a clock that only goes forward: never admits what the exact bucket would not, and stays within the
    /// rounding of the interval of it.
    #[test]
    fn is_never_ahead_of_the_exact_bucket(
        (requests, period, burst) in rates(),
        start in prop_oneof![Just(0u64), 0..u64::MAX / 2],
        steps in prop::collection::vec((prop_oneof![Just(0u64), 1..1000u64, 1..3 * SECOND], 1..4u32), 1..200),
    ) {
        let Ok(rate) = Rate::new(requests, period, burst) else { return Ok(()) };
        let mut model = Model::new(requests, period, burst, start);
        // Follows our own admissions: it must have had the tokens every time.
        let (mut full_at, mut now, mut admitted) = (0u64, start, 0u64);
        for (step, cost) in steps {
            now = now.saturating_add(step);
            match rate.take(full_at, now, cost) {
                Ok(after) => {
                    prop_assert!(model.take(now, cost), "admitted what the exact bucket has not");
                    full_at = after;
                    admitted += u64::from(cost);
                }
                Err(wait) => {
                    prop_assert!(wait.nanoseconds() > 0);
                    if wait != Wait::FOREVER {
                        // Right to the nanosecond: a moment before it is refused, then it passes.
                        let then = now.saturating_add(wait.nanoseconds());
                        prop_assert!(rate.take(full_at, then, cost).is_ok());
                        prop_assert!(rate.take(full_at, then - 1, cost).is_err());
                    }
                    // Late by at most 1 ns for each token admitted and asked for.
                    model.pass(now);
                    let rounding = u128::from(admitted + u64::from(cost)) * model.requests;
                    let asked = u128::from(cost) * model.period;
                    prop_assert!(
                        cost > burst || model.fill < asked + rounding,
                        "refused what was there: {} of {asked}", model.fill
                    );
                }
            }
        }
    }

    /// Whatever the clock does, between the earliest and the latest moment seen never more than
    /// `burst + rate × (latest - earliest)` is admitted, as long as it does not go back.
    #[test]
    fn a_clock_that_jumps_never_gives_more_than_the_time_it_shows(
        (requests, period, burst) in rates(),
        times in prop::collection::vec(prop_oneof![0..10 * SECOND, Just(0), Just(5 * SECOND)], 1..300),
    ) {
        let Ok(rate) = Rate::new(requests, period, burst) else { return Ok(()) };
        let (mut full_at, mut admitted) = (0u64, 0u128);
        let (mut forward, mut last) = (0u128, 0u64);
        for now in times {
            forward += u128::from(now.saturating_sub(last));
            last = now;
            if let Ok(after) = rate.take(full_at, now, 1) {
                full_at = after;
                admitted += 1;
            }
            // Every nanosecond that the clock went forward may have filled something, and nothing else.
            let bound = u128::from(burst) * u128::from(period) + forward * u128::from(requests);
            prop_assert!(admitted * u128::from(period) <= bound);
        }
    }

    /// The numbers for the headers agree with what is admitted.
    #[test]
    fn remaining_is_what_can_still_be_taken(
        (requests, period, burst) in rates(),
        full_at in any::<u64>(),
        now in 0..u64::MAX / 2,
    ) {
        let Ok(rate) = Rate::new(requests, period, burst) else { return Ok(()) };
        let remaining = rate.remaining(full_at, now);
        prop_assert!(remaining <= burst);
        if remaining > 0 {
            prop_assert!(rate.take(full_at, now, remaining).is_ok());
        }
        if let Some(more) = remaining.checked_add(1) {
            prop_assert!(rate.take(full_at, now, more).is_err());
        }
    }
}

#[test]
fn the_edges_of_u64_neither_overflow_nor_admit() {
    let rate = Rate::new(1, SECOND, 5).unwrap();
    let mut full_at = u64::MAX;
    // A stored time of the far future is an empty bucket, not one that never fills.
    assert_eq!(rate.take(full_at, 0, 1), Err(Wait::new(SECOND)));
    for _ in 0..100 {
        if let Ok(after) = rate.take(full_at, u64::MAX, 1) {
            full_at = after;
        }
    }
    assert_eq!(Rate::new(0, 1, 1), Err(RateError::Zero));
    assert_eq!(Rate::new(1, 0, 1), Err(RateError::Zero));
    assert_eq!(Rate::new(1, 1, 0), Err(RateError::Zero));
    assert_eq!(Rate::new(u32::MAX, SECOND, 1), Err(RateError::TooFast));
    assert_eq!(Rate::new(1, u64::MAX, 1), Err(RateError::TooSlow));
    assert_eq!(Rate::new(1, SECOND, u32::MAX).map(|rate| rate.burst()), Ok(u32::MAX));
}

#[test]
fn what_costs_more_than_the_burst_never_passes() {
    let rate = Rate::new(1, SECOND, 5).unwrap();
    assert_eq!(rate.take(0, 100 * SECOND, 6), Err(Wait::FOREVER));
}

#[test]
fn seconds_are_rounded_up() {
    assert_eq!(Wait::new(0).seconds(), 0);
    assert_eq!(Wait::new(1).seconds(), 1);
    assert_eq!(Wait::new(SECOND).seconds(), 1);
    assert_eq!(Wait::new(SECOND + 1).seconds(), 2);
}

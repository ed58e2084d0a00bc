//! A rate with a burst, as one number: the generic cell rate algorithm (GCRA), which is a token bucket with continuous
//! refill held as the time at which it will be full again.
//!
//! The bucket of a key is its *full time* `f` in nanoseconds: at `f` or later it is full, `burst × interval` before
//! that it is empty. A request of cost `c` moves `f` by `c × interval` and is admitted if the bucket does not go below
//! empty. So never more than `burst + rate × time` is admitted in any stretch of time, whatever the clock does.
//! Deliberately absent: where the number is kept ([`crate::rate_limit_table`]), whose it is ([`crate::limits`]).

/// Nanoseconds of one clock, whose zero does not matter. It must not go back by more than the process can bear to
/// refuse: a clock that goes back empties the buckets in use (see [`Rate::start`]), and nothing worse.
pub type Nanoseconds = u64;

/// `requests` in `per`, and up to `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two tokens, rounded up: a token is never early, and at most 1 ns late.
    interval: Nanoseconds,
    /// `burst × interval`: nanoseconds from empty to full.
    span: Nanoseconds,
    burst: u32,
}

/// Why three numbers are no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Nothing would ever pass, or everything.
    #[error("requests, period and burst must be at least 1")]
    Zero,
    /// A token would come more often than every 100 ns: the rounding of the interval would be over 1 %.
    #[error("more than 10 million requests per second cannot be counted")]
    TooFast,
    /// `burst × interval` must stay below 146 years, so that sums with the clock cannot overflow.
    #[error("refilling the burst would take more than 146 years")]
    TooSlow,
}

impl Rate {
    /// Shortest time between two tokens, in nanoseconds.
    pub const MIN_INTERVAL: Nanoseconds = 100;
    /// Longest time from empty to full, in nanoseconds.
    pub const MAX_SPAN: Nanoseconds = u64::MAX / 4;

    /// `requests` per `period` nanoseconds, up to `burst` at once.
    pub fn new(requests: u32, period: Nanoseconds, burst: u32) -> Result<Self, RateError> {
        if requests == 0 || period == 0 || burst == 0 {
            return Err(RateError::Zero);
        }
        let interval = period.div_ceil(u64::from(requests));
        if interval < Self::MIN_INTERVAL {
            return Err(RateError::TooFast);
        }
        match interval.checked_mul(u64::from(burst)) {
            Some(span) if span <= Self::MAX_SPAN => Ok(Self { interval, span, burst }),
            _ => Err(RateError::TooSlow),
        }
    }

    /// The most that is admitted at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Nanoseconds from empty to full.
    #[must_use]
    pub fn span(&self) -> Nanoseconds {
        self.span
    }

    /// The share of one of `sidecars`: the same number of requests in `sidecars` times the period, and a burst that is
    /// divided and rounded down, though never below `cost`, or a request of that cost would never pass.
    #[must_use]
    pub fn share(&self, sidecars: u32, cost: u32) -> Self {
        let sidecars = sidecars.max(1);
        let interval = self.interval.saturating_mul(sidecars.into());
        let burst = (self.burst / sidecars).max(cost).max(1);
        Self { interval, span: interval.saturating_mul(burst.into()).min(Self::MAX_SPAN), burst }
    }

    /// Where a request at `now` starts from, given the stored full time: not before now (a bucket is not more than
    /// full), not more than a span ahead (not less than empty: the clock went back, or the burst was made smaller).
    #[must_use]
    pub fn start(&self, full_at: Nanoseconds, now: Nanoseconds) -> Nanoseconds {
        full_at.clamp(now, now.saturating_add(self.span))
    }

    /// Takes `cost` tokens: the new full time, or how long to wait until they are there.
    pub fn take(&self, full_at: Nanoseconds, now: Nanoseconds, cost: u32) -> Result<Nanoseconds, Wait> {
        let after = self
            .start(full_at, now)
            .checked_add(u64::from(cost).saturating_mul(self.interval))
            .ok_or(Wait::FOREVER)?;
        match (after - now).checked_sub(self.span) {
            None | Some(0) => Ok(after),
            Some(_) if cost > self.burst => Err(Wait::FOREVER),
            Some(missing) => Err(Wait(missing)),
        }
    }

    /// Whole tokens that are left.
    #[must_use]
    pub fn remaining(&self, full_at: Nanoseconds, now: Nanoseconds) -> u32 {
        let used = self.start(full_at, now) - now;
        u32::try_from((self.span - used) / self.interval).unwrap_or(u32::MAX)
    }

    /// Time until there are `tokens` (at most the burst) again; zero if they are there.
    #[must_use]
    pub fn wait_for(&self, full_at: Nanoseconds, now: Nanoseconds, tokens: u32) -> Wait {
        self.take(full_at, now, tokens.min(self.burst)).err().unwrap_or(Wait(0))
    }
}

/// How long to wait, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(Nanoseconds);

impl Wait {
    /// It will never pass: it costs more than the burst.
    pub const FOREVER: Self = Self(Nanoseconds::MAX);

    /// A wait of that many nanoseconds.
    #[must_use]
    pub const fn new(nanoseconds: Nanoseconds) -> Self {
        Self(nanoseconds)
    }

    /// In nanoseconds.
    #[must_use]
    pub const fn nanoseconds(self) -> Nanoseconds {
        self.0
    }

    /// In whole seconds, rounded up: who comes back then is not too early.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0.div_ceil(1_000_000_000)
    }
}

#[cfg(test)]
mod tests;

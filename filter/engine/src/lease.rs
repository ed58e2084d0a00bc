//! Leases: tokens of a global budget that this sidecar has had from a rate limit service, to be spent here.
//!
//! One call to the service is for many requests: for twice as many as the last one as long as they are used up, up to a
//! small part of the budget. A lease ends with the service's window, so that no token is spent in the next one, and what is
//! not spent by then is lost: that refuses more, never less. What the service has refused is refused here without asking
//! again, until its window ends.
//!
//! INVARIANT: no token is spent that the service has not counted, so all sidecars together never spend more than it grants.
//! Deliberately absent: the service, and how it is asked ([`crate::rls`]).

use crate::rate_limit::{Nanoseconds, Wait};
use crate::shared_words::{Region, SharedWords, Slot, Unavailable, Write, bytes, update};

/// Entries of one slot. With 512 slots: 4096 keys; a key beyond that asks more often.
const MAX_ENTRIES: usize = 8;
/// Bytes of an entry: the key's print, the window's end, then four numbers of 32 bits.
const ENTRY_BYTES: usize = 32;
/// [`Entry::more`] of a service that does not say it.
const UNKNOWN: u32 = u32::MAX;

/// Which budget, as a hash with a seed that callers do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: Slot,
    print: u64,
}

impl Key {
    /// From a hash of all that makes this budget another one.
    #[must_use]
    pub fn new(hash: u64) -> Self {
        // A print of 0 is a place that was never used.
        Self { slot: Slot::of(Region::Lease, hash >> 48), print: hash.max(1) }
    }

    /// The hash that tells budgets apart, for who counts them himself.
    #[must_use]
    pub fn print(self) -> u64 {
        self.print
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has its tokens.
    Admitted {
        /// What is left, here and, as far as it says so, at the service.
        left: u32,
        /// The lease runs low, and whoever is told so should ask for more. Nobody else is told until there is an answer.
        low: bool,
        /// When the window ends, for [`give_back`].
        until: Nanoseconds,
    },
    /// The service has refused.
    Refused(Wait),
    /// There is nothing here: the service must be asked.
    Empty,
}

/// What the service said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// When its window ends; what is left then is lost.
    pub until: Nanoseconds,
    /// What there is after this answer: so much, or at most so much.
    pub more: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    print: u64,
    until: Nanoseconds,
    tokens: u32,
    /// Of the largest lease of this window, or the last one.
    size: u32,
    /// What the service has left in this window.
    more: u32,
    /// Somebody was told to ask for more.
    asking: u32,
}

/// Takes `cost` tokens of the lease.
pub fn take(words: &dyn SharedWords, now: Nanoseconds, key: Key, cost: u32) -> Result<Taken, Unavailable> {
    let mut taken = Taken::Empty;
    change(words, now, key, &mut |entry| {
        taken = Taken::Empty;
        if entry.until <= now {
            return Write::Keep;
        }
        let Some(left) = entry.tokens.checked_sub(cost) else {
            if entry.more == 0 {
                taken = Taken::Refused(Wait::new(entry.until - now));
            }
            return Write::Keep;
        };
        entry.tokens = left;
        let low = left < entry.size / 2 && entry.more > 0 && entry.asking == 0;
        entry.asking |= u32::from(low);
        let there = if entry.more == UNKNOWN { 0 } else { entry.more };
        taken = Taken::Admitted { left: left.saturating_add(there), low, until: entry.until };
        Write::Replace
    })?;
    Ok(taken)
}

/// Gives back what [`take`] took of the window that ends at `until`, because another limit has refused the request.
pub fn give_back(
    words: &dyn SharedWords,
    now: Nanoseconds,
    key: Key,
    cost: u32,
    until: Nanoseconds,
) -> Result<(), Unavailable> {
    change(words, now, key, &mut |entry| {
        if entry.until != until || until <= now {
            return Write::Keep;
        }
        entry.tokens = entry.tokens.saturating_add(cost);
        Write::Replace
    })
}

/// How many tokens to ask for: twice the last lease if it was used up, else as many as were used of it; at least `cost`, at
/// most `most` and what the service has.
pub fn size(
    words: &dyn SharedWords,
    now: Nanoseconds,
    key: Key,
    cost: u32,
    most: u32,
) -> Result<u32, Unavailable> {
    let mut size = 0;
    change(words, now, key, &mut |entry| {
        let twice = entry.size.saturating_mul(2);
        size = if entry.until > now {
            twice.min(entry.more)
        } else if entry.tokens < cost {
            twice
        } else {
            entry.size.saturating_sub(entry.tokens)
        };
        Write::Keep
    })?;
    Ok(size.min(most).max(cost))
}

/// The service has answered: it has granted `tokens`, or refused, and then they are 0. `said.more` of a refusal: 0 when there is
/// nothing any more, else how many may be tried for.
pub fn answered(
    words: &dyn SharedWords,
    now: Nanoseconds,
    key: Key,
    tokens: u32,
    said: Said,
) -> Result<(), Unavailable> {
    change(words, now, key, &mut |entry| {
        entry.asking = 0;
        // Else it has come too late for its window.
        if said.until > now {
            if entry.until <= now {
                entry.tokens = 0;
                // After a refusal the next window starts where this one was.
                entry.size = if tokens > 0 { 0 } else { entry.size };
            }
            // The earlier end counts for tokens of two windows.
            entry.until = if entry.tokens > 0 { said.until.min(entry.until) } else { said.until };
            entry.more = said.more.unwrap_or(UNKNOWN);
            entry.tokens = entry.tokens.saturating_add(tokens);
            entry.size = entry.size.max(tokens);
        }
        Write::Replace
    })
}

#[inline(never)]
fn change(
    words: &dyn SharedWords,
    now: Nanoseconds,
    key: Key,
    change: &mut dyn FnMut(&mut Entry) -> Write,
) -> Result<(), Unavailable> {
    update(words, key.slot, |word| {
        // Its place, a new one at the end, or that of the one that is over or ends first: what that has left is lost.
        let (mut place, mut soonest) = (0, Nanoseconds::MAX);
        let mut entry = Entry::default();
        for at in (0..MAX_ENTRIES).map(|number| number * ENTRY_BYTES) {
            let there = read(word, at);
            if there.print == key.print {
                (place, entry) = (at, there);
                break;
            }
            // A place that was never used is over.
            let left = there.until.saturating_sub(now);
            if left < soonest {
                (place, soonest) = (at, left);
            }
        }
        entry.print = key.print;
        let write = change(&mut entry);
        if write == Write::Replace {
            let length = word.len().max(place + ENTRY_BYTES);
            word.resize(length, 0);
            put(&entry, word, place);
        }
        ((), write)
    })
}

fn put(entry: &Entry, word: &mut [u8], at: usize) {
    let Entry { print, until, tokens, size, more, asking } = *entry;
    bytes::put(word, at, &print.to_le_bytes());
    bytes::put(word, at + 8, &until.to_le_bytes());
    for (number, value) in [tokens, size, more, asking].into_iter().enumerate() {
        bytes::put(word, at + 16 + 4 * number, &value.to_le_bytes());
    }
}

fn read(word: &[u8], at: usize) -> Entry {
    let number = |place| bytes::u32_at(word, at + place);
    Entry {
        print: bytes::u64_at(word, at),
        until: bytes::u64_at(word, at + 8),
        tokens: number(16),
        size: number(20),
        more: number(24),
        asking: number(28),
    }
}

#[cfg(test)]
mod tests;

//! Breakers as bytes: four in one shared word.
//!
//! Deliberately absent: the rules of the state machine.

use alloc::vec::Vec;

use super::State;
use crate::rate_limit::Nanoseconds;
use crate::shared_words::bytes;

/// Breakers in one slot.
const PLACES: usize = 4;
/// Parts of a window.
pub const BUCKETS: usize = 10;
/// The bits of a label that are kept.
pub const LABEL: u32 = 0xff_ffff;
/// Bytes of one breaker: the head, then three counts for each part of the window.
const ENTRY_BYTES: usize = 48 + 12 * BUCKETS;

/// The state, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Closed,
    Open,
    HalfOpen,
}

/// One breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is; 0 is nobody's.
    pub print: u64,
    /// Open: until when. HalfOpen: when the probes are given up.
    pub until: Nanoseconds,
    /// From then on there is nothing worth remembering, and somebody else may have the place.
    pub quiet_at: Nanoseconds,
    pub generation: u32,
    pub consecutive: u32,
    pub kind: Kind,
    /// Times that it opened since it was last closed.
    pub openings: u8,
    /// Probes that were let pass, those that succeeded, and those whose answer has begun well and goes on.
    pub issued: u8,
    pub good: u8,
    pub begun: u8,
    /// What it is counted under, at most [`LABEL`].
    pub label: u32,
    pub window: Window,
}

impl Entry {
    /// Closed, with nothing counted.
    pub fn new(print: u64) -> Self {
        Self {
            print,
            until: 0,
            quiet_at: 0,
            generation: 0,
            consecutive: 0,
            kind: Kind::Closed,
            openings: 0,
            issued: 0,
            good: 0,
            begun: 0,
            label: 0,
            window: Window { newest: 0, counts: [[0; 3]; BUCKETS] },
        }
    }
}

impl Entry {
    /// Closed, and nothing but fast successes in sight.
    fn is_content(&self) -> bool {
        self.kind == Kind::Closed
            && self.consecutive == 0
            && self.window.counts.iter().all(|[_, failed, slow]| *failed == 0 && *slow == 0)
    }
}

/// Outcomes by tenths of the window's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number of the newest part since the clock's zero.
    newest: u64,
    /// Total, failed, slow.
    counts: [[u32; 3]; BUCKETS],
}

/// What the window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub total: u64,
    pub failed: u64,
    pub slow: u64,
}

impl Window {
    /// Counts one outcome, and forgets what has become too old.
    pub fn count(&mut self, now: Nanoseconds, length: Nanoseconds, failed: bool, slow: bool) -> Sums {
        let parts = BUCKETS as u64;
        // A clock that went back counts in the newest part.
        let part = (now / (length / parts).max(1)).max(self.newest);
        for old in 0..(part - self.newest).min(parts) {
            if let Some(counts) = self.counts.get_mut(((part - old) % parts) as usize) {
                *counts = [0; 3];
            }
        }
        self.newest = part;
        if let Some([total, failures, slows]) = self.counts.get_mut((part % parts) as usize) {
            *total = total.saturating_add(1);
            *failures = failures.saturating_add(u32::from(failed));
            *slows = slows.saturating_add(u32::from(slow));
        }
        let mut sums = Sums { total: 0, failed: 0, slow: 0 };
        for [total, failed, slow] in self.counts {
            sums.total += u64::from(total);
            sums.failed += u64::from(failed);
            sums.slow += u64::from(slow);
        }
        sums
    }
}

/// The breaker with that print, and its place.
#[inline(never)]
pub fn find(word: &[u8], print: u64) -> Option<(usize, Entry)> {
    let index = (0..PLACES).find(|index| bytes::u64_at(word, index * ENTRY_BYTES) == print)?;
    Some((index, read(word, index)))
}

/// Label and state of each breaker that is not closed, and not so quiet that somebody else may have its place.
pub fn not_closed(word: &[u8], now: Nanoseconds, tell: &mut impl FnMut(u32, State)) {
    for at in (0..word.len()).step_by(ENTRY_BYTES).filter(|at| now < bytes::u64_at(word, at + 16)) {
        let label = bytes::u32_at(word, at + 44) & LABEL;
        match bytes::u32_at(word, at + 40) & 0xff {
            1 => tell(label, State::Open),
            2 => tell(label, State::HalfOpen),
            _ => {}
        }
    }
}

/// A place for a new breaker: one that nobody has, or whose breaker has nothing to remember. One with something bad to
/// remember (`failing`) may also have the place of one that knows of nothing but successes.
#[inline(never)]
pub fn place(word: &[u8], print: u64, now: Nanoseconds, failing: bool) -> Option<(usize, Entry)> {
    let free = |index: &usize| {
        let at = index * ENTRY_BYTES;
        bytes::u64_at(word, at) == 0 || bytes::u64_at(word, at + 16) <= now
    };
    let content = |index: &usize| failing && read(word, *index).is_content();
    let index = (0..PLACES).find(free).or_else(|| (0..PLACES).find(content))?;
    Some((index, Entry::new(print)))
}

#[inline(never)]
fn read(word: &[u8], index: usize) -> Entry {
    let at = index * ENTRY_BYTES;
    let [kind, openings, issued, good] = bytes::u32_at(word, at + 40).to_le_bytes();
    let rest = bytes::u32_at(word, at + 44);
    let mut counts = [[0; 3]; BUCKETS];
    for (number, count) in counts.iter_mut().flatten().enumerate() {
        *count = bytes::u32_at(word, at + 48 + 4 * number);
    }
    Entry {
        print: bytes::u64_at(word, at),
        until: bytes::u64_at(word, at + 8),
        quiet_at: bytes::u64_at(word, at + 16),
        generation: bytes::u32_at(word, at + 32),
        consecutive: bytes::u32_at(word, at + 36),
        kind: match kind {
            1 => Kind::Open,
            2 => Kind::HalfOpen,
            _ => Kind::Closed,
        },
        openings,
        issued,
        good,
        begun: (rest >> 24) as u8,
        label: rest & LABEL,
        window: Window { newest: bytes::u64_at(word, at + 24), counts },
    }
}

/// Writes a breaker to its place.
#[inline(never)]
pub fn put(word: &mut Vec<u8>, index: usize, entry: &Entry) {
    word.resize(PLACES * ENTRY_BYTES, 0);
    let at = index * ENTRY_BYTES;
    let kind = match entry.kind {
        Kind::Closed => 0,
        Kind::Open => 1,
        Kind::HalfOpen => 2,
    };
    bytes::put(word, at, &entry.print.to_le_bytes());
    bytes::put(word, at + 8, &entry.until.to_le_bytes());
    bytes::put(word, at + 16, &entry.quiet_at.to_le_bytes());
    bytes::put(word, at + 24, &entry.window.newest.to_le_bytes());
    bytes::put(word, at + 32, &entry.generation.to_le_bytes());
    bytes::put(word, at + 36, &entry.consecutive.to_le_bytes());
    bytes::put(word, at + 40, &[kind, entry.openings, entry.issued, entry.good]);
    bytes::put(word, at + 44, &(u32::from(entry.begun) << 24 | entry.label).to_le_bytes());
    for (number, count) in entry.window.counts.iter().flatten().enumerate() {
        bytes::put(word, at + 48 + 4 * number, &count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_is_read_as_it_was_written() {
        let mut entry = Entry::new(7);
        entry.kind = Kind::HalfOpen;
        (entry.until, entry.quiet_at, entry.generation, entry.consecutive) = (1, 2, 3, 4);
        (entry.openings, entry.issued, entry.good, entry.begun, entry.label) = (5, 6, 7, 8, LABEL);
        entry.window.count(123_456, 1000, true, true);
        let mut word = Vec::new();
        put(&mut word, 3, &entry);
        assert_eq!(find(&word, 7), Some((3, entry)));
        assert_eq!(find(&word, 8), None);
        assert_eq!(place(&word, 9, 0, false), Some((0, Entry::new(9))));
    }

    #[test]
    fn the_window_forgets_by_tenths() {
        let mut window = Entry::new(1).window;
        let total = |window: &mut Window, now| window.count(now, 1000, false, false).total;
        assert_eq!(total(&mut window, 5000), 1);
        assert_eq!(total(&mut window, 5999), 2, "still in the window");
        assert_eq!(total(&mut window, 6000), 2, "the first is too old");
        assert_eq!(total(&mut window, 5000), 3, "a clock that goes back counts in the newest part");
        assert_eq!(total(&mut window, u64::MAX), 1);
    }
}

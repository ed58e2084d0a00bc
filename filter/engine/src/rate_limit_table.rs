//! A fixed table for the buckets of any number of keys, in which no key ever gets a fresh burst and no caller's flood
//! of keys takes the place of another's.
//!
//! A key is hashed into one of [`Region::RateLimit`]'s slots. A slot is one shared word that holds [`WAYS`] buckets
//! and one *common* bucket. What happens to a key that is not in its slot:
//!
//! 1. A way whose bucket is full again is free: a full bucket is what a new key starts with, so nothing is lost.
//! 2. No way is free. Each key has an *owner* (its limit and the caller); the owner with the most ways pays. If that
//!    is somebody else, two of his ways become one, his *shared* bucket, and the newcomer gets the free one. If it
//!    is the newcomer's own owner, the newcomer is counted in that owner's shared bucket.
//! 3. All ways belong to different owners and the newcomer's has none: it is counted in the slot's common bucket.
//!
//! INVARIANT: for every key, what is stored is at most as full as what the key has left of its promise. A key in a way
//! is there alone; a key that is not there has had everything that it was admitted in its owner's shared bucket or in
//! the common one, or is full. So a new way starts with the emptier of the two, never with a fresh burst. Hashes that
//! collide share a bucket, which can only refuse more.
//!
//! Deliberately absent: any list of keys, any deletion by time: a bucket forgets itself by becoming full.

use alloc::vec::Vec;

use crate::rate_limit::{Nanoseconds, Rate, Wait};
use crate::shared_words::{Region, SharedWords, Slot, Unavailable, Write, bytes, update};
use crate::small;

/// Buckets of one slot. With 2048 slots: 30,720 callers that are busy at once.
pub const WAYS: usize = 15;

/// Bytes of a slot: the common bucket's full time and a reserve, then the ways, 16 bytes each.
pub const SLOT_BYTES: usize = 16 * (WAYS + 1);

/// Which bucket, as hashes with a seed that callers do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: Slot,
    /// Its low 48 bits tell keys of one slot apart.
    print: u64,
    owner: u16,
}

impl Key {
    /// From a hash of the key and one of its owner. Collisions cost accuracy, never safety: of 15 keys in one slot
    /// two have the same print with a probability below 1 in 10^12.
    #[must_use]
    pub fn new(key_hash: u64, owner_hash: u64) -> Self {
        let slot = Slot::of(Region::RateLimit, key_hash >> 48);
        // Owner 0 is nobody: the tag of a way that was never used is 0.
        Self { slot, print: key_hash, owner: (owner_hash as u16).max(1) }
    }

    /// The same slot for another window of the same key: both are decided, and written, at once.
    #[must_use]
    pub fn in_slot_of(self, first: Self) -> Self {
        Self { slot: first.slot, ..self }
    }
}

/// What a way says whose bucket it is: 48 bits of the key's hash and 16 of its owner's. A print of 0 is the shared
/// bucket of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    fn of(key: &Key) -> Self {
        let print = key.print & 0xffff_ffff_ffff;
        Self((print.max(1) << 16) | u64::from(key.owner))
    }

    fn shared(owner: u16) -> Self {
        Self(u64::from(owner))
    }

    fn owner(self) -> u16 {
        self.0 as u16
    }
}

/// One window of a limit, for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Which.
    pub key: Key,
    /// Its promise.
    pub rate: Rate,
}

/// What became of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Whole tokens left, after this request if it was admitted.
    pub remaining: u32,
    /// Time until this request would pass; zero if this window has nothing against it.
    pub wait: Wait,
    /// Time until there is one token more than [`Self::remaining`]; zero if the bucket is full.
    pub next: Wait,
    /// The full time before and after, for [`give_back`].
    before: Nanoseconds,
    after: Nanoseconds,
}

impl Level {
    /// What somebody else has counted.
    #[must_use]
    pub fn told(remaining: u32, wait: Wait, next: Wait) -> Self {
        Self { remaining, wait, next, before: 0, after: 0 }
    }
}

/// Takes `cost` from every bucket, or from none: the buckets must be of one slot ([`Key::in_slot_of`]). One level for
/// each bucket goes to `levels`. Admitted if all waits are zero.
pub fn take(
    words: &dyn SharedWords,
    now: Nanoseconds,
    buckets: &[Bucket],
    cost: u32,
    levels: &mut Vec<Level>,
) -> Result<bool, Unavailable> {
    let Some(first) = buckets.first() else { return Ok(true) };
    update(words, first.key.slot, |word| {
        levels.clear();
        let before = Ways::read(word);
        let mut ways = before.clone();
        let mut admitted = true;
        for bucket in buckets {
            let (level, placed) = ways.take(now, bucket, cost);
            admitted &= placed;
            levels.push(level);
        }
        if admitted {
            ways.write(word);
            return (true, Write::Replace);
        }
        // Refused: nothing is taken. Levels show what is there without this request.
        let mut ways = before;
        let mut settled = false;
        for (bucket, level) in buckets.iter().zip(levels.iter_mut()) {
            settled |= ways.settle(now, bucket);
            if level.wait == Wait::new(0) {
                *level = ways.peek(now, bucket);
            }
        }
        if settled {
            ways.write(word);
        }
        (false, if settled { Write::Replace } else { Write::Keep })
    })
}

/// Gives back what [`take`] took, because another limit refused the request afterwards.
///
/// Only as long as nobody else has taken from the bucket since: otherwise it may have been full in between, and what
/// is given back would be more than was taken. Then it stays taken.
pub fn give_back(words: &dyn SharedWords, buckets: &[Bucket], levels: &[Level]) -> Result<(), Unavailable> {
    let Some(first) = buckets.first() else { return Ok(()) };
    update(words, first.key.slot, |word| {
        let mut ways = Ways::read(word);
        let mut write = Write::Keep;
        for (bucket, level) in buckets.iter().zip(levels) {
            let tag = Tag::of(&bucket.key);
            if let Some(index) = ways.find(tag).filter(|index| ways.full_at(*index) == level.after) {
                ways.set(index, level.before, tag);
                write = Write::Replace;
            }
        }
        if write == Write::Replace {
            ways.write(word);
        }
        ((), write)
    })
}

/// Longer than a worker is held up between its look at the clock and at the table: 10 s. What seems emptier than empty by less
/// may be another worker's, whose clock is ahead by that; to take it for empty would give tokens back that were taken.
const HELD_UP: Nanoseconds = 10_000_000_000;

#[derive(Clone)]
struct Ways {
    common: Nanoseconds,
    ways: [(Nanoseconds, Tag); WAYS],
}

/// Where a key's tokens are taken from.
enum Place {
    /// Its own way, or its owner's shared one.
    Way(usize),
    Common,
}

impl Ways {
    fn read(word: &[u8]) -> Self {
        let way = |index: usize| {
            let at = 16 * (index + 1);
            (bytes::u64_at(word, at), Tag(bytes::u64_at(word, at + 8)))
        };
        Self { common: bytes::u64_at(word, 0), ways: core::array::from_fn(way) }
    }

    fn write(&self, word: &mut Vec<u8>) {
        word.resize(SLOT_BYTES, 0);
        bytes::put(word, 0, &self.common.to_le_bytes());
        for (index, (full_at, tag)) in self.ways.iter().enumerate() {
            let at = 16 * (index + 1);
            bytes::put(word, at, &full_at.to_le_bytes());
            bytes::put(word, at + 8, &tag.0.to_le_bytes());
        }
    }

    fn find(&self, tag: Tag) -> Option<usize> {
        self.ways.iter().position(|(_, other)| *other == tag)
    }

    fn full_at(&self, index: usize) -> Nanoseconds {
        self.ways.get(index).map_or(0, |(full_at, _)| *full_at)
    }

    fn set(&mut self, index: usize, full_at: Nanoseconds, tag: Tag) {
        if let Some(way) = self.ways.get_mut(index) {
            *way = (full_at, tag);
        }
    }

    /// What a key that has no way has been admitted at most.
    fn floor(&self, owner: u16) -> Nanoseconds {
        let shared = self.find(Tag::shared(owner)).map_or(0, |index| self.full_at(index));
        shared.max(self.common)
    }

    /// The level without this request.
    fn peek(&self, now: Nanoseconds, bucket: &Bucket) -> Level {
        let full_at = match self.find(Tag::of(&bucket.key)) {
            Some(index) => self.full_at(index),
            None => self.floor(bucket.key.owner),
        };
        level(&bucket.rate, now, full_at, full_at, Wait::new(0))
    }

    #[inline(never)]
    fn take(&mut self, now: Nanoseconds, bucket: &Bucket, cost: u32) -> (Level, bool) {
        let Bucket { key, rate } = bucket;
        let tag = Tag::of(key);
        let (place, full_at) = match self.find(tag) {
            Some(index) => (Place::Way(index), self.full_at(index)),
            None => {
                // Before the place is made: making it may reuse the shared way, and after: it may make that emptier.
                let floor = self.floor(key.owner);
                let place = self.place(now, key.owner, tag);
                (place, floor.max(self.floor(key.owner)))
            }
        };
        let after = match rate.take(full_at, now, cost) {
            Ok(after) => after,
            Err(wait) => return (level(rate, now, full_at, full_at, wait), false),
        };
        match place {
            Place::Common => self.common = self.common.max(after),
            Place::Way(index) => {
                let (stored, holder) = self.ways.get(index).copied().unwrap_or((0, tag));
                // A shared way counts for others too: it must not become fuller than it was.
                let after = if holder == tag { after } else { after.max(stored) };
                self.set(index, after, holder);
            }
        }
        (level(rate, now, full_at, after, Wait::new(0)), true)
    }

    /// A bucket that is emptier than this limit knows becomes empty, or the key would have to wait for another limit: its
    /// own of an hour before somebody made it one of a second (or for a clock that went back); and where it has no way,
    /// one with a longer span that has left the slot's common bucket so: it gets its way.
    fn settle(&mut self, now: Nanoseconds, bucket: &Bucket) -> bool {
        let tag = Tag::of(&bucket.key);
        let empty = now.saturating_add(bucket.rate.span());
        let beyond_doubt = empty.saturating_add(HELD_UP);
        if let Some(index) = self.find(tag) {
            let emptier = self.full_at(index) > beyond_doubt;
            if emptier {
                self.set(index, empty, tag);
            }
            return emptier;
        }
        if self.floor(bucket.key.owner) <= beyond_doubt {
            return false;
        }
        match self.place(now, bucket.key.owner, tag) {
            Place::Way(index) if self.ways.get(index).is_some_and(|(_, holder)| *holder == tag) => {
                self.set(index, empty, tag);
                true
            }
            Place::Way(_) | Place::Common => false,
        }
    }

    /// A place for a key that has none, see the head of this file.
    #[inline(never)]
    fn place(&mut self, now: Nanoseconds, owner: u16, tag: Tag) -> Place {
        if let Some(index) = self.ways.iter().position(|(full_at, _)| *full_at <= now) {
            self.set(index, 0, tag);
            return Place::Way(index);
        }
        let held = |ways: &Self, owner: u16| ways.ways.iter().filter(|(_, tag)| tag.owner() == owner).count();
        let mine = held(self, owner);
        let (most, richest) = self
            .ways
            .iter()
            .map(|(_, tag)| (held(self, tag.owner()), tag.owner()))
            .max()
            .unwrap_or((0, owner));
        if most >= mine + 2 {
            let index = self.free_one_of(richest);
            self.set(index, 0, tag);
            return Place::Way(index);
        }
        match (mine, self.find(Tag::shared(owner))) {
            (0, _) => Place::Common,
            (_, Some(index)) => Place::Way(index),
            (_, None) => {
                let index = self.emptiest_last(owner).first().copied().unwrap_or(0);
                self.set(index, self.full_at(index), Tag::shared(owner));
                Place::Way(index)
            }
        }
    }

    /// Makes one of an owner's ways part of his shared one, and returns it. He has at least two.
    fn free_one_of(&mut self, owner: u16) -> usize {
        let own = self.emptiest_last(owner);
        let victim = own.first().copied().unwrap_or(0);
        let shared = self.find(Tag::shared(owner)).or_else(|| own.get(1).copied()).unwrap_or(victim);
        let full_at = self.full_at(shared).max(self.full_at(victim));
        self.set(shared, full_at, Tag::shared(owner));
        victim
    }

    /// The ways of an owner, without his shared one, the fullest bucket first: it loses the least.
    fn emptiest_last(&self, owner: u16) -> Vec<usize> {
        let mut own: Vec<usize> = (0..WAYS)
            .filter(|index| {
                self.ways
                    .get(*index)
                    .is_some_and(|(_, tag)| tag.owner() == owner && *tag != Tag::shared(owner))
            })
            .collect();
        small::sort_by(&mut own, |a, b| self.full_at(*a) < self.full_at(*b));
        own
    }
}

fn level(rate: &Rate, now: Nanoseconds, before: Nanoseconds, after: Nanoseconds, wait: Wait) -> Level {
    let remaining = rate.remaining(after, now);
    Level { remaining, wait, next: rate.wait_for(after, now, remaining.saturating_add(1)), before, after }
}

#[cfg(test)]
mod tests;

//! State that all workers of one Envoy share: a fixed number of words, each replaced whole under compare-and-swap.
//!
//! Envoy runs the filter in one VM per worker thread; the shared data of proxy-wasm is what they have in common. It
//! has no delete and no list, so a name made from what a caller sends would stay for ever: all names are made at
//! configuration time ([`Slot`]), and callers are hashed into them. Deliberately absent: any knowledge of the host;
//! [`Memory`] is for `policy eval` and tests, the filter has its own [`SharedWords`].

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

/// What a slot is for. The letter is part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Rate limits, see [`crate::rate_limit_table`].
    RateLimit,
    /// Circuit breakers, see [`crate::circuit_breaker`].
    Breaker,
    /// Requests in flight, see [`crate::concurrency`].
    InFlight,
    /// Leases of global budgets, see [`crate::lease`].
    Lease,
    /// The VMs that are alive, see [`crate::concurrency`]. One slot.
    Members,
    /// The seed of the hashes. One slot.
    Seed,
}

impl Region {
    /// How many slots there are. A power of two, and never another number: slots of another number would be other
    /// buckets, and a reload would be a fresh burst for everyone.
    #[must_use]
    pub const fn slots(self) -> u16 {
        match self {
            Self::RateLimit => 2048,
            Self::Breaker | Self::Lease => 512,
            Self::InFlight => 256,
            Self::Members | Self::Seed => 1,
        }
    }

    const fn letter(self) -> u8 {
        match self {
            Self::RateLimit => b'r',
            Self::Breaker => b'b',
            Self::InFlight => b'f',
            Self::Lease => b'l',
            Self::Members => b'm',
            Self::Seed => b's',
        }
    }
}

/// One word's name: its region and its number, below [`Region::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    region: Region,
    index: u16,
}

impl Slot {
    /// The slot for a hash: any value is fine.
    #[must_use]
    pub const fn of(region: Region, hash: u64) -> Self {
        // INVARIANT: slots() is a power of two, so the mask keeps the index below it.
        Self { region, index: (hash & (region.slots() as u64 - 1)) as u16 }
    }

    /// All slots of a region, to create them.
    pub fn all(region: Region) -> impl Iterator<Item = Self> {
        (0..region.slots()).map(move |index| Self { region, index })
    }

    /// The name under which the host keeps it, for example `mw1.r.07ff`. The 1 is the version of the layouts: words
    /// of another layout have other names.
    #[must_use]
    pub fn name(self) -> SlotName {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let digit = |shift: u16| {
            let value = usize::from((self.index >> shift) & 0xf);
            HEX.get(value).copied().unwrap_or(b'0')
        };
        SlotName([
            b'm',
            b'w',
            b'1',
            b'.',
            self.region.letter(),
            b'.',
            digit(12),
            digit(8),
            digit(4),
            digit(0),
        ])
    }
}

/// The text of a name, on the stack: a request makes several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotName([u8; 10]);

impl SlotName {
    /// As the host wants it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Always ASCII, see `Slot::name`.
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Somebody else has replaced the word since it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// Words under compare-and-swap.
pub trait SharedWords {
    /// The word and its version. `None`: it was never created.
    fn load(&self, slot: Slot) -> Option<(Vec<u8>, u32)>;

    /// Replaces the word if it still has that version.
    fn replace(&self, slot: Slot, version: u32, word: &[u8]) -> Result<(), Conflict>;
}

/// What to do with a word that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Leave it: nothing changed.
    Keep,
    /// Write it back.
    Replace,
}

/// The word could not be read, or every attempt to replace it met somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Somebody wins every round, so this many lost rounds in a row mean that something is wrong with the host.
const ATTEMPTS: u32 = 1000;

/// Reads a word, lets `change` look at it, and writes it back unless somebody else did meanwhile; then all again.
///
/// `change` may run several times and must depend on its arguments only.
pub fn update<T>(
    words: &dyn SharedWords,
    slot: Slot,
    mut change: impl FnMut(&mut Vec<u8>) -> (T, Write),
) -> Result<T, Unavailable> {
    for _ in 0..ATTEMPTS {
        let (mut word, version) = words.load(slot).ok_or(Unavailable)?;
        let (result, write) = change(&mut word);
        if write == Write::Keep || words.replace(slot, version, &word).is_ok() {
            return Ok(result);
        }
    }
    Err(Unavailable)
}

/// Words in this process: for `policy eval` and tests. Every slot exists, empty.
#[derive(Debug, Default)]
pub struct Memory(RefCell<BTreeMap<Slot, (Vec<u8>, u32)>>);

impl SharedWords for Memory {
    fn load(&self, slot: Slot) -> Option<(Vec<u8>, u32)> {
        Some(self.0.borrow().get(&slot).cloned().unwrap_or_default())
    }

    fn replace(&self, slot: Slot, version: u32, word: &[u8]) -> Result<(), Conflict> {
        let mut words = self.0.borrow_mut();
        let (old, current) = words.entry(slot).or_default();
        if *current != version {
            return Err(Conflict);
        }
        *old = word.to_vec();
        *current = current.wrapping_add(1);
        Ok(())
    }
}

/// Little-endian numbers at fixed places of a word. A place outside the word reads as 0 and is not written: words
/// have one length from their creation on, and an empty one is all zeroes.
pub(crate) mod bytes {
    pub fn u64_at(word: &[u8], at: usize) -> u64 {
        word.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    pub fn u32_at(word: &[u8], at: usize) -> u32 {
        word.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    pub fn put(word: &mut [u8], at: usize, value: &[u8]) {
        if let Some(place) = word.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_hashes_stay_inside() {
        let mut names = std::collections::BTreeSet::new();
        let mut count = 0;
        for region in [
            Region::RateLimit,
            Region::Breaker,
            Region::InFlight,
            Region::Lease,
            Region::Members,
            Region::Seed,
        ] {
            assert!(region.slots().is_power_of_two());
            for slot in Slot::all(region) {
                names.insert(slot.name().as_str().to_owned());
                count += 1;
            }
            assert!(Slot::of(region, u64::MAX).index < region.slots());
        }
        assert_eq!(names.len(), count);
        assert!(names.contains("mw1.r.07ff"));
    }

    #[test]
    fn a_word_that_is_always_taken_ends_the_attempts() {
        struct Contended;
        impl SharedWords for Contended {
            fn load(&self, _: Slot) -> Option<(Vec<u8>, u32)> {
                Some((Vec::new(), 1))
            }
            fn replace(&self, _: Slot, _: u32, _: &[u8]) -> Result<(), Conflict> {
                Err(Conflict)
            }
        }
        let slot = Slot::of(Region::Seed, 0);
        assert_eq!(update(&Contended, slot, |_| ((), Write::Replace)), Err(Unavailable));
        assert_eq!(update(&Contended, slot, |_| (7, Write::Keep)), Ok(7));
    }
}

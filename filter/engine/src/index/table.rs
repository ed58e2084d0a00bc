//! Numbers found by hash, and numbers in order: one of each for the whole engine.
//!
//! Of the standard library's generic ones every use is compiled anew, which takes kilobytes of the filter's module each
//! time. Keys come from the configuration only: a caller looks things up, and puts nothing in.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::small;

/// Hash of bytes. Not for keys that a caller chooses.
pub fn hash(seed: u32, bytes: &[u8]) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = (u64::from(seed) ^ (bytes.len() as u64) << 32).wrapping_mul(ODD);
    let mut mix = |word: [u8; 8]| {
        state = (state ^ u64::from_le_bytes(word)).wrapping_mul(ODD);
        state ^= state >> 29;
    };
    let (words, rest) = bytes.as_chunks();
    words.iter().for_each(|word| mix(*word));
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
    mix(last);
    (state.wrapping_mul(ODD) >> 32) as u32
}

/// Hash of numbers.
pub fn hash_words(seed: u32, words: &[u32]) -> u32 {
    let mut state = seed;
    for word in words {
        state = hash(state, &word.to_le_bytes());
    }
    state
}

/// No number stands in the bucket.
const EMPTY: u32 = u32::MAX;

/// Numbers (of entries elsewhere) by the hash of what they stand for.
#[derive(Debug, Default)]
pub struct Table {
    /// Hash and number. INVARIANT: none, or a power of two of which at most three quarters are filled.
    buckets: Vec<(u32, u32)>,
    length: usize,
}

impl Table {
    /// Adds a number that is not there.
    pub fn insert(&mut self, hash: u32, number: u32) {
        if (self.length + 1) * 4 > self.buckets.len() * 3 {
            let buckets = vec![(0, EMPTY); (self.buckets.len() * 2).max(8)];
            let old = core::mem::replace(&mut self.buckets, buckets);
            old.into_iter()
                .filter(|(_, number)| *number != EMPTY)
                .for_each(|(hash, number)| self.put(hash, number));
        }
        self.put(hash, number);
        self.length += 1;
    }

    /// The number with this hash that is the one.
    pub fn find(&self, hash: u32, is_it: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.buckets.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        loop {
            let (other, number) = *self.buckets.get(at)?;
            if number == EMPTY {
                return None;
            }
            if other == hash && is_it(number) {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn put(&mut self, hash: u32, number: u32) {
        let mask = self.buckets.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        while let Some(bucket) = self.buckets.get_mut(at) {
            if bucket.1 == EMPTY {
                *bucket = (hash, number);
                return;
            }
            at = (at + 1) & mask;
        }
    }
}

/// Lists of numbers, each once.
#[derive(Debug, Default)]
pub struct Interner {
    table: Table,
    words: Vec<u32>,
    /// Where each list ends.
    ends: Vec<u32>,
}

impl Interner {
    /// The number of a list, and whether it is new.
    pub fn intern(&mut self, list: &[u32]) -> (u32, bool) {
        let hash = hash_words(0, list);
        if let Some(number) = self.table.find(hash, &mut |number| self.list(number) == list) {
            return (number, false);
        }
        let number = super::count(self.ends.len());
        self.words.extend_from_slice(list);
        self.ends.push(super::count(self.words.len()));
        self.table.insert(hash, number);
        (number, true)
    }

    /// The list with this number.
    pub fn list(&self, number: u32) -> &[u32] {
        let number = number as usize;
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(number).copied().unwrap_or(0);
        self.words.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Sorts numbers by a comparison of them; equals keep no order.
pub fn sort(numbers: &mut [u32], compare: &dyn Fn(u32, u32) -> Ordering) {
    small::sort_by(numbers, |a, b| compare(*a, *b).is_lt());
}

/// The numbers below `length` in the order of a comparison.
pub fn sorted(length: usize, compare: &dyn Fn(u32, u32) -> Ordering) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..super::count(length)).collect();
    sort(&mut numbers, compare);
    numbers
}

/// Sorts numbers and leaves each once.
pub fn sort_once(numbers: &mut Vec<u32>) {
    // Most lists are of one number.
    if numbers.len() > 1 {
        sort(numbers, &|a, b| a.cmp(&b));
        numbers.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sorted() {
        let mut numbers = vec![3, 1, 3, 2];
        sort_once(&mut numbers);
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(sorted(4, &|a, b| b.cmp(&a)), [3, 2, 1, 0]);
    }

    #[test]
    fn what_is_put_in_is_found_and_nothing_else() {
        let mut table = Table::default();
        let hash_of = |number: u32| hash(1, &number.to_le_bytes());
        assert_eq!(table.find(hash_of(1), &mut |_| true), None);
        for number in 0..5_000 {
            // Every tenth has the hash of the one before.
            table.insert(hash_of(number / 10 * 10), number);
        }
        for number in 0..5_000 {
            let found = table.find(hash_of(number / 10 * 10), &mut |other| other == number);
            assert_eq!(found, Some(number));
        }
        for number in 5_000..10_000 {
            assert_eq!(table.find(hash_of(number), &mut |other| other == number), None);
        }
    }

    #[test]
    fn lists_have_one_number_each() {
        let mut interner = Interner::default();
        assert_eq!(interner.intern(&[]), (0, true));
        assert_eq!(interner.intern(&[1, 2]), (1, true));
        assert_eq!(interner.intern(&[1]), (2, true));
        assert_eq!(interner.intern(&[1, 2]), (1, false));
        assert_eq!(interner.intern(&[]), (0, false));
        assert_eq!((interner.list(1), interner.list(2), interner.len()), (&[1, 2][..], &[1][..], 3));
    }

    #[test]
    fn hashes_spread() {
        let mut low = std::collections::BTreeSet::new();
        for number in 0..10_000 {
            low.insert(
                hash(7, format!("cluster.local/ns/team-{}/sa/svc-{number}", number % 200).as_bytes())
                    & 0x3fff,
            );
        }
        // 10,000 balls in 16,384 boxes fill 7,484 of them.
        assert!(low.len() > 7_200, "{}", low.len());
    }
}

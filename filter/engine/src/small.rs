//! A sort and a table that cost little code. The standard library's sort is 8 kB of module for every type that it is
//! used with, and a hash table 1.7 kB; what is sorted and looked up here is configuration, once.

use core::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Sorts by heap: never worse than n log n, in place, a few hundred bytes of code. Equal items keep no order, but the
/// same input always gives the same output.
pub fn sort_by<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let length = items.len();
    for root in (0..length / 2).rev() {
        sift(items, root, length, &less);
    }
    for end in (1..length).rev() {
        items.swap(0, end);
        sift(items, 0, end, &less);
    }
}

/// Sorts items that have an order.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, |a, b| a < b);
}

/// Sorts and leaves one of equal ones.
pub fn sort_and_dedup<T: Ord>(items: &mut Vec<T>) {
    sort(items);
    items.dedup();
}

/// Sinks the item at `root` until nothing below it in the heap of `end` items is greater.
fn sift<T>(items: &mut [T], mut root: usize, end: usize, less: &impl Fn(&T, &T) -> bool) {
    let is_less = |items: &[T], a: usize, b: usize| match (items.get(a), items.get(b)) {
        (Some(a), Some(b)) => less(a, b),
        _ => false,
    };
    loop {
        let mut child = root * 2 + 1;
        if child >= end {
            return;
        }
        if child + 1 < end && is_less(items, child, child + 1) {
            child += 1;
        }
        if !is_less(items, root, child) {
            return;
        }
        items.swap(root, child);
        root = child;
    }
}

/// Numbers of things, like a map to `u32`.
#[derive(Debug)]
pub struct Numbers<K> {
    entries: Vec<(K, u32)>,
    places: HashTable<u32>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashTable::new() }
    }
}

impl<K: Hash + Eq> Numbers<K> {
    /// The number of a thing that has one.
    pub fn get(&self, key: &K) -> Option<u32> {
        let same = |place: &u32| self.entries.get(*place as usize).is_some_and(|(known, _)| known == key);
        let place = self.places.find(hash(key), same)?;
        self.entries.get(*place as usize).map(|(_, number)| *number)
    }

    /// Gives a number to a thing that has none. `false`: it has one, and keeps it.
    pub fn insert(&mut self, key: K, number: u32) -> bool {
        if self.get(&key).is_some() {
            return false;
        }
        let hash_of_key = hash(&key);
        let Ok(place) = u32::try_from(self.entries.len()) else { return false };
        self.entries.push((key, number));
        let entries = &self.entries;
        // One type of function for all tables, so that their code is there once.
        let hash_of: &dyn Fn(&u32) -> u64 =
            &|place| entries.get(*place as usize).map_or(0, |(key, _)| hash(key));
        self.places.insert_unique(hash_of_key, place, hash_of);
        true
    }
}

fn hash<K: Hash>(key: &K) -> u64 {
    FixedState::default().hash_one(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(items: Vec<(u8, u8)>) {
            let (mut ours, mut theirs) = (items.clone(), items);
            sort(&mut ours);
            theirs.sort_unstable();
            prop_assert_eq!(&ours, &theirs);
            sort_and_dedup(&mut ours);
            theirs.dedup();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn a_thing_keeps_its_first_number(keys: Vec<u8>) {
            let mut ours = Numbers::default();
            let mut theirs = std::collections::HashMap::new();
            for (number, key) in (0..).zip(&keys) {
                prop_assert_eq!(ours.insert(*key, number), !theirs.contains_key(key));
                theirs.entry(*key).or_insert(number);
            }
            for key in 0..=255 {
                prop_assert_eq!(ours.get(&key), theirs.get(&key).copied());
            }
        }
    }
}

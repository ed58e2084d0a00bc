//! A set of prefixes, or of suffixes, and all of them that a value has.
//!
//! Sorted, each with a link to the longest other one that it starts with: the one found by bisection, or one of those
//! behind its links, is the longest that the value has, and the links from there are all the others. Bisection costs
//! `log2(n)` comparisons, and no more whatever a caller sends.

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::table;

/// Which end of a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The set holds prefixes.
    Start,
    /// The set holds suffixes.
    Tail,
}

const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct AffixSet {
    end: End,
    /// Texts one after the other, so that bisection stays in one piece of memory.
    texts: Vec<u8>,
    /// INVARIANT: sorted by text (compared from its `end`), without equals.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The first eight bytes from the end that is compared, so that bisection rarely looks at the text.
    key: u64,
    start: u32,
    length: u32,
    /// Longest other entry that this one has as its affix.
    parent: u32,
    value: u32,
}

impl AffixSet {
    /// Of texts with what they stand for. Of equal texts one remains.
    pub fn new(end: End, affixes: &[(Vec<u8>, u32)]) -> Self {
        let text_of = |number: u32| affixes.get(number as usize).map_or(&[][..], |(text, _)| text);
        let order = table::sorted(affixes.len(), &|a, b| compare(end, text_of(a), text_of(b)));
        let mut set = Self { end, texts: Vec::new(), entries: Vec::with_capacity(affixes.len()) };
        for (text, value) in order.into_iter().filter_map(|number| affixes.get(number as usize)) {
            if set.entries.last().is_some_and(|before| set.text(before) == text) {
                continue;
            }
            // What it starts with was sorted before it: the one before, or what that one starts with.
            let mut parent = u32::try_from(set.entries.len()).unwrap_or(NONE).wrapping_sub(1);
            while set.get(parent).is_some_and(|entry| !set.is_affix(entry, text)) {
                parent = set.get(parent).map_or(NONE, |entry| entry.parent);
            }
            let start = u32::try_from(set.texts.len()).unwrap_or(NONE);
            let length = u32::try_from(text.len()).unwrap_or(NONE);
            set.entries.push(Entry { key: key(end, text), start, length, parent, value: *value });
            set.texts.extend_from_slice(text);
        }
        set
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Calls `found` for every affix that `value` has, the longest first.
    pub fn of(&self, value: &[u8], found: &mut dyn FnMut(u32)) {
        let key = key(self.end, value);
        let after = self.entries.partition_point(|entry| match entry.key.cmp(&key) {
            Ordering::Equal => compare(self.end, self.text(entry), value).is_le(),
            different => different.is_lt(),
        });
        let mut at = u32::try_from(after).unwrap_or(NONE).wrapping_sub(1);
        let mut matching = false;
        while let Some(entry) = self.get(at) {
            // Whatever the longest one links to is an affix of it, and so of the value.
            matching = matching || self.is_affix(entry, value);
            if matching {
                found(entry.value);
            }
            at = entry.parent;
        }
    }

    fn get(&self, at: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(at).ok()?)
    }

    fn text(&self, entry: &Entry) -> &[u8] {
        let (start, length) = (entry.start as usize, entry.length as usize);
        self.texts.get(start..start + length).unwrap_or(&[])
    }

    fn is_affix(&self, entry: &Entry, value: &[u8]) -> bool {
        match self.end {
            End::Start => value.starts_with(self.text(entry)),
            End::Tail => value.ends_with(self.text(entry)),
        }
    }
}

/// The first eight bytes from this end as a number that sorts as they do; a shorter text is filled up with zeroes.
fn key(end: End, text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    match end {
        End::Start => bytes.iter_mut().zip(text).for_each(|(slot, byte)| *slot = *byte),
        End::Tail => bytes.iter_mut().zip(text.iter().rev()).for_each(|(slot, byte)| *slot = *byte),
    }
    u64::from_be_bytes(bytes)
}

fn compare(end: End, a: &[u8], b: &[u8]) -> Ordering {
    match end {
        End::Start => a.cmp(b),
        End::Tail => a.iter().rev().cmp(b.iter().rev()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value up to four bytes over two letters against every set of a few of them.
    #[test]
    fn it_finds_what_comparing_each_finds() {
        let mut words: Vec<Vec<u8>> = vec![vec![]];
        for length in 0..4 {
            let longer: Vec<_> = words
                .iter()
                .filter(|word| word.len() == length)
                .flat_map(|word| [b'a', b'b'].map(|byte| [word.as_slice(), &[byte]].concat()))
                .collect();
            words.extend(longer);
        }
        for seed in 0..2000u32 {
            let mut affixes = Vec::new();
            for (number, word) in words.iter().enumerate() {
                if (seed.wrapping_mul(2_654_435_761) >> (number % 29)) & 7 == 0 {
                    affixes.push((word.clone(), u32::try_from(number).unwrap()));
                }
            }
            for end in [End::Start, End::Tail] {
                let set = AffixSet::new(end, &affixes);
                for value in &words {
                    let mut found = Vec::new();
                    set.of(value, &mut |number| found.push(number));
                    found.sort_unstable();
                    let has = |affix: &[u8]| match end {
                        End::Start => value.starts_with(affix),
                        End::Tail => value.ends_with(affix),
                    };
                    let expected: Vec<u32> =
                        affixes.iter().filter(|(affix, _)| has(affix)).map(|(_, number)| *number).collect();
                    assert_eq!(found, expected, "{end:?} {affixes:?} {value:?}");
                }
            }
        }
    }
}

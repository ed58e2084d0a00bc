//! Which rules match a request, at a cost that follows the request and not the number of rules.
//!
//! Every pattern stands once in a table. Of an attribute that leads to rules, all patterns that the request's value
//! matches are found at once ([`keys`]); they lead to the rules that may match, and answer most of what those rules
//! ask. A rule is filed under the rarest patterns that it cannot match without, under pairs of them where single
//! ones are too common, so few rules are looked at that do not match.

use alloc::vec::Vec;

mod affix;
mod build;
mod keys;
mod segments;
pub mod table;
mod trace;
pub mod value;

use self::keys::Keys;
use self::table::{Table, hash_words};
use self::value::Value;
use crate::config::{Attribute, HeaderMode};
use crate::pattern::Pattern;
use crate::request::Request;

pub use self::build::Builder;

/// Most attributes that lead to rules. What is beyond is compared directly. (Few in tests, to test what is beyond.)
const MAX_SLOTS: usize = if cfg!(test) { 4 } else { 16 };
/// Most patterns of a request that are remembered. What is beyond is found again when it is asked for.
const MAX_FACTS: usize = if cfg!(test) { 6 } else { 64 };
/// Not a slot.
const NO_SLOT: u8 = u8::MAX;

/// A part of a table of numbers. A single number stands here itself: one place less to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Span {
    /// Where it starts; of a length of 1, the number.
    start: u32,
    length: u32,
}

impl Span {
    fn of<'t>(&'t self, table: &'t [u32]) -> &'t [u32] {
        if self.length == 1 {
            return core::slice::from_ref(&self.start);
        }
        let start = self.start as usize;
        table.get(start..start + self.length as usize).unwrap_or(&[])
    }

    /// Puts numbers at the end of a table.
    fn push(table: &mut Vec<u32>, numbers: &[u32]) -> Self {
        if let [number] = numbers {
            return Self { start: *number, length: 1 };
        }
        let span = Self { start: count(table.len()), length: count(numbers.len()) };
        table.extend_from_slice(numbers);
        span
    }
}

/// Tables stay far below 2^32 entries: a configuration of that many does not fit the memory.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// `attribute is one of patterns`, or its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Matching {
    attribute: u32,
    negated: bool,
    /// Of `pattern_lists`; sorted.
    patterns: Span,
}

impl Matching {
    /// Numbers in a program.
    const WORDS: usize = 3;

    fn words(self) -> [u32; Self::WORDS] {
        [self.attribute << 1 | u32::from(self.negated), self.patterns.start, self.patterns.length]
    }

    fn from_words([head, start, length]: [u32; Self::WORDS]) -> Self {
        Self { attribute: head >> 1, negated: head & 1 != 0, patterns: Span { start, length } }
    }
}

#[derive(Debug)]
struct Slot {
    attribute: u32,
    keys: Keys,
}

/// What is filed under a pattern.
#[derive(Clone, Copy, Debug, Default)]
struct Lead {
    /// Of `lead_rules`: rules that are filed under it alone.
    rules: Span,
    /// Whether pairs begin with it.
    begins_pairs: bool,
}

/// Rules that are filed under two patterns.
#[derive(Debug)]
struct Pair {
    first: u32,
    second: u32,
    /// Of `pair_rules`.
    rules: Span,
}

/// Rules in the order in which they were given, which is their number.
#[derive(Debug, Default)]
pub struct Index {
    strip_params: bool,
    attributes: Vec<(Attribute, u8)>,
    patterns: Vec<Pattern>,
    pattern_lists: Vec<u32>,
    /// For each rule, where its program starts.
    rules: Vec<u32>,
    /// What a rule asks, in one piece of memory: `from`, `to`, `when`. The first two are the number of words behind,
    /// then clauses; a clause is the number of its matches, then these.
    programs: Vec<u32>,
    slots: Vec<Slot>,
    /// For each pattern, what is filed under it.
    leads: Vec<Lead>,
    lead_rules: Vec<u32>,
    pairs: Vec<Pair>,
    pair_table: Table,
    pair_rules: Vec<u32>,
    /// Rules that are filed under nothing.
    unfiled: Vec<u32>,
}

/// What has been found out about one request.
pub struct Facts<'r> {
    request: &'r Request<'r>,
    /// Patterns that match, slot after slot.
    found: [u32; MAX_FACTS],
    /// For each slot, where its patterns end.
    ends: [u8; MAX_SLOTS],
    /// Slots of which not all patterns had room.
    incomplete: u16,
}

impl<'r> Facts<'r> {
    fn of_slot(&self, slot: usize) -> &[u32] {
        let start = slot.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(slot).copied().unwrap_or(0);
        self.found.get(usize::from(start)..usize::from(end)).unwrap_or(&[])
    }

    fn is_complete(&self, slot: usize) -> bool {
        self.incomplete & (1 << slot) == 0
    }
}

impl Index {
    /// Looks up what leads to rules.
    pub fn facts<'r>(&self, request: &'r Request<'r>) -> Facts<'r> {
        let mut facts = Facts { request, found: [0; MAX_FACTS], ends: [0; MAX_SLOTS], incomplete: 0 };
        let mut end = 0;
        for (number, slot) in self.slots.iter().enumerate() {
            let start = end;
            let mut complete = true;
            self.each_pattern(slot, request, &mut |pattern| {
                // One pattern may match several elements of a claim.
                if facts.found.get(start..end).is_some_and(|found| found.contains(&pattern)) {
                    return;
                }
                match facts.found.get_mut(end) {
                    Some(room) => {
                        *room = pattern;
                        end += 1;
                    }
                    None => complete = false,
                }
            });
            if let Some(slot_end) = facts.ends.get_mut(number) {
                *slot_end = u8::try_from(end).unwrap_or(0);
            }
            facts.incomplete |= u16::from(!complete) << number;
        }
        facts
    }

    /// Calls `visit` with the number of every rule that may match; some may come more than once.
    pub fn candidates(&self, facts: &Facts, visit: &mut dyn FnMut(u32)) {
        for rule in &self.unfiled {
            visit(*rule);
        }
        for slot in 0..self.slots.len() {
            self.each_fact(slot, facts, &mut |first| {
                let Some(lead) = self.leads.get(first as usize) else { return };
                lead.rules.of(&self.lead_rules).iter().for_each(|rule| visit(*rule));
                if lead.begins_pairs {
                    for other in 0..self.slots.len() {
                        self.each_fact(other, facts, &mut |second| self.of_pair(first, second, visit));
                    }
                }
            });
        }
    }

    /// Whether a rule matches.
    pub fn holds(&self, rule: u32, facts: &Facts) -> bool {
        let start = self.rules.get(rule as usize).map_or(usize::MAX, |start| *start as usize);
        let program = self.programs.get(start..).unwrap_or(&[]);
        self.holds_from(program, facts).unwrap_or(false)
    }

    /// `None` never happens: a program that ends early.
    fn holds_from(&self, mut program: &[u32], facts: &Facts) -> Option<bool> {
        for _ in 0..2 {
            let (words, rest) = program.split_first()?;
            let (mut part, rest) = rest.split_at_checked(*words as usize)?;
            // No clause at all means anything.
            let mut holds = part.is_empty();
            while !holds && !part.is_empty() {
                (holds, part) = self.clause_holds(part, facts)?;
            }
            if !holds {
                return Some(false);
            }
            program = rest;
        }
        self.clause_holds(program, facts).map(|(holds, _)| holds)
    }

    /// Whether the first clause holds, and what stands behind it.
    fn clause_holds<'p>(&self, program: &'p [u32], facts: &Facts) -> Option<(bool, &'p [u32])> {
        let (matchings, rest) = program.split_first()?;
        let (matchings, rest) = rest.split_at_checked(*matchings as usize * Matching::WORDS)?;
        let (matchings, _) = matchings.as_chunks::<{ Matching::WORDS }>();
        let holds = matchings.iter().all(|words| {
            let one = Matching::from_words(*words);
            one.negated != self.matches(&one, facts)
        });
        Some((holds, rest))
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    fn of_pair(&self, first: u32, second: u32, visit: &mut dyn FnMut(u32)) {
        let is_it = |pair: &&Pair| pair.first == first && pair.second == second;
        let get = |number: u32| self.pairs.get(number as usize);
        let hash = hash_words(0, &[first, second]);
        let number = self.pair_table.find(hash, &mut |number| get(number).as_ref().is_some_and(is_it));
        if let Some(pair) = number.and_then(get) {
            pair.rules.of(&self.pair_rules).iter().for_each(|rule| visit(*rule));
        }
    }

    /// The patterns of a slot that match, remembered or found again.
    fn each_fact(&self, number: usize, facts: &Facts, visit: &mut dyn FnMut(u32)) {
        if facts.is_complete(number) {
            facts.of_slot(number).iter().for_each(|pattern| visit(*pattern));
        } else if let Some(slot) = self.slots.get(number) {
            self.each_pattern(slot, facts.request, visit);
        }
    }

    fn each_pattern(&self, slot: &Slot, request: &Request, found: &mut dyn FnMut(u32)) {
        if let Some((attribute, _)) = self.attributes.get(slot.attribute as usize) {
            value::each(attribute, request, self.strip_params, &mut |value: Value| {
                slot.keys.of(&self.patterns, &value, found);
            });
        }
    }

    fn matches(&self, one: &Matching, facts: &Facts) -> bool {
        let Some((attribute, slot)) = self.attributes.get(one.attribute as usize) else { return false };
        let patterns = one.patterns.of(&self.pattern_lists);
        if *slot != NO_SLOT && facts.is_complete(usize::from(*slot)) {
            let found = facts.of_slot(usize::from(*slot));
            return match patterns {
                [pattern] => found.contains(pattern),
                patterns => found.iter().any(|pattern| patterns.binary_search(pattern).is_ok()),
            };
        }
        let matches_one = |value: &Value| {
            patterns
                .iter()
                .any(|at| self.patterns.get(*at as usize).is_some_and(|pattern| value.matches(pattern)))
        };
        let (mut some, mut all) = (false, true);
        value::each(attribute, facts.request, self.strip_params, &mut |value: Value| {
            let matches = matches_one(&value);
            some |= matches;
            all &= matches;
        });
        some && (all || !matches!(attribute, Attribute::Header { mode: HeaderMode::All, .. }))
    }
}

//! Which rules match a request, at a cost that follows the request and not the number of rules.
//!
//! Every pattern stands once in a table. Of an attribute that leads to rules, all patterns that the request's value
//! matches are found at once ([`keys`]); they lead to the rules that may match, and answer most of what those rules
//! ask. A rule is filed under the rarest patterns that it cannot match without, under pairs of them where single
//! ones are too common, so few rules are looked at that do not match.

mod affix;
mod build;
mod keys;
mod segments;
pub mod value;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use self::keys::Keys;
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

/// A part of another table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Span {
    start: u32,
    length: u32,
}

impl Span {
    fn of<T>(self, table: &[T]) -> &[T] {
        let start = self.start as usize;
        table.get(start..start + self.length as usize).unwrap_or(&[])
    }
}

/// `attribute is one of patterns`, or its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Matching {
    attribute: u32,
    negated: bool,
    /// Of `pattern_lists`; sorted.
    patterns: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CompiledRule {
    /// Of `clause_lists`.
    from: Span,
    to: Span,
    /// A clause.
    when: u32,
}

#[derive(Debug)]
struct Slot {
    attribute: u32,
    keys: Keys,
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
#[derive(Debug)]
pub struct Index {
    hasher: FixedState,
    strip_params: bool,
    attributes: Vec<(Attribute, u8)>,
    patterns: Vec<Pattern>,
    pattern_lists: Vec<u32>,
    matchings: Vec<Matching>,
    /// Each of `clause_matchings`.
    clauses: Vec<Span>,
    clause_matchings: Vec<u32>,
    clause_lists: Vec<u32>,
    rules: Vec<CompiledRule>,
    slots: Vec<Slot>,
    /// For each pattern, of `single_rules`: the rules that are filed under it alone.
    singles: Vec<Span>,
    single_rules: Vec<u32>,
    /// For each pattern, whether pairs begin with it.
    begins_pairs: Vec<bool>,
    pairs: HashTable<Pair>,
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
                if let Some(rules) = self.singles.get(first as usize) {
                    rules.of(&self.single_rules).iter().for_each(|rule| visit(*rule));
                }
                if self.begins_pairs.get(first as usize) == Some(&true) {
                    for other in 0..self.slots.len() {
                        self.each_fact(other, facts, &mut |second| self.of_pair(first, second, visit));
                    }
                }
            });
        }
    }

    /// Whether a rule matches.
    pub fn holds(&self, rule: u32, facts: &Facts) -> bool {
        let Some(rule) = self.rules.get(rule as usize) else { return false };
        self.any_holds(rule.from, facts)
            && self.any_holds(rule.to, facts)
            && self.clause_holds(rule.when, facts)
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    fn of_pair(&self, first: u32, second: u32, visit: &mut dyn FnMut(u32)) {
        let same = |pair: &Pair| pair.first == first && pair.second == second;
        if let Some(pair) = self.pairs.find(hash_pair(&self.hasher, first, second), same) {
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

    /// No clause at all means anything.
    fn any_holds(&self, clauses: Span, facts: &Facts) -> bool {
        clauses.length == 0
            || clauses.of(&self.clause_lists).iter().any(|clause| self.clause_holds(*clause, facts))
    }

    fn clause_holds(&self, clause: u32, facts: &Facts) -> bool {
        let matchings = self.clauses.get(clause as usize).copied().unwrap_or_default();
        matchings.of(&self.clause_matchings).iter().all(|at| {
            self.matchings.get(*at as usize).is_some_and(|one| one.negated != self.matches(one, facts))
        })
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

fn hash_pair(hasher: &FixedState, first: u32, second: u32) -> u64 {
    use core::hash::BuildHasher;
    hasher.hash_one(u64::from(first) << 32 | u64::from(second))
}

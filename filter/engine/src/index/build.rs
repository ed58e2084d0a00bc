//! Makes an [`Index`]: every pattern, match and clause once, and each rule filed where it is found cheaply.

use alloc::vec::Vec;

use super::keys::Keys;
use super::table::{Interner, Table, hash, sort_once, sorted};
use super::{Index, Lead, MAX_SLOTS, Matching, NO_SLOT, Pair, Slot, Span, count};
use crate::config::{Attribute, Clause, HeaderMode, Match, PathParams, PluginConfig, Protocol, Rule};
use crate::pattern::Pattern;
use crate::policy;

/// A rule whose rarest pattern leads to more rules than this is filed under pairs of patterns.
const MANY: u32 = if cfg!(test) { 2 } else { 8 };
/// Most pairs for one rule.
const MAX_PAIRS: usize = 16;
/// Most entries under patterns and pairs, to bound memory: 4 bytes each. Rules beyond are tried on every request.
const MAX_FILED: usize = 4 * 1024 * 1024;
/// An attribute that some match compares with more patterns than this gets a slot in any case.
const LONG_LIST: u32 = 8;

/// Takes rules, then becomes an [`Index`].
#[derive(Default)]
pub struct Builder {
    index: Index,
    attribute_table: Table,
    pattern_table: Table,
    /// Attribute of each pattern.
    pattern_attributes: Vec<u32>,
    /// Numbers of matchings by their words.
    matching_numbers: Interner,
    matchings: Vec<Matching>,
    /// Clauses as lists of matchings.
    clauses: Interner,
    /// Rules as group, `when`, number of clauses in `from`, these, clauses in `to`.
    rules: Interner,
}

/// Patterns of which a rule needs one: of one match, or of one match in each of several clauses.
struct Conjunct {
    matchings: Vec<u32>,
    /// The most rules that one of the patterns leads to.
    score: u32,
}

/// Where a rule is filed.
enum Filing {
    /// Under nothing: it is tried on every request.
    Nowhere,
    /// Under each of these patterns.
    Singles(Vec<u32>),
    /// Under each pair of one of these and one of those.
    Pairs(Vec<u32>, Vec<u32>),
}

/// Filings of all rules in one list of numbers: how many patterns there are, how many that they are paired with, these.
#[derive(Default)]
struct Filings(Vec<u32>);

impl Filings {
    fn push(&mut self, filing: &Filing) {
        let (first, second): (&[u32], &[u32]) = match filing {
            Filing::Nowhere => (&[], &[]),
            Filing::Singles(patterns) => (patterns, &[]),
            Filing::Pairs(first, second) => (first, second),
        };
        self.0.extend_from_slice(&[count(first.len()), count(second.len())]);
        self.0.extend_from_slice(first);
        self.0.extend_from_slice(second);
    }

    /// For each rule its patterns, and those they are paired with.
    fn iter(&self) -> impl Iterator<Item = (&[u32], &[u32])> {
        let mut rest = self.0.as_slice();
        core::iter::from_fn(move || {
            let ([first, second], behind) = rest.split_first_chunk()?;
            let (first, behind) = behind.split_at_checked(*first as usize)?;
            let (second, behind) = behind.split_at_checked(*second as usize)?;
            rest = behind;
            Some((first, second))
        })
    }
}

impl Builder {
    /// For rules of this configuration.
    pub fn new(config: &PluginConfig) -> Self {
        let strip_params =
            config.protocol == Protocol::Http && config.path_guard.path_params == PathParams::Strip;
        Self { index: Index { strip_params, ..Index::default() }, ..Self::default() }
    }

    /// Adds a rule of the configuration, whose number is that of the rules added before. `false`: not added, since it
    /// can decide nothing that an earlier one of its group does not.
    pub fn add(&mut self, config: &PluginConfig, rule: &Rule, group: u32) -> bool {
        let mut words = vec![group, self.clause(config, &rule.when), count(rule.from.len())];
        for clause in rule.from.iter().chain(&rule.to) {
            words.push(self.clause(config, clause));
        }
        self.rules.intern(&words).1
    }

    /// Files the rules.
    pub fn build(mut self) -> Index {
        // What is needed no more is given back before more is asked for: the filter's memory never shrinks.
        self.attribute_table = Table::default();
        self.pattern_table = Table::default();
        self.matching_numbers = Interner::default();
        let scores = self.scores();
        let mut filings = Filings::default();
        (0..self.rule_count()).for_each(|rule| filings.push(&self.filing(rule, &scores)));
        drop(scores);
        self.write_programs();
        let long =
            self.matchings.iter().filter(|one| one.patterns.length > LONG_LIST).map(|one| one.attribute);
        let long = long.collect::<Vec<u32>>();
        self.matchings = Vec::new();
        self.clauses = Interner::default();
        self.rules = Interner::default();
        self.make_slots(&filings, &long);
        self.file(&filings);
        self.index
    }

    fn rule_count(&self) -> u32 {
        count(self.rules.len())
    }

    /// The clauses of a rule: `from`, `to`, `when`.
    fn parts(&self, rule: u32) -> [&[u32]; 3] {
        match self.rules.list(rule) {
            [_, when, from, rest @ ..] => {
                let (from, to) = rest.split_at_checked(*from as usize).unwrap_or((rest, &[]));
                [from, to, core::slice::from_ref(when)]
            }
            _ => [&[]; 3],
        }
    }

    /// Rules in the form in which they are evaluated.
    fn write_programs(&mut self) {
        let mut programs = Vec::with_capacity(self.program_words());
        let push_clause = |programs: &mut Vec<u32>, clause: u32| {
            let matchings = self.clauses.list(clause);
            programs.push(count(matchings.len()));
            let matchings = matchings.iter().filter_map(|number| self.matchings.get(*number as usize));
            matchings.for_each(|one| programs.extend_from_slice(&one.words()));
        };
        let mut starts = Vec::with_capacity(self.rules.len());
        for rule in 0..self.rule_count() {
            starts.push(count(programs.len()));
            let [from, to, when] = self.parts(rule);
            for part in [from, to] {
                let head = programs.len();
                programs.push(0);
                part.iter().for_each(|clause| push_clause(&mut programs, *clause));
                let words = count(programs.len() - head - 1);
                programs.get_mut(head).into_iter().for_each(|head| *head = words);
            }
            when.iter().for_each(|clause| push_clause(&mut programs, *clause));
        }
        self.index.programs = programs;
        self.index.rules = starts;
    }

    /// Number of words in all programs.
    fn program_words(&self) -> usize {
        let clause_words = |clause: &u32| 1 + self.clauses.list(*clause).len() * Matching::WORDS;
        let rules = (0..self.rule_count()).map(|rule| self.parts(rule));
        rules.map(|parts| 2 + parts.into_iter().flatten().map(clause_words).sum::<usize>()).sum()
    }

    fn clause(&mut self, config: &PluginConfig, clause: &Clause) -> u32 {
        // On TCP what only HTTP knows is left out (and rules of ALLOW policies that have it do not get here).
        let tcp = config.protocol == Protocol::Tcp;
        let mut matchings = Vec::with_capacity(clause.matches().len());
        for one in clause.matches() {
            if !(tcp && one.attribute.is_http_only()) {
                matchings.push(self.matching(config, one));
            }
        }
        self.clauses.intern(&matchings).0
    }

    fn matching(&mut self, config: &PluginConfig, one: &Match) -> u32 {
        let attribute = self.attribute(&one.attribute);
        let mut patterns = Vec::with_capacity(one.patterns.len());
        for pattern in &one.patterns {
            match one.attribute {
                Attribute::Principal => {
                    for pattern in policy::principal_with_aliases(config, pattern) {
                        patterns.push(self.pattern(attribute, pattern));
                    }
                }
                Attribute::Host => patterns.push(self.pattern(attribute, pattern.to_lowercase())),
                _ => patterns.push(self.pattern(attribute, pattern.canonical())),
            }
        }
        sort_once(&mut patterns);
        let head = attribute << 1 | u32::from(one.negated);
        patterns.insert(0, head);
        let (number, is_new) = self.matching_numbers.intern(&patterns);
        if is_new {
            let patterns = Span::push(&mut self.index.pattern_lists, patterns.get(1..).unwrap_or(&[]));
            self.matchings.push(Matching { attribute, negated: one.negated, patterns });
        }
        number
    }

    fn attribute(&mut self, attribute: &Attribute) -> u32 {
        let (kind, name) = attribute.key();
        let hash = hash(kind.into(), name.as_bytes());
        let attributes = &mut self.index.attributes;
        let is_it = &mut |at: u32| attributes.get(at as usize).is_some_and(|(other, _)| other == attribute);
        if let Some(number) = self.attribute_table.find(hash, is_it) {
            return number;
        }
        let number = count(attributes.len());
        attributes.push((attribute.clone(), NO_SLOT));
        self.attribute_table.insert(hash, number);
        number
    }

    fn pattern(&mut self, attribute: u32, pattern: Pattern) -> u32 {
        let hash = pattern.hash(attribute);
        let (patterns, attributes) = (&mut self.index.patterns, &mut self.pattern_attributes);
        let is_it = &mut |at: u32| {
            patterns.get(at as usize) == Some(&pattern) && attributes.get(at as usize) == Some(&attribute)
        };
        if let Some(number) = self.pattern_table.find(hash, is_it) {
            return number;
        }
        let number = count(patterns.len());
        patterns.push(pattern);
        attributes.push(attribute);
        self.pattern_table.insert(hash, number);
        number
    }

    /// For each match, the most rules that one of its patterns may lead to.
    fn scores(&self) -> Vec<u32> {
        let index = &self.index;
        let mut uses = vec![0u32; self.clauses.len()];
        for rule in 0..self.rule_count() {
            for clause in self.parts(rule).into_iter().flatten() {
                uses.get_mut(*clause as usize).into_iter().for_each(|uses| *uses += 1);
            }
        }
        let mut leads_to = vec![0u32; index.patterns.len()];
        for (clause, uses) in (0..).zip(&uses) {
            for matching in self.clauses.list(clause) {
                let one = self.matchings.get(*matching as usize).filter(|one| !one.negated);
                for pattern in one.iter().flat_map(|one| one.patterns.of(&index.pattern_lists)) {
                    let rules = leads_to.get_mut(*pattern as usize);
                    rules.into_iter().for_each(|rules| *rules = rules.saturating_add(*uses));
                }
            }
        }
        let score = |one: &Matching| {
            let patterns = one.patterns.of(&index.pattern_lists).iter();
            patterns
                .filter_map(|pattern| leads_to.get(*pattern as usize))
                .fold(0, |most, rules| most.max(*rules))
        };
        self.matchings.iter().map(score).collect()
    }

    /// What a rule needs, part by part.
    fn conjuncts(&self, rule: u32, scores: &[u32]) -> Vec<Conjunct> {
        let mut conjuncts = Vec::new();
        for clauses in self.parts(rule) {
            if let [clause] = clauses {
                for matching in self.clauses.list(*clause) {
                    if let Some(score) = self.filable(*matching, scores) {
                        conjuncts.push(Conjunct { matchings: vec![*matching], score });
                    }
                }
                continue;
            }
            // One match of each clause, or the part leads nowhere.
            let mut part = Conjunct { matchings: Vec::with_capacity(clauses.len()), score: 0 };
            for clause in clauses {
                let mut rarest: Option<(u32, u32)> = None;
                for matching in self.clauses.list(*clause) {
                    if let Some(score) = self.filable(*matching, scores)
                        && rarest.is_none_or(|(least, _)| score < least)
                    {
                        rarest = Some((score, *matching));
                    }
                }
                let Some((score, matching)) = rarest else { break };
                part.matchings.push(matching);
                part.score = part.score.max(score);
            }
            if !clauses.is_empty() && part.matchings.len() == clauses.len() {
                conjuncts.push(part);
            }
        }
        conjuncts
    }

    /// The score of a match under which a rule can be filed.
    fn filable(&self, matching: u32, scores: &[u32]) -> Option<u32> {
        let one = self.matchings.get(matching as usize)?;
        let (attribute, _) = self.index.attributes.get(one.attribute as usize)?;
        if one.negated || is_about_every_value(attribute) {
            None
        } else {
            scores.get(matching as usize).copied()
        }
    }

    fn filing(&self, rule: u32, scores: &[u32]) -> Filing {
        let mut conjuncts = self.conjuncts(rule, scores);
        let Some(first) = take_rarest(&mut conjuncts) else { return Filing::Nowhere };
        let patterns = self.patterns(&first);
        while first.score > MANY
            && let Some(second) = take_rarest(&mut conjuncts)
        {
            let others = self.patterns(&second);
            if patterns.len().saturating_mul(others.len()) <= MAX_PAIRS {
                return Filing::Pairs(patterns, others);
            }
        }
        Filing::Singles(patterns)
    }

    fn patterns(&self, conjunct: &Conjunct) -> Vec<u32> {
        let mut patterns = Vec::new();
        for one in conjunct.matchings.iter().filter_map(|at| self.matchings.get(*at as usize)) {
            patterns.extend_from_slice(one.patterns.of(&self.index.pattern_lists));
        }
        sort_once(&mut patterns);
        patterns
    }

    /// Slots go to the attributes that lead to rules, and to those with long lists.
    fn make_slots(&mut self, filings: &Filings, long: &[u32]) {
        let index = &mut self.index;
        let mut wanted = vec![0u32; index.attributes.len()];
        let mut want =
            |attribute: u32| wanted.get_mut(attribute as usize).into_iter().for_each(|count| *count += 1);
        for (first, second) in filings.iter() {
            for pattern in first.iter().chain(second) {
                self.pattern_attributes
                    .get(*pattern as usize)
                    .into_iter()
                    .for_each(|attribute| want(*attribute));
            }
        }
        long.iter().for_each(|attribute| want(*attribute));
        let uses = |attribute: u32| wanted.get(attribute as usize).copied().unwrap_or(0);
        let mut by_use = sorted(wanted.len(), &|a, b| uses(b).cmp(&uses(a)).then(a.cmp(&b)));
        by_use.retain(|attribute| {
            let has_one_answer =
                index.attributes.get(*attribute as usize).is_some_and(|(one, _)| !is_about_every_value(one));
            has_one_answer && uses(*attribute) > 0
        });
        by_use.truncate(MAX_SLOTS);
        for (number, attribute) in (0..).zip(by_use) {
            let mut patterns = Vec::new();
            for (pattern, of) in (0..).zip(&self.pattern_attributes) {
                if *of == attribute {
                    patterns.push(pattern);
                }
            }
            index.slots.push(Slot { attribute, keys: Keys::new(&index.patterns, &patterns) });
            index.attributes.get_mut(attribute as usize).into_iter().for_each(|(_, slot)| *slot = number);
        }
    }

    fn file(&mut self, filings: &Filings) {
        // What leads to a rule, and the rule; of pairs, the pair's number.
        let (mut singles, mut pairs): (Vec<[u32; 2]>, Vec<[u32; 2]>) = (Vec::new(), Vec::new());
        let mut pair_numbers = Interner::default();
        for (rule, (first, second)) in (0..).zip(filings.iter()) {
            let room = MAX_FILED.saturating_sub(singles.len() + pairs.len());
            let fits = first.len() + MAX_PAIRS <= room && self.have_slots(first) && self.have_slots(second);
            match (first, second) {
                ([_, ..], []) if fits => first.iter().for_each(|pattern| singles.push([*pattern, rule])),
                ([_, ..], _) if fits => {
                    for one in first {
                        for other in second {
                            pairs.push([pair_numbers.intern(&[*one, *other]).0, rule]);
                        }
                    }
                }
                _ => self.index.unfiled.push(rule),
            }
        }
        let index = &mut self.index;
        let rules = group(index.patterns.len(), &singles, &mut index.lead_rules);
        index.leads = rules.into_iter().map(|rules| Lead { rules, begins_pairs: false }).collect();
        let rules = group(pair_numbers.len(), &pairs, &mut index.pair_rules);
        for (number, rules) in (0..).zip(rules) {
            let words = pair_numbers.list(number);
            if let [first, second] = *words {
                index.leads.get_mut(first as usize).into_iter().for_each(|lead| lead.begins_pairs = true);
                index.pair_table.insert(super::table::hash_words(0, words), number);
                index.pairs.push(Pair { first, second, rules });
            }
        }
    }

    fn have_slots(&self, patterns: &[u32]) -> bool {
        patterns.iter().all(|pattern| {
            let attribute = self.pattern_attributes.get(*pattern as usize);
            let entry = attribute.and_then(|attribute| self.index.attributes.get(*attribute as usize));
            entry.is_some_and(|(_, slot)| *slot != NO_SLOT)
        })
    }
}

/// Whether a match asks all values at once, so that patterns found for single ones do not answer it.
fn is_about_every_value(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Header { mode: HeaderMode::All, .. })
}

fn take_rarest(conjuncts: &mut Vec<Conjunct>) -> Option<Conjunct> {
    let mut rarest: Option<(u32, usize)> = None;
    for (at, conjunct) in conjuncts.iter().enumerate() {
        if rarest.is_none_or(|(least, _)| conjunct.score < least) {
            rarest = Some((conjunct.score, at));
        }
    }
    rarest.map(|(_, at)| conjuncts.swap_remove(at))
}

/// For each key below `keys`, its values, in their order, in `table`.
fn group(keys: usize, entries: &[[u32; 2]], table: &mut Vec<u32>) -> Vec<Span> {
    let mut lists: Vec<Span> = vec![Span::default(); keys];
    for [key, _] in entries {
        lists.get_mut(*key as usize).into_iter().for_each(|list| list.length += 1);
    }
    let mut start = 0;
    for list in &mut lists {
        list.start = start;
        // One alone stands in its span.
        if list.length > 1 {
            start += list.length;
        }
    }
    *table = vec![0; start as usize];
    let mut next: Vec<u32> = lists.iter().map(|list| list.start).collect();
    for [key, value] in entries {
        let (Some(list), Some(next)) = (lists.get_mut(*key as usize), next.get_mut(*key as usize)) else {
            continue;
        };
        if list.length == 1 {
            list.start = *value;
        } else {
            table.get_mut(*next as usize).into_iter().for_each(|slot| *slot = *value);
            *next += 1;
        }
    }
    lists
}

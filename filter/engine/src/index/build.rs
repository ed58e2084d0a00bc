//! Makes an [`Index`]: every pattern, match and clause once, and each rule filed where it is found cheaply.

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::keys::Keys;
use super::{Index, Lead, MAX_SLOTS, Matching, NO_SLOT, Pair, Slot, Span, count, hash_pair};
use crate::config::{Attribute, Clause, HeaderMode, Match, PathParams, PluginConfig, Protocol, Rule};
use crate::pattern::Pattern;
use crate::policy;
use crate::small::{self, Numbers};

/// A rule whose rarest pattern leads to more rules than this is filed under pairs of patterns.
const MANY: u32 = if cfg!(test) { 2 } else { 8 };
/// Most pairs for one rule.
const MAX_PAIRS: usize = 16;
/// Most entries under patterns and pairs, to bound memory: 4 bytes each. Rules beyond are tried on every request.
const MAX_FILED: usize = 4 * 1024 * 1024;
/// An attribute that some match compares with more patterns than this gets a slot in any case.
const LONG_LIST: u32 = 8;

/// Numbers of a rule's clauses.
type RuleKey = (Vec<u32>, Vec<u32>, u32);

/// Takes rules, then becomes an [`Index`].
pub struct Builder<'c> {
    config: &'c PluginConfig,
    index: Index,
    matchings: Vec<Matching>,
    /// For each clause, its matchings. The first holds always.
    clauses: Vec<Vec<u32>>,
    rules: Vec<RuleKey>,
    attribute_numbers: Numbers<&'c Attribute>,
    pattern_numbers: Numbers<(u32, Pattern)>,
    matching_numbers: Numbers<&'c Match>,
    clause_numbers: Numbers<&'c Clause>,
    /// Attribute of each pattern.
    pattern_attributes: Vec<u32>,
    /// Rules that are there, with their group.
    known: Numbers<(usize, RuleKey)>,
    nothing: Clause,
}

/// Patterns of which a rule needs one: of one match, or of one match in each of several clauses.
struct Conjunct {
    matchings: Vec<u32>,
    /// The most rules that one of the patterns leads to.
    score: u32,
}

impl<'c> Builder<'c> {
    /// For rules of this configuration.
    pub fn new(config: &'c PluginConfig) -> Self {
        let strip_params =
            config.protocol == Protocol::Http && config.path_guard.path_params == PathParams::Strip;
        let index = Index {
            hasher: FixedState::default(),
            strip_params,
            attributes: Vec::new(),
            patterns: Vec::new(),
            pattern_lists: Vec::new(),
            rules: Vec::new(),
            programs: Vec::new(),
            slots: Vec::new(),
            leads: Vec::new(),
            lead_rules: Vec::new(),
            pairs: HashTable::new(),
            pair_rules: Vec::new(),
            unfiled: Vec::new(),
        };
        Self {
            config,
            index,
            matchings: Vec::new(),
            clauses: vec![Vec::new()],
            rules: Vec::new(),
            attribute_numbers: Numbers::default(),
            pattern_numbers: Numbers::default(),
            matching_numbers: Numbers::default(),
            clause_numbers: Numbers::default(),
            pattern_attributes: Vec::new(),
            known: Numbers::default(),
            nothing: Clause::always(),
        }
    }

    /// Adds a rule, whose number is that of the rules added before. `false`: not added, since it can decide nothing
    /// that an earlier one of its group does not.
    pub fn add(&mut self, rule: &'c Rule, group: usize) -> bool {
        let from: Vec<u32> = rule.from.iter().map(|clause| self.clause(clause)).collect();
        let to: Vec<u32> = rule.to.iter().map(|clause| self.clause(clause)).collect();
        let when = self.clause(&rule.when);
        let key = (from, to, when);
        if !self.known.insert((group, key.clone()), 0) {
            return false;
        }
        self.rules.push(key);
        true
    }

    /// Files the rules.
    pub fn build(mut self) -> Index {
        let scores = self.scores();
        let filings: Vec<Filing> = self.rules.iter().map(|rule| self.filing(rule, &scores)).collect();
        self.write_programs();
        self.make_slots(&filings);
        self.file(&filings);
        self.index
    }

    /// Rules in the form in which they are evaluated.
    fn write_programs(&mut self) {
        let programs = &mut self.index.programs;
        let push_clause = |programs: &mut Vec<u32>, clause: u32| {
            let matchings = self.clauses.get(clause as usize).map_or(&[][..], |clause| clause);
            programs.push(count(matchings.len()));
            let matchings = matchings.iter().filter_map(|number| self.matchings.get(*number as usize));
            matchings.for_each(|one| programs.extend(one.words()));
        };
        for (from, to, when) in &self.rules {
            self.index.rules.push(count(programs.len()));
            for part in [from, to] {
                let head = programs.len();
                programs.push(0);
                part.iter().for_each(|clause| push_clause(programs, *clause));
                let words = count(programs.len() - head - 1);
                programs.get_mut(head).into_iter().for_each(|head| *head = words);
            }
            push_clause(programs, *when);
        }
    }

    /// The number of a clause; 0 is the one that holds always.
    fn clause(&mut self, clause: &'c Clause) -> u32 {
        if *clause == self.nothing {
            return 0;
        }
        if let Some(number) = self.clause_numbers.get(&clause) {
            return number;
        }
        // On TCP what only HTTP knows is left out (and rules of ALLOW policies that have it do not get here).
        let tcp = self.config.protocol == Protocol::Tcp;
        let known = clause.matches().iter().filter(|one| !(tcp && one.attribute.is_http_only()));
        let matchings: Vec<u32> = known.map(|one| self.matching(one)).collect();
        let number = count(self.clauses.len());
        self.clauses.push(matchings);
        self.clause_numbers.insert(clause, number);
        number
    }

    fn matching(&mut self, one: &'c Match) -> u32 {
        if let Some(number) = self.matching_numbers.get(&one) {
            return number;
        }
        let attribute = match self.attribute_numbers.get(&&one.attribute) {
            Some(number) => number,
            None => {
                let number = count(self.index.attributes.len());
                self.index.attributes.push((one.attribute.clone(), NO_SLOT));
                self.attribute_numbers.insert(&one.attribute, number);
                number
            }
        };
        let mut patterns = Vec::with_capacity(one.patterns.len());
        for pattern in &one.patterns {
            match one.attribute {
                Attribute::Principal => {
                    for pattern in policy::principal_with_aliases(self.config, pattern) {
                        patterns.push(self.pattern(attribute, pattern));
                    }
                }
                Attribute::Host => patterns.push(self.pattern(attribute, pattern.to_lowercase())),
                _ => patterns.push(self.pattern(attribute, pattern.canonical())),
            }
        }
        small::sort_and_dedup(&mut patterns);
        let patterns = Span::push(&mut self.index.pattern_lists, &patterns);
        let number = count(self.matchings.len());
        self.matchings.push(Matching { attribute, negated: one.negated, patterns });
        self.matching_numbers.insert(one, number);
        number
    }

    fn pattern(&mut self, attribute: u32, pattern: Pattern) -> u32 {
        let number = count(self.index.patterns.len());
        let key = (attribute, pattern);
        if let Some(known) = self.pattern_numbers.get(&key) {
            return known;
        }
        self.index.patterns.push(key.1.clone());
        self.pattern_attributes.push(attribute);
        self.pattern_numbers.insert(key, number);
        number
    }

    /// For each match, the most rules that one of its patterns may lead to.
    fn scores(&self) -> Vec<u32> {
        let index = &self.index;
        let mut uses = vec![0u32; self.clauses.len()];
        for (from, to, when) in &self.rules {
            for clause in from.iter().chain(to).chain([when]) {
                if let Some(uses) = uses.get_mut(*clause as usize) {
                    *uses = uses.saturating_add(1);
                }
            }
        }
        let mut leads_to = vec![0u32; index.patterns.len()];
        for (clause, uses) in self.clauses.iter().zip(&uses) {
            for matching in clause {
                let Some(one) = self.matchings.get(*matching as usize).filter(|one| !one.negated) else {
                    continue;
                };
                for pattern in one.patterns.of(&index.pattern_lists) {
                    if let Some(rules) = leads_to.get_mut(*pattern as usize) {
                        *rules = rules.saturating_add(*uses);
                    }
                }
            }
        }
        let score = |one: &Matching| {
            let patterns = one.patterns.of(&index.pattern_lists).iter();
            patterns.filter_map(|pattern| leads_to.get(*pattern as usize)).max().copied().unwrap_or(0)
        };
        self.matchings.iter().map(score).collect()
    }

    /// What a rule needs, part by part.
    fn conjuncts(&self, (from, to, when): &RuleKey, scores: &[u32]) -> Vec<Conjunct> {
        let mut conjuncts = Vec::new();
        for clauses in [from.as_slice(), to, &[*when]] {
            if let [clause] = clauses {
                let all = self.filable(*clause, scores);
                conjuncts.extend(all.map(|(matching, score)| Conjunct { matchings: vec![matching], score }));
                continue;
            }
            // One match of each clause, or the part leads nowhere.
            let mut matchings = Vec::with_capacity(clauses.len());
            let mut score = 0;
            for clause in clauses {
                let Some((matching, of_clause)) =
                    self.filable(*clause, scores).min_by_key(|(_, score)| *score)
                else {
                    matchings.clear();
                    break;
                };
                matchings.push(matching);
                score = score.max(of_clause);
            }
            if !matchings.is_empty() {
                conjuncts.push(Conjunct { matchings, score });
            }
        }
        small::sort_by(&mut conjuncts, |a, b| a.score < b.score);
        conjuncts
    }

    /// Matches of a clause under which a rule can be filed.
    fn filable(&self, clause: u32, scores: &[u32]) -> impl Iterator<Item = (u32, u32)> {
        let matchings = self.clauses.get(clause as usize).map_or(&[][..], |clause| clause);
        matchings.iter().filter_map(|number| {
            let one = self.matchings.get(*number as usize)?;
            let (attribute, _) = self.index.attributes.get(one.attribute as usize)?;
            let every_value = matches!(attribute, Attribute::Header { mode: HeaderMode::All, .. });
            (!one.negated && !every_value).then_some((*number, *scores.get(*number as usize)?))
        })
    }

    fn filing(&self, rule: &RuleKey, scores: &[u32]) -> Filing {
        let conjuncts = self.conjuncts(rule, scores);
        let Some(best) = conjuncts.first() else { return Filing::Nowhere };
        let first = self.patterns(best);
        if best.score > MANY
            && let mut others = conjuncts.iter().skip(1).map(|conjunct| self.patterns(conjunct))
            && let Some(second) = others.find(|others| first.len().saturating_mul(others.len()) <= MAX_PAIRS)
        {
            return Filing::Pairs(first, second);
        }
        Filing::Singles(first)
    }

    fn patterns(&self, conjunct: &Conjunct) -> Vec<u32> {
        let index = &self.index;
        let of_matching = conjunct.matchings.iter().filter_map(|at| self.matchings.get(*at as usize));
        let mut patterns: Vec<u32> =
            of_matching.flat_map(|one| one.patterns.of(&index.pattern_lists)).copied().collect();
        small::sort_and_dedup(&mut patterns);
        patterns
    }

    /// Slots go to the attributes that lead to rules, and to those with long lists.
    fn make_slots(&mut self, filings: &[Filing]) {
        let index = &mut self.index;
        let mut wanted = vec![0u32; index.attributes.len()];
        let mut want = |attribute: Option<&u32>| {
            if let Some(count) = attribute.and_then(|attribute| wanted.get_mut(*attribute as usize)) {
                *count = count.saturating_add(1);
            }
        };
        for filing in filings {
            let (first, second): (&[u32], &[u32]) = match filing {
                Filing::Nowhere => (&[], &[]),
                Filing::Singles(patterns) => (patterns, &[]),
                Filing::Pairs(first, second) => (first, second),
            };
            for pattern in first.iter().chain(second) {
                want(self.pattern_attributes.get(*pattern as usize));
            }
        }
        for one in self.matchings.iter().filter(|one| one.patterns.length > LONG_LIST) {
            want(Some(&one.attribute));
        }
        let mut by_use: Vec<(usize, u32)> =
            wanted.into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
        by_use.retain(|(attribute, _)| {
            !matches!(
                index.attributes.get(*attribute),
                Some((Attribute::Header { mode: HeaderMode::All, .. }, _))
            )
        });
        // The most used first.
        small::sort_by(&mut by_use, |a, b| (b.1, a.0) < (a.1, b.0));
        by_use.truncate(MAX_SLOTS);
        let mut of_slot: Vec<Vec<u32>> = vec![Vec::new(); by_use.len()];
        for (number, (attribute, _)) in by_use.iter().enumerate() {
            if let Some((_, slot)) = index.attributes.get_mut(*attribute) {
                *slot = u8::try_from(number).unwrap_or(NO_SLOT);
            }
        }
        for (pattern, attribute) in (0..).zip(&self.pattern_attributes) {
            let slot = index.attributes.get(*attribute as usize).map_or(NO_SLOT, |(_, slot)| *slot);
            if let Some(patterns) = of_slot.get_mut(usize::from(slot)) {
                patterns.push(pattern);
            }
        }
        for ((attribute, _), patterns) in by_use.iter().zip(&of_slot) {
            let keys = Keys::new(&index.patterns, patterns);
            index.slots.push(Slot { attribute: count(*attribute), keys });
        }
    }

    fn file(&mut self, filings: &[Filing]) {
        let mut singles: Vec<(u32, u32)> = Vec::new();
        let mut pairs: Vec<((u32, u32), u32)> = Vec::new();
        for (rule, filing) in (0..).zip(filings) {
            let room = MAX_FILED.saturating_sub(singles.len() + pairs.len());
            match filing {
                Filing::Singles(patterns) if patterns.len() <= room && self.have_slots(patterns) => {
                    singles.extend(patterns.iter().map(|pattern| (*pattern, rule)));
                }
                Filing::Pairs(first, second)
                    if MAX_PAIRS <= room && self.have_slots(first) && self.have_slots(second) =>
                {
                    for one in first {
                        pairs.extend(second.iter().map(|other| ((*one, *other), rule)));
                    }
                }
                _ => self.index.unfiled.push(rule),
            }
        }
        let index = &mut self.index;
        index.leads = vec![Lead::default(); index.patterns.len()];
        small::sort(&mut singles);
        for run in singles.chunk_by(|a, b| a.0 == b.0) {
            let rules: Vec<u32> = run.iter().map(|(_, rule)| *rule).collect();
            if let Some(lead) = run.first().and_then(|(pattern, _)| index.leads.get_mut(*pattern as usize)) {
                lead.rules = Span::push(&mut index.lead_rules, &rules);
            }
        }
        small::sort(&mut pairs);
        for run in pairs.chunk_by(|a, b| a.0 == b.0) {
            let rules: Vec<u32> = run.iter().map(|(_, rule)| *rule).collect();
            let Some(((first, second), _)) = run.first() else { continue };
            if let Some(lead) = index.leads.get_mut(*first as usize) {
                lead.begins_pairs = true;
            }
            let rules = Span::push(&mut index.pair_rules, &rules);
            let pair = Pair { first: *first, second: *second, rules };
            let hasher = &index.hasher;
            let hash_of = |pair: &Pair| hash_pair(hasher, pair.first, pair.second);
            index.pairs.insert_unique(hash_pair(hasher, *first, *second), pair, hash_of);
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

/// Where a rule is filed.
enum Filing {
    /// Under nothing: it is tried on every request.
    Nowhere,
    /// Under each of these patterns.
    Singles(Vec<u32>),
    /// Under each pair of one of these and one of those.
    Pairs(Vec<u32>, Vec<u32>),
}

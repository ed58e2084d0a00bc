//! Rules → the engine's selectors, for one workload: the same rule twice is one selector.

use meshward_engine::config::{Attribute, Rule as EngineRule, Selector};

use crate::policy::authorization::Rule;
use crate::policy::{Names, compile};

/// The selectors of one workload, numbered as they come.
pub struct Selectors<'a> {
    names: &'a Names<'a>,
    found: Vec<Selector>,
}

impl<'a> Selectors<'a> {
    pub fn new(names: &'a Names<'a>) -> Self {
        Self { names, found: Vec::new() }
    }

    /// The number of a rule's selector.
    pub fn add(&mut self, rule: &Rule) -> u32 {
        let selector = Selector { rules: vec![compile::rule(rule, self.names)] };
        let at = self.found.iter().position(|other| *other == selector).unwrap_or_else(|| {
            self.found.push(selector);
            self.found.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Whether some selector compares this.
    pub fn uses(&self, attribute: &Attribute) -> bool {
        let clauses = |rule: &'_ EngineRule| {
            let all = rule.from.iter().chain(&rule.to).chain([&rule.when]);
            all.flat_map(|clause| clause.matches().to_vec()).any(|one| one.attribute == *attribute)
        };
        self.found.iter().flat_map(|selector| &selector.rules).any(clauses)
    }

    pub fn into_selectors(self) -> Vec<Selector> {
        self.found
    }
}

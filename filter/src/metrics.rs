//! Counters: defined when first needed, remembered, bounded. Their names are in `meshward_engine::stats`.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use meshward_engine::decision::{Reason, RuleRef, Verdict};
use meshward_engine::stats;
use meshward_engine::text::decimal;

use crate::host::{self, Counter};

/// Counters of rules per VM. With more rules than this that ever decide, the rest share one without a rule.
const MAX_RULES: usize = 2_000;

/// What a counter of a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The rule that decided, or nothing but the reason.
    Decision(&'static str, bool),
    /// What dry-run policies would have decided: whether they would have let it through.
    Shadow(bool),
    Audit,
}

impl Kind {
    pub fn decision(reason: Reason) -> Self {
        Self::Decision(reason.as_str(), reason.verdict() == Verdict::Allow)
    }

    fn base(self) -> &'static str {
        match self {
            Self::Decision(..) => stats::DECISIONS,
            Self::Shadow(_) => stats::SHADOW,
            Self::Audit => stats::AUDIT,
        }
    }
}

/// What a counter counts, and of which rule.
type Key = (Kind, Option<RuleRef>);

/// The counters that this VM has used.
#[derive(Default)]
pub struct Metrics {
    /// Sorted by what they count.
    known: RefCell<Vec<(Key, Counter)>>,
}

impl Metrics {
    /// Counts a decision of `rule`, whose policy is `policy`.
    pub fn count_rule<'a>(&self, kind: Kind, rule: Option<RuleRef>, policy: impl Fn(RuleRef) -> &'a str) {
        // No callback of ours runs inside another, so it is free.
        let Ok(mut known) = self.known.try_borrow_mut() else { return };
        let full = known.len() >= MAX_RULES;
        let mut find = |rule: Option<RuleRef>| {
            let key: Key = (kind, rule);
            match known.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(place) => known.get(place).map(|(_, counter)| *counter),
                Err(_) if full && rule.is_some() => None,
                Err(place) => {
                    let name = rule_name(kind, rule.map(|rule| (rule.rule, policy(rule))));
                    let counter = host::define_counter(&name).ok()?;
                    known.insert(place, (key, counter));
                    Some(counter)
                }
            }
        };
        let counter = find(rule).or_else(|| find(None));
        if let Some(counter) = counter {
            host::increment(counter);
        }
    }

    /// Counts something rare by its name.
    pub fn count(&self, base: &str, labels: &[(&str, &str)]) {
        if let Ok(counter) = host::define_counter(&stats::name(base, labels)) {
            host::increment(counter);
        }
    }
}

fn rule_name(kind: Kind, rule: Option<(u32, &str)>) -> String {
    let verdict = |allow: bool| ("verdict", if allow { "allow" } else { "deny" });
    let number;
    let mut labels = Vec::with_capacity(4);
    match kind {
        Kind::Decision(reason, allow) => labels.extend([verdict(allow), ("reason", reason)]),
        Kind::Shadow(allow) => labels.push(verdict(allow)),
        Kind::Audit => {}
    }
    if let Some((rule, policy)) = rule {
        number = decimal(rule.into());
        labels.extend([("policy", policy), ("rule", &number)]);
    }
    stats::name(kind.base(), &labels)
}

//! The order in which rules are reported: by Istio's names `ns[<ns>]-policy[<name>]-rule[<i>]`, compared as text.
//!
//! Envoy keeps policies in a map sorted by name and reports the first that matches.

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{Group, is_ignored};
use crate::config::{Action, AuthorizationPolicy, PluginConfig, Rule};
use crate::decision::RuleRef;
use crate::index::table::sorted;
use crate::small;

/// All rules that can match, group after group, each group in the order of attribution; with their group's number.
pub fn ordered(
    config: &PluginConfig,
    group: fn(&AuthorizationPolicy) -> Option<Group>,
) -> Vec<(RuleRef, u32, &Rule)> {
    let mut rules = Vec::with_capacity(config.policies.iter().map(|policy| policy.rules.len()).sum());
    for (policy, content) in (0u32..).zip(&config.policies) {
        let Some(group) = group(content) else { continue };
        for (rule, one) in (0u32..).zip(&content.rules) {
            if !is_ignored(config, content.action, one) {
                rules.push((RuleRef { policy, rule }, group as u32, one));
            }
        }
    }
    let ranks = ranks(config);
    let key = |(origin, group, _): &(RuleRef, u32, &Rule)| {
        (*group, ranks.get(origin.policy as usize).copied(), rule_text(origin.rule), origin.policy)
    };
    small::sort_by(&mut rules, |a, b| key(a) < key(b));
    rules
}

/// Of the ALLOW policies that have a response, the first in the order of attribution.
pub fn first_allow_with_response(config: &PluginConfig) -> Option<u32> {
    (0u32..)
        .zip(&config.policies)
        .filter(|(_, policy)| {
            policy.action == Action::Allow && !policy.dry_run && policy.deny_response.is_some()
        })
        .min_by(|(_, a), (_, b)| compare(&a.name, &b.name))
        .map(|(number, _)| number)
}

/// For each policy its place among the names; the same for the same name.
fn ranks(config: &PluginConfig) -> Vec<u32> {
    let name = |number: u32| config.policies.get(number as usize).map_or("", |policy| &policy.name);
    let numbers = sorted(config.policies.len(), &|a, b| compare(name(a), name(b)));
    let mut ranks = vec![0; numbers.len()];
    let mut rank = 0;
    let mut before = None;
    for number in numbers {
        rank += u32::from(before.is_some_and(|before| name(before) != name(number)));
        before = Some(number);
        if let Some(slot) = ranks.get_mut(number as usize) {
            *slot = rank;
        }
    }
    ranks
}

/// Compares `ns[<ns>]-policy[<name>]` of two `namespace/name`.
fn compare(a: &str, b: &str) -> Ordering {
    fn text(name: &str) -> impl Iterator<Item = u8> {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        namespace.bytes().chain(*b"]-policy[").chain(name.bytes()).chain([b']'])
    }
    text(a).cmp(text(b))
}

/// `<i>]`, filled up to one length; what fills it is never compared, since no two numbers agree up to the `]`.
fn rule_text(rule: u32) -> [u8; 11] {
    let mut text = [b']'; 11];
    let digits = rule.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = rule;
    for slot in text.iter_mut().take(digits).rev() {
        *slot = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_texts_compare() {
        let names = ["a/b", "a-b/b", "a.b/b", "ab/b", "A/b", "a/b-c", "a/bc", "b", "", "a/", "a]/b"];
        let text = crate::oracle::attribution;
        for a in names {
            for b in names {
                assert_eq!(compare(a, b), text(a, 0).cmp(&text(b, 0)), "{a} {b}");
            }
        }
        let numbers = [0, 1, 2, 9, 10, 11, 19, 20, 99, 100, 101, 999_999_999, 4_294_967_295];
        for a in numbers {
            for b in numbers {
                assert_eq!(rule_text(a).cmp(&rule_text(b)), text("", a).cmp(&text("", b)), "{a} {b}");
            }
        }
    }
}

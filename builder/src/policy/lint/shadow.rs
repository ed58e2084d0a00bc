//! MW005: rules that change nothing.

use meshward_engine::config;

use super::super::authorization::{AuthorizationPolicy, Rule, Target};
use super::super::compile;
use super::codes::SHADOWED;
use super::{Context, cover, finding, rule_name};
use crate::diagnostic::Diagnostic;

/// With more rules than this only those of one policy are compared with each other: comparing all takes the square.
const MOST_RULES: usize = 4_000;

struct Entry<'a> {
    policy: &'a AuthorizationPolicy,
    rule: &'a Rule,
    compiled: config::Rule,
}

pub(super) fn lint(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let names = context.names();
    let entries: Vec<Entry<'_>> = context
        .policies
        .authorization
        .iter()
        .flat_map(|policy| {
            let compiled = compile::authorization(policy, &names);
            policy.rules.iter().zip(compiled.rules).map(move |(rule, compiled)| Entry {
                policy,
                rule,
                compiled,
            })
        })
        .collect();
    let everywhere = entries.len() <= MOST_RULES;
    for (at, entry) in entries.iter().enumerate() {
        let shadow = entries.iter().enumerate().find(|(other_at, other)| {
            *other_at != at
                && (everywhere || std::ptr::eq(other.policy, entry.policy))
                && is_shadow(context, other, entry, *other_at < at)
        });
        let Some((_, shadow)) = shadow else { continue };
        let place = shadow.policy.source.position(shadow.rule.span.start).0;
        let by = format!("{} ({}:{place})", rule_name(shadow.policy, shadow.rule), shadow.policy.source.name);
        let message = if shadow.policy.action == entry.policy.action {
            format!("this rule changes nothing: {by} matches all that it matches")
        } else {
            format!("this rule allows nothing: {by} denies all that it matches")
        };
        findings.push(
            finding(entry.policy, &SHADOWED, message, &entry.rule.span)
                .help("take it away, or narrow the other one"),
        );
    }
}

/// Whether `wide` makes `narrow` idle. Of two that match the same the later one is idle.
fn is_shadow(context: &Context<'_>, wide: &Entry<'_>, narrow: &Entry<'_>, wide_is_first: bool) -> bool {
    let denied = wide.policy.action == config::Action::Deny && narrow.policy.action == config::Action::Allow;
    let comparable = if denied {
        !wide.policy.dry_run && !narrow.policy.dry_run
    } else {
        wide.policy.action == narrow.policy.action && wide.policy.dry_run == narrow.policy.dry_run
    };
    if !comparable {
        return false;
    }
    is_for_all_of(context, wide.policy, narrow.policy)
        && cover::rule(&wide.compiled, &narrow.compiled)
        && (denied
            || wide_is_first
            || !cover::rule(&narrow.compiled, &wide.compiled)
            || !is_for_all_of(context, narrow.policy, wide.policy))
}

/// Whether one policy is in force wherever the other one is.
fn is_for_all_of(context: &Context<'_>, wide: &AuthorizationPolicy, narrow: &AuthorizationPolicy) -> bool {
    let namespace = wide.namespace == narrow.namespace || wide.namespace == context.root_namespace();
    namespace
        && match (&wide.target, &narrow.target) {
            (Target::Labels { labels: wide, .. }, Target::Labels { labels: narrow, .. }) => {
                wide.iter().all(|(key, value)| narrow.get(key) == Some(value))
            }
            (Target::Labels { labels, .. }, Target::Services(_)) => labels.is_empty(),
            (Target::Services(wide), Target::Services(narrow)) => {
                narrow.iter().all(|one| wide.iter().any(|other| one.value == other.value))
            }
            (Target::Services(_), Target::Labels { .. }) => false,
        }
}

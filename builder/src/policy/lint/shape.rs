//! MW001, MW012, MW013: how a policy is written.

use meshward_engine::config::{Action, Attribute, HeaderMode, Pattern};

use super::super::authorization::{AuthorizationPolicy, Rule, Target};
use super::codes::{EMPTY_SELECTOR, REPEATED_HEADER, SPLIT_RULE};
use super::{Context, finding};
use crate::diagnostic::Diagnostic;

pub(super) fn lint(_: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    for (first, second) in policy.rules.iter().zip(policy.rules.iter().skip(1)) {
        if !is_split(first, second) {
            continue;
        }
        let effect = match (policy.action, first.to.is_empty()) {
            (Action::Deny, true) => {
                "those callers are refused whatever they ask for, and this is refused to anybody"
            }
            (Action::Deny, false) => "that is refused to anybody, and these callers whatever they ask for",
            (_, true) => "those callers may do anything, and anybody may do this",
            (_, false) => "anybody may do that, and these callers may do anything",
        };
        let message = format!("`from` and `to` are two rules here: {effect}");
        findings.push(
            finding(policy, &SPLIT_RULE, message, &second.span).help(
                "take the `-` before it away, so that `from` and `to` are one rule and both must match",
            ),
        );
    }
    if let Target::Labels { labels, span } = &policy.target
        && labels.is_empty()
        && !span.is_empty()
    {
        findings.push(
            finding(
                policy,
                &EMPTY_SELECTOR,
                "this selector has no labels, so it selects every workload",
                span,
            )
            .help("write `matchLabels`, or leave `selector` out when all are meant"),
        );
    }
    if policy.action == Action::Deny {
        repeated_headers(policy, findings);
    }
}

/// One says only who, the other only what.
fn is_split(first: &Rule, second: &Rule) -> bool {
    let only_from = |rule: &Rule| !rule.from.is_empty() && rule.to.is_empty() && rule.when.is_empty();
    let only_to = |rule: &Rule| rule.from.is_empty() && !rule.to.is_empty() && rule.when.is_empty();
    only_from(first) && only_to(second) || only_to(first) && only_from(second)
}

fn repeated_headers(policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    for one in policy.rules.iter().flat_map(Rule::matches) {
        let Attribute::Header { name, mode: HeaderMode::Joined | HeaderMode::All } = &one.attribute else {
            continue;
        };
        let evaded = one.values.iter().any(|value| !matches!(value.pattern, Pattern::Any));
        if !one.negated && evaded && !name.starts_with(':') {
            let message = format!("a second `{name}` in the request gets past this rule");
            findings.push(
                finding(policy, &REPEATED_HEADER, message, &one.span)
                    .help("take the annotation `meshward.dev/repeated-headers` away: one value that matches is then enough"),
            );
        }
    }
}

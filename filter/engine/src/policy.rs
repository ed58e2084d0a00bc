//! A configuration made ready to decide: [`Policy::compile`] once, [`Policy::decide`] per request.
//!
//! Order of evaluation, SEMANTICS.md: path guard, identity, AUDIT and dry-run (reported only), DENY, ALLOW, default.
//!
//! Attribution: when several rules of one action match, the one reported is the first in the order of Istio's names
//! `ns[<ns>]-policy[<name>]-rule[<i>]`, compared as text; so `rule[10]` comes before `rule[2]`, as in Envoy.

use alloc::vec::Vec;

mod attribution;
mod check;
mod explain;
mod gate;
mod needs;

pub use self::explain::{Explanation, NearestMiss};
use self::gate::Gate;
pub use self::needs::Attributes;
use crate::config::{
    Action, AuthorizationPolicy, Clause, ConfigError, DefaultAction, DenyResponse, PluginConfig, Protocol,
    Rule, Text,
};
use crate::decision::{Decision, Reason, RuleRef, Shadow, ShadowAllow};
use crate::index::{Builder, Index};
use crate::pattern::Pattern;
use crate::request::Request;

/// What a group of policies does. INVARIANT: the order of the groups' rules in the index.
#[derive(Clone, Copy)]
enum Group {
    ShadowDeny,
    ShadowAllow,
    Audit,
    Deny,
    Allow,
}

const GROUPS: usize = 5;
/// Not a rule.
const NONE: u32 = u32::MAX;
/// Most selectors in one configuration.
const MAX_SELECTORS: usize = 256;

/// A configuration made ready to decide.
#[derive(Debug)]
pub struct Policy {
    needs: Attributes,
    gate: Gate,
    default_action: DefaultAction,
    index: Index,
    /// For each rule of the index, which it is in the configuration.
    origins: Vec<RuleRef>,
    /// For each group, the number of the first rule behind it.
    ends: [u32; GROUPS],
    /// For each group, whether there are policies.
    present: [bool; GROUPS],
    selectors: Index,
    /// For each rule of the selectors, the number of its selector.
    selector_numbers: Vec<u32>,
    names: Vec<Text>,
    responses: Vec<Option<DenyResponse>>,
    /// Response of the first ALLOW policy that has one.
    allow_response: Option<u32>,
    default_response: Option<DenyResponse>,
    revision: Text,
}

/// A configuration that is checked and read: [`Policy::compile`] in two steps, for a caller with little memory. The
/// configuration can be dropped between them, and what it took is there for the index.
pub struct Draft {
    /// INVARIANT: without its indexes.
    policy: Policy,
    rules: Builder,
    selectors: Builder,
}

impl Draft {
    /// Checks and reads a configuration.
    pub fn new(config: &PluginConfig) -> Result<Self, ConfigError> {
        check::check(config)?;
        let mut present = [false; GROUPS];
        for policy in &config.policies {
            if let Some(present) = group(policy).and_then(|group| present.get_mut(group as usize)) {
                *present = true;
            }
        }
        let mut rules = Builder::new(config);
        let mut origins = Vec::new();
        let mut ends = [0; GROUPS];
        for (origin, group, rule) in attribution::ordered(config, group) {
            if rules.add(config, rule, group) {
                origins.push(origin);
            }
            let end = u32::try_from(origins.len()).unwrap_or(NONE);
            ends.iter_mut().skip(group as usize).for_each(|slot| *slot = end);
        }
        let mut selectors = Builder::new(config);
        let mut selector_numbers = Vec::new();
        for (number, selector) in (0u32..).zip(&config.selectors) {
            for rule in selector.rules.iter().filter(|rule| !is_ignored(config, Action::Allow, rule)) {
                if selectors.add(config, rule, number) {
                    selector_numbers.push(number);
                }
            }
        }
        let policy = Policy {
            needs: needs::needs(config),
            gate: Gate::new(config),
            default_action: config.default_action,
            index: Index::default(),
            origins,
            ends,
            present,
            selectors: Index::default(),
            selector_numbers,
            names: config.policies.iter().map(|policy| policy.name.clone()).collect(),
            responses: config.policies.iter().map(|policy| policy.deny_response.clone()).collect(),
            allow_response: attribution::first_allow_with_response(config),
            default_response: config.deny_response.clone(),
            revision: config.revision.clone(),
        };
        Ok(Self { policy, rules, selectors })
    }

    /// Makes the indexes.
    #[must_use]
    pub fn finish(self) -> Policy {
        Policy { index: self.rules.build(), selectors: self.selectors.build(), ..self.policy }
    }
}

impl Policy {
    /// Checks and indexes a configuration. Pure and deterministic: the same in every VM.
    pub fn compile(config: &PluginConfig) -> Result<Self, ConfigError> {
        Draft::new(config).map(Draft::finish)
    }

    /// Which attributes a caller has to read.
    #[must_use]
    pub fn needs(&self) -> &Attributes {
        &self.needs
    }

    /// Decides. Total, and without allocation (but for hosts, paths with parameters and repeated headers that are
    /// longer than 512 bytes).
    #[must_use]
    pub fn decide(&self, request: &Request) -> Decision {
        if let Some(reason) = self.gate.refuses(request) {
            return Decision { reason, rule: None, audit: None, shadow: Shadow::default() };
        }
        let facts = self.index.facts(request);
        let mut first = [NONE; GROUPS];
        self.index.candidates(&facts, &mut |rule| {
            let group = self.ends.iter().position(|end| rule < *end).unwrap_or(GROUPS);
            if let Some(first) = first.get_mut(group)
                && rule < *first
                && self.index.holds(rule, &facts)
            {
                *first = rule;
            }
        });
        let [shadow_deny, shadow_allow, audit, deny, allow] = first.map(|rule| self.origin(rule));
        let [_, has_shadow_allow, _, _, has_allow] = self.present;
        let (reason, rule) = match (deny, allow) {
            (Some(rule), _) => (Reason::DenyRule, Some(rule)),
            (None, Some(rule)) => (Reason::AllowRule, Some(rule)),
            (None, None) if has_allow => (Reason::NoAllowRule, None),
            (None, None) if self.default_action == DefaultAction::Allow => (Reason::DefaultAllow, None),
            (None, None) => (Reason::DefaultDeny, None),
        };
        let shadow_allow = match shadow_allow {
            Some(rule) => Some(ShadowAllow::Matched(rule)),
            None => has_shadow_allow.then_some(ShadowAllow::Missed),
        };
        Decision { reason, rule, audit, shadow: Shadow { deny: shadow_deny, allow: shadow_allow } }
    }

    /// Calls `selected` with the number of every selector whose rules match, in rising order.
    pub fn selects(&self, request: &Request, mut selected: impl FnMut(usize)) {
        if self.selector_numbers.is_empty() {
            return;
        }
        let facts = self.selectors.facts(request);
        let mut matching = [0u64; MAX_SELECTORS / 64];
        self.selectors.candidates(&facts, &mut |rule| {
            let number = self.selector_numbers.get(rule as usize).map_or(0, |number| *number as usize);
            if let Some(word) = matching.get_mut(number / 64)
                && *word >> (number % 64) & 1 == 0
                && self.selectors.holds(rule, &facts)
            {
                *word |= 1 << (number % 64);
            }
        });
        for (at, mut word) in matching.into_iter().enumerate() {
            while word != 0 {
                selected(at * 64 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }

    fn origin(&self, rule: u32) -> Option<RuleRef> {
        self.origins.get(rule as usize).copied()
    }

    /// `namespace/name` of the policy that a rule belongs to.
    #[must_use]
    pub fn name(&self, rule: RuleRef) -> &str {
        self.names.get(rule.policy as usize).map_or("", |name| name)
    }

    /// The custom answer to a denied HTTP request, if there is one.
    ///
    /// Denied by a rule: its policy's. Let through by no ALLOW policy: that of the first of them that has one. Else
    /// the configuration's own. A path that is refused is answered with 400 and never with a custom response.
    #[must_use]
    pub fn deny_response(&self, decision: &Decision) -> Option<&DenyResponse> {
        let policy = match decision.reason {
            Reason::AllowRule | Reason::DefaultAllow | Reason::Path(_) => return None,
            Reason::DenyRule => decision.rule.map(|rule| rule.policy),
            Reason::NoAllowRule => self.allow_response,
            _ => None,
        };
        let of_policy = policy.and_then(|policy| self.responses.get(policy as usize)?.as_ref());
        of_policy.or(self.default_response.as_ref())
    }

    /// Hash of the policy, as the builder wrote it.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Number of rules that can decide something: those that repeat an earlier one of their group are not counted.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.index.len()
    }
}

/// The group of a policy; none for what is never evaluated.
fn group(policy: &AuthorizationPolicy) -> Option<Group> {
    match (policy.action, policy.dry_run) {
        (Action::Deny, true) => Some(Group::ShadowDeny),
        (Action::Allow, true) => Some(Group::ShadowAllow),
        (Action::Audit, false) => Some(Group::Audit),
        (Action::Audit, true) => None,
        (Action::Deny, false) => Some(Group::Deny),
        (Action::Allow, false) => Some(Group::Allow),
    }
}

/// On TCP an ALLOW rule that asks for what only HTTP knows is ignored.
fn is_ignored(config: &PluginConfig, action: Action, rule: &Rule) -> bool {
    let http_only = |clause: &Clause| clause.matches().iter().any(|one| one.attribute.is_http_only());
    config.protocol == Protocol::Tcp && action == Action::Allow && clauses(rule).any(http_only)
}

/// A principal pattern under all names of our own trust domain (Istio's `ReplaceTrustDomainAliases`).
///
/// A pattern whose trust domain is written out, and is ours, an alias, or `cluster.local` (which in Istio stands for
/// ours), is repeated for each of our names. A pattern that leaves the trust domain open matches them anyway.
#[must_use]
pub fn principal_with_aliases(config: &PluginConfig, pattern: &Pattern) -> Vec<Pattern> {
    let (Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Segments(text)) = pattern else {
        return vec![pattern.clone()];
    };
    let Some((domain, rest)) = text.split_once('/') else { return vec![pattern.clone()] };
    let names = || [&config.trust_domain].into_iter().chain(&config.trust_domain_aliases);
    // Istio does so for whole principals only (`td/ns/n/sa/a`); a prefix that is shorter means the one trust domain.
    let whole = matches!(pattern, Pattern::Segments(_)) || text.split('/').count() == 5;
    if !whole || domain != "cluster.local" && !names().any(|name| name.as_str() == domain) {
        return vec![pattern.clone()];
    }
    names()
        .map(|name| {
            let text = Text::from([name.as_str(), "/", rest].concat());
            match pattern {
                Pattern::Prefix(_) => Pattern::Prefix(text),
                Pattern::Segments(_) => Pattern::Segments(text),
                _ => Pattern::Exact(text),
            }
        })
        .collect()
}

fn clauses(rule: &Rule) -> impl Iterator<Item = &Clause> {
    rule.from.iter().chain(&rule.to).chain([&rule.when])
}

#[cfg(test)]
mod tests;

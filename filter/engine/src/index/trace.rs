//! How far a rule is from matching, in words: for people who ask why, never for a decision.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Facts, Index, Matching, value};
use crate::config::Attribute;
use crate::pattern::Pattern;
use crate::request::TOKEN_SEPARATOR;
use crate::text::{decimal, push_address, push_number};

/// How a rule fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Fields that matched, as in a policy.
    pub passed: Vec<String>,
    /// The first field of each part that did not, and why.
    pub failed: Vec<(String, String)>,
}

/// A match in a program.
type Words = [u32; Matching::WORDS];

/// Most values of a field that are listed.
const MAX_LISTED: usize = 5;
/// Most bytes of a request's value that are shown.
const MAX_SHOWN: usize = 80;

impl Index {
    /// Calls `look` with rules that are filed under a pattern that the request's values match, or under nothing, as long as it
    /// says so. Some may come more than once.
    pub fn neighbours(&self, facts: &Facts, look: &mut dyn FnMut(u32) -> bool) {
        let mut going = self.unfiled.iter().all(|rule| look(*rule));
        for slot in 0..self.slots.len() {
            self.each_fact(slot, facts, &mut |pattern| {
                let lead = self.leads.get(pattern as usize).copied().unwrap_or_default();
                going = going && lead.rules.of(&self.lead_rules).iter().all(|rule| look(*rule));
            });
        }
    }

    /// Number of parts of which no clause matches, and how much speaks for the rule; without an allocation.
    pub fn fares(&self, rule: u32, facts: &Facts) -> (usize, usize) {
        self.nearest_clauses(rule, facts).into_iter().flatten().fold(
            (0, 0),
            |(failed, evidence), (clause, holding)| {
                (failed + usize::from(holding < clause.len()), evidence + self.evidence(clause, facts))
            },
        )
    }

    /// A value that is one of those listed says more of what was meant than one that is not, and that may not be there.
    fn evidence(&self, clause: &[Words], facts: &Facts) -> usize {
        let matchings = clause.iter().map(|words| Matching::from_words(*words));
        let holding = matchings.filter(|one| one.negated != self.matches(one, facts));
        holding.map(|one| if one.negated { 1 } else { 2 }).sum()
    }

    /// Compares a rule with a request, field by field; of several clauses the one that comes nearest counts.
    pub fn trace(&self, rule: u32, facts: &Facts) -> Trace {
        let mut trace = Trace { passed: Vec::new(), failed: Vec::new() };
        for (clause, _) in self.nearest_clauses(rule, facts).into_iter().flatten() {
            let mut failed = false;
            for one in clause.iter().map(|words| Matching::from_words(*words)) {
                let name = self.field(&one);
                if one.negated != self.matches(&one, facts) {
                    trace.passed.push(name);
                } else if !failed {
                    failed = true;
                    trace.failed.push((name, self.why_not(&one, facts)));
                }
            }
        }
        trace
    }

    /// Of each part the clause that comes nearest, with the number of its fields that match.
    fn nearest_clauses(&self, rule: u32, facts: &Facts) -> [Option<(&[Words], usize)>; 3] {
        let start = self.rules.get(rule as usize).map_or(usize::MAX, |start| *start as usize);
        let program = self.programs.get(start..).unwrap_or(&[]);
        let parts = part(program).and_then(|(from, rest)| part(rest).map(|(to, rest)| (from, to, rest)));
        let Some((from, to, rest)) = parts else { return [None; 3] };
        let when = clause(rest).map(|(when, _)| (when, self.holding(when, facts)));
        [self.nearest(from, facts), self.nearest(to, facts), when]
    }

    /// Whole clauses first, then those of which most holds, then the shorter; the first of equals.
    fn nearest<'p>(&self, mut part: &'p [u32], facts: &Facts) -> Option<(&'p [Words], usize)> {
        let mut nearest: Option<(&[Words], usize)> = None;
        let rank = |(clause, holding): (&[Words], usize)| {
            (holding == clause.len(), holding, core::cmp::Reverse(clause.len()))
        };
        while let Some((one, rest)) = clause(part) {
            let fared = (one, self.holding(one, facts));
            if nearest.is_none_or(|nearest| rank(fared) > rank(nearest)) {
                nearest = Some(fared);
            }
            part = rest;
        }
        nearest
    }

    fn holding(&self, clause: &[Words], facts: &Facts) -> usize {
        let matchings = clause.iter().map(|words| Matching::from_words(*words));
        matchings.filter(|one| one.negated != self.matches(one, facts)).count()
    }

    /// Name of a field, as in a policy.
    fn field(&self, one: &Matching) -> String {
        let Some((attribute, _)) = self.attributes.get(one.attribute as usize) else { return String::new() };
        let (plain, negated) = match attribute {
            Attribute::Principal => ("principals", "notPrincipals"),
            Attribute::Namespace => ("namespaces", "notNamespaces"),
            Attribute::ServiceAccount => ("serviceAccounts", "notServiceAccounts"),
            Attribute::TrustDomain => ("trustDomains", "notTrustDomains"),
            Attribute::SourceIp => ("ipBlocks", "notIpBlocks"),
            Attribute::RemoteIp => ("remoteIpBlocks", "notRemoteIpBlocks"),
            Attribute::RequestPrincipal => ("requestPrincipals", "notRequestPrincipals"),
            Attribute::Host => ("hosts", "notHosts"),
            Attribute::DestinationPort => ("ports", "notPorts"),
            Attribute::Method => ("methods", "notMethods"),
            Attribute::Path => ("paths", "notPaths"),
            Attribute::DestinationIp => ("destination.ip", "not destination.ip"),
            Attribute::Sni => ("connection.sni", "not connection.sni"),
            Attribute::Header { name, .. } => return condition(one, &["request.headers[", name, "]"]),
            Attribute::Claim(path) => return condition(one, &["request.auth.claims", path]),
            Attribute::Metadata(key) => return condition(one, &["experimental.", key]),
        };
        (if one.negated { negated } else { plain }).to_owned()
    }

    fn why_not(&self, one: &Matching, facts: &Facts) -> String {
        let mut text = String::new();
        if let Some((attribute, _)) = self.attributes.get(one.attribute as usize) {
            value::each(attribute, facts.request, self.strip_params, &mut |value| {
                text.push_str(if text.is_empty() { "" } else { ", " });
                push_value(&mut text, &value);
            });
        }
        if text.is_empty() {
            text.push_str("the request has none, which");
        }
        text.push_str(if one.negated { " is in [" } else { " is not in [" });
        let patterns = one.patterns.of(&self.pattern_lists);
        for (at, pattern) in patterns.iter().take(MAX_LISTED).enumerate() {
            text.push_str(if at == 0 { "" } else { ", " });
            if let Some(pattern) = self.patterns.get(*pattern as usize) {
                text.push_str(&pattern.to_text());
            }
        }
        if patterns.len() > MAX_LISTED {
            text.push_str(", … ");
            push_number(&mut text, (patterns.len() - MAX_LISTED) as u64);
            text.push_str(" more");
        }
        text.push(']');
        text
    }
}

fn condition(one: &Matching, parts: &[&str]) -> String {
    [if one.negated { "not " } else { "" }, &parts.concat()].concat()
}

fn push_value(text: &mut String, value: &value::Value) {
    match value {
        value::Value::Bytes(bytes) => {
            let shown = String::from_utf8_lossy(bytes.get(..MAX_SHOWN).unwrap_or(bytes));
            text.push_str(&shown.replace(TOKEN_SEPARATOR, "/"));
            text.push_str(if bytes.len() > MAX_SHOWN { "…" } else { "" });
        }
        value::Value::Account(namespace, name) => text.push_str(&[namespace, "/", name].concat()),
        value::Value::Address(address) => push_address(text, *address),
        value::Value::Port(port) => push_number(text, (*port).into()),
    }
}

/// The clauses of a part, and what stands behind it.
fn part(program: &[u32]) -> Option<(&[u32], &[u32])> {
    let (words, rest) = program.split_first()?;
    rest.split_at_checked(*words as usize)
}

/// The matches of the first clause, and what stands behind it.
fn clause(program: &[u32]) -> Option<(&[Words], &[u32])> {
    let (count, rest) = program.split_first()?;
    let (words, rest) = rest.split_at_checked(*count as usize * Matching::WORDS)?;
    Some((words.as_chunks().0, rest))
}

impl Pattern {
    /// As it is written in a policy.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = match self {
            Self::Any => "*".to_owned(),
            Self::Exact(text) | Self::Glob(text) | Self::Template(text) => (**text).to_owned(),
            Self::Prefix(text) => [text, "*"].concat(),
            Self::Suffix(text) => ["*", text].concat(),
            Self::Segments(text) => ["spiffe://", text].concat(),
            Self::ServiceAccount { namespace, name } => [namespace, "/", name].concat(),
            Self::Cidr { address, prefix } => {
                let mut text = String::new();
                push_address(&mut text, *address);
                text.push('/');
                push_number(&mut text, (*prefix).into());
                text
            }
            Self::Port(port) => decimal((*port).into()),
        };
        text.replace(TOKEN_SEPARATOR, "/")
    }
}

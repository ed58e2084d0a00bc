//! A decision in words, with the rule that came nearest. Finding that one costs as much as asking every rule; so a sidecar,
//! whose worker waits for it, looks at some, those first that share a pattern with the request.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Group, Policy};
use crate::decision::{Decision, Reason, RuleRef};
use crate::request::{Peer, Request};
use crate::text::push_number;

/// A decision for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What [`Policy::decide`] answers.
    pub decision: Decision,
    /// One sentence, lower case, without a full stop.
    pub summary: String,
    /// When ALLOW rules exist and none matches: the one that comes nearest.
    pub nearest_miss: Option<NearestMiss>,
}

/// The ALLOW rule of which most fields matched, a `not` field counting half; of equals the first in the order of attribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearestMiss {
    /// Which.
    pub rule: RuleRef,
    /// Fields that matched, as they are named in a policy.
    pub passed: Vec<String>,
    /// Fields that did not, and why: `("methods", "DELETE is not in [GET]")`.
    pub failed: Vec<(String, String)>,
}

/// Most rules that [`Policy::explain`] looks at for the nearest.
const LOOKED_AT: u32 = 500;

impl Policy {
    /// Decides, and says why. Of many rules the nearest is one of some hundreds, so that the cost is bounded.
    #[must_use]
    pub fn explain(&self, request: &Request) -> Explanation {
        let decision = self.decide(request);
        let nearest_miss = self.nearest(&decision, request, LOOKED_AT);
        let mut summary = self.because(&decision, request);
        if let Some(miss) = &nearest_miss {
            summary.push_str("; nearest: ");
            summary.push_str(&self.in_words(miss));
        }
        Explanation { decision, summary, nearest_miss }
    }

    /// ``policy `a/readers` rule 2 matched principals, paths and failed methods: DELETE is not in [GET]``.
    #[must_use]
    pub fn in_words(&self, miss: &NearestMiss) -> String {
        let mut text = String::new();
        self.push_rule(&mut text, miss.rule);
        if !miss.passed.is_empty() {
            text.push_str(" matched ");
            text.push_str(&miss.passed.join(", "));
            text.push_str(" and");
        }
        text.push_str(" failed ");
        for (at, (field, why)) in miss.failed.iter().enumerate() {
            text.push_str(if at == 0 { "" } else { "; " });
            text.push_str(field);
            text.push_str(": ");
            text.push_str(why);
        }
        text
    }

    /// Where a decision is that no ALLOW rule matches: the rule of which most fields match, of those that are in force.
    #[must_use]
    pub fn nearest_miss(&self, decision: &Decision, request: &Request) -> Option<NearestMiss> {
        self.nearest(decision, request, u32::MAX)
    }

    /// Of at most so many rules.
    fn nearest(&self, decision: &Decision, request: &Request, mut most: u32) -> Option<NearestMiss> {
        if decision.reason != Reason::NoAllowRule {
            return None;
        }
        let end = |group: usize| self.ends.get(group).copied();
        let facts = self.index.facts(request);
        let rules = end(Group::Deny as usize)?..end(Group::Allow as usize)?;
        let mut nearest = None;
        let mut look = |rule: u32| {
            if most > 0 && rules.contains(&rule) {
                most -= 1;
                let (failed, evidence) = self.index.fares(rule, &facts);
                let fared = (failed, Reverse(evidence), rule);
                if nearest.is_none_or(|nearest| fared < nearest) {
                    nearest = Some(fared);
                }
            }
            most > 0
        };
        self.index.neighbours(&facts, &mut look);
        let _ = rules.clone().all(&mut look);
        let (.., rule) = nearest?;
        let trace = self.index.trace(rule, &facts);
        Some(NearestMiss { rule: self.origin(rule)?, passed: trace.passed, failed: trace.failed })
    }

    fn because(&self, decision: &Decision, request: &Request) -> String {
        let mut text = String::new();
        match decision.reason {
            Reason::AllowRule | Reason::DenyRule => {
                text.push_str(if decision.is_allowed() { "allowed by " } else { "denied by " });
                decision.rule.into_iter().for_each(|rule| self.push_rule(&mut text, rule));
            }
            Reason::NoAllowRule => text.push_str("no rule of an ALLOW policy matches"),
            Reason::DefaultAllow => {
                text.push_str("no ALLOW policy selects the workload, and the default is ALLOW")
            }
            Reason::DefaultDeny => {
                text.push_str("no ALLOW policy selects the workload, and the default is DENY")
            }
            Reason::Path(fault) => {
                text.push_str("the path could be read in two ways: ");
                text.push_str(fault.as_str());
            }
            Reason::NoIdentity => text.push_str("the caller has no certificate, and one is required"),
            Reason::InvalidIdentity => text.push_str("the caller's certificate is not an X509-SVID"),
            Reason::ForeignTrustDomain => text.push_str("the caller's trust domain is not accepted: "),
            Reason::Revoked => text.push_str("revoked: "),
        }
        if let (Reason::ForeignTrustDomain | Reason::Revoked, Peer::Verified(id)) =
            (decision.reason, request.peer)
        {
            text.push_str(id.as_str());
        }
        text
    }

    fn push_rule(&self, text: &mut String, rule: RuleRef) {
        text.push_str("policy `");
        text.push_str(self.name(rule));
        text.push_str("` rule ");
        push_number(text, rule.rule.into());
    }
}

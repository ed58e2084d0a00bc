//! The obviously right interpreter: every policy, every rule, every value, in order.
//!
//! The index of [`crate::policy`] must agree with it; property tests compare the two. Slow on purpose, and written
//! after SEMANTICS.md line by line, sharing with the index only the comparison of single values.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::config::{
    AcceptedPeers, Action, Attribute, Clause, DefaultAction, GuardMode, HeaderMode, IdentityMode, Match,
    PathParams, PluginConfig, Protocol, Rule,
};
use crate::decision::{Decision, Reason, RuleRef, Shadow, ShadowAllow};
use crate::path_guard;
use crate::pattern::{self, Pattern};
use crate::policy;
use crate::request::{Field, Peer, Request};
use crate::spiffe::SpiffeIdRef;

/// Decides as SEMANTICS.md says.
#[must_use]
pub fn decide(config: &PluginConfig, request: &Request) -> Decision {
    let refuse = |reason| Decision { reason, rule: None, audit: None, shadow: Shadow::default() };
    if config.protocol == Protocol::Http
        && guarded(config)
        && let Some(path) = request.path
        && let Err(fault) = path_guard::check(path, config.path_guard.path_params)
            .and_then(|()| if evadable(config) { path_guard::check_beside_templates(path) } else { Ok(()) })
    {
        return refuse(Reason::Path(fault));
    }
    if let Some(reason) = refused_peer(config, request) {
        return refuse(reason);
    }
    let audit = first(config, request, Action::Audit, false);
    let shadow_allow = first(config, request, Action::Allow, true);
    let shadow = Shadow {
        deny: first(config, request, Action::Deny, true),
        allow: match shadow_allow {
            Some(rule) => Some(ShadowAllow::Matched(rule)),
            None if any(config, Action::Allow, true) => Some(ShadowAllow::Missed),
            None => None,
        },
    };
    let (reason, rule) = if let Some(rule) = first(config, request, Action::Deny, false) {
        (Reason::DenyRule, Some(rule))
    } else if let Some(rule) = first(config, request, Action::Allow, false) {
        (Reason::AllowRule, Some(rule))
    } else if any(config, Action::Allow, false) {
        (Reason::NoAllowRule, None)
    } else if config.default_action == DefaultAction::Allow {
        (Reason::DefaultAllow, None)
    } else {
        (Reason::DefaultDeny, None)
    };
    Decision { reason, rule, audit, shadow }
}

/// Whether the rules of selector `number` match.
#[must_use]
pub fn selects(config: &PluginConfig, number: usize, request: &Request) -> bool {
    config.selectors.get(number).is_some_and(|selector| {
        selector.rules.iter().any(|rule| rule_matches(config, Action::Allow, rule, request))
    })
}

fn any(config: &PluginConfig, action: Action, dry_run: bool) -> bool {
    config.policies.iter().any(|policy| policy.action == action && policy.dry_run == dry_run)
}

/// The first rule that matches in the order of attribution.
fn first(config: &PluginConfig, request: &Request, action: Action, dry_run: bool) -> Option<RuleRef> {
    let mut matching: Vec<(String, RuleRef)> = Vec::new();
    for (policy_number, policy) in (0u32..).zip(&config.policies) {
        if policy.action != action || policy.dry_run != dry_run {
            continue;
        }
        for (number, rule) in (0u32..).zip(&policy.rules) {
            if rule_matches(config, action, rule, request) {
                matching.push((
                    attribution(&policy.name, number),
                    RuleRef { policy: policy_number, rule: number },
                ));
            }
        }
    }
    matching.sort();
    matching.first().map(|(_, rule)| *rule)
}

/// Istio's name of a rule, by which Envoy sorts: the first one that matches is the one that is reported.
#[must_use]
pub fn attribution(policy: &str, rule: u32) -> String {
    let (namespace, name) = policy.split_once('/').unwrap_or(("", policy));
    format!("ns[{namespace}]-policy[{name}]-rule[{rule}]")
}

fn guarded(config: &PluginConfig) -> bool {
    let about_paths = |clause: &Clause| clause.matches().iter().any(|one| one.attribute == Attribute::Path);
    match config.path_guard.mode {
        GuardMode::Always => true,
        GuardMode::Never => false,
        GuardMode::WhenPathsMatter => config
            .policies
            .iter()
            .flat_map(|policy| &policy.rules)
            .chain(config.selectors.iter().flat_map(|selector| &selector.rules))
            .any(|rule| rule.from.iter().chain(&rule.to).chain([&rule.when]).any(about_paths)),
    }
}

/// Whether a path that no template matches could evade a DENY rule or a `notPaths`.
fn evadable(config: &PluginConfig) -> bool {
    config.policies.iter().any(|policy| {
        policy.rules.iter().any(|rule| {
            rule.from.iter().chain(&rule.to).chain([&rule.when]).any(|clause| {
                clause.matches().iter().any(|one| {
                    (policy.action == Action::Deny || one.negated)
                        && one.patterns.iter().any(|pattern| matches!(pattern, Pattern::Template(_)))
                })
            })
        })
    })
}

fn refused_peer(config: &PluginConfig, request: &Request) -> Option<Reason> {
    let id = match request.peer {
        Peer::Invalid => return Some(Reason::InvalidIdentity),
        Peer::Absent if config.identity == IdentityMode::Required => return Some(Reason::NoIdentity),
        Peer::Absent => return None,
        Peer::Verified(id) => id,
    };
    let own = |others: &[crate::spiffe::TrustDomain]| {
        [&config.trust_domain]
            .into_iter()
            .chain(&config.trust_domain_aliases)
            .chain(others)
            .any(|domain| domain.as_str() == id.trust_domain())
    };
    match &config.accepted_peers {
        AcceptedPeers::OwnAnd(others) if !own(others) => return Some(Reason::ForeignTrustDomain),
        AcceptedPeers::OwnAnd(_) | AcceptedPeers::AnyTrustDomain => {}
    }
    let serial_revoked = match request.serial {
        Some(serial) => config.revoked.serials.iter().any(|revoked| revoked == serial),
        // What cannot be checked is refused.
        None => !config.revoked.serials.is_empty(),
    };
    let id_revoked = config.revoked.ids.iter().any(|revoked| **revoked == *id.as_str());
    (serial_revoked || id_revoked).then_some(Reason::Revoked)
}

fn rule_matches(config: &PluginConfig, action: Action, rule: &Rule, request: &Request) -> bool {
    let http_only = |clause: &Clause| clause.matches().iter().any(|one| one.attribute.is_http_only());
    // On TCP a rule that cannot be checked is left out of ALLOW (narrower); of DENY and AUDIT only the part that
    // cannot be checked is (wider).
    if config.protocol == Protocol::Tcp
        && action == Action::Allow
        && rule.from.iter().chain(&rule.to).chain([&rule.when]).any(http_only)
    {
        return false;
    }
    let holds = |clause: &Clause| {
        clause.matches().iter().all(|one| {
            config.protocol == Protocol::Tcp && one.attribute.is_http_only()
                || match_holds(config, one, request)
        })
    };
    (rule.from.is_empty() || rule.from.iter().any(holds))
        && (rule.to.is_empty() || rule.to.iter().any(holds))
        && holds(&rule.when)
}

fn match_holds(config: &PluginConfig, one: &Match, request: &Request) -> bool {
    let matches = match &one.attribute {
        Attribute::Header { name, mode } => header_matches(name, *mode, &one.patterns, request),
        attribute => one.patterns.iter().any(|pattern| value_matches(config, attribute, pattern, request)),
    };
    one.negated != matches
}

fn value_matches(config: &PluginConfig, attribute: &Attribute, pattern: &Pattern, request: &Request) -> bool {
    let string =
        |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty() && pattern.matches(value));
    let there = |value: Option<&[u8]>| value.is_some_and(|value| pattern.matches(value));
    let block = |value: Option<IpAddr>| value.is_some_and(|address| pattern.matches_address(address));
    let named = |fields: &[Field], name: &str| {
        fields.iter().filter(|field| field.name == name).any(|field| string(Some(field.value)))
    };
    match attribute {
        Attribute::Principal => request.identity().is_some_and(|id| principal_matches(config, pattern, id)),
        Attribute::Namespace => string(request.identity().and_then(|id| id.namespace()).map(str::as_bytes)),
        Attribute::TrustDomain => string(request.identity().map(|id| id.trust_domain().as_bytes())),
        Attribute::ServiceAccount => match pattern {
            Pattern::ServiceAccount { namespace, name } => request
                .identity()
                .is_some_and(|id| id.namespace() == Some(namespace) && id.service_account() == Some(name)),
            _ => false,
        },
        Attribute::SourceIp => block(request.source_ip),
        Attribute::RemoteIp => block(request.remote_ip),
        Attribute::DestinationIp => block(request.destination_ip),
        Attribute::DestinationPort => {
            matches!(pattern, Pattern::Port(port) if request.destination_port == Some(*port))
        }
        Attribute::RequestPrincipal => string(request.request_principal),
        Attribute::Host => {
            request.authority.is_some_and(|host| pattern.to_lowercase().matches(&host.to_ascii_lowercase()))
        }
        Attribute::Method => there(request.method),
        Attribute::Path => match config.path_guard.path_params {
            PathParams::Strip if config.protocol == Protocol::Http => {
                string(request.url_path().map(pattern::without_params).as_deref())
            }
            _ => string(request.url_path()),
        },
        // Its modes are about all patterns at once: see `header_matches`.
        Attribute::Header { .. } => false,
        Attribute::Sni => string(request.sni),
        Attribute::Claim(path) => named(request.claims, path),
        Attribute::Metadata(path) => named(request.metadata, path),
    }
}

/// A principal of our own trust domain, under any of its names, stands for all of them.
fn principal_matches(config: &PluginConfig, pattern: &Pattern, id: SpiffeIdRef) -> bool {
    let patterns = policy::principal_with_aliases(config, pattern);
    patterns.iter().any(|pattern| pattern.matches(id.principal().as_bytes()))
}

fn header_matches(name: &str, mode: HeaderMode, patterns: &[Pattern], request: &Request) -> bool {
    let values: Vec<&[u8]> = match name {
        ":method" => request.method.into_iter().collect(),
        ":path" => request.path.into_iter().collect(),
        ":authority" => request.authority.into_iter().collect(),
        _ => request.headers.iter().filter(|field| field.name == name).map(|field| field.value).collect(),
    };
    let matches = |value: &[u8]| patterns.iter().any(|pattern| pattern.matches(value));
    match mode {
        _ if values.is_empty() => false,
        HeaderMode::Joined => matches(&values.join(&b',')),
        HeaderMode::Any => values.into_iter().any(matches),
        HeaderMode::All => values.into_iter().all(matches),
    }
}

#[cfg(test)]
mod tests;

//! What no builder of ours writes is refused, with its place: a filter never guesses.

use super::{MAX_SELECTORS, clauses};
use crate::config::{Action, Attribute, ConfigError, DenyResponse, Match, PluginConfig, Rule, Text};
use crate::pattern::{self, Pattern};
use crate::text::decimal;

/// Checks a whole configuration.
pub fn check(config: &PluginConfig) -> Result<(), ConfigError> {
    for policy in &config.policies {
        if policy.action == Action::Deny && policy.rules.is_empty() {
            let problem = "it denies and has no rules, so it would never match";
            return Err(ConfigError::Policy { policy: policy.name.clone(), problem });
        }
        check_rules(&policy.name, &policy.rules)?;
        if let Some(problem) = policy.deny_response.as_ref().and_then(response_problem) {
            return Err(ConfigError::Policy { policy: policy.name.clone(), problem });
        }
    }
    if config.selectors.len() > MAX_SELECTORS {
        return Err(ConfigError::Other("there are more than 256 selectors"));
    }
    for (number, selector) in config.selectors.iter().enumerate() {
        check_rules(&Text::from(["selector ", &decimal(number as u64)].concat()), &selector.rules)?;
    }
    config
        .deny_response
        .as_ref()
        .and_then(response_problem)
        .map_or(Ok(()), |problem| Err(ConfigError::Other(problem)))
}

fn check_rules(policy: &Text, rules: &[Rule]) -> Result<(), ConfigError> {
    for (rule, content) in (0u32..).zip(rules) {
        for clause in clauses(content) {
            for one in clause.matches() {
                check_match(one).map_err(|problem| ConfigError::Rule {
                    policy: policy.clone(),
                    rule,
                    problem,
                })?;
            }
        }
    }
    Ok(())
}

fn check_match(one: &Match) -> Result<(), &'static str> {
    if one.patterns.is_empty() {
        return Err("a field has no values");
    }
    for pattern in &one.patterns {
        let fits = match &one.attribute {
            Attribute::Principal => is_string(pattern) || matches!(pattern, Pattern::Segments(_)),
            Attribute::Namespace | Attribute::TrustDomain => {
                is_string(pattern) || matches!(pattern, Pattern::Glob(_))
            }
            Attribute::ServiceAccount => matches!(pattern, Pattern::ServiceAccount { .. }),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => match pattern {
                Pattern::Cidr { address, prefix } => *prefix <= if address.is_ipv4() { 32 } else { 128 },
                _ => false,
            },
            Attribute::DestinationPort => matches!(pattern, Pattern::Port(_)),
            Attribute::Path => match pattern {
                Pattern::Template(text) => pattern::check_template(text).is_ok(),
                other => is_string(other),
            },
            Attribute::Host
            | Attribute::Method
            | Attribute::RequestPrincipal
            | Attribute::Header { .. }
            | Attribute::Sni
            | Attribute::Claim(_)
            | Attribute::Metadata(_) => is_string(pattern),
        };
        if !fits {
            return Err("a value is not of the kind that its field takes");
        }
    }
    Ok(())
}

fn is_string(pattern: &Pattern) -> bool {
    matches!(pattern, Pattern::Any | Pattern::Exact(_) | Pattern::Prefix(_) | Pattern::Suffix(_))
}

fn response_problem(response: &DenyResponse) -> Option<&'static str> {
    (!(400..600).contains(&response.status)).then_some("the status of a deny response is from 400 to 599")
}

//! MW010: rules about HTTP where a port does not speak it.

use meshward_engine::config::{Action, Attribute};

use super::super::authorization::{AuthorizationPolicy, Clause, Match, Rule};
use super::codes::HTTP_ON_TCP;
use super::{Context, finding};
use crate::diagnostic::Diagnostic;
use crate::mesh::model::Protocol;

pub(super) fn lint(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    for rule in &policy.rules {
        let Some(http) = rule.matches().find(|one| one.attribute.is_http_only()) else { continue };
        if context.mesh.is_some() {
            let tcp = context.services(policy).find(|service| {
                service.protocol == Protocol::Tcp && ports_allow(rule, service.port.unwrap_or_default())
            });
            if let Some(service) = tcp {
                let effect = match policy.action {
                    Action::Allow => "there the rule lets nobody in",
                    Action::Deny => "there the rest of the rule refuses",
                    Action::Audit => "there the rest of the rule reports",
                };
                let message = format!(
                    "`{}` is known of HTTP only, and `{}` speaks TCP: {effect}",
                    http.field, service.name
                );
                findings.push(
                    finding(policy, &HTTP_ON_TCP, message, &http.span)
                        .help("give the rule the `ports` that speak HTTP, or select other workloads"),
                );
            }
        } else if policy.action == Action::Deny && only_http(rule) {
            let message =
                "on TCP ports this rule refuses every connection: all that it says is known of HTTP only";
            findings.push(
                finding(policy, &HTTP_ON_TCP, message, &http.span)
                    .help("add the `ports` that speak HTTP to `to`"),
            );
        }
    }
}

/// Istio's own warning: what is left of the rule on TCP is all of `from`, or all of `to`.
fn only_http(rule: &Rule) -> bool {
    let known = |clauses: &[Clause]| {
        clauses.iter().any(|clause| clause.matches.iter().any(|one| !one.attribute.is_http_only()))
    };
    let only_from = !rule.from.is_empty() && rule.to.is_empty() && !known(&rule.from);
    let to_without_port = !rule.to.is_empty() && !known(&rule.to);
    only_from || to_without_port
}

/// Whether the rule's `ports` (and `destination.port`) let this port through.
fn ports_allow(rule: &Rule, port: u16) -> bool {
    let holds = |one: &Match| {
        let text = port.to_string();
        one.attribute != Attribute::DestinationPort
            || one.negated != one.values.iter().any(|value| value.text.value == text)
    };
    (rule.to.is_empty() || rule.to.iter().any(|clause| clause.matches.iter().all(holds)))
        && rule.when.iter().all(holds)
}

//! MW002, MW006, MW007: who a rule speaks of.

use meshward_engine::config::{Action, Attribute, Pattern};

use super::super::authorization::{AuthorizationPolicy, Match, Rule, Value};
use super::codes::{NEGATED_IDENTITY, UNKNOWN_NAMESPACE, UNKNOWN_PRINCIPAL};
use super::{Context, finding};
use crate::diagnostic::{Diagnostic, nearest};
use crate::mesh::Resolved;

pub(super) fn lint(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    if policy.action == Action::Allow {
        for rule in &policy.rules {
            negations(context, policy, rule, findings);
        }
    }
    if let Some(mesh) = context.mesh {
        for one in policy.rules.iter().flat_map(Rule::matches) {
            for value in &one.values {
                findings.extend(unknown(context, mesh, policy, one, value));
            }
        }
    }
}

fn is_certificate(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain
    )
}

fn negations(
    context: &Context<'_>,
    policy: &AuthorizationPolicy,
    rule: &Rule,
    findings: &mut Vec<Diagnostic>,
) {
    let nothing = Vec::new();
    let sources: Vec<&Vec<Match>> = match rule.from.as_slice() {
        [] => vec![&nothing],
        clauses => clauses.iter().map(|clause| &clause.matches).collect(),
    };
    let mut told = Vec::new();
    for source in sources {
        let all = || source.iter().chain(&rule.when);
        for (kind, what) in [("certificate", "no certificate"), ("token", "no token")] {
            let is = |one: &&Match| match kind {
                "certificate" => is_certificate(&one.attribute),
                _ => matches!(one.attribute, Attribute::RequestPrincipal | Attribute::Claim(_)),
            };
            if all().filter(is).any(|one| !one.negated) || kind == "certificate" && context.is_strict(policy)
            {
                continue;
            }
            let Some(one) = all().find(is) else { continue };
            if told.contains(&one.span) {
                continue;
            }
            told.push(one.span.clone());
            let help = if kind == "certificate" {
                "add `principals: [\"*\"]`, or turn it round: a DENY policy that says whom to refuse"
            } else {
                "add `requestPrincipals: [\"*\"]`, or turn it round: a DENY policy that says whom to refuse"
            };
            let message = format!("`{}` also lets in callers with {what}", one.field);
            findings.push(finding(policy, &NEGATED_IDENTITY, message, &one.span).help(help));
        }
    }
}

fn unknown(
    context: &Context<'_>,
    mesh: &Resolved,
    policy: &AuthorizationPolicy,
    one: &Match,
    value: &Value,
) -> Option<Diagnostic> {
    let written = &value.text.value;
    let span = &value.text.span;
    match &one.attribute {
        Attribute::Principal => {
            let identities = context.identities(mesh);
            if identities.iter().any(|identity| value.pattern.matches(identity.as_bytes())) {
                return None;
            }
            if let Pattern::Exact(text) | Pattern::Segments(text) = &value.pattern
                && let Some((domain, _)) = text.split_once('/')
                && domain.contains('.')
                && !context.is_accepted(mesh, domain)
            {
                let message =
                    format!("no certificate of the trust domain `{domain}` is accepted in this mesh");
                return Some(
                    finding(policy, &UNKNOWN_NAMESPACE, message, span)
                        .help(format!("the mesh's trust domain is `{}`", mesh.trust_domain)),
                );
            }
            // Who has certificates of another trust domain is not ours to know.
            let other =
                |domain: &String| written.trim_start_matches("spiffe://").starts_with(domain.as_str());
            if mesh.federates_with.iter().any(other) {
                return None;
            }
            let message = format!("nobody in the mesh is `{written}`");
            let finding = finding(policy, &UNKNOWN_PRINCIPAL, message, span);
            let plain = written.trim_start_matches("spiffe://");
            Some(match nearest(plain, identities.iter().map(String::as_str)) {
                Some(near) => finding.help(format!("did you mean `{near}`?")),
                None => {
                    finding.help("write the identity of a service: `trust.domain/ns/namespace/sa/account`")
                }
            })
        }
        Attribute::ServiceAccount | Attribute::Namespace if !mesh.federates_with.is_empty() => None,
        Attribute::ServiceAccount => {
            let Pattern::ServiceAccount { namespace, name } = &value.pattern else { return None };
            let fits =
                |one: &&crate::mesh::Service| *one.namespace == **namespace && *one.service_account == **name;
            if mesh.services.iter().any(|one| fits(&one)) {
                return None;
            }
            let accounts: Vec<String> = mesh
                .services
                .iter()
                .map(|one| format!("{}/{}", one.namespace, one.service_account))
                .collect();
            let full = format!("{namespace}/{name}");
            let finding = finding(
                policy,
                &UNKNOWN_PRINCIPAL,
                format!("no service of the mesh has the account `{full}`"),
                span,
            );
            Some(match nearest(&full, accounts.iter().map(String::as_str)) {
                Some(near) => finding.help(format!("did you mean `{near}`?")),
                None => finding.help("write `namespace/account` of a service of the mesh"),
            })
        }
        Attribute::Namespace => {
            let fits = |namespace: &str| value.pattern.matches(namespace.as_bytes());
            if mesh.services.iter().any(|service| fits(&service.namespace)) {
                return None;
            }
            let message = format!("no service of the mesh is in the namespace `{written}`");
            let finding = finding(policy, &UNKNOWN_NAMESPACE, message, span);
            let namespaces = mesh.services.iter().map(|service| service.namespace.as_str());
            Some(match nearest(written, namespaces) {
                Some(near) => finding.help(format!("did you mean `{near}`?")),
                None => finding.help("write the namespace of a service of the mesh"),
            })
        }
        Attribute::TrustDomain => {
            let ours = [mesh.trust_domain.as_str()].into_iter();
            let mut ours =
                ours.chain(mesh.trust_domain_aliases.iter().chain(&mesh.federates_with).map(String::as_str));
            if ours.any(|domain| value.pattern.matches(domain.as_bytes())) {
                return None;
            }
            let message = format!("no certificate of the trust domain `{written}` is accepted in this mesh");
            Some(
                finding(policy, &UNKNOWN_NAMESPACE, message, span)
                    .help(format!("the mesh's trust domain is `{}`", mesh.trust_domain)),
            )
        }
        _ => None,
    }
}

//! What is valid and still not what was meant. Each finding has a stable code, see [`codes`].
//!
//! Deliberately absent: what makes a policy invalid (`super::check`), but for a `*` in the middle, which has its code
//! here since people look for it under it.

use std::sync::Arc;

use super::authorization::{AuthorizationPolicy, Rule};
use super::check::Policies;
use super::compile::Names;
use super::documents;
use super::peer::Mode;
use super::select;
use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::limits;
use crate::mesh::{self, Resolved, Service};

mod address;
pub mod codes;
mod contradiction;
mod cover;
mod identity;
mod native;
mod paths;
mod protocol;
pub mod sarif;
mod shadow;
mod shape;
mod target;

/// Everything that is to be said of some texts: what is wrong with them, or, when nothing is, what the lints find.
pub fn of_sources(sources: &[Arc<Source>]) -> Vec<Diagnostic> {
    let mut mistakes = Vec::new();
    let documents = documents::parse(sources, &mut mistakes);
    if documents.iter().any(|document| document.kind.value == "Mesh") {
        return match mesh::load_sources(sources) {
            Ok(mesh) => {
                let mut findings = mesh.warnings.clone();
                findings.extend(lint(&Context { policies: &mesh.policies, mesh: Some(&mesh) }));
                findings
            }
            Err(failure) => failure.diagnostics,
        };
    }
    let policies = super::load(&documents, "default", &mut mistakes);
    limits::load(&documents, "default", &mut mistakes);
    if !mistakes.iter().any(|mistake| mistake.severity == Severity::Error) {
        mistakes.extend(lint(&Context { policies: &policies, mesh: None }));
    }
    mistakes
}

/// What the lints look at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub policies: &'a Policies,
    /// Without one, what is said of workloads and identities cannot be checked.
    pub mesh: Option<&'a Resolved>,
}

/// All findings, in the order of the files.
pub fn lint(context: &Context<'_>) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    for policy in &context.policies.authorization {
        shape::lint(context, policy, &mut findings);
        identity::lint(context, policy, &mut findings);
        contradiction::lint(context, policy, &mut findings);
        protocol::lint(context, policy, &mut findings);
        paths::lint(context, policy, &mut findings);
        address::lint(context, policy, &mut findings);
        target::lint(context, policy, &mut findings);
    }
    target::lint_peer(context, &mut findings);
    native::lint(context, &mut findings);
    shadow::lint(context, &mut findings);
    findings.sort_by(|a, b| order(a).cmp(&order(b)));
    findings
}

/// By file, then by place.
fn order(finding: &Diagnostic) -> (Option<(&str, usize)>, &str) {
    let place = finding.location.as_ref().map(|place| (place.source.name.as_str(), place.span.start));
    (place, finding.code)
}

impl<'a> Context<'a> {
    fn root_namespace(&self) -> &'a str {
        self.mesh.map_or("istio-system", |mesh| mesh.root_namespace.as_str())
    }

    /// The services that a policy is for; none without a Mesh.
    fn services(&self, policy: &'a AuthorizationPolicy) -> impl Iterator<Item = &'a Service> {
        let root = self.root_namespace();
        self.mesh.into_iter().flat_map(move |mesh| {
            mesh.services.iter().filter(move |service| {
                (policy.namespace == service.namespace || policy.namespace == root)
                    && select::target_fits(&policy.target, &mesh.workload(service))
            })
        })
    }

    /// Whether a certificate is required wherever the policy is in force.
    fn is_strict(&self, policy: &'a AuthorizationPolicy) -> bool {
        self.mesh.is_some_and(|mesh| self.services(policy).all(|service| mesh.mode(service) == Mode::Strict))
    }

    /// Whether certificates of this trust domain are accepted.
    fn is_accepted(&self, mesh: &Resolved, trust_domain: &str) -> bool {
        trust_domain == mesh.trust_domain
            || trust_domain == "cluster.local"
            || mesh.trust_domain_aliases.iter().chain(&mesh.federates_with).any(|name| name == trust_domain)
    }

    /// The identities of the mesh, without `spiffe://`, under all names of its trust domain.
    fn identities(&self, mesh: &Resolved) -> Vec<String> {
        let domains = [mesh.trust_domain.as_str(), "cluster.local"];
        let domains = domains.into_iter().chain(mesh.trust_domain_aliases.iter().map(String::as_str));
        domains
            .flat_map(|domain| {
                mesh.services.iter().map(move |service| {
                    format!("{domain}/ns/{}/sa/{}", service.namespace, service.service_account)
                })
            })
            .collect()
    }

    /// Names as for a policy that no listener stands before.
    fn names(&self) -> Names<'a> {
        Names {
            root_namespace: self.root_namespace(),
            trust_domain: self.mesh.map_or("cluster.local", |mesh| mesh.trust_domain.as_str()),
            trust_domain_aliases: self.mesh.map_or(&[], |mesh| mesh.trust_domain_aliases.as_slice()),
            port: None,
        }
    }
}

/// A finding of a code, at its usual severity.
fn finding(
    policy: &AuthorizationPolicy,
    code: &'static codes::Code,
    message: impl Into<String>,
    span: &std::ops::Range<usize>,
) -> Diagnostic {
    policy.finding(code.severity, code.code, message, span)
}

/// How a rule is called in messages.
fn rule_name(policy: &AuthorizationPolicy, rule: &Rule) -> String {
    let at = policy.rules.iter().position(|one| std::ptr::eq(one, rule)).unwrap_or(0);
    format!("rule {at} of `{}`", policy.full_name())
}

//! MW007, MW008: what a policy is for.

use super::super::authorization::{AuthorizationPolicy, Target};
use super::super::select;
use super::codes::{NO_WORKLOAD, UNKNOWN_NAMESPACE};
use super::{Context, finding};
use crate::diagnostic::{Diagnostic, nearest};

pub(super) fn lint(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    let Some(mesh) = context.mesh else { return };
    let in_force = policy.namespace == mesh.root_namespace
        || mesh.services.iter().any(|service| service.namespace == policy.namespace);
    if !in_force {
        let message =
            format!("no service of the mesh is in the namespace `{}` of this policy", policy.namespace);
        let found = finding(policy, &UNKNOWN_NAMESPACE, message, &policy.name.span);
        let namespaces = mesh.services.iter().map(|service| service.namespace.as_str());
        findings.push(match nearest(&policy.namespace, namespaces) {
            Some(near) => found.help(format!("did you mean `{near}`?")),
            None => found.help(format!(
                "put it into the namespace of a service, or into `{}` for all of them",
                mesh.root_namespace
            )),
        });
        return;
    }
    match &policy.target {
        Target::Services(services) => {
            for service in services.iter().filter(|name| mesh.service(name).is_none()) {
                let message = format!("the mesh has no service `{}`", service.value);
                let found = finding(policy, &NO_WORKLOAD, message, &service.span);
                let names = mesh.services.iter().map(|service| service.name.as_str());
                findings.push(match nearest(service, names) {
                    Some(near) => found.help(format!("did you mean `{near}`?")),
                    None => found.help("name a service of the Mesh"),
                });
            }
        }
        Target::Labels { span, .. } => {
            if context.services(policy).next().is_none() {
                findings.push(
                    finding(
                        policy,
                        &NO_WORKLOAD,
                        "no workload of the mesh has these labels in that namespace",
                        span,
                    )
                    .help("every service has the label `app: <name>`"),
                );
            }
        }
    }
}

/// The same of PeerAuthentications.
pub(super) fn lint_peer(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let Some(mesh) = context.mesh else { return };
    for policy in &context.policies.peer {
        let Target::Labels { labels, span } = &policy.target else { continue };
        let fits = |service: &&crate::mesh::Service| {
            let everywhere = labels.is_empty() && policy.namespace == mesh.root_namespace;
            (everywhere || service.namespace == policy.namespace)
                && select::target_fits(&policy.target, &mesh.workload(service))
        };
        if mesh.services.iter().any(|service| fits(&service)) {
            continue;
        }
        let place = if labels.is_empty() { &policy.name.span } else { span };
        findings.push(
            Diagnostic::new(
                NO_WORKLOAD.severity,
                NO_WORKLOAD.code,
                "no workload of the mesh is selected by this",
            )
            .at(&policy.source, place.clone())
            .help("every service has the label `app: <name>`, in its own namespace"),
        );
    }
}

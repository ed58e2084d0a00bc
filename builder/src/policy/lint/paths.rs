//! MW009, MW011: rules about paths.

use meshward_engine::config::{Action, Attribute, Pattern};
use meshward_engine::pattern::without_params;

use super::super::authorization::{AuthorizationPolicy, Match, Rule};
use super::codes::{PROBE_DENIED, UNGUARDED_PATH};
use super::{Context, finding};
use crate::diagnostic::Diagnostic;
use crate::mesh::model::PathParams;

pub(super) fn lint(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    let Some(mesh) = context.mesh else { return };
    if mesh.path_params == PathParams::Keep {
        for one in policy.rules.iter().flat_map(Rule::matches).filter(|one| refuses(policy, one)) {
            let evaded = one.values.iter().find(|value| is_evaded(&value.pattern));
            if let Some(value) = evaded {
                let message = format!(
                    "a request for `{};x` gets past this, and many applications read it as the same path",
                    value.text.value.trim_end_matches('*').trim_end_matches('/')
                );
                findings.push(
                    finding(policy, &UNGUARDED_PATH, message, &value.text.span)
                        .help("set `pathParams: strip` or `pathParams: reject` in the Mesh"),
                );
            }
        }
    }
    if policy.action == Action::Deny && !policy.dry_run {
        probes(context, policy, findings);
    }
}

/// Whether a match refuses by path: `paths` of DENY, `notPaths` of ALLOW.
fn refuses(policy: &AuthorizationPolicy, one: &Match) -> bool {
    one.attribute == Attribute::Path
        && one.negated == (policy.action == Action::Allow)
        && policy.action != Action::Audit
}

fn is_evaded(pattern: &Pattern) -> bool {
    // `/admin*` matches `/admin;x` as well.
    match pattern {
        Pattern::Any | Pattern::Prefix(_) => false,
        Pattern::Exact(text) => without_params(text.as_bytes()) == text.as_bytes(),
        _ => true,
    }
}

fn probes(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    for service in context.services(policy) {
        let paths = service.probes.named().filter_map(|(_, probe)| probe.path.as_deref());
        let mut told = Vec::new();
        for path in paths {
            let denied = policy.rules.iter().filter(|rule| rule.when.is_empty() && rule.from.is_empty());
            let denied = denied.flat_map(|rule| &rule.to).find_map(|operation| {
                let all = operation.matches.iter().all(|one| probe_holds(one, path, service.port));
                let by_path = operation.matches.iter().find(|one| one.attribute == Attribute::Path);
                by_path.filter(|_| all)
            });
            if let Some(one) = denied
                && !told.contains(&path)
            {
                told.push(path);
                let message =
                    format!("the health check of `{}` asks for `{path}`, which this denies", service.name);
                findings.push(
                    finding(policy, &PROBE_DENIED, message, &one.span)
                        .help(format!("leave it out: `notPaths: [\"{path}\"]`"))
                        .help("the kubelet's own checks come through the sidecar's health listener and still pass"),
                );
            }
        }
    }
}

/// Whether a match holds for the kubelet's request.
fn probe_holds(one: &Match, path: &str, port: Option<u16>) -> bool {
    let value: Vec<u8> = match one.attribute {
        Attribute::Path => path.as_bytes().to_vec(),
        Attribute::Method => b"GET".to_vec(),
        Attribute::DestinationPort => {
            let fits = |pattern: &Pattern| matches!(pattern, Pattern::Port(one) if Some(*one) == port);
            return one.negated != one.values.iter().any(|value| fits(&value.pattern));
        }
        // Any host may be asked for.
        Attribute::Host => return false,
        _ => return one.negated,
    };
    one.negated != one.values.iter().any(|item| item.pattern.matches(&value))
}

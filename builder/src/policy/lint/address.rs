//! MW014: rules about addresses.

use meshward_engine::config::Attribute;

use super::super::authorization::{AuthorizationPolicy, Rule};
use super::codes::TWO_ADDRESSES;
use super::{Context, finding};
use crate::diagnostic::Diagnostic;

pub(super) fn lint(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    if context.mesh.is_none() {
        return;
    }
    let is = |attribute: &Attribute| matches!(attribute, Attribute::SourceIp | Attribute::RemoteIp);
    if let Some(one) = policy.rules.iter().flat_map(Rule::matches).find(|one| is(&one.attribute)) {
        let what = if one.attribute == Attribute::SourceIp {
            "the address of the pod that calls"
        } else {
            "what the caller says in `x-forwarded-for`"
        };
        let message = format!("behind a sidecar `{}` compares {what}", one.field);
        findings.push(
            finding(policy, &TWO_ADDRESSES, message, &one.span)
                .help("use `principals` for callers of the mesh"),
        );
    }
}

//! MW004: what no request satisfies.

use meshward_engine::config::{Attribute, Pattern};
use meshward_engine::path_guard::{self, PathParams};
use meshward_engine::request::TOKEN_SEPARATOR;
use meshward_engine::spiffe::SpiffeIdRef;

use super::super::authorization::{AuthorizationPolicy, Match, Rule, Value};
use super::codes::NEVER_MATCHES;
use super::{Context, cover, finding};
use crate::diagnostic::Diagnostic;

pub(super) fn lint(context: &Context<'_>, policy: &AuthorizationPolicy, findings: &mut Vec<Diagnostic>) {
    for rule in &policy.rules {
        for one in rule.matches() {
            for value in &one.values {
                findings.extend(impossible(context, policy, one, value));
            }
        }
        contradictions(policy, rule, findings);
    }
}

/// A value that its attribute never has.
fn impossible(
    context: &Context<'_>,
    policy: &AuthorizationPolicy,
    one: &Match,
    value: &Value,
) -> Option<Diagnostic> {
    let written = &value.text.value;
    let (message, help) = match (&one.attribute, &value.pattern) {
        (Attribute::Method, Pattern::Exact(text)) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => (
            format!("methods are upper case, so nothing has the method `{written}`"),
            format!("write `{}`", written.to_ascii_uppercase()),
        ),
        (Attribute::Path, Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Template(text))
            if !text.starts_with('/') && **text != *"*" =>
        {
            (format!("every path begins with `/`, so none is `{written}`"), format!("write `/{written}`"))
        }
        (Attribute::Path, Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text))
            if text.contains(['?', '#']) =>
        {
            let path = written.split(['?', '#']).next().unwrap_or(written);
            ("paths are compared without query and fragment".to_owned(), format!("write `{path}`"))
        }
        (Attribute::Path, Pattern::Exact(text))
            if path_guard::check(text.as_bytes(), PathParams::Keep).is_err() =>
        {
            (
                format!("a request for `{written}` is refused before any rule: it can be read in two ways"),
                "write the path as it is after normalization".to_owned(),
            )
        }
        (Attribute::Path, Pattern::Exact(text)) if text.contains(';') => (
            format!("paths are compared without their parameters, so none is `{written}`"),
            "write it without `;` and what follows it".to_owned(),
        ),
        (Attribute::Principal, Pattern::Exact(text)) if !is_identity(text) => (
            format!("no certificate has the SPIFFE ID `spiffe://{text}`"),
            "write `trust.domain/ns/namespace/sa/account`".to_owned(),
        ),
        (Attribute::RequestPrincipal, pattern) if !says_who(pattern) => (
            "the issuer is what stands before the last `/`, and a subject follows it".to_owned(),
            "write `issuer/subject`, or `issuer/*` for all subjects: `https://accounts.example/*`".to_owned(),
        ),
        (Attribute::DestinationPort, Pattern::Port(port)) => {
            let mesh = context.mesh?;
            let mut services = context.services(policy).peekable();
            services.peek()?;
            if services.any(|service| service.port == Some(*port)) {
                return None;
            }
            let ports: Vec<String> = mesh
                .services
                .iter()
                .filter_map(|service| service.port)
                .map(|port| port.to_string())
                .collect();
            (
                format!("no workload that this policy is for has the port {port}"),
                format!("a policy says the application's port; those of the mesh are {}", ports.join(", ")),
            )
        }
        _ => return None,
    };
    // Of a negation such a value only says nothing.
    (!one.negated).then(|| finding(policy, &NEVER_MATCHES, message, &value.text.span).help(help))
}

/// Whether some token has such a principal: not one without a subject, and none whose issuer was cut at `https://`.
fn says_who(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Exact(text) => {
            text.split_once(TOKEN_SEPARATOR).is_some_and(|(issuer, _)| !issuer.ends_with(":/"))
        }
        Pattern::Prefix(text) => {
            text.split_once(TOKEN_SEPARATOR).is_none_or(|(issuer, _)| !issuer.ends_with(":/"))
        }
        _ => true,
    }
}

/// The ID of an X509-SVID: with a path.
fn is_identity(principal: &str) -> bool {
    let id = format!("spiffe://{principal}");
    SpiffeIdRef::parse(id.as_bytes()).is_ok_and(|id| !id.path().is_empty())
}

fn contradictions(policy: &AuthorizationPolicy, rule: &Rule, findings: &mut Vec<Diagnostic>) {
    let nothing = Vec::new();
    let clauses: Vec<&Vec<Match>> = match (rule.from.as_slice(), rule.to.as_slice()) {
        ([], []) => vec![&nothing],
        (from, to) => from.iter().chain(to).map(|clause| &clause.matches).collect(),
    };
    let mut told = Vec::new();
    for clause in clauses {
        let all: Vec<&Match> = clause.iter().chain(&rule.when).collect();
        for wanted in all.iter().filter(|one| !one.negated) {
            for other in &all {
                let contradicts = if other.negated { excludes(wanted, other) } else { misses(wanted, other) };
                // The later one is the one to point at.
                let place = other.span.start.max(wanted.span.start);
                if contradicts && !told.contains(&place) {
                    told.push(place);
                    let (first, second) =
                        if other.span.start > wanted.span.start { (wanted, other) } else { (other, wanted) };
                    let message =
                        format!("`{}` leaves nothing of what `{}` matches", second.field, first.field);
                    findings.push(
                        finding(policy, &NEVER_MATCHES, message, &second.span)
                            .help("take one of them away, or change its values"),
                    );
                }
            }
        }
    }
}

/// All that is wanted is excluded.
fn excludes(wanted: &Match, negated: &Match) -> bool {
    wanted.attribute == negated.attribute
        && wanted.values.iter().all(|value| {
            negated
                .values
                .iter()
                .any(|other| cover::pattern(&wanted.attribute, &other.pattern, &value.pattern))
        })
}

/// Two wishes that nothing fulfils: the same attribute with other values, or principals outside of the namespaces.
fn misses(one: &Match, other: &Match) -> bool {
    let exact = |value: &Value| match &value.pattern {
        Pattern::Exact(text) => Some(text.clone()),
        _ => None,
    };
    match (&one.attribute, &other.attribute) {
        (Attribute::Principal, Attribute::Namespace) => one.values.iter().all(|principal| {
            let Some(text) = exact(principal) else { return false };
            let id = format!("spiffe://{text}");
            let namespace =
                SpiffeIdRef::parse(id.as_bytes()).ok().and_then(|id| id.namespace().map(str::to_owned));
            namespace.is_some_and(|namespace| {
                !other.values.iter().any(|value| value.pattern.matches(namespace.as_bytes()))
            })
        }),
        // The elements of a claim and the values of a header are several.
        (Attribute::Claim(_) | Attribute::Metadata(_) | Attribute::Header { .. }, _) => false,
        (a, b) if a == b && !std::ptr::eq(one, other) => {
            one.values.iter().all(|value| match &value.pattern {
                Pattern::Exact(_) | Pattern::Port(_) => {
                    !other.values.iter().any(|other| cover::pattern(a, &other.pattern, &value.pattern))
                        && other
                            .values
                            .iter()
                            .all(|other| matches!(other.pattern, Pattern::Exact(_) | Pattern::Port(_)))
                }
                _ => false,
            })
        }
        _ => false,
    }
}

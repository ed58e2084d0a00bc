//! CircuitBreakerPolicy: breakers and bulkheads in the filter, for what a workload sends and for what it gets, and Envoy's
//! own protections of its calls.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the YAML, field for field |
//! | [`check`] | YAML → [`CircuitBreakerPolicy`]; all mistakes at once |
//!
//! Deliberately absent: Envoy's own protections, which are `crate::native`'s.

use meshward_engine::config::{DenyResponse, Text};
use meshward_engine::limits::config::{
    Breaker as EngineBreaker, BreakerSettings, ConcurrencyLimit, Failures, KeyPart, LimitsConfig,
};

use super::key::Key;
use super::{Head, Selectors};
use crate::diagnostic::{Diagnostic, nearest};
use crate::mesh::document::{Document, Spanned};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service, read};
use crate::native::model::EnvoySpec;
use crate::native::settings::Callers;
use crate::native::{self, Settings};
use crate::policy::authorization::Rule;

mod check;
pub mod model;

#[cfg(test)]
mod tests;

/// The kind's name.
pub const KIND: &str = "CircuitBreakerPolicy";

/// One CircuitBreakerPolicy, whole and good.
#[derive(Clone, Debug)]
pub struct CircuitBreakerPolicy {
    pub head: Head,
    pub breakers: Vec<Breaker>,
    pub concurrency: Vec<Bulkhead>,
    /// Not yet compared with the mesh.
    pub envoy: Option<Spanned<EnvoySpec>>,
}

/// Whose requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that the workload sends.
    Outbound,
    /// Those that it gets.
    Inbound,
}

/// Which requests, and what tells them apart.
#[derive(Clone, Debug)]
pub struct Scope {
    pub name: Spanned<String>,
    pub side: Side,
    /// Names of services; `None`: all that the workload calls.
    pub destinations: Option<Vec<Spanned<String>>>,
    /// `None`: all.
    pub rule: Option<Rule>,
    pub key: Vec<Key>,
}

/// One breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    pub scope: Scope,
    pub settings: BreakerSettings,
    pub failures: Failures,
    /// Nanoseconds.
    pub slow_call: u64,
    pub honour_retry_after: bool,
    pub fallback: Option<DenyResponse>,
    pub shadow: bool,
}

/// So many requests in flight.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    pub scope: Scope,
    pub limit: u32,
    pub shadow: bool,
}

/// Reads a document of this kind.
pub fn load(
    document: &Document,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<CircuitBreakerPolicy> {
    let before = mistakes.len();
    let written = read::document(document, mistakes)?;
    let whole = mistakes.len() == before;
    let policy = check::policy(document, written, whole, namespace, mistakes);
    (mistakes.len() == before).then_some(policy)
}

/// Appends what a policy says of one side. `callees`: the HTTP services that the workload calls; none inbound.
pub fn compile(
    policy: &CircuitBreakerPolicy,
    side: Side,
    callees: &[String],
    selectors: &mut Selectors<'_>,
    config: &mut LimitsConfig,
) {
    let name = |scope: &Scope| Text::from(format!("{}/{}", policy.head.full_name(), scope.name.value));
    for bulkhead in policy.concurrency.iter().filter(|one| one.scope.side == side) {
        let Some(destinations) = destinations(&bulkhead.scope, callees) else { continue };
        config.concurrency.push(ConcurrencyLimit {
            name: name(&bulkhead.scope),
            selector: bulkhead.scope.rule.as_ref().map(|rule| selectors.add(rule)),
            destinations,
            key: key(&bulkhead.scope, callees, selectors),
            limit: bulkhead.limit,
            shadow: bulkhead.shadow,
        });
    }
    for breaker in policy.breakers.iter().filter(|one| one.scope.side == side) {
        let Some(destinations) = destinations(&breaker.scope, callees) else { continue };
        config.breakers.push(EngineBreaker {
            name: name(&breaker.scope),
            selector: breaker.scope.rule.as_ref().map(|rule| selectors.add(rule)),
            destinations,
            key: key(&breaker.scope, callees, selectors),
            settings: breaker.settings.clone(),
            failures: breaker.failures.clone(),
            slow_call: breaker.slow_call,
            honour_retry_after: breaker.honour_retry_after,
            fallback: breaker.fallback.clone(),
            shadow: breaker.shadow,
        });
    }
}

/// The clusters that a request must go to; empty: any. `None`: the workload calls none of them.
fn destinations(scope: &Scope, callees: &[String]) -> Option<Vec<Text>> {
    let Some(named) = &scope.destinations else { return Some(Vec::new()) };
    let meant = |callee: &&String| named.iter().any(|name| name.value == **callee);
    let called: Vec<Text> = callees.iter().filter(meant).map(|name| Text::from(name.as_str())).collect();
    if called.len() == callees.len() && !called.is_empty() {
        return Some(Vec::new());
    }
    (!called.is_empty()).then_some(called)
}

/// The key. With one callee the destination tells nothing apart, and need not be asked for.
fn key(scope: &Scope, callees: &[String], selectors: &mut Selectors<'_>) -> Vec<KeyPart> {
    let parts = scope.key.iter().map(|part| part.compile(selectors));
    parts.filter(|part| callees.len() != 1 || *part != KeyPart::Destination).collect()
}

/// The HTTP services that a service calls.
pub fn http_callees(mesh: &Resolved, service: &Service) -> Vec<String> {
    let is_http = |name: &str| mesh.service(name).is_some_and(|callee| callee.protocol == Protocol::Http);
    let names = service.calls.iter().map(|call| &call.service);
    names.filter(|name| is_http(name)).cloned().collect()
}

/// What holds on its own and not in this mesh.
pub fn check_against(policy: &CircuitBreakerPolicy, mesh: &Resolved, mistakes: &mut Vec<Diagnostic>) {
    let selected: Vec<&Service> = mesh
        .services
        .iter()
        .filter(|service| policy.head.is_for(&mesh.workload(service), &mesh.root_namespace))
        .collect();
    // An edge has breakers for what it sends.
    if selected.is_empty() || selected.iter().any(|service| !service.is_edge()) {
        policy.head.check_against(mesh, mistakes);
    }
    let breakers = policy.breakers.iter().map(|one| (&one.scope, true));
    for (scope, is_breaker) in breakers.chain(policy.concurrency.iter().map(|one| (&one.scope, false))) {
        match scope.side {
            Side::Outbound => check_destinations(policy, scope, mesh, &selected, mistakes),
            Side::Inbound => check_inbound(policy, scope, is_breaker, &selected, mistakes),
        }
    }
}

fn check_destinations(
    policy: &CircuitBreakerPolicy,
    scope: &Scope,
    mesh: &Resolved,
    selected: &[&Service],
    mistakes: &mut Vec<Diagnostic>,
) {
    for name in scope.destinations.iter().flatten() {
        let Some(callee) = mesh.service(&name.value).filter(|callee| !callee.is_edge()) else {
            let message = format!("the mesh has no service `{}`", name.value);
            let known = mesh.services.iter().map(|service| service.name.as_str());
            let mistake = policy.head.error("unknown-service", message, &name.span);
            mistakes.push(match nearest(name, known) {
                Some(near) => mistake.help(format!("did you mean `{near}`?")),
                None => mistake.help("name a service of the Mesh"),
            });
            continue;
        };
        if callee.protocol == Protocol::Tcp {
            let message = format!(
                "of a connection to `{}` the caller's filter knows nothing: it speaks TCP",
                callee.name
            );
            mistakes.push(policy.head.error("http-only", message, &name.span).help(
                "limit its connections by `envoy.connectionPool.tcp`, on the callee's side by `concurrency`",
            ));
        } else if !selected.is_empty()
            && !selected.iter().any(|caller| caller.calls.iter().any(|call| call.service == callee.name))
        {
            let message =
                format!("no workload that `{}` is for calls `{}`", policy.head.full_name(), callee.name);
            mistakes.push(
                Diagnostic::warning("no-call", message)
                    .at(&policy.head.source, name.span.clone())
                    .help("select the callers, not the callee"),
            );
        }
    }
    let calls_none = selected.iter().all(|service| http_callees(mesh, service).is_empty());
    if scope.destinations.is_none() && !selected.is_empty() && calls_none {
        let message = format!(
            "`{}` is outbound, and no workload that it is for calls an HTTP service",
            scope.name.value
        );
        mistakes.push(
            Diagnostic::warning("no-call", message)
                .at(&policy.head.source, scope.name.span.clone())
                .help("select the callers, not the callee; or say `side: inbound`"),
        );
    }
}

fn check_inbound(
    policy: &CircuitBreakerPolicy,
    scope: &Scope,
    is_breaker: bool,
    selected: &[&Service],
    mistakes: &mut Vec<Diagnostic>,
) {
    let only = |what: &dyn Fn(&Service) -> bool| !selected.is_empty() && selected.iter().all(|one| what(one));
    if only(&Service::is_edge) {
        let message =
            format!("`{}` is inbound, and what comes in at the edge has no caller", scope.name.value);
        mistakes.push(
            policy
                .head
                .error("edge-policy", message, &scope.name.span)
                .help("say `side: outbound`, or select the services behind the edge"),
        );
    }
    let http_only = is_breaker
        || scope.rule.iter().flat_map(Rule::matches).any(|one| one.attribute.is_http_only())
        || scope.key.iter().any(Key::is_http_only);
    if http_only && only(&|service| service.protocol == Protocol::Tcp) {
        let message = format!("`{}` looks at HTTP requests, and the workload speaks TCP", scope.name.value);
        mistakes.push(policy.head.error("http-only", message, &scope.name.span).help(
            "of connections only their number is limited: `concurrency`, by `identity` or `namespace`",
        ));
    }
}

/// Envoy's own protections that a policy asks for.
pub fn native(
    policy: &CircuitBreakerPolicy,
    mesh: &Resolved,
    documents: &[Document],
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Settings> {
    let written = policy.envoy.as_ref()?.value.clone();
    let head = &policy.head;
    // The document that the policy stands in, for the places of mistakes.
    let inside = |document: &&Document| {
        let name = document.root.get("metadata").and_then(|metadata| metadata.get("name"));
        std::sync::Arc::ptr_eq(&document.source, &head.source)
            && name.is_some_and(|name| name.span == head.name.span)
    };
    let document = documents.iter().find(inside)?;
    let everywhere = head.namespace == mesh.root_namespace;
    let callers = Callers {
        target: head.target.clone(),
        namespaces: (!everywhere).then(|| vec![head.namespace.clone()]),
    };
    let title = format!("{KIND} {}", head.full_name());
    native::check::envoy_spec(document, mesh, (title, head.name.clone(), callers), written, mistakes)
}

//! RateLimitPolicy: how often, and how much at once, each caller (or path, or header) may ask.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the YAML, field for field |
//! | [`check`] | YAML → [`RateLimitPolicy`]; all mistakes at once |
//!
//! The limits of a policy stand beside each other: a request is refused if one refuses, and then costs nothing with the
//! others. Deliberately absent: what a limit without a `key` part says about two callers: they share one bucket.

use meshward_engine::config::Text;
use meshward_engine::limits::config::{
    ConcurrencyLimit, LimitsConfig, Override, RateAnswer, RateLimit, Scope, Stage, Window,
};

use super::key::Key;
use super::{Head, Selectors};
use crate::diagnostic::{Diagnostic, Severity};
use crate::mesh::document::{Document, Spanned};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, read};
use crate::policy::authorization::Rule;

mod check;
pub mod model;

/// The kind's name.
pub const KIND: &str = "RateLimitPolicy";

/// One RateLimitPolicy, whole and good.
#[derive(Clone, Debug)]
pub struct RateLimitPolicy {
    pub head: Head,
    pub limits: Vec<Limit>,
}

/// One limit of it: of a rate, of the requests in flight, or of both.
#[derive(Clone, Debug)]
pub struct Limit {
    pub name: Spanned<String>,
    /// Which requests; `None`: all.
    pub rule: Option<Rule>,
    pub key: Vec<Key>,
    pub stage: Stage,
    pub scope: Scope,
    pub shadow: bool,
    pub cost: u32,
    /// Empty: the rate is not limited.
    pub windows: Vec<Window>,
    /// In the file's order; the first that fits counts.
    pub overrides: Vec<(Rule, Vec<Window>)>,
    pub answer: RateAnswer,
    /// Most requests in flight.
    pub concurrency: Option<u32>,
}

/// Reads a document of this kind.
pub fn load(document: &Document, namespace: &str, mistakes: &mut Vec<Diagnostic>) -> Option<RateLimitPolicy> {
    let before = mistakes.len();
    let written = read::document(document, mistakes)?;
    let whole = mistakes.len() == before;
    let policy = check::policy(document, written, whole, namespace, mistakes);
    (mistakes.len() == before).then_some(policy)
}

/// Appends a policy's limits for the workload that `selectors` is for.
pub fn compile(policy: &RateLimitPolicy, selectors: &mut Selectors<'_>, config: &mut LimitsConfig) {
    for limit in &policy.limits {
        let name = Text::from(format!("{}/{}", policy.head.full_name(), limit.name.value));
        let selector = limit.rule.as_ref().map(|rule| selectors.add(rule));
        let key: Vec<_> = limit.key.iter().map(|part| part.compile(selectors)).collect();
        if let Some(most) = limit.concurrency {
            config.concurrency.push(ConcurrencyLimit {
                name: name.clone(),
                selector,
                destinations: Vec::new(),
                key: key.clone(),
                limit: most,
                shadow: limit.shadow,
            });
        }
        if limit.windows.is_empty() {
            continue;
        }
        let overrides = limit.overrides.iter();
        let overrides = overrides
            .map(|(rule, windows)| Override { selector: selectors.add(rule), windows: windows.clone() })
            .collect();
        config.rates.push(RateLimit {
            name,
            selector,
            stage: limit.stage,
            scope: limit.scope,
            key,
            windows: limit.windows.clone(),
            overrides,
            cost: limit.cost,
            shadow: limit.shadow,
            answer: limit.answer,
        });
    }
}

/// What holds on its own and not in this mesh.
pub fn check_against(policy: &RateLimitPolicy, mesh: &Resolved, mistakes: &mut Vec<Diagnostic>) {
    policy.head.check_against(mesh, mistakes);
    let global = |limit: &&Limit| matches!(limit.scope, Scope::Global(_));
    for limit in policy.limits.iter().filter(global).filter(|_| mesh.rate_limit_service.is_none()) {
        let message =
            format!("limit `{}` is global, and the Mesh has no service that counts it", limit.name.value);
        mistakes.push(
            policy
                .head
                .error("no-rate-limit-service", message, &limit.name.span)
                .help("say `rateLimitService: {address: \"ratelimit.infra:8081\"}` in the Mesh's `spec`")
                .help("or take `scope: service`, where each sidecar has its share"),
        );
    }
    let is_for = |service: &&crate::mesh::Service| {
        policy.head.is_for(&mesh.workload(service), &mesh.root_namespace) && !service.is_edge()
    };
    let is_tcp = |service: &&crate::mesh::Service| service.protocol == Protocol::Tcp;
    let Some(tcp) = mesh.services.iter().filter(is_for).find(is_tcp) else { return };
    // Where it has an effect elsewhere, that it has none here is a surprise and no mistake.
    let severity = if mesh.services.iter().filter(is_for).all(|service| is_tcp(&service)) {
        Severity::Error
    } else {
        Severity::Warning
    };
    for limit in &policy.limits {
        let by_rule = limit.rule.iter().flat_map(Rule::matches).any(|one| one.attribute.is_http_only());
        if by_rule || limit.key.iter().any(Key::is_http_only) {
            let message = format!(
                "limit `{}` looks at HTTP requests, and of a connection to `{}` only the caller is known",
                limit.name.value, tcp.name
            );
            mistakes.push(
                Diagnostic::new(severity, "http-only", message)
                    .at(&policy.head.source, limit.name.span.clone())
                    .help("select the HTTP services alone, or limit by `identity`, `namespace` or `clientAddress`"),
            );
        }
    }
}

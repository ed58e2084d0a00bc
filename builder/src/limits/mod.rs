//! RateLimitPolicy and CircuitBreakerPolicy: Meshward's own kinds, which select workloads and match requests with the
//! same `selector`, `from`, `to` and `when` as an AuthorizationPolicy.
//!
//! | module | what it holds |
//! |---|---|
//! | [`target`] | the head of a policy: its name, and which workloads it is for |
//! | [`rules`] | `from`, `to`, `when`, read by the policy module's own checker; durations |
//! | [`key`] | what makes a bucket, a counter or a breaker of its own |
//! | [`selectors`] | rules → the engine's selectors, for one workload |
//! | [`rate_limit`] | the kind RateLimitPolicy |
//! | [`circuit_breaker`] | the kind CircuitBreakerPolicy |
//!
//! Deliberately absent: deciding. That is the engine's, the same code as in the filter.

use meshward_engine::config::{Attribute, LimitsConfig, Selector};
use meshward_engine::limits::config::{RateLimitService, Scope};

use crate::diagnostic::Diagnostic;
use crate::mesh::Resolved;
use crate::mesh::document::Document;
use crate::policy::{Names, Workload};

pub mod circuit_breaker;
pub mod key;
pub mod rate_limit;
pub mod rules;
pub mod selectors;
pub mod target;

#[cfg(test)]
mod tests;

pub use circuit_breaker::{CircuitBreakerPolicy, Side};
pub use key::Key;
pub use rate_limit::RateLimitPolicy;
pub use selectors::Selectors;
pub use target::Head;

/// All policies of these kinds, checked.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// In the order of the files.
    pub rates: Vec<RateLimitPolicy>,
    pub breakers: Vec<CircuitBreakerPolicy>,
}

/// What a workload's filter and listener need.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// For [`meshward_engine::config::PluginConfig::selectors`].
    pub selectors: Vec<Selector>,
    pub limits: LimitsConfig,
    /// A limit compares the direct peer's address.
    pub source_ip: bool,
    /// A limit compares, or counts by, the original client's address.
    pub remote_ip: bool,
}

/// Reads the policies among the documents; other kinds are somebody else's. A policy without a namespace belongs to
/// `namespace`. Mistakes are appended; what comes back beside one is only good for finding more of them.
pub fn load(documents: &[Document], namespace: &str, mistakes: &mut Vec<Diagnostic>) -> Limits {
    let mut limits = Limits::default();
    for document in documents {
        if document.kind.value == rate_limit::KIND {
            limits.rates.extend(rate_limit::load(document, namespace, mistakes));
        }
        if document.kind.value == circuit_breaker::KIND {
            limits.breakers.extend(circuit_breaker::load(document, namespace, mistakes));
        }
    }
    target::unique("a RateLimitPolicy", limits.rates.iter().map(|policy| &policy.head), mistakes);
    target::unique("a CircuitBreakerPolicy", limits.breakers.iter().map(|policy| &policy.head), mistakes);
    limits
}

/// The limits before a workload's application. `replicas`: how many sidecars share what is said for a service;
/// `service`: who counts what is said for all.
pub fn inbound(
    limits: &Limits,
    workload: &Workload<'_>,
    names: &Names<'_>,
    replicas: u32,
    service: Option<RateLimitService>,
) -> Compiled {
    let mut selectors = Selectors::new(names);
    let mut config = LimitsConfig { replicas: replicas.max(1), ..LimitsConfig::NONE };
    let chosen = limits.rates.iter().filter(|policy| policy.head.is_for(workload, names.root_namespace));
    for policy in chosen {
        rate_limit::compile(policy, &mut selectors, &mut config);
    }
    for policy in limits.breakers.iter().filter(|one| one.head.is_for(workload, names.root_namespace)) {
        circuit_breaker::compile(policy, Side::Inbound, &[], &mut selectors, &mut config);
    }
    if config.rates.iter().any(|limit| matches!(limit.scope, Scope::Global(_))) {
        config.service = service;
    }
    finish(selectors, config)
}

/// The limits of what a workload sends. `callees`: the HTTP services that it calls.
pub fn outbound(limits: &Limits, workload: &Workload<'_>, names: &Names<'_>, callees: &[String]) -> Compiled {
    let mut selectors = Selectors::new(names);
    let mut config = LimitsConfig::NONE;
    for policy in limits.breakers.iter().filter(|one| one.head.is_for(workload, names.root_namespace)) {
        circuit_breaker::compile(policy, Side::Outbound, callees, &mut selectors, &mut config);
    }
    finish(selectors, config)
}

/// What the policies say that does not fit this mesh.
pub fn check_against(limits: &Limits, mesh: &Resolved, mistakes: &mut Vec<Diagnostic>) {
    for policy in &limits.rates {
        rate_limit::check_against(policy, mesh, mistakes);
    }
    for policy in &limits.breakers {
        circuit_breaker::check_against(policy, mesh, mistakes);
    }
}

fn finish(selectors: Selectors<'_>, limits: LimitsConfig) -> Compiled {
    use meshward_engine::limits::config::KeyPart;
    let keys = limits.rates.iter().map(|limit| &limit.key);
    let keys = keys.chain(limits.concurrency.iter().map(|limit| &limit.key));
    let by_address = keys
        .chain(limits.breakers.iter().map(|breaker| &breaker.key))
        .flatten()
        .any(|part| *part == KeyPart::ClientAddress);
    Compiled {
        source_ip: selectors.uses(&Attribute::SourceIp),
        remote_ip: by_address || selectors.uses(&Attribute::RemoteIp),
        selectors: selectors.into_selectors(),
        limits,
    }
}

//! Circuit breakers that are closed: on the caller's side against no filter, and all that the filter does against Envoy's
//! own filters for it.

use std::path::Path;

use anyhow::anyhow;
use meshward_engine::config::{
    AcceptedPeers, DefaultAction, GuardMode, IdentityMode, LimitsConfig, PathGuard, PathParams, PluginConfig,
    Protocol, Role, TrustDomain,
};
use meshward_engine::limits::config::{Breaker, BreakerSettings, Failures, KeyPart};
use meshward_tests::native_rbac;

use super::authorization::{self, Kind};
use super::{Case, Modules, guarded, limits};

pub fn cases(modules: &Modules) -> anyhow::Result<Vec<Case>> {
    let mut cases = vec![
        Case::new("caller's side: no filter", vec![]).plain(),
        Case::new("caller's side: no filter again (noise)", vec![]).plain(),
        Case::new("caller's side: native outlier detection", vec![]).plain().watched(),
    ];
    let ours = |limits| outbound(&modules.ours, limits);
    cases.push(Case::new("caller's side: Meshward without a breaker", ours(LimitsConfig::NONE)?).plain());
    for (name, breaker) in [
        ("failures in a row", breaker(7, 0, vec![])),
        ("failures in a row, by destination", breaker(7, 0, vec![KeyPart::Destination])),
        ("a ratio", breaker(0, 201, vec![])),
        ("both (the default)", breaker(7, 201, vec![])),
    ] {
        let limits = LimitsConfig { breakers: vec![breaker], ..LimitsConfig::NONE };
        cases
            .push(Case::new(format!("caller's side: closed breaker, {name}"), ours(limits.clone())?).plain());
        for other in &modules.others {
            let name = format!("caller's side: closed breaker, {name}: {}", other.display());
            cases.push(Case::new(name, outbound(other, limits.clone())?).plain());
        }
    }
    let config = authorization::config(Kind::Exact, 1)?;
    let mut native = native_rbac::filters(&config).map_err(|why| anyhow!("{why:?}"))?;
    native.push(limits::native(&[]));
    cases.push(Case::new("all: native RBAC, local_ratelimit, outlier detection", native).watched());
    for (name, failure_permille) in [("failures in a row", 0), ("and a ratio", 201)] {
        let mut config = config.clone();
        config.limits = limits::limits(vec![KeyPart::Identity]);
        config.limits.breakers = vec![breaker(7, failure_permille, vec![KeyPart::Identity])];
        let filters = guarded(&modules.ours, &config.encode()?)?;
        let name = format!("all: Meshward, authorization, limit and breaker per caller, {name}");
        cases.push(Case::new(name, filters));
    }
    Ok(cases)
}

/// As in a caller's sidecar: everything may go out.
fn outbound(module: &Path, limits: LimitsConfig) -> anyhow::Result<Vec<serde_json::Value>> {
    let domain = TrustDomain::parse("mesh.local")?;
    let mut config = PluginConfig::deny_all("shop/server", Role::Outbound, Protocol::Http, domain);
    config.identity = IdentityMode::Optional;
    config.accepted_peers = AcceptedPeers::AnyTrustDomain;
    config.default_action = DefaultAction::Allow;
    config.path_guard = PathGuard { mode: GuardMode::Never, path_params: PathParams::Keep };
    config.limits = limits;
    guarded(module, &config.encode()?)
}

/// The values that hold where a policy says nothing.
fn breaker(consecutive_failures: u32, failure_permille: u16, key: Vec<KeyPart>) -> Breaker {
    const SECOND: u64 = 1_000_000_000;
    Breaker {
        name: "shop/breaker/0".into(),
        selector: None,
        destinations: vec![],
        key,
        settings: BreakerSettings {
            consecutive_failures,
            failure_permille,
            slow_permille: 0,
            window: 10 * SECOND,
            min_requests: 5,
            backoff: SECOND,
            max_backoff: 60 * SECOND,
            jitter_permille: 500,
            probes: 1,
            probe_timeout: 30 * SECOND,
        },
        failures: Failures { statuses: vec![(500, 599)], grpc: 1 << 4 | 1 << 13 | 1 << 14 | 1 << 15 },
        slow_call: 5 * SECOND,
        honour_retry_after: false,
        fallback: None,
        shadow: false,
    }
}

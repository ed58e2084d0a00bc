//! The resolved mesh → the engine's configuration, for each workload and direction.
//!
//! `calls` become permissions here, as long as no ALLOW policy selects the callee. Everything that decides is in the
//! engine; this module only says with which rules.

use meshward_engine::config::{
    AcceptedPeers, Action, Attribute, AuthorizationPolicy, Clause, ConfigError, DefaultAction, GuardMode,
    IdentityMode, Match, PathGuard, PathParams, Pattern, PluginConfig, Protocol, Revoked, Role, Rule, Text,
    TrustDomain,
};
use meshward_engine::limits::config::{RateLimitService, Scope};
use sha2::{Digest as _, Sha256};

use crate::diagnostic::{Diagnostic, Failure};
use crate::limits;
use crate::mesh::{Resolved, Service, model, ports};
use crate::policy;

/// The name under which the permissions of `calls` show up in logs and metrics.
pub const CALLS_POLICY: &str = "mesh/calls";

/// The cluster of the service that counts limits of the whole mesh. No service can have this name: it has an underscore.
pub(crate) const RATE_LIMIT_CLUSTER: &str = "rate_limit_service";

/// What the filter of `service` gets in that role.
///
/// # Errors
/// Policies that cannot be compiled for this workload.
pub fn plugin_config(mesh: &Resolved, service: &Service, role: Role) -> Result<PluginConfig, Failure> {
    let mut config = match role {
        Role::Inbound => inbound(mesh, service)?,
        Role::Outbound => outbound(mesh, service)?,
    };
    config.revision = revision(&config)?;
    Ok(config)
}

/// Encoded plugin configurations: what the filter gets, and what it has as long as it gets nothing.
pub(crate) struct Plugins {
    pub inbound: Vec<u8>,
    pub inbound_deny_all: Vec<u8>,
    pub outbound: Vec<u8>,
    pub outbound_deny_all: Vec<u8>,
}

/// All encoded configurations of a sidecar.
pub(crate) fn plugins(mesh: &Resolved, service: &Service) -> Result<Plugins, Failure> {
    let config = |role| plugin_config(mesh, service, role).and_then(|config| encode(&config));
    let deny_all = |role| encode(&deny_all(mesh, service, role)?);
    Ok(Plugins {
        inbound: config(Role::Inbound)?,
        inbound_deny_all: deny_all(Role::Inbound)?,
        outbound: config(Role::Outbound)?,
        outbound_deny_all: deny_all(Role::Outbound)?,
    })
}

/// The version that is written into plugin configurations, and that a module must read.
///
/// # Errors
/// None that a user can cause.
pub(crate) fn wire_version() -> Result<u8, Failure> {
    /// What is before it.
    const MAGIC: usize = b"meshward".len();
    let any = PluginConfig::deny_all("", Role::Inbound, Protocol::Http, trust_domain("any")?);
    encode(&any)?.get(MAGIC).copied().ok_or_else(|| {
        Diagnostic::error("plugin-configuration", "a plugin configuration has no version").into()
    })
}

fn deny_all(mesh: &Resolved, service: &Service, role: Role) -> Result<PluginConfig, Failure> {
    let workload = format!("{}/{}", service.namespace, service.name);
    let protocol = match service.protocol {
        model::Protocol::Http => Protocol::Http,
        // Outbound, the filter stands in the HTTP listener whatever the application itself speaks.
        model::Protocol::Tcp if role == Role::Outbound => Protocol::Http,
        model::Protocol::Tcp => Protocol::Tcp,
    };
    let mut config = PluginConfig::deny_all(&workload, role, protocol, trust_domain(&mesh.trust_domain)?);
    config.revision = Text::from("deny-all");
    Ok(config)
}

fn inbound(mesh: &Resolved, service: &Service) -> Result<PluginConfig, Failure> {
    let mut config = deny_all(mesh, service, Role::Inbound)?;
    config.trust_domain_aliases =
        mesh.trust_domain_aliases.iter().map(|alias| trust_domain(alias)).collect::<Result<_, _>>()?;
    let federated = mesh.federates_with.iter().map(|other| trust_domain(other)).collect::<Result<_, _>>()?;
    config.accepted_peers = AcceptedPeers::OwnAnd(federated);
    config.revoked = Revoked {
        serials: mesh.revocation.serials.clone(),
        ids: mesh.revocation.ids.iter().map(|id| Text::from(id.as_str())).collect(),
    };
    config.default_action = match mesh.default_action {
        model::DefaultAction::Allow => DefaultAction::Allow,
        model::DefaultAction::Deny => DefaultAction::Deny,
    };
    config.path_guard = PathGuard {
        mode: GuardMode::Always,
        path_params: match mesh.path_params {
            model::PathParams::Strip => PathParams::Strip,
            model::PathParams::Reject => PathParams::Reject,
            model::PathParams::Keep => PathParams::Keep,
        },
    };
    let compiled = policies(mesh, service);
    let limits = limits(mesh, service);
    let (source_ip, remote_ip) =
        (compiled.source_ip || limits.source_ip, compiled.remote_ip || limits.remote_ip);
    if source_ip && remote_ip && service.protocol == model::Protocol::Http {
        return Err(two_addresses(service).into());
    }
    config.policies = compiled.policies;
    config.selectors = limits.selectors;
    config.limits = limits.limits;
    if mesh.mode(service) != policy::Mode::Strict {
        config.identity = IdentityMode::Optional;
    }
    let allowed = config.policies.iter().any(|policy| policy.action == Action::Allow && !policy.dry_run);
    // With ALLOW as the default, a permission would be the first ALLOW policy, and so shut everybody else out.
    if !allowed && config.default_action == DefaultAction::Deny {
        config.policies.extend(calls(mesh, service));
    }
    Ok(config)
}

/// The policies for a service, compiled.
pub(crate) fn policies(mesh: &Resolved, service: &Service) -> policy::Compiled {
    policy::compile_for(&mesh.policies, mesh.workload(service), &names(mesh, service))
}

/// The limits before a service, compiled.
fn limits(mesh: &Resolved, service: &Service) -> limits::Compiled {
    let counts = mesh.rate_limit_service.as_ref().map(|service| RateLimitService {
        cluster: Text::from(RATE_LIMIT_CLUSTER),
        domain: Text::from(service.domain.as_str()),
        timeout: service.timeout,
    });
    limits::inbound(&mesh.limits, &mesh.workload(service), &names(mesh, service), service.replicas, counts)
}

/// Whether the sidecar of a service asks the rate limit service.
pub(crate) fn asks_rate_limit_service(mesh: &Resolved, service: &Service) -> bool {
    !service.is_edge() && limits(mesh, service).limits.service.is_some()
}

/// Whether the sidecars of a service share some limit, so that their number matters.
pub(crate) fn limits_are_shared(mesh: &Resolved, service: &Service) -> bool {
    !service.is_edge() && limits(mesh, service).limits.rates.iter().any(|limit| limit.scope != Scope::Sidecar)
}

/// Whether the listener of a service must tell the original client's address rather than the direct peer's.
pub(crate) fn wants_original_client(mesh: &Resolved, service: &Service) -> bool {
    policies(mesh, service).remote_ip || limits(mesh, service).remote_ip
}

/// What the policies of a service are compiled with.
fn names<'a>(mesh: &'a Resolved, service: &Service) -> policy::Names<'a> {
    policy::Names {
        root_namespace: &mesh.root_namespace,
        trust_domain: &mesh.trust_domain,
        trust_domain_aliases: &mesh.trust_domain_aliases,
        port: service.port.map(|application| policy::PortMap { application, listener: ports::INBOUND }),
    }
}

fn two_addresses(service: &Service) -> Diagnostic {
    let message = format!(
        "policies for `{}` compare both the direct peer's address and the original client's, and Envoy shows a filter \
         only one of them",
        service.name
    );
    Diagnostic::error("two-addresses", message)
        .help("use `ipBlocks` and `source.ip` alone, or `remoteIpBlocks` and `remote.ip` alone, in the policies for it")
        .help("behind mTLS a caller is better known by `principals` than by its address")
}

/// The callers of `service`, as one ALLOW policy. None when there is no caller.
fn calls(mesh: &Resolved, service: &Service) -> Option<AuthorizationPolicy> {
    let principal = |caller: &Service| {
        let id = mesh.spiffe_id(caller);
        Pattern::Exact(Text::from(id.trim_start_matches("spiffe://")))
    };
    let mut patterns: Vec<Pattern> = mesh.callers_of(&service.name).map(principal).collect();
    // Two services may share an identity.
    patterns.sort();
    patterns.dedup();
    let from = Clause::new(vec![Match { attribute: Attribute::Principal, negated: false, patterns }]);
    let any = from.matches().iter().any(|one| !one.patterns.is_empty());
    any.then(|| AuthorizationPolicy {
        name: Text::from(CALLS_POLICY),
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule { from: vec![from], ..Rule::any() }],
        deny_response: None,
    })
}

/// The own application is the only one that connects there: it needs no permission, but limits and breakers.
fn outbound(mesh: &Resolved, service: &Service) -> Result<PluginConfig, Failure> {
    let mut config = deny_all(mesh, service, Role::Outbound)?;
    config.identity = IdentityMode::Optional;
    config.accepted_peers = AcceptedPeers::AnyTrustDomain;
    config.default_action = DefaultAction::Allow;
    config.path_guard = PathGuard { mode: GuardMode::Never, path_params: PathParams::Keep };
    let callees = limits::circuit_breaker::http_callees(mesh, service);
    let names = policy::Names { port: None, ..names(mesh, service) };
    let limits = limits::outbound(&mesh.limits, &mesh.workload(service), &names, &callees);
    config.selectors = limits.selectors;
    config.limits = limits.limits;
    Ok(config)
}

/// Twelve hexadecimal digits of the hash of everything else: the same policy has the same revision everywhere.
fn revision(config: &PluginConfig) -> Result<Text, Failure> {
    let nameless = PluginConfig { revision: Text::from(""), ..config.clone() };
    let digest = Sha256::digest(encode(&nameless)?);
    Ok(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

fn trust_domain(name: &str) -> Result<TrustDomain, Failure> {
    TrustDomain::parse(name)
        .map_err(|error| Diagnostic::error("invalid-trust-domain", format!("`{name}`: {error}")).into())
}

fn encode(config: &PluginConfig) -> Result<Vec<u8>, Failure> {
    config.encode().map_err(|error: ConfigError| {
        Diagnostic::error("plugin-configuration", format!("`{}`: {error}", config.workload)).into()
    })
}

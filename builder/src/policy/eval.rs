//! `meshward policy eval`: the filter's own engine, asked from the command line, one request per line.
//!
//! Without a Mesh among the documents it answers as Istio's sidecar would: trust domain `cluster.local`, root namespace
//! `istio-system`, what no policy speaks of is allowed, callers need no certificate. With a Mesh it answers with the very
//! configuration that `meshward render` writes for the workload.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use meshward_engine::config::{
    AcceptedPeers, ConfigError, DefaultAction, GuardMode, IdentityMode, PathGuard, PathParams, PluginConfig,
    Protocol, Role, TrustDomain,
};
use meshward_engine::limits::Limits;
use meshward_engine::limits::config::RateLimitService;
use meshward_engine::policy::Policy;
use meshward_engine::shared_words::Memory;

use super::check::Policies;
use super::compile::{Names, PortMap, compile_for};
use super::select::Workload;
use super::{documents, peer};
use crate::compile::plugin_config;
use crate::diagnostic::{Diagnostic, Failure, Severity, nearest};
use crate::limits;
use crate::mesh::{self, Resolved, Service, discover, ports};

mod answer;
mod ask;
mod replay;
mod request;
mod run;

#[cfg(test)]
mod tests;

pub use ask::Answered;
pub use run::{Summary, run};

/// What to evaluate, and for whom.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files, folders, `-`.
    pub mesh: Vec<PathBuf>,
    /// Namespace and name.
    pub workload: Option<(String, String)>,
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Only without a Mesh, which says it itself; `cluster.local` when not said.
    pub trust_domain: Option<String>,
    pub trust_domain_aliases: Vec<String>,
    pub paths: Option<Paths>,
    pub side: Side,
    /// Leave out of the reasons what came nearest.
    pub terse: bool,
}

/// Which of a sidecar's two filters is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// The one before the workload's application
    #[default]
    Inbound,
    /// The one behind it, for what it sends: breakers and limits of requests in flight. Only with a Mesh
    Outbound,
}

impl Side {
    fn role(self) -> Role {
        match self {
            Self::Inbound => Role::Inbound,
            Self::Outbound => Role::Outbound,
        }
    }
}

/// At which point of its way a request's path is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Paths {
    /// As the client sends it: the listener normalizes it first. The default with a Mesh
    Sent,
    /// As the filter sees it, behind a listener that may not normalize. The default without a Mesh
    Seen,
}

/// Ready to answer.
#[derive(Debug)]
pub struct Evaluator {
    http: Policy,
    tcp: Policy,
    /// What a request without `protocol` is.
    protocol: Protocol,
    guard: PathGuard,
    ports: Option<PortMap>,
    strict: Strict,
    paths: Paths,
    /// Says of a denial what came nearest.
    explains: bool,
    limits: Limits,
    /// What earlier requests have spent.
    spent: Memory,
    /// What they have spent of global budgets: the window, and how much, by the hash of the budget.
    budgets: RefCell<HashMap<u64, (u64, u32)>>,
    replay: replay::Replay,
    /// Outbound: the HTTP services that the workload calls.
    callees: Option<Vec<String>>,
}

/// Which ports of a workload take nobody without a certificate, as PeerAuthentications say it. With a Mesh nothing is here:
/// its configuration says it.
#[derive(Clone, Debug, Default)]
struct Strict {
    /// Those that a policy names.
    ports: BTreeMap<u16, bool>,
    /// The others.
    rest: bool,
}

impl Strict {
    fn new(policies: &Policies, workload: &Workload<'_>) -> Self {
        let strict = |port| peer::said(policies, workload, "istio-system", port) == Some(peer::Mode::Strict);
        let named = policies.peer.iter().flat_map(|policy| policy.ports.keys());
        Self { ports: named.map(|port| (*port, strict(Some(*port)))).collect(), rest: strict(None) }
    }

    fn is_at(&self, port: Option<u16>) -> bool {
        port.and_then(|port| self.ports.get(&port)).copied().unwrap_or(self.rest)
    }
}

impl Evaluator {
    /// Reads, checks and compiles the policies for the workload.
    ///
    /// # Errors
    /// Every mistake in the documents; a workload that the Mesh does not have. Warnings go to `warnings`.
    pub fn new(options: &Options, warnings: &mut Vec<Diagnostic>) -> Result<Self, Failure> {
        let sources = discover::sources(&options.mesh)?;
        let mut mistakes = Vec::new();
        let documents = documents::parse(&sources, &mut mistakes);
        if documents.iter().any(|document| document.kind.value == "Mesh") {
            if options.trust_domain.is_some() || !options.trust_domain_aliases.is_empty() {
                return Err(Diagnostic::error("trust-domain", "the Mesh says its trust domain itself")
                    .help("take `--trust-domain` and `--trust-domain-alias` away")
                    .into());
            }
            let mesh = mesh::load_sources(&sources)?;
            warnings.extend(mesh.warnings.iter().cloned());
            return Self::of_mesh(&mesh, options);
        }
        if options.side == Side::Outbound {
            return Err(Diagnostic::error("no-mesh", "what a workload sends is known with a Mesh only")
                .help("put the Mesh among the documents, or take `--side outbound` away")
                .into());
        }
        let namespace = options.namespace();
        let policies = super::load(&documents, namespace, &mut mistakes);
        let limits = limits::load(&documents, namespace, &mut mistakes);
        if mistakes.iter().any(|mistake| mistake.severity == Severity::Error) {
            return Err(mistakes.into());
        }
        warnings.append(&mut mistakes);
        let mut config = as_istio(options)?;
        let labels = options.labels();
        let service = options.workload.as_ref().map(|(_, name)| name.as_str());
        let workload = Workload { service, namespace, labels: &labels };
        let names = Names {
            root_namespace: "istio-system",
            trust_domain: config.trust_domain.as_str(),
            trust_domain_aliases: &options.trust_domain_aliases,
            port: None,
        };
        let compiled = compile_for(&policies, workload, &names);
        config.policies = compiled.policies;
        // Whoever would be asked: here the budgets are counted in memory.
        let service = RateLimitService { cluster: "".into(), domain: "".into(), timeout: 1 };
        let compiled = limits::inbound(&limits, &workload, &names, 1, Some(service));
        (config.selectors, config.limits) = (compiled.selectors, compiled.limits);
        let strict = Strict::new(&policies, &workload);
        Ok(Self { strict, ..Self::of_config(config, None, options, Paths::Seen)? })
    }

    fn of_mesh(mesh: &Resolved, options: &Options) -> Result<Self, Failure> {
        let service = the_service(mesh, options)?;
        let mut config = plugin_config(mesh, service, options.side.role())?;
        if options.side == Side::Outbound {
            let callees = Some(limits::circuit_breaker::http_callees(mesh, service));
            return Ok(Self { callees, ..Self::of_config(config, None, options, Paths::Seen)? });
        }
        // A request says no serial number, and one that cannot be checked would be refused.
        config.revoked.serials.clear();
        let map = service.port.map(|application| PortMap { application, listener: ports::INBOUND });
        Self::of_config(config, map, options, Paths::Sent)
    }

    fn of_config(
        config: PluginConfig,
        ports: Option<PortMap>,
        options: &Options,
        paths: Paths,
    ) -> Result<Self, Failure> {
        let mistake = |error: ConfigError| {
            Diagnostic::error("plugin-configuration", format!("`{}`: {error}", config.workload))
        };
        let compile =
            |protocol| Policy::compile(&PluginConfig { protocol, ..config.clone() }).map_err(mistake);
        Ok(Self {
            http: compile(Protocol::Http)?,
            tcp: compile(Protocol::Tcp)?,
            protocol: config.protocol,
            guard: config.path_guard,
            ports,
            strict: Strict::default(),
            paths: options.paths.unwrap_or(paths),
            explains: !options.terse,
            limits: Limits::compile(config.limits.clone(), config.selectors.len()).map_err(mistake)?,
            spent: Memory::default(),
            budgets: RefCell::default(),
            replay: replay::Replay::default(),
            callees: None,
        })
    }
}

impl Options {
    fn namespace(&self) -> &str {
        let of_workload = self.workload.as_ref().map(|(namespace, _)| namespace.as_str());
        of_workload.or(self.namespace.as_deref()).unwrap_or("default")
    }

    /// As every workload of Meshward, one that is named has `app: <name>`, unless labels are given.
    fn labels(&self) -> BTreeMap<String, String> {
        match &self.workload {
            Some((_, name)) if self.labels.is_empty() => BTreeMap::from([("app".to_owned(), name.clone())]),
            _ => self.labels.clone(),
        }
    }
}

fn as_istio(options: &Options) -> Result<PluginConfig, Failure> {
    let trust_domain = |name: &str| {
        TrustDomain::parse(name).map_err(|error| {
            Diagnostic::error("invalid-trust-domain", format!("`{name}`: {error}"))
                .help("a trust domain looks like `cluster.local`")
        })
    };
    let own = trust_domain(options.trust_domain.as_deref().unwrap_or("cluster.local"))?;
    let mut config = PluginConfig::deny_all(options.namespace(), Role::Inbound, Protocol::Http, own);
    config.trust_domain_aliases =
        options.trust_domain_aliases.iter().map(|alias| trust_domain(alias)).collect::<Result<_, _>>()?;
    config.accepted_peers = AcceptedPeers::AnyTrustDomain;
    config.identity = IdentityMode::Optional;
    config.default_action = DefaultAction::Allow;
    config.path_guard = PathGuard { mode: GuardMode::WhenPathsMatter, path_params: PathParams::Strip };
    Ok(config)
}

/// The service of the Mesh that is asked about.
fn the_service<'a>(mesh: &'a Resolved, options: &Options) -> Result<&'a Service, Failure> {
    let full_name = |service: &Service| format!("{}/{}", service.namespace, service.name);
    let all = || mesh.services.iter().map(full_name).collect::<Vec<_>>();
    let known = |names: &[String]| format!("name one with `--workload`: {}", names.join(", "));
    if let Some((namespace, name)) = &options.workload {
        let found = mesh.services.iter().find(|one| one.namespace == *namespace && one.name == *name);
        return found.ok_or_else(|| {
            let written = format!("{namespace}/{name}");
            let names = all();
            let mistake =
                Diagnostic::error("unknown-workload", format!("the Mesh has no workload `{written}`"));
            Failure::from(match nearest(&written, names.iter().map(String::as_str)) {
                Some(near) => mistake.help(format!("did you mean `{near}`?")),
                None => mistake.help(known(&names)),
            })
        });
    }
    let fits = |service: &&Service| {
        options.namespace.as_ref().is_none_or(|namespace| service.namespace == *namespace)
            && options.labels.iter().all(|(key, value)| service.labels.get(key) == Some(value))
    };
    let mut fitting = mesh.services.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(service), None) => Ok(service),
        (None, _) => Err(Diagnostic::error(
            "unknown-workload",
            "the Mesh has no workload in that namespace with those labels",
        )
        .help(known(&all()))
        .into()),
        (Some(_), Some(_)) => {
            Err(Diagnostic::error("which-workload", "the Mesh has several workloads that could be meant")
                .help(known(&all()))
                .into())
        }
    }
}

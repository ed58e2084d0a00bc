//! The plugin's configuration: decoded, compiled, and taken whole or not at all.
//!
//! INVARIANT: what `on_configure` answers depends on the configuration's bytes alone. Envoy asks the main thread's VM
//! first and refuses an update that it refuses; a VM that refused later, in a worker, would be left out silently, and
//! requests would pass unfiltered (the guard behind the filter is for that).

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use meshward_engine::config::{ConfigError, LimitsConfig, PluginConfig, Role};
use meshward_engine::limits::Limits;
use meshward_engine::policy::{Draft, Policy};
use meshward_engine::request::Protocol;
use meshward_engine::stats;
use meshward_engine::text::decimal;

use crate::dispatch::Context;
use crate::gauges;
use crate::host::{self, HostError, Level};
use crate::http::Http;
use crate::identity::Identities;
use crate::limits::{self, Guards};
use crate::metrics::Metrics;
use crate::report::LogLimit;
use crate::tcp::Tcp;

/// What all requests of one configuration share. One per worker and configuration; requests in flight keep theirs.
pub struct Active {
    pub policy: Policy,
    pub protocol: Protocol,
    pub identities: Identities,
    pub metrics: Metrics,
    pub log_limit: LogLimit,
    pub guards: Guards,
}

/// The root context. Without a configuration it refuses everything.
pub struct Root {
    /// Envoy's number for this context.
    id: u32,
    active: Option<Rc<Active>>,
}

impl Root {
    pub fn new(id: u32) -> Self {
        Self { id, active: None }
    }

    /// Whether the configuration is taken. When not, what was there stays.
    pub fn on_configure(&mut self, size: usize) -> bool {
        let metrics = Metrics::default();
        match load(size) {
            Ok((policy, protocol, role, limits)) => {
                let revision = policy.revision();
                host::log(Level::Info, &["configured: revision ", revision].concat());
                metrics.count(stats::CONFIGURATIONS, &[("result", "accepted")]);
                if protocol == Protocol::Http {
                    gauges::configured(role, limits.breaker_bases());
                }
                self.active = Some(Rc::new(Active {
                    policy,
                    protocol,
                    identities: Identities::default(),
                    metrics,
                    log_limit: LogLimit::default(),
                    guards: Guards::new(limits, role, self.id),
                }));
                true
            }
            Err(refusal) => {
                let why = refusal.to_text();
                host::log(Level::Error, &["configuration refused: ", &why].concat());
                metrics.count(stats::CONFIGURATIONS, &[("result", "rejected")]);
                false
            }
        }
    }

    /// Envoy calls this every [`meshward_engine::concurrency::BEAT`] while there are concurrency limits or breakers.
    pub fn on_tick(&self) {
        limits::beat();
        gauges::tick();
    }

    /// A call of this configuration's has ended; who has waited for it.
    pub fn on_answer(&self, token: u32, answer: Option<&[u8]>) -> Vec<u32> {
        self.active.as_ref().map_or_else(Vec::new, |active| active.guards.finish(token, answer))
    }

    /// A request or connection of this plugin.
    pub fn new_stream(&self, id: u32) -> Context {
        match self.active.as_ref().map(|active| active.protocol) {
            Some(Protocol::Tcp) => Context::Tcp(Tcp::new(self.active.clone(), id)),
            Some(Protocol::Http) | None => Context::Http(Http::new(self.active.clone(), id)),
        }
    }
}

/// Why a configuration is refused.
enum Refusal {
    /// Usual cause: `configuration` is missing in the Envoy configuration.
    Unreadable(HostError),
    Invalid(ConfigError),
}

impl Refusal {
    /// For the log.
    fn to_text(&self) -> String {
        match self {
            Self::Unreadable(error) => {
                ["there is none (host status ", &decimal(error.0.into()), ")"].concat()
            }
            Self::Invalid(error) => error.to_text(),
        }
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::Invalid(error)
    }
}

fn load(size: usize) -> Result<(Policy, Protocol, Role, Limits), Refusal> {
    let bytes = host::plugin_configuration(size).map_err(Refusal::Unreadable)?;
    let mut config = PluginConfig::decode(&bytes)?;
    // The memory of what has been read is there for what is made of it: that of a VM never shrinks.
    drop(bytes);
    let (protocol, role) = (config.protocol, config.role);
    let draft = Draft::new(&config)?;
    let limits = core::mem::replace(&mut config.limits, LimitsConfig::NONE);
    let limits = Limits::compile(limits, config.selectors.len())?;
    drop(config);
    Ok((draft.finish(), protocol, role, limits))
}

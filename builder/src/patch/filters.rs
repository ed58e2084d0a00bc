//! The filters that a patch inserts, and how they are known again.
//!
//! What they are is said in [`crate::envoy::filter`]; here is which configuration goes where, and the one note that
//! `unpatch` needs: whether the list was a list before.

use serde_json::{Value, json};

use super::envoy::{Filter, Protocol};
use super::tree::Tree;
use crate::envoy::filter::{self, GUARD, Layer, NAME};

/// The name of the guard's policy has this at its end where the list was a single mapping before: `unpatch` makes one
/// of it again. A name, for JSON has no comments.
const WAS_SINGLE: &str = ".single-mapping";

const HTTP_WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const HTTP_RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_WASM: &str = "envoy.extensions.filters.network.wasm.v3.Wasm";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";

/// What the inserted filter runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The module, where Envoy finds it in its pod.
    pub wasm: String,
    pub configurations: Configurations,
    /// Where the configurations come from. None: they are in the listener itself, which then needs no file but the
    /// module, and drains when they change.
    pub discovery: Option<Discovery>,
}

/// Encoded plugin configurations, by what the listener speaks and which way it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configurations {
    pub http: Vec<u8>,
    pub tcp: Vec<u8>,
    /// Behind the application. None: outbound listeners get the inbound one, which an opaque configuration is.
    pub outbound: Option<Vec<u8>>,
}

/// Configurations from files that Envoy watches (ECDS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The folder, where Envoy finds it in its pod.
    pub folder: String,
    /// In force until the file was read, and when it is refused.
    pub until_read: Configurations,
}

/// Where a filter list stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub protocol: Protocol,
    pub outbound: bool,
}

impl Position {
    fn layer(self) -> Layer {
        match self.protocol {
            Protocol::Http => Layer::Http,
            Protocol::Tcp => Layer::Network,
        }
    }

    /// The file that a discovered configuration for this position is in.
    pub fn file(self) -> &'static str {
        match (self.protocol, self.outbound) {
            (Protocol::Http, false) => crate::envoy::INBOUND_FILE,
            (_, true) => crate::envoy::OUTBOUND_FILE,
            (Protocol::Tcp, false) => "filter-inbound-tcp.yaml",
        }
    }
}

impl Configurations {
    fn at(&self, position: Position) -> &[u8] {
        let inbound = match position.protocol {
            Protocol::Http => &self.http,
            Protocol::Tcp => &self.tcp,
        };
        self.outbound.as_ref().filter(|_| position.outbound).unwrap_or(inbound)
    }
}

impl Plugin {
    /// The filter and its guard, as they stand in a list of filters. `single` notes that the list was none before.
    ///
    /// # Errors
    /// When they cannot be written as JSON, which does not happen.
    pub fn filters(&self, position: Position, single: bool) -> serde_json::Result<Vec<Value>> {
        let layer = position.layer();
        let filter = match &self.discovery {
            None => {
                let wasm = filter::wasm(layer, &self.wasm, self.configurations.at(position));
                json!({"name": NAME, "typed_config": serde_json::to_value(wasm)?})
            }
            Some(Discovery { folder, until_read }) => serde_json::to_value(filter::discovered(
                layer,
                folder,
                position.file(),
                &self.wasm,
                until_read.at(position),
            ))?,
        };
        let mut guard = serde_json::to_value(filter::guard(layer))?;
        if single && let Some(policies) = guard.pointer_mut("/typed_config/rules/policies") {
            let renamed = policies.as_object().into_iter().flatten();
            *policies =
                renamed.map(|(name, policy)| (format!("{name}{WAS_SINGLE}"), policy.clone())).collect();
        }
        Ok(vec![filter, guard])
    }

    /// The text of [`Position::file`].
    ///
    /// # Errors
    /// When it cannot be written as YAML, which does not happen.
    pub fn discovery_file(&self, position: Position) -> Result<String, String> {
        let resources =
            filter::discovery_file(position.layer(), &self.wasm, self.configurations.at(position));
        crate::yaml::to_string(&resources)
    }
}

/// Where the mesh's own filters stand in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Indices, ascending.
    pub indices: Vec<usize>,
    /// The list was a single mapping before the patch.
    pub single: bool,
}

/// The mesh's own filters in a list.
///
/// # Errors
/// The index of a foreign filter that merely has one of the names.
pub fn ours(tree: &Tree, filters: &[Filter]) -> Result<Ours, usize> {
    let mut found = Ours::default();
    for (index, filter) in filters.iter().enumerate() {
        let kinds: &[&str] = match filter.name.as_deref() {
            Some(NAME) => &[HTTP_WASM, NETWORK_WASM],
            Some(GUARD) => &[HTTP_RBAC, NETWORK_RBAC],
            _ => continue,
        };
        if !filter.kind.as_deref().is_some_and(|kind| kinds.contains(&kind)) {
            return Err(index);
        }
        let rules = filter.config.and_then(|config| tree.value(config, "rules"));
        let policies = rules.and_then(|rules| tree.value(rules, "policies"));
        found.single |= policies.is_some_and(|policies| {
            tree.entries(policies)
                .any(|(name, _)| tree.text(name).is_some_and(|name| name.ends_with(WAS_SINGLE)))
        });
        found.indices.push(index);
    }
    Ok(found)
}

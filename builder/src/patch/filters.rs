//! The filters that a patch inserts, and how they are known again.
//!
//! The guard behind the filter is what makes the pair fail closed: Envoy skips a wasm filter whose configuration was
//! refused in a worker's VM alone, and the guard then finds no property set.

use base64::Engine as _;
use serde_json::{Value, json};

use super::envoy::{Filter, Protocol};

/// The name of the filter, its root context and its VM.
pub const FILTER: &str = "meshward";
/// The name of the native filter behind it.
pub const GUARD: &str = "meshward.guard";
/// The guard's only policy. It has this name where the list was a list before.
const POLICY: &str = "meshward";
/// The guard's only policy where the list was a single mapping before, so that `unpatch` makes one of it again.
const POLICY_SINGLE: &str = "meshward.single-mapping";

const HTTP_WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const HTTP_RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_WASM: &str = "envoy.extensions.filters.network.wasm.v3.Wasm";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";

/// What the inserted filter runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The module, where Envoy finds it in its pod.
    pub wasm: String,
    /// The plugin configuration as the module reads it.
    pub configuration: Vec<u8>,
    /// The folder of the file that the filter's configuration comes from (ECDS). None: it is in the listener itself,
    /// which needs no file but the module.
    pub discovery: Option<String>,
}

impl Plugin {
    /// The filter and its guard, as they stand in a list of filters. `single` records that the list was none before.
    pub fn filters(&self, protocol: Protocol, single: bool) -> Vec<Value> {
        vec![self.filter(protocol), guard(protocol, single)]
    }

    fn filter(&self, protocol: Protocol) -> Value {
        let Some(folder) = &self.discovery else {
            return json!({"name": FILTER, "typed_config": self.typed_config(protocol)});
        };
        let rbac = if protocol == Protocol::Http { HTTP_RBAC } else { NETWORK_RBAC };
        let wasm = if protocol == Protocol::Http { HTTP_WASM } else { NETWORK_WASM };
        // Until the file was read, and when it was refused: nobody.
        let mut nobody = json!({"@type": url(rbac), "rules": {"action": "ALLOW", "policies": {}}});
        if protocol == Protocol::Tcp {
            nobody = with(nobody, "stat_prefix", json!("meshward."));
        }
        json!({
            "name": FILTER,
            "config_discovery": {
                "config_source": {
                    "path_config_source": {
                        "path": format!("{folder}/{}", resource_file(protocol)),
                        "watched_directory": {"path": folder},
                    },
                    "resource_api_version": "V3",
                },
                "type_urls": [url(wasm), url(rbac)],
                "default_config": nobody,
                "apply_default_config_without_warming": true,
            },
        })
    }

    /// The file that a filter with [`Plugin::discovery`] reads its configuration from.
    pub fn resource(&self, protocol: Protocol) -> Value {
        json!({
            "resources": [{
                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "name": FILTER,
                "typed_config": self.typed_config(protocol),
            }],
        })
    }

    fn typed_config(&self, protocol: Protocol) -> Value {
        json!({
            "@type": url(if protocol == Protocol::Http { HTTP_WASM } else { NETWORK_WASM }),
            "config": {
                "name": FILTER,
                "root_id": FILTER,
                // One trap must not take a worker down for good. Envoy 1.40 dies of a backoff below 2 ms.
                "failure_policy": "FAIL_RELOAD",
                "reload_config": {"backoff": {"base_interval": "1s"}},
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.BytesValue",
                    "value": base64::engine::general_purpose::STANDARD.encode(&self.configuration),
                },
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "vm_id": FILTER,
                    "code": {"local": {"filename": self.wasm}},
                },
            },
        })
    }
}

/// The name of the file of [`Plugin::resource`].
pub fn resource_file(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "filter-inbound.yaml",
        Protocol::Tcp => "filter-inbound-tcp.yaml",
    }
}

/// Lets through only what the filter let through: it sets this filter state.
fn guard(protocol: Protocol, single: bool) -> Value {
    let policy = if single { POLICY_SINGLE } else { POLICY };
    let principal = json!({"filter_state": {"key": "wasm.meshward", "string_match": {"exact": "allow"}}});
    let rules = json!({
        "action": "ALLOW",
        "policies": {policy: {"permissions": [{"any": true}], "principals": [principal]}},
    });
    let config = match protocol {
        Protocol::Http => json!({"@type": url(HTTP_RBAC), "rules": rules}),
        Protocol::Tcp => json!({"@type": url(NETWORK_RBAC), "stat_prefix": "meshward.", "rules": rules}),
    };
    json!({"name": GUARD, "typed_config": config})
}

/// Where the mesh's own filters stand in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Indices, ascending.
    pub indices: Vec<usize>,
    /// The list was a single mapping before the patch.
    pub single: bool,
}

/// The mesh's own filters in a list. A foreign filter that merely has one of the names is reported as an error.
pub fn ours(tree: &super::tree::Tree, filters: &[Filter]) -> Result<Ours, usize> {
    let mut found = Ours::default();
    for (index, filter) in filters.iter().enumerate() {
        let kinds: &[&str] = match filter.name.as_deref() {
            Some(FILTER) => &[HTTP_WASM, NETWORK_WASM],
            Some(GUARD) => &[HTTP_RBAC, NETWORK_RBAC],
            _ => continue,
        };
        if !filter.kind.as_deref().is_some_and(|kind| kinds.contains(&kind)) {
            return Err(index);
        }
        let policies = filter.config.and_then(|config| tree.value(config, "rules"));
        let policies = policies.and_then(|rules| tree.value(rules, "policies"));
        found.single |= policies.is_some_and(|policies| tree.value(policies, POLICY_SINGLE).is_some());
        found.indices.push(index);
    }
    Ok(found)
}

fn url(kind: &str) -> String {
    format!("type.googleapis.com/{kind}")
}

fn with(mut value: Value, key: &str, entry: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert(key.to_owned(), entry);
    }
    value
}

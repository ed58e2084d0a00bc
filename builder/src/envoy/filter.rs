//! The filter as Envoy's configuration has it, and the native guard behind it. `crate::patch` inserts the same.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Serialize;
use serde_json::json;

use super::types::{
    Any, AnyValue, ConfigSource, DataSource, Extension, ExtensionConfigSource, Resources, StringMatcher,
};

/// Name of the filter, of its configuration, root and VM; and the property that it sets on allow.
pub const NAME: &str = "meshward";
/// Name of the guard.
pub const GUARD: &str = "meshward.guard";
/// Filter state with the number of sidecars that share a service's limits, and the filter that sets it.
const REPLICAS: &str = "meshward.replicas";
/// What the filter sets [`NAME`] to when it lets a request or connection through.
pub const ALLOW: &str = "allow";

/// Which kind of filter chain the filter stands in: the module is the same, Envoy's message is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Http,
    Network,
}

impl Layer {
    fn wasm(self) -> &'static str {
        match self {
            Self::Http => "envoy.extensions.filters.http.wasm.v3.Wasm",
            Self::Network => "envoy.extensions.filters.network.wasm.v3.Wasm",
        }
    }

    fn rbac(self) -> &'static str {
        match self {
            Self::Http => "envoy.extensions.filters.http.rbac.v3.RBAC",
            Self::Network => "envoy.extensions.filters.network.rbac.v3.RBAC",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Wasm {
    config: PluginConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct PluginConfig {
    name: &'static str,
    root_id: &'static str,
    failure_policy: &'static str,
    reload_config: ReloadConfig,
    configuration: AnyValue,
    vm_config: VmConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ReloadConfig {
    backoff: Backoff,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Backoff {
    base_interval: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct VmConfig {
    vm_id: &'static str,
    runtime: &'static str,
    code: Code,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Code {
    local: DataSource,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct BytesValue {
    value: String,
}

/// The filter's own configuration: the module at `module`, with the encoded plugin configuration.
///
/// FAIL_RELOAD, so that one trap does not take a worker down for good; its `base_interval` must never be under 0.002s
/// (Envoy 1.40 dies of it). No `capability_restriction_config`: Envoy 1.40 calls it deprecated, warns for every VM and will
/// remove it; what the module may call at all, `meshward build` checks on its imports.
pub fn wasm(layer: Layer, module: &str, configuration: &[u8]) -> AnyValue {
    let value = base64::engine::general_purpose::STANDARD.encode(configuration);
    let wasm = Wasm {
        config: PluginConfig {
            name: NAME,
            root_id: NAME,
            failure_policy: "FAIL_RELOAD",
            reload_config: ReloadConfig { backoff: Backoff { base_interval: "1s" } },
            configuration: Any::new("google.protobuf.BytesValue", BytesValue { value }).erase(),
            vm_config: VmConfig {
                vm_id: NAME,
                runtime: "envoy.wasm.runtime.v8",
                code: Code { local: DataSource { filename: module.to_owned() } },
            },
        },
    };
    Any::new(layer.wasm(), wasm).erase()
}

/// The filter in a chain: its configuration from the file `name` in `directory`, so that a new policy reaches every
/// worker without a drained listener, and `deny_all` until that file is read and when it is missing or refused.
pub fn discovered(layer: Layer, directory: &str, name: &str, module: &str, deny_all: &[u8]) -> Extension {
    Extension {
        name: NAME.to_owned(),
        typed_config: None,
        config_discovery: Some(ExtensionConfigSource {
            config_source: ConfigSource::file(directory, name),
            default_config: wasm(layer, module, deny_all),
            apply_default_config_without_warming: true,
            type_urls: vec![format!("type.googleapis.com/{}", layer.wasm())],
        }),
    }
}

/// The file that [`discovered`] names.
pub fn discovery_file(layer: Layer, module: &str, configuration: &[u8]) -> Resources {
    #[derive(Serialize)]
    struct TypedExtensionConfig {
        name: &'static str,
        typed_config: AnyValue,
    }
    let resource = TypedExtensionConfig { name: NAME, typed_config: wasm(layer, module, configuration) };
    Resources { resources: vec![Any::new("envoy.config.core.v3.TypedExtensionConfig", resource).erase()] }
}

/// Envoy's command for what is in a file, followed by what moves in its folder.
pub fn content_of(file: &str) -> String {
    let folder = file.rsplit_once('/').map_or("/", |(folder, _)| folder);
    format!("%FILE_CONTENT({file}:{folder})%")
}

/// Reads a file with the number of sidecars that share the limits of a service, and gives it to the filter behind: so that it can
/// change while they run. Envoy follows moves in the file's folder, as Kubernetes does them.
pub fn replicas(layer: Layer, file: &str) -> Extension {
    let value = json!([{
        "object_key": REPLICAS,
        "factory_key": "envoy.string",
        "format_string": {
            "text_format_source": { "inline_string": content_of(file) },
            "formatters": [{
                "name": "envoy.formatter.file_content",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.formatter.file_content.v3.FileContent",
                },
            }],
        },
    }]);
    let (kind, state) = match layer {
        Layer::Http => (
            "envoy.extensions.filters.http.set_filter_state.v3.Config",
            json!({ "on_request_headers": value }),
        ),
        Layer::Network => (
            "envoy.extensions.filters.network.set_filter_state.v3.Config",
            json!({ "on_new_connection": value }),
        ),
    };
    Extension::new(REPLICAS, kind, state)
}

/// Lets through only what carries the filter's mark. Envoy skips a Wasm filter silently, with 200s, when `on_configure`
/// fails in a worker's VM only: then the mark is missing, and this answers 403. A client cannot set filter state.
pub fn guard(layer: Layer) -> Extension {
    #[derive(Serialize)]
    struct Rbac {
        rules: Rules,
        #[serde(skip_serializing_if = "Option::is_none")]
        stat_prefix: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rules_stat_prefix: Option<&'static str>,
    }
    #[derive(Serialize)]
    struct Rules {
        action: &'static str,
        policies: BTreeMap<&'static str, Policy>,
    }
    #[derive(Serialize)]
    struct Policy {
        permissions: Vec<Permission>,
        principals: Vec<Principal>,
    }
    #[derive(Serialize)]
    struct Permission {
        any: bool,
    }
    #[derive(Serialize)]
    struct Principal {
        filter_state: FilterState,
    }
    #[derive(Serialize)]
    struct FilterState {
        key: String,
        string_match: StringMatcher,
    }
    let mark =
        FilterState { key: format!("wasm.{NAME}"), string_match: StringMatcher::Exact(ALLOW.to_owned()) };
    let passed = Policy {
        permissions: vec![Permission { any: true }],
        principals: vec![Principal { filter_state: mark }],
    };
    let rbac = Rbac {
        rules: Rules { action: "ALLOW", policies: BTreeMap::from([("passed-the-filter", passed)]) },
        // The network message demands one.
        stat_prefix: (layer == Layer::Network).then_some("meshward_guard."),
        rules_stat_prefix: (layer == Layer::Http).then_some("meshward_guard."),
    };
    Extension::new(GUARD, layer.rbac(), rbac)
}

//! What is measured: the HTTP filters of each listener. A file for each thing that the filter does.

mod authorization;

use std::path::{Path, PathBuf};

use meshward_builder::envoy::filter::{self, Layer};
use meshward_tests::tools;
use serde_json::{Value, json};

/// Who calls.
pub const CALLER: &str = "mesh.local/ns/shop/sa/web";
/// What it calls.
pub const PATH: &str = "/books/42";

/// One listener.
pub struct Case {
    pub name: String,
    pub filters: Vec<Value>,
    /// Costs milliseconds a request, so it gets fewer of them.
    pub slow: bool,
}

impl Case {
    pub fn new(name: impl Into<String>, filters: Vec<Value>) -> Self {
        Self { name: name.into(), filters, slow: false }
    }

    pub fn slow(self, slow: bool) -> Self {
        Self { slow, ..self }
    }
}

/// The modules that cases are made of.
pub struct Modules {
    /// This checkout's.
    pub ours: PathBuf,
    /// Others to compare it with (`--module FILE`).
    pub others: Vec<PathBuf>,
    noop: PathBuf,
}

impl Modules {
    /// Builds ours, and writes what else is needed into `folder`.
    pub fn prepare(folder: &Path, others: Vec<PathBuf>) -> anyhow::Result<Self> {
        let noop = folder.join("noop.wasm");
        std::fs::write(&noop, wat::parse_str(NOOP)?)?;
        Ok(Self { ours: tools::filter()?, others, noop })
    }
}

/// All cases; the first has no filter.
pub fn all(modules: &Modules) -> anyhow::Result<Vec<Case>> {
    let mut cases = vec![Case::new("no filter", vec![]), Case::new("no filter again (noise)", vec![])];
    cases.push(Case::new("wasm that does nothing", vec![wasm(&modules.noop, "noop", b"")?]));
    cases.extend(authorization::cases(modules)?);
    Ok(cases)
}

/// A wasm filter with a configuration. Each case has a VM of its own, so that none profits from another's caches.
pub fn wasm(module: &Path, vm: &str, configuration: &[u8]) -> anyhow::Result<Value> {
    let mut config =
        serde_json::to_value(filter::wasm(Layer::Http, &module.to_string_lossy(), configuration))?;
    if let Some(plugin) = config.get_mut("config") {
        let id = format!("{vm}-{}", configuration.len());
        if let Some(vm) = plugin.get_mut("vm_config").and_then(Value::as_object_mut) {
            vm.insert("vm_id".into(), id.into());
        }
    }
    Ok(json!({ "name": filter::NAME, "typed_config": config }))
}

/// Our filter and the guard behind it, as `meshward render` writes them.
pub fn guarded(module: &Path, configuration: &[u8]) -> anyhow::Result<Vec<Value>> {
    let guard = serde_json::to_value(filter::guard(Layer::Http))?;
    Ok(vec![wasm(module, "guarded", configuration)?, guard])
}

/// The least that a wasm filter can be: called for the request's headers, it continues.
const NOOP: &str = r#"(module
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (i32.and (i32.add (local.get $size) (i32.const 15)) (i32.const -16)))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))"#;

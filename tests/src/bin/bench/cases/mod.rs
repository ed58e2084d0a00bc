//! What is measured: the HTTP filters of each listener. A file for each thing that the filter does.

pub mod authorization;
mod breakers;
mod limits;

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
    /// How many values of `x-key` its requests have, one after the other.
    pub keys: usize,
    /// Who calls is the own application, without TLS: the listener of a caller's sidecar.
    pub plain: bool,
    /// Envoy's own outlier detection is on for the application.
    pub watched: bool,
}

impl Case {
    pub fn new(name: impl Into<String>, filters: Vec<Value>) -> Self {
        Self { name: name.into(), filters, slow: false, keys: 1, plain: false, watched: false }
    }

    pub fn slow(self, slow: bool) -> Self {
        Self { slow, ..self }
    }

    pub fn keys(self, keys: usize) -> Self {
        Self { keys, ..self }
    }

    pub fn plain(self) -> Self {
        Self { plain: true, ..self }
    }

    pub fn watched(self) -> Self {
        Self { watched: true, ..self }
    }
}

/// What is measured together, in one pair of Envoys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Authorization,
    Limits,
    Breakers,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Authorization, Self::Limits, Self::Breakers];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Limits => "limits",
            Self::Breakers => "breakers",
        }
    }

    /// Its cases; the first has no filter.
    pub fn cases(self, modules: &Modules) -> anyhow::Result<Vec<Case>> {
        let mut cases = vec![Case::new("no filter", vec![]), Case::new("no filter again (noise)", vec![])];
        cases.push(Case::new("wasm that does nothing", vec![wasm(&modules.noop, "noop", b"")?]));
        cases.extend(match self {
            Self::Authorization => authorization::cases(modules)?,
            Self::Limits => limits::cases(modules)?,
            Self::Breakers => breakers::cases(modules)?,
        });
        Ok(cases)
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

/// A wasm filter with a configuration. Each case has a VM of its own, so that none profits from another's caches.
pub fn wasm(module: &Path, vm: &str, configuration: &[u8]) -> anyhow::Result<Value> {
    let mut config =
        serde_json::to_value(filter::wasm(Layer::Http, &module.to_string_lossy(), configuration))?;
    if let Some(plugin) = config.get_mut("config") {
        let id = format!("{vm}-{:016x}-{}", hash(configuration), module.display());
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

/// FNV-1a: tells configurations apart.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
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

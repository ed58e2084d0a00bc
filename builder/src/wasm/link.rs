//! After the linker: callbacks that the filter does not need are taken out of the module, then all that only they
//! reached, then the custom sections.
//!
//! The SDK exports every callback of proxy-wasm, and Envoy calls each one that it finds, on every request. Without the
//! export it does not enter the VM at all: 3 to 5 µs of a request.
//!
//! The SDK's traits also drag in a method for every host call there is, through tables that the linker cannot see
//! through. A function that makes a host call which `filter/src/host` does not have is such a method: nothing of ours
//! reaches it, so its body becomes a trap, and what it alone reached goes too.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use walrus::ir::{Call, InstrLocId, Unreachable, Visitor, dfs_in_order};

use crate::diagnostic::Diagnostic;

/// What stays exported. A callback that `filter/src` implements must be here, or Envoy will not call it.
///
/// `proxy_on_delete` must stay although nothing is done in it: it frees the context of a request.
pub const EXPORTS: [&str; 9] = [
    "memory",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_configure",
    "proxy_on_request_headers",
    "proxy_on_downstream_data",
];

/// The host calls that `filter/src/host/abi.rs` declares. Whatever makes another one is the SDK's, and goes.
///
/// A call that is declared there and missing here would trap on its first use, which the module's tests
/// (`tests/tests/module`) see.
pub const HOST_CALLS: [&str; 14] = [
    "proxy_close_stream",
    "proxy_define_metric",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_send_local_response",
    "proxy_set_property",
    "proxy_set_shared_data",
];

/// Takes out what Envoy need not see. Deterministic.
///
/// # Errors
/// The bytes are no core WebAssembly module.
pub fn trim(module: &[u8]) -> Result<Vec<u8>, Diagnostic> {
    let mut config = walrus::ModuleConfig::new();
    config.generate_name_section(false).generate_producers_section(false);
    let mut module = config.parse(module).map_err(|error| {
        Diagnostic::error("module-invalid", format!("cargo made no valid module: {error}"))
    })?;
    let needless: Vec<_> = module
        .exports
        .iter()
        .filter(|export| !EXPORTS.contains(&export.name.as_str()))
        .map(walrus::Export::id)
        .collect();
    for export in needless {
        module.exports.delete(export);
    }
    let sections: Vec<_> = module.customs.iter().map(|(id, _)| id).collect();
    for section in sections {
        module.customs.delete(section);
    }
    drop_foreign_calls(&mut module);
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

/// Makes a trap of every function that calls a host function which is not ours.
fn drop_foreign_calls(module: &mut walrus::Module) {
    let foreign: HashSet<_> = module
        .imports
        .iter()
        .filter(|import| import.module == "env" && !HOST_CALLS.contains(&import.name.as_str()))
        .filter_map(|import| match import.kind {
            walrus::ImportKind::Function(function) => Some(function),
            _ => None,
        })
        .collect();
    for (_, function) in module.funcs.iter_local_mut() {
        let entry = function.entry_block();
        let mut calls = Calls { of: &foreign, found: false };
        dfs_in_order(&mut calls, function, entry);
        if calls.found {
            let body = function.block_mut(entry);
            body.instrs.clear();
            body.instrs.push((Unreachable {}.into(), InstrLocId::default()));
        }
    }
}

/// Whether a function calls one of these.
struct Calls<'a> {
    of: &'a HashSet<walrus::FunctionId>,
    found: bool,
}

impl<'instr> Visitor<'instr> for Calls<'_> {
    fn visit_call(&mut self, call: &Call) {
        self.found |= self.of.contains(&call.func);
    }
}

/// Runs the machine's `wasm-opt -O3` over `module` in place and returns its version.
///
/// # Errors
/// There is none on `PATH`, or it fails.
pub fn wasm_opt(module: &mut Vec<u8>) -> Result<String, Diagnostic> {
    let missing = |error: std::io::Error| {
        Diagnostic::error("no-wasm-opt", format!("cannot run `wasm-opt`: {error}"))
            .help("install binaryen, or leave `--wasm-opt` out: the module is smaller with it, not faster")
    };
    let version = Command::new("wasm-opt").arg("--version").output().map_err(missing)?;
    // Without a target_features section, which `strip` removed, it takes nothing beyond the MVP unless told.
    let mut child = Command::new("wasm-opt")
        .args(["-O3", "--enable-bulk-memory", "--enable-sign-ext", "--enable-mutable-globals"])
        .args(["--enable-nontrapping-float-to-int", "--enable-multivalue", "--enable-reference-types"])
        .args(["-", "--output", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    let input = std::mem::take(module);
    let stdin = child.stdin.take();
    // It reads all before it writes, but nothing promises so: a thread cannot deadlock.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
        child.wait_with_output()
    })
    .map_err(missing)?;
    if !output.status.success() {
        return Err(Diagnostic::error(
            "wasm-opt-failed",
            format!("`wasm-opt -O3` ended with {}", output.status),
        )
        .help("leave `--wasm-opt` out: the module is smaller with it, not faster"));
    }
    *module = output.stdout;
    Ok(String::from_utf8_lossy(&version.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one callback to keep, one to lose with its import, and a custom section.
    fn sample() -> Vec<u8> {
        let mut module = walrus::Module::default();
        let nothing = module.types.add(&[], &[]);
        let (import, _) = module.add_import_func("env", "proxy_done", nothing);
        for (name, calls) in [("proxy_on_configure", false), ("proxy_on_log", true)] {
            let mut function = walrus::FunctionBuilder::new(&mut module.types, &[], &[]);
            if calls {
                function.func_body().call(import);
            }
            let function = function.finish(vec![], &mut module.funcs);
            module.exports.add(name, function);
        }
        module.customs.add(walrus::RawCustomSection { name: "note".into(), data: vec![1, 2, 3] });
        module.emit_wasm()
    }

    #[test]
    fn needless_callbacks_and_what_only_they_reach_are_gone() {
        let before = super::super::inspect(&sample());
        assert!(before.exports.contains(&"proxy_on_log".to_owned()), "{before:?}");
        assert!(before.imports.contains(&"env.proxy_done".to_owned()), "{before:?}");
        let after = super::super::inspect(&trim(&sample()).unwrap());
        assert_eq!(after.exports, ["proxy_on_configure"]);
        assert_eq!(after.imports, [""; 0]);
        assert_eq!(after.custom_sections, [""; 0]);
    }

    #[test]
    fn trimming_twice_changes_nothing() {
        let once = trim(&sample()).unwrap();
        assert_eq!(trim(&once).unwrap(), once);
    }

    #[test]
    fn bytes_that_are_no_module_are_an_error() {
        assert_eq!(trim(b"\0asm").unwrap_err().code, "module-invalid");
        assert_eq!(trim(b"").unwrap_err().code, "module-invalid");
    }
}

//! After the linker: what Envoy need not see is taken out of the module, then all that only it reached.
//!
//! Envoy calls every callback of proxy-wasm that it finds, on every request; the filter exports only what it needs
//! (`filter/src/dispatch.rs`). The linker's own exports (`__heap_base`, …) go, as do custom sections.

use std::io::Write as _;
use std::process::{Command, Stdio};

use walrus::FunctionKind;
use walrus::ir::{InstrLocId, Unreachable};

use crate::diagnostic::Diagnostic;

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
    let needless: Vec<_> =
        module.exports.iter().filter(|export| !is_needed(&export.name)).map(walrus::Export::id).collect();
    for export in needless {
        module.exports.delete(export);
    }
    let sections: Vec<_> = module.customs.iter().map(|(id, _)| id).collect();
    for section in sections {
        module.customs.delete(section);
    }
    cut_panics(&mut module);
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

/// Where panics end, by the ends of their mangled names: none of these returns.
const PANICS: [&str; 9] = [
    "rust_begin_unwind",
    "rust_alloc_error_handler",
    "core9panicking9panic_fmt",
    "core9panicking18panic_bounds_check",
    "core9panicking19assert_failed_inner",
    "core6result13unwrap_failed",
    "core6option13expect_failed",
    "core5slice5index16slice_index_fail",
    "copy_from_slice_impl17len_mismatch_fail",
];

/// Makes a plain trap of every panic, so that what formats a message, finds a backtrace and writes to standard error
/// goes.
///
/// The filter has no panic that anyone knows of. One that is there ends the VM with or without a message, and Envoy's
/// log says that it did and counts it (`wasm.meshward.vm_reload`). A panic that another compiler names otherwise stays
/// whole, and costs its size.
fn cut_panics(module: &mut walrus::Module) {
    let panics: Vec<_> = module
        .funcs
        .iter()
        .filter(|function| matches!(function.kind, FunctionKind::Local(_)))
        .filter(|function| {
            function.name.as_ref().is_some_and(|name| PANICS.iter().any(|panic| name.ends_with(panic)))
        })
        .map(walrus::Function::id)
        .collect();
    for panic in panics {
        if let FunctionKind::Local(function) = &mut module.funcs.get_mut(panic).kind {
            let entry = function.entry_block();
            let body = function.block_mut(entry);
            body.instrs.clear();
            body.instrs.push((Unreachable {}.into(), InstrLocId::default()));
        }
    }
}

fn is_needed(export: &str) -> bool {
    export == "memory" || export == "_initialize" || export.starts_with("proxy_")
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

    /// A module with a callback, something of the linker's with an import, and a custom section.
    fn sample() -> Vec<u8> {
        let mut module = walrus::Module::default();
        let nothing = module.types.add(&[], &[]);
        let (import, _) = module.add_import_func("env", "proxy_done", nothing);
        for (name, calls) in [("proxy_on_configure", false), ("__wasm_call_dtors", true)] {
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
    fn needless_exports_and_what_only_they_reach_are_gone() {
        let before = super::super::inspect(&sample());
        assert!(before.exports.contains(&"__wasm_call_dtors".to_owned()), "{before:?}");
        assert!(before.imports.contains(&"env.proxy_done".to_owned()), "{before:?}");
        let after = super::super::inspect(&trim(&sample()).unwrap());
        assert_eq!(after.exports, ["proxy_on_configure"]);
        assert_eq!(after.imports, [""; 0]);
        assert_eq!(after.custom_sections, [""; 0]);
    }

    #[test]
    fn the_same_module_gives_the_same_bytes() {
        assert_eq!(trim(&sample()).unwrap(), trim(&sample()).unwrap());
    }

    #[test]
    fn bytes_that_are_no_module_are_an_error() {
        assert_eq!(trim(b"\0asm").unwrap_err().code, "module-invalid");
        assert_eq!(trim(b"").unwrap_err().code, "module-invalid");
    }
}

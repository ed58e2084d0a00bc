//! What a module is, and whether Envoy would take it: core module, imports that Envoy has, exports that Envoy needs,
//! size. Says every problem it finds; fails on nothing.

use serde::Serialize;
use sha2::Digest as _;
use wasmparser::{Parser, Payload, Validator};

use crate::diagnostic::Diagnostic;

/// The largest module that a plain `kubectl apply` of its ConfigMap takes, in bytes: the object, base64 in it, is
/// stored once more in an annotation, and all annotations together may have 262,144 bytes.
pub const MAX_SIZE: usize = 190_000;

/// The host calls of proxy-wasm ABI 0.2.x (`env.proxy_*`), as Envoy 1.40 has them.
const HOST_CALLS: [&str; 39] = [
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_buffer_status",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_size",
    "proxy_get_header_map_value",
    "proxy_get_log_level",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// The WASI calls that Envoy has and a filter has a reason to use. No files, no sockets.
const WASI_CALLS: [&str; 6] =
    ["clock_time_get", "environ_get", "environ_sizes_get", "fd_write", "proc_exit", "random_get"];

/// Without these Envoy refuses the module or cannot use it.
const NEEDED_EXPORTS: [&str; 6] = [
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_context_create",
    "proxy_on_configure",
    "proxy_on_request_headers",
];

/// What a module is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    pub size: usize,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// `module.name` of every import, in the module's order.
    pub imports: Vec<String>,
    /// In the module's order.
    pub exports: Vec<String>,
    pub custom_sections: Vec<String>,
    /// Why Envoy, or a ConfigMap, would not take it. Empty: it passes.
    pub problems: Vec<Problem>,
}

/// One reason not to use a module, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub code: &'static str,
    pub message: String,
    pub help: &'static str,
}

impl Inspection {
    /// The problems as errors about `name`.
    pub fn diagnostics(&self, name: &str) -> Vec<Diagnostic> {
        let error = |problem: &Problem| {
            Diagnostic::error(problem.code, format!("{name}: {}", problem.message)).help(problem.help)
        };
        self.problems.iter().map(error).collect()
    }

    fn problem(&mut self, code: &'static str, message: String, help: &'static str) {
        self.problems.push(Problem { code, message, help });
    }
}

/// Looks at a module's bytes, whatever they are.
pub fn inspect(bytes: &[u8]) -> Inspection {
    let digest = sha2::Sha256::digest(bytes);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut inspection = Inspection { size: bytes.len(), sha256, ..Inspection::default() };
    const REBUILD: &str = "make it with `meshward build`";
    if Parser::is_component(bytes) {
        let help =
            "build for wasm32-wasip1, as `meshward build` does: wasip2 and cargo-component make components";
        inspection.problem(
            "module-component",
            "is a component, and Envoy takes core modules only".into(),
            help,
        );
        return inspection;
    }
    if let Err(error) = Validator::new().validate_all(bytes) {
        inspection.problem("module-invalid", format!("is not a valid WebAssembly module: {error}"), REBUILD);
        return inspection;
    }
    // Valid, so nothing below can fail on its form.
    for payload in Parser::new(0).parse_all(bytes).filter_map(Result::ok) {
        match payload {
            Payload::ImportSection(section) => {
                let imports = section.into_imports().filter_map(Result::ok);
                inspection.imports.extend(imports.map(|import| format!("{}.{}", import.module, import.name)));
            }
            Payload::ExportSection(section) => {
                let exports = section.into_iter().filter_map(Result::ok);
                inspection.exports.extend(exports.map(|export| export.name.to_owned()));
            }
            Payload::CustomSection(section) => inspection.custom_sections.push(section.name().to_owned()),
            _ => {}
        }
    }
    check(&mut inspection);
    inspection
}

fn check(inspection: &mut Inspection) {
    let foreign: Vec<String> =
        inspection.imports.iter().filter(|import| !is_known(import)).cloned().collect();
    for import in foreign {
        inspection.problem(
            "module-import",
            format!("imports `{import}`, which Envoy does not have for a filter"),
            "a dependency of the filter reaches for the system: find it with `wasm-tools print` and drop it",
        );
    }
    for export in NEEDED_EXPORTS {
        if !inspection.exports.iter().any(|name| name == export) {
            inspection.problem(
                "module-export",
                format!("does not export `{export}`, which Envoy calls"),
                "it is no proxy-wasm 0.2 filter: make it with `meshward build`",
            );
        }
    }
    if !inspection.exports.iter().any(|name| name == "_initialize" || name == "_start") {
        inspection.problem(
            "module-export",
            "exports neither `_initialize` nor `_start`, so it would never be set up".into(),
            "it is no proxy-wasm 0.2 filter: make it with `meshward build`",
        );
    }
    if inspection.size > MAX_SIZE {
        inspection.problem(
            "module-size",
            format!(
                "has {} bytes, over the {MAX_SIZE} that a plain `kubectl apply` of its ConfigMap takes",
                inspection.size
            ),
            "see what grew with `cargo tree -p meshward-filter`; `--wasm-opt` saves about a tenth",
        );
    }
}

fn is_known(import: &str) -> bool {
    match import.split_once('.') {
        Some(("env", call)) => HOST_CALLS.contains(&call),
        Some(("wasi_snapshot_preview1", call)) => WASI_CALLS.contains(&call),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(inspection: &Inspection) -> Vec<&'static str> {
        inspection.problems.iter().map(|problem| problem.code).collect()
    }

    /// A module with these imports and exports, all functions.
    fn module(imports: &[(&str, &str)], exports: &[&str]) -> Vec<u8> {
        let mut module = walrus::Module::default();
        let nothing = module.types.add(&[], &[]);
        for (from, name) in imports {
            module.add_import_func(from, name, nothing);
        }
        for name in exports {
            let function = walrus::FunctionBuilder::new(&mut module.types, &[], &[]);
            let function = function.finish(vec![], &mut module.funcs);
            module.exports.add(name, function);
        }
        module.emit_wasm()
    }

    fn complete() -> Vec<&'static str> {
        [&NEEDED_EXPORTS[..], &["_initialize"]].concat()
    }

    #[test]
    fn a_module_with_all_that_envoy_needs_passes() {
        let bytes = module(&[("env", "proxy_log"), ("wasi_snapshot_preview1", "fd_write")], &complete());
        let inspection = inspect(&bytes);
        assert_eq!(codes(&inspection), [""; 0]);
        assert_eq!(inspection.imports, ["env.proxy_log", "wasi_snapshot_preview1.fd_write"]);
        assert_eq!(inspection.size, bytes.len());
    }

    #[test]
    fn every_foreign_import_and_missing_export_is_named() {
        let imports = [("env", "abort"), ("wasi_snapshot_preview1", "path_open"), ("other", "proxy_log")];
        let inspection = inspect(&module(&imports, &["memory", "_initialize"]));
        let imports: Vec<_> = inspection.problems.iter().filter(|p| p.code == "module-import").collect();
        assert_eq!(imports.len(), 3, "{inspection:?}");
        assert!(imports[0].message.contains("`env.abort`"), "{}", imports[0].message);
        assert_eq!(inspection.problems.len() - imports.len(), NEEDED_EXPORTS.len() - 1, "{inspection:?}");
    }

    #[test]
    fn a_module_that_nothing_would_set_up_is_refused() {
        assert_eq!(codes(&inspect(&module(&[], &NEEDED_EXPORTS))), ["module-export"]);
    }

    #[test]
    fn components_and_garbage_are_told_apart() {
        assert_eq!(codes(&inspect(b"\0asm\x0d\0\x01\0")), ["module-component"]);
        for garbage in [&b""[..], b"\0asm", b"#!/bin/sh\n", b"\0asm\x01\0\0\0\xff"] {
            assert_eq!(codes(&inspect(garbage)), ["module-invalid"], "{garbage:?}");
        }
    }

    #[test]
    fn a_module_over_the_budget_is_refused() {
        let mut big = module(&[], &complete());
        // A custom section: id 0, its size in LEB128, a name, padding.
        let padding = MAX_SIZE;
        let size = padding + 2;
        big.extend([
            0,
            (size & 0x7f) as u8 | 0x80,
            (size >> 7 & 0x7f) as u8 | 0x80,
            (size >> 14) as u8,
            1,
            b'x',
        ]);
        big.resize(big.len() + padding, 0);
        assert_eq!(codes(&inspect(&big)), ["module-size"]);
    }

    #[test]
    fn the_digest_is_of_the_bytes() {
        assert_eq!(
            inspect(b"abc").sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}

//! The filter as a WebAssembly module: found or built from source, trimmed, checked, named after its content.
//!
//! `build` is what `meshward build`, `up` and `render` call. Nothing here knows what the filter decides, and nothing
//! is cached beside cargo's own: an unchanged source costs one look of cargo.
//!
//! INVARIANT: the same source, lock file and rustc give the same bytes in any folder on any machine. Paths are
//! remapped (`compile.rs`), and the tools that a machine may or may not have are used only when asked for
//! (`BuildOptions::wasm_opt`).

mod compile;
mod inspect;
mod link;
pub mod signature;
mod source;
mod store;

use std::path::{Path, PathBuf};

use crate::console::Console;
use crate::diagnostic::{Diagnostic, Failure};

pub use inspect::{Inspection, MAX_SIZE, inspect};

/// Where the module comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled from a checkout of the sources: this folder, or the one that is found (see [`source::locate`]).
    Checkout(Option<PathBuf>),
    /// A module that was built before. It is checked like one of our own, and not changed.
    Module(PathBuf),
}

impl Origin {
    /// The origin that a command line asks for: `--module FILE`, `--source DIR`, or neither.
    pub fn from_args(module: Option<&Path>, source: Option<&Path>) -> Self {
        match module {
            Some(module) => Self::Module(module.to_owned()),
            None => Self::Checkout(source.map(Path::to_owned)),
        }
    }
}

/// What [`build`] is asked for.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    pub origin: Origin,
    /// The folder that receives `meshward-<sha12>.wasm`; made when it is missing.
    pub output_dir: PathBuf,
    /// Also run `wasm-opt -O3` from `PATH`. The bytes, and so the sha256, then depend on its version.
    pub wasm_opt: bool,
}

/// A module that passed every check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BuiltFilter {
    /// `<output_dir>/meshward-<sha12>.wasm`.
    pub path: PathBuf,
    /// Of the file's bytes: 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// In bytes; at most [`MAX_SIZE`].
    pub size: usize,
    /// `rustc --version` of the compiler, or nothing for a module that was built before.
    pub toolchain: Option<String>,
    /// `wasm-opt --version`, where it was asked for.
    pub wasm_opt: Option<String>,
}

/// Makes the module (or takes [`Origin::Module`]), checks it, and puts it under its name into `output_dir`.
///
/// The file appears whole or not at all. Progress goes to the console's standard error.
///
/// # Errors
/// No sources, no compiler or target, a compile error, a module that Envoy would refuse or that is too big, a folder
/// that cannot be written: each with its remedy. Every check that fails is reported, not only the first.
pub fn build(options: &BuildOptions, console: &mut Console<'_>) -> Result<BuiltFilter, Failure> {
    let made = match &options.origin {
        Origin::Module(path) => {
            let bytes = std::fs::read(path).map_err(|error| {
                Diagnostic::error("module-unreadable", format!("cannot read `{}`: {error}", path.display()))
                    .help("give `--module` the path of a module that `meshward build` wrote")
            })?;
            Made { bytes, name: path.display().to_string(), toolchain: None, wasm_opt: None }
        }
        Origin::Checkout(folder) => {
            let workspace = source::locate(folder.as_deref())?;
            let compiled = compile::compile(&workspace, console)?;
            let mut bytes = link::trim(&compiled.module)?;
            let wasm_opt = if options.wasm_opt { Some(link::wasm_opt(&mut bytes)?) } else { None };
            Made { bytes, name: "the built filter".into(), toolchain: Some(compiled.toolchain), wasm_opt }
        }
    };
    let inspection = inspect(&made.bytes);
    if !inspection.problems.is_empty() {
        return Err(inspection.diagnostics(&made.name).into());
    }
    let path = store::write(&options.output_dir, &inspection.sha256, &made.bytes)?;
    Ok(BuiltFilter {
        path,
        sha256: inspection.sha256,
        size: inspection.size,
        toolchain: made.toolchain,
        wasm_opt: made.wasm_opt,
    })
}

/// A module's bytes, before they are checked, and what made them.
struct Made {
    bytes: Vec<u8>,
    name: String,
    toolchain: Option<String>,
    wasm_opt: Option<String>,
}

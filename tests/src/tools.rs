//! What the tests need from outside: an Envoy and the built filter, both got by the product itself; and how to say that
//! something is missing.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use meshward_builder::console::Console;
use meshward_builder::diagnostic::Failure;
use meshward_builder::envoy_binary;
use meshward_builder::wasm::{self, BuildOptions, Origin};

/// The Envoy to test with: found, or fetched, as the product does.
///
/// # Errors
/// There is none to be had; the message says how to get one.
pub fn envoy() -> anyhow::Result<PathBuf> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    once(&FOUND, |console| envoy_binary::locate(None, console))
}

/// The filter's module, built from this checkout, or the one that `MESHWARD_MODULE` names.
///
/// # Errors
/// It does not build.
pub fn filter() -> anyhow::Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let checkout = workspace();
    let module = std::env::var_os("MESHWARD_MODULE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let options = BuildOptions {
        origin: module.map_or(Origin::Checkout(Some(checkout.clone())), Origin::Module),
        // One for all test programs: the name holds the content's hash, and the file appears whole.
        output_dir: checkout.join("target").join("e2e"),
        wasm_opt: false,
    };
    once(&BUILT, |console| wasm::build(&options, console).map(|built| built.path))
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// A message of the product, as an error of a test.
pub fn failure(failure: &Failure) -> anyhow::Error {
    let text: String = failure.diagnostics.iter().map(|diagnostic| diagnostic.render(false)).collect();
    anyhow!(text)
}

/// A port of loopback that nobody has just now.
///
/// # Errors
/// There is none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Says that a test, or a part of one, was left out, and why; past the test runner's capture, so that it is seen.
pub fn skipped(what: &str, why: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

fn once(
    kept: &Mutex<Option<PathBuf>>,
    make: impl FnOnce(&mut Console<'_>) -> Result<PathBuf, Failure>,
) -> anyhow::Result<PathBuf> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = kept.as_ref() {
        return Ok(path.clone());
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let made = make(&mut Console::new(&mut out, &mut err, false)).map_err(|error| failure(&error))?;
    *kept = Some(made.clone());
    Ok(made)
}

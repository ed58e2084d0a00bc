//! The engine's own tests, compiled to wasm and run in V8: `filter/engine/tests/in_wasm.rs` in Node.
//!
//! The runner is that of wasm-bindgen, of the very version that the lock file names; cargo installs it once into the
//! cache folder. Without Node it says SKIPPED.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot start what it needs has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use meshward_builder::envoy_binary::cache_folder;
use meshward_tests::tools::{skipped, workspace};

const TARGET: &str = "wasm32-unknown-unknown";

/// Runs it to its end; all it said.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}: {}\n{said}", output.status)) }
}

/// The version of wasm-bindgen in the lock file: the runner refuses modules of any other.
fn version() -> String {
    let lock = std::fs::read_to_string(workspace().join("Cargo.lock")).expect("Cargo.lock is committed");
    let package = lock.split("[[package]]").find(|package| package.contains("name = \"wasm-bindgen\"\n"));
    let version = package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next());
    version.expect("wasm-bindgen is in the lock file").to_owned()
}

/// The runner from the cache, installed first when it is not there.
fn runner(version: &str) -> PathBuf {
    let cache = cache_folder(|name| std::env::var_os(name)).expect("a home folder to keep the runner in");
    let folder = cache.join(format!("wasm-bindgen-{version}"));
    let runner = folder.join("bin/wasm-bindgen-test-runner");
    if !runner.is_file() {
        // Not `--locked`: what its lock file names need not be there any more.
        run(Command::new(env!("CARGO"))
            .args(["install", "wasm-bindgen-cli", "--version", version, "--root"])
            .arg(&folder)
            // The workspace's own flags and target folder are none of its business.
            .env_remove("CARGO_TARGET_DIR")
            .current_dir(std::env::temp_dir()))
        .unwrap_or_else(|error| panic!("the runner of wasm-bindgen cannot be installed: {error}"));
    }
    runner
}

#[test]
fn the_engine_answers_the_same_in_v8() {
    if let Err(error) = run(Command::new("node").arg("--version")) {
        skipped("the engine in wasm", &format!("Node cannot be run ({error}); install Node 20 or later"));
        return;
    }
    let target_is_there = run(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))
        .is_ok_and(|folder| Path::new(folder.trim()).is_dir());
    if !target_is_there {
        run(Command::new("rustup").args(["target", "add", TARGET]).current_dir(workspace()))
            .unwrap_or_else(|error| panic!("{error}\nadd the target by hand: rustup target add {TARGET}"));
    }
    let said = run(Command::new(env!("CARGO"))
        .args([
            "test",
            "--locked",
            "--package",
            "meshward-engine",
            "--features",
            "oracle",
            "--test",
            "in_wasm",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(workspace().join("target/engine-in-wasm"))
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", runner(&version()))
        .current_dir(workspace()))
    .unwrap_or_else(|error| panic!("{error}"));
    let passed = said
        .split("test result: ok. ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse::<u32>().ok());
    assert!(passed >= Some(4), "the tests did not all run in wasm:\n{said}");
}

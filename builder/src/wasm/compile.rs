//! From Rust to wasm32-wasip1: cargo, its target, and flags that keep this machine's paths out of the module.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::console::Console;
use crate::diagnostic::Diagnostic;

/// The target whose modules are core modules with the few WASI calls that Envoy has. wasip2 makes components, which
/// Envoy refuses.
const TARGET: &str = "wasm32-wasip1";

/// What cargo made.
pub struct Compiled {
    /// The module as rustc linked it.
    pub module: Vec<u8>,
    /// `rustc --version`.
    pub toolchain: String,
}

/// Compiles the filter of `workspace`, adding the rustup target when it is missing.
///
/// # Errors
/// No cargo, no target and no way to add it, or the sources do not compile (cargo's own messages went to standard
/// error).
pub fn compile(workspace: &Path, console: &mut Console<'_>) -> Result<Compiled, Diagnostic> {
    let toolchain = Toolchain::find(workspace)?;
    toolchain.ensure_target(workspace, console)?;
    let module = run_cargo(&toolchain, workspace)?;
    let module = std::fs::read(&module).map_err(|error| {
        Diagnostic::error(
            "build-failed",
            format!("cannot read `{}`, which cargo made: {error}", module.display()),
        )
    })?;
    Ok(Compiled { module, toolchain: toolchain.version })
}

/// The compiler that the workspace selects.
struct Toolchain {
    cargo: OsString,
    rustc: OsString,
    /// `rustc --version`, trimmed.
    version: String,
    sysroot: PathBuf,
}

impl Toolchain {
    fn find(workspace: &Path) -> Result<Self, Diagnostic> {
        // Both are set when cargo runs us (`cargo run -- up`), and name the tools that it uses itself.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = ask(&rustc, workspace, &["--version"])?;
        let sysroot = PathBuf::from(ask(&rustc, workspace, &["--print", "sysroot"])?);
        Ok(Self { cargo, rustc, version, sysroot })
    }

    fn has_target(&self, workspace: &Path) -> bool {
        ask(&self.rustc, workspace, &["--print", "target-libdir", "--target", TARGET])
            .is_ok_and(|folder| Path::new(&folder).read_dir().is_ok_and(|mut files| files.next().is_some()))
    }

    fn ensure_target(&self, workspace: &Path, console: &mut Console<'_>) -> Result<(), Diagnostic> {
        if self.has_target(workspace) {
            return Ok(());
        }
        console.note(&format!("adding the Rust target {TARGET} (rustup target add {TARGET})"));
        let added = Command::new("rustup")
            .args(["target", "add", TARGET])
            .current_dir(workspace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let why = match added {
            Ok(status) if status.success() && self.has_target(workspace) => return Ok(()),
            Ok(status) => format!("`rustup target add` ended with {status}"),
            Err(error) => format!("rustup cannot be run: {error}"),
        };
        Err(Diagnostic::error("no-wasm-target", format!("{} has no target {TARGET}, and {why}", self.version))
            .help(format!("with rustup and a network: rustup target add {TARGET}"))
            .help("with the Rust of Debian or Ubuntu: apt install libstd-rust-dev-wasm32 (its rustc may be too old)")
            .help("or give `--module` a module that `meshward build` wrote on another machine"))
    }
}

/// One line of what a tool says.
fn ask(tool: &OsString, workspace: &Path, args: &[&str]) -> Result<String, Diagnostic> {
    let name = tool.to_string_lossy();
    let output = Command::new(tool).args(args).current_dir(workspace).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => Err(Diagnostic::error(
            "rust-failed",
            format!("`{name} {}` ended with {}", args.join(" "), output.status),
        )
        .help(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => Err(Diagnostic::error("no-rust", format!("cannot run `{name}`: {error}")).help(
            "install Rust with rustup, or give `--module` a module that `meshward build` wrote elsewhere",
        )),
    }
}

/// Runs cargo and returns the path of the module that it names in its messages.
fn run_cargo(toolchain: &Toolchain, workspace: &Path) -> Result<PathBuf, Diagnostic> {
    let mut child = Command::new(&toolchain.cargo)
        .args([
            "build",
            "--locked",
            "--package",
            "meshward-filter",
            "--profile",
            "filter",
            "--target",
            TARGET,
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(workspace)
        // Takes the place of RUSTFLAGS and of every rustflags in a configuration file: they would change the bytes.
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain, workspace))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Diagnostic::error(
                "no-rust",
                format!("cannot run `{}`: {error}", toolchain.cargo.to_string_lossy()),
            )
            .help("install Rust with rustup")
        })?;
    let mut module = None;
    if let Some(messages) = child.stdout.take() {
        for line in BufReader::new(messages).lines().map_while(Result::ok) {
            module = artifact(&line).or(module);
        }
    }
    let status =
        child.wait().map_err(|error| Diagnostic::error("build-failed", format!("lost cargo: {error}")))?;
    match module {
        Some(module) if status.success() => Ok(module),
        _ => Err(Diagnostic::error("build-failed", format!("cargo could not build the filter ({status})"))
            .help("cargo's messages are above; `--offline` machines need the crates in cargo's cache first")),
    }
}

/// The module's path, if this message of cargo names it.
fn artifact(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    let files = message.get("filenames")?.as_array()?;
    files
        .iter()
        .filter_map(|file| file.as_str())
        .find(|file| file.ends_with("meshward_filter.wasm"))
        .map(Into::into)
}

/// Flags that replace the places of this machine in panic messages, separated as cargo wants them.
fn rustflags(toolchain: &Toolchain, workspace: &Path) -> OsString {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    // rustc takes the last that fits, so the workspace, which may lie under the others, comes last.
    let places = [
        (cargo_home, "/cargo"),
        (Some(toolchain.sysroot.clone()), "/rust"),
        (Some(workspace.into()), "/meshward"),
    ];
    let mut flags = OsString::new();
    for (place, name) in places {
        let Some(place) = place else { continue };
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(place);
        flags.push("=");
        flags.push(name);
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_artifact_is_read_from_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","filenames":["/t/filter/deps/x.d","/t/filter/meshward_filter.wasm"]}"#;
        assert_eq!(artifact(line), Some(PathBuf::from("/t/filter/meshward_filter.wasm")));
        assert_eq!(artifact(r#"{"reason":"compiler-artifact","filenames":["/t/libserde.rlib"]}"#), None);
        assert_eq!(artifact(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(artifact("not json"), None);
    }

    #[test]
    fn every_place_of_this_machine_is_remapped_and_the_workspace_wins() {
        let toolchain = Toolchain {
            cargo: "cargo".into(),
            rustc: "rustc".into(),
            version: String::new(),
            sysroot: "/toolchain".into(),
        };
        let flags = rustflags(&toolchain, Path::new("/home/u/m")).into_string().unwrap();
        let flags: Vec<&str> = flags.split('\u{1f}').collect();
        assert_eq!(flags.last(), Some(&"--remap-path-prefix=/home/u/m=/meshward"));
        assert!(flags.contains(&"--remap-path-prefix=/toolchain=/rust"), "{flags:?}");
    }
}

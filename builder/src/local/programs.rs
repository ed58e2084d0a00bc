//! What `local.command` starts: a path, a package of the Cargo workspace around mesh.yaml, or a program on PATH.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::console::Console;
use crate::diagnostic::Diagnostic;
use crate::envoy_binary::on_path;

/// The program behind the first word of a `local.command`. A Cargo package is built.
///
/// # Errors
/// It is nowhere to be found, or does not build.
pub fn find(word: &str, base: &Path, console: &mut Console<'_>) -> Result<PathBuf, Diagnostic> {
    let missing = |message: String| {
        Diagnostic::error("program-missing", message).help(
            "`local.command` starts with a path (taken from the folder of mesh.yaml), the name of a package of the \
             Cargo workspace around it, or of a program on PATH",
        )
    };
    if word.contains('/') {
        // Absolute: it is started in another folder.
        let path = std::path::absolute(base.join(word)).unwrap_or_else(|_| base.join(word));
        return if path.is_file() {
            Ok(path)
        } else {
            Err(missing(format!("there is no `{}`", path.display())))
        };
    }
    // The workspace before PATH: what lies beside mesh.yaml is what its author means.
    if is_package(word, base) {
        return build(word, base, console);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    on_path(&path, word).ok_or_else(|| {
        missing(format!(
            "`{word}` is neither a package of the workspace around `{}` nor on PATH",
            base.display()
        ))
    })
}

/// Variables that `cargo run` sets for its program: build scripts of another package would take them for their own, and
/// run again.
pub fn without_cargos_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if let Some(text) = name.to_str()
            && ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

fn cargo(base: &Path) -> Command {
    let program = std::env::var_os("CARGO")
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(base).stdin(Stdio::null());
    without_cargos_variables(&mut command);
    command
}

fn is_package(name: &str, base: &Path) -> bool {
    let output = cargo(base).args(["pkgid", "--package", name, "--offline"]).stderr(Stdio::null()).output();
    // A dependency of that name has no program to run: only what lies here counts.
    output.is_ok_and(|output| {
        output.status.success() && String::from_utf8_lossy(&output.stdout).starts_with("path+")
    })
}

fn build(name: &str, base: &Path, console: &mut Console<'_>) -> Result<PathBuf, Diagnostic> {
    console.note(&format!("building the application `{name}` ..."));
    let mut command = cargo(base);
    command.args(["build", "--quiet", "--message-format=json-render-diagnostics", "--package", name]);
    // In the profile that this program was built in: what the two have in common is then built already.
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Diagnostic::error("program-build", format!("`cargo` does not start: {error}")))?;
    if !output.status.success() {
        return Err(Diagnostic::error("program-build", format!("the package `{name}` does not build"))
            .help("see the compiler's messages above"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .next_back()
        .ok_or_else(|| Diagnostic::error("program-build", format!("the package `{name}` has no program")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(word: &str, base: &Path) -> Result<PathBuf, Diagnostic> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        super::find(word, base, &mut Console::new(&mut out, &mut err, false))
    }

    #[test]
    fn a_path_is_taken_from_the_folder_of_the_mesh() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("app"), "").unwrap();
        assert_eq!(find("./app", folder.path()).unwrap(), folder.path().join("app"));
        let error = find("./other", folder.path()).unwrap_err();
        assert!(error.message.contains("other"), "{}", error.message);
    }

    #[test]
    fn a_word_is_looked_for_on_path() {
        let folder = tempfile::tempdir().unwrap();
        assert!(find("sh", folder.path()).unwrap().is_absolute());
        assert_eq!(find("no-such-program", folder.path()).unwrap_err().code, "program-missing");
    }
}

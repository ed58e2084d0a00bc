//! Programs of others that are Go modules, built as they are: what tests/<folder>/go.mod pins.
//!
//! They are kept in the cache folder of the user, under the hash of what they were built from.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::tools::workspace;

/// The folder with these programs, out of the cache or built into it; None without `go`. A program is the package of its name
/// in `tests/<folder>`.
///
/// # Errors
/// One does not build.
pub fn programs(folder: &str, programs: &[&str]) -> anyhow::Result<Option<PathBuf>> {
    let sources = workspace().join("tests").join(folder);
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("MESHWARD_CACHE")
        .or_else(|| set("HOME").map(|home| home.join(".cache/meshward")))
        .context("no cache folder: set MESHWARD_CACHE")?;
    let mut all = Vec::new();
    let mains = programs.iter().map(|program| format!("{program}/main.go"));
    for file in ["go.mod".to_owned(), "go.sum".to_owned()].into_iter().chain(mains) {
        all.extend(fs::read(sources.join(&file)).with_context(|| file.clone())?);
    }
    let digest = meshward_builder::live::module::Module::new(all).sha256;
    let target = cache.join(format!("{folder}-{}", digest.get(..12).unwrap_or_default()));
    if programs.iter().all(|program| target.join(program).is_file()) {
        return Ok(Some(target));
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    fs::create_dir_all(&target)?;
    let built = tempfile::tempdir_in(&target)?;
    for program in programs {
        let output = Command::new("go")
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
            .arg(built.path().join(program))
            .arg(format!("./{program}"))
            .current_dir(&sources)
            .env("CGO_ENABLED", "0")
            .output()?;
        if !output.status.success() {
            bail!("{program} does not build: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    for program in programs {
        fs::rename(built.path().join(program), target.join(program))?;
    }
    Ok(Some(target))
}

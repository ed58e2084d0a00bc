//! The folder where the pinned Envoy is kept: locked while it is filled, filled atomically, checked at every use.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::fetch;
use super::pin::{Pin, VERSION, sha256};
use crate::console::Console;
use crate::diagnostic::Diagnostic;

/// `$MESHWARD_CACHE`, else `meshward` in the user's cache folder.
pub fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    set("MESHWARD_CACHE")
        .or_else(|| {
            set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute()).map(|folder| folder.join("meshward"))
        })
        .or_else(|| set("HOME").map(|home| home.join(".cache").join("meshward")))
}

/// The pinned Envoy from the cache, fetched with the `python3` of `path` when it is not there or not what it was.
pub fn obtain(
    cache: &Path,
    pin: &Pin,
    path: &OsStr,
    console: &mut Console<'_>,
) -> Result<PathBuf, Diagnostic> {
    let home = cache.join(format!("envoy-{VERSION}-{}", pin.architecture));
    let envoy = home.join("envoy");
    if intact(&envoy, pin) {
        return Ok(envoy);
    }
    fs::create_dir_all(cache).map_err(|error| unwritable(cache, &error))?;
    let _lock = lock(&cache.join(format!("envoy-{VERSION}.lock")), console)?;
    // Another process may have filled it while this one waited.
    if intact(&envoy, pin) {
        return Ok(envoy);
    }
    if envoy.exists() {
        console.note(&format!(
            "`{}` is not what was put there (its checksum differs): fetching it again",
            envoy.display()
        ));
    }
    let staging = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(cache)
        .map_err(|error| unwritable(cache, &error))?;
    let fetched = fetch::binary(pin, path, staging.path(), console)?;
    let install = || -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir_all(&home)?;
        fs::set_permissions(&fetched, fs::Permissions::from_mode(0o755))?;
        // On disk before it is under its name: a machine that stops here leaves the old file or the whole new one.
        File::open(&fetched)?.sync_all()?;
        fs::rename(&fetched, &envoy)
    };
    install().map_err(|error| unwritable(&home, &error))?;
    Ok(envoy)
}

fn intact(envoy: &Path, pin: &Pin) -> bool {
    sha256(envoy).is_ok_and(|found| found == pin.binary_sha256)
}

/// Held until the returned file is dropped; the system frees it too when the process dies.
fn lock(name: &Path, console: &mut Console<'_>) -> Result<File, Diagnostic> {
    let open = || File::options().create(true).truncate(false).write(true).open(name);
    let file = open().map_err(|error| unwritable(name, &error))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => console.note("another meshward is fetching Envoy: waiting for it"),
        Err(TryLockError::Error(error)) => return Err(unwritable(name, &error)),
    }
    file.lock().map_err(|error| unwritable(name, &error))?;
    Ok(file)
}

fn unwritable(place: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error("cache-unwritable", format!("Envoy cannot be kept in `{}`: {error}", place.display()))
        .help("set `MESHWARD_CACHE` to a folder that you may write, with 300 MB free")
        .help(super::own_envoy())
}

//! The state folder (`.meshward/`): what lies where, one `up` at a time, files written whole or not at all.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::diagnostic::Diagnostic;
use crate::pki::store::leaf_set;

/// The folder, locked for this process as long as this value lives.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    /// Freed by the system when the process ends, however it ends.
    _lock: File,
}

impl State {
    /// Makes the folder when it is not there, and takes its lock.
    ///
    /// # Errors
    /// The folder cannot be written, or another `up` runs from it.
    pub fn open(folder: &Path) -> Result<Self, Diagnostic> {
        let folder = std::path::absolute(folder).map_err(|error| unwritable(folder, &error))?;
        fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
        // A state folder elsewhere than in a repository that ignores it must not end up in one: it holds keys.
        let ignore = folder.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(|error| unwritable(&folder, &error))?;
        }
        let name = folder.join("lock");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&name)
            .map_err(|error| unwritable(&folder, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message.
                let _ = lock.read_to_string(&mut holder);
                let holder = holder.trim();
                let who = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
                return Err(Diagnostic::error(
                    "already-running",
                    format!("another `meshward up` runs from `{}`{who}", folder.display()),
                )
                .help("stop that one (Ctrl-C where it runs), or take another folder: `--state FOLDER`"));
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(&folder, &error)),
        }
        let note = || -> io::Result<()> {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())
        };
        let mut note = note;
        note().map_err(|error| unwritable(&folder, &error))?;
        Ok(Self { folder, _lock: lock })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn ledger(&self) -> PathBuf {
        self.folder.join("run.json")
    }

    /// The remembered addresses.
    pub fn network(&self) -> PathBuf {
        self.folder.join("network")
    }

    /// What `meshward certs` works on.
    pub fn certs(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// What a pod has at `/etc/certs`.
    pub fn certificates(&self, service: &str) -> PathBuf {
        self.certs().join(leaf_set(service))
    }

    /// What a pod has at `/etc/envoy`.
    pub fn envoy(&self, service: &str) -> PathBuf {
        self.folder.join("envoy").join(service)
    }

    /// What a pod has at `/etc/meshward`.
    pub fn filter(&self) -> PathBuf {
        self.folder.join("filter")
    }

    /// The application's own files.
    pub fn data(&self, service: &str) -> PathBuf {
        self.folder.join("data").join(service)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }
}

/// Writes a file whole or not at all, readable by its owner alone; makes its folder.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn write(file: &Path, content: &[u8]) -> Result<(), Diagnostic> {
    let attempt = || -> io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(content)?;
        new.persist(file)?;
        Ok(())
    };
    attempt().map_err(|error| unwritable(file, &error))
}

pub(super) fn unwritable(place: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error("state-unwritable", format!("`{}` cannot be written: {error}", place.display()))
        .help("make it writable, or keep the state elsewhere: `--state FOLDER`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_in_the_same_folder_is_refused_and_a_later_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = State::open(folder.path()).unwrap();
        let error = State::open(folder.path()).unwrap_err();
        assert_eq!(error.code, "already-running");
        assert!(error.message.contains(&std::process::id().to_string()), "{}", error.message);
        drop(first);
        State::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = State::open(Path::new("/proc/nowhere")).unwrap_err();
        assert_eq!(error.code, "state-unwritable");
        assert!(error.message.contains("/proc/nowhere"), "{}", error.message);
    }

    #[test]
    fn the_folder_keeps_itself_out_of_git() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("s")).unwrap();
        assert_eq!(fs::read_to_string(state.folder().join(".gitignore")).unwrap(), "*\n");
    }
}

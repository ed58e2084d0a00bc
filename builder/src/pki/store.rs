//! Where certificates live: named sets of files, each replaced all at once.
//!
//! The names are those of the Kubernetes Secrets, wherever the sets are: `service-mesh-ca`, `bookapi-mtls-cert`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Error, Result};
use super::folder::{self, Files, Lock};

/// What the names of workloads' sets end with.
pub const LEAF_SUFFIX: &str = "-mtls-cert";
/// The files of a workload's set, as a pod sees them in `/etc/certs`.
pub const LEAF_CERTIFICATE: &str = "tls.crt";
pub const LEAF_KEY: &str = "tls.key";
pub const LEAF_BUNDLE: &str = "ca.crt";

/// The set of a service.
pub fn leaf_set(service: &str) -> String {
    format!("{service}{LEAF_SUFFIX}")
}

/// Sets of files by name. Whoever holds a store is alone: nobody else writes, or a write fails and changes nothing.
pub trait Store {
    /// None when there is no such set.
    fn read(&self, name: &str) -> Result<Option<Files>>;
    /// Replaces the whole set or nothing.
    fn write(&mut self, name: &str, files: &Files) -> Result<()>;
    /// Replaces many sets, each whole or not at all, in no certain order; after an error some may be written.
    fn write_all(&mut self, sets: &[(String, Files)]) -> Result<()> {
        sets.iter().try_for_each(|(name, files)| self.write(name, files))
    }
    /// The names of all sets, sorted.
    fn list(&self) -> Result<Vec<String>>;
    /// Tells in which namespace a set belongs, before it is first read.
    fn assign(&mut self, _name: &str, _namespace: Option<&str>) {}
    /// Where a set is: a path, a Secret.
    fn location(&self, name: &str) -> String;
    /// The same for a message.
    fn place(&self, name: &str) -> String {
        format!("`{}`", self.location(name))
    }
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn read(&self, name: &str) -> Result<Option<Files>> {
        (**self).read(name)
    }

    fn write(&mut self, name: &str, files: &Files) -> Result<()> {
        (**self).write(name, files)
    }

    fn write_all(&mut self, sets: &[(String, Files)]) -> Result<()> {
        (**self).write_all(sets)
    }

    fn list(&self) -> Result<Vec<String>> {
        (**self).list()
    }

    fn assign(&mut self, name: &str, namespace: Option<&str>) {
        (**self).assign(name, namespace);
    }

    fn location(&self, name: &str) -> String {
        (**self).location(name)
    }
}

/// Sets as folders in one folder, `certs/` by default.
#[derive(Debug)]
pub struct FolderStore {
    root: PathBuf,
    /// None: for reading only.
    _lock: Option<Lock>,
}

impl FolderStore {
    /// Opens for writing; waits for another writer up to half a minute, and tells `waiting` at once for whom.
    pub fn open(root: &Path, waiting: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = Lock::acquire(root, Duration::from_secs(30), waiting)?;
        Ok(Self { root: root.to_owned(), _lock: Some(lock) })
    }

    /// Opens for reading only, beside a writer: every set is seen whole, old or new.
    pub fn peek(root: &Path) -> Self {
        Self { root: root.to_owned(), _lock: None }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Store for FolderStore {
    fn read(&self, name: &str) -> Result<Option<Files>> {
        folder::read(&self.folder(name))
    }

    fn write(&mut self, name: &str, files: &Files) -> Result<()> {
        debug_assert!(self._lock.is_some(), "a store opened by `peek` is written");
        folder::replace(&self.folder(name), files)
    }

    /// Almost all of the time is the disk's, which does many at once nearly as fast as one.
    fn write_all(&mut self, sets: &[(String, Files)]) -> Result<()> {
        const WRITERS: usize = 16;
        let share = sets.len().div_ceil(WRITERS).max(1);
        let folder = |name: &str| self.root.join(name);
        std::thread::scope(|scope| {
            let write = |share: &[(String, Files)]| {
                share.iter().try_for_each(|(name, files)| folder::replace(&folder(name), files))
            };
            let writers: Vec<_> = sets.chunks(share).map(|share| scope.spawn(move || write(share))).collect();
            // All are waited for, and the first error is told.
            let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            results.into_iter().try_for_each(|result| {
                result.unwrap_or_else(|_| Err(Error::Build("a writer ended before its work".into())))
            })
        })
    }

    fn list(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(Error::io("read", &self.root, cause)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|cause| Error::io("read", &self.root, cause))?;
            if let (true, Ok(name)) = (entry.path().is_dir(), entry.file_name().into_string())
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn location(&self, name: &str) -> String {
        self.folder(name).display().to_string()
    }
}

/// Sets in memory, for tests and for `validate`, which needs throw-away certificates.
#[derive(Debug, Default)]
pub struct MemoryStore(pub std::collections::BTreeMap<String, Files>);

impl Store for MemoryStore {
    fn read(&self, name: &str) -> Result<Option<Files>> {
        Ok(self.0.get(name).cloned())
    }

    fn write(&mut self, name: &str, files: &Files) -> Result<()> {
        self.0.insert(name.to_owned(), files.clone());
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn location(&self, name: &str) -> String {
        name.to_owned()
    }
}

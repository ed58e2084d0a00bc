//! A folder of files that changes all at once, in the way of Kubernetes' volumes.
//!
//! ```text
//! bookapi-mtls-cert/
//!   ..Ab12Cd/            tls.crt  tls.key  ca.crt     a version, complete before it is seen
//!   ..data -> ..Ab12Cd                                the one switch: replaced by rename(2)
//!   tls.crt -> ..data/tls.crt                         what readers open
//! ```
//!
//! Whoever reads sees the old set or the new one; a crash, a full disk or `kill -9` at any point leaves one of the two.
//! Envoy's `watched_directory` on the folder sees the rename, as it does in a pod. Deliberately absent: platforms
//! without symbolic links.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::fault;
use crate::diagnostic::Diagnostic;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// File names and contents. Keys are among them, so it never prints its contents.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, name: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.0.insert(name.into(), content.into());
    }

    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, content)| (name.as_str(), content.as_slice()))
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Puts `files` in place of whatever the folder held. Files named `*.key` get mode 0600, the others 0644.
pub fn replace(folder: &Path, files: &Files) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(folder).map_err(|cause| Error::io("create", folder, cause))?;
    let version = write_version(folder, files)?;
    fault::step("version written");

    // Links of names that were not there before dangle until the switch, so that all files appear at once.
    // A regular file (made by hand or by another tool) stays until the version that replaces it is in force.
    let mut adopt = Vec::new();
    for (name, _) in files.iter() {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {}
            Ok(_) => adopt.push(name),
            Err(_) => link(folder, name)?,
        }
    }
    fault::step("links made");

    let next = folder.join(DATA_NEXT);
    remove_if_there(&next)?;
    symlink(&version, &next).map_err(|cause| Error::io("create", &next, cause))?;
    fault::step("switch prepared");
    let data = folder.join(DATA);
    fs::rename(&next, &data).map_err(|cause| Error::io("replace", &data, cause))?;
    sync(folder)?;
    fault::step("switched");

    for name in adopt {
        link(folder, name)?;
        fault::step("file adopted");
    }
    clean(folder, &version, files)
}

/// What the folder holds now; none when it is not there or holds nothing.
pub fn read(folder: &Path) -> Result<Option<Files>> {
    let data = folder.join(DATA);
    let mut attempts = 100;
    loop {
        attempts -= 1;
        let before = fs::read_link(&data).ok();
        let result = read_version(folder, before.as_deref());
        // A writer removes a version only after the switch to the next, so a link that still stands proves that what was
        // read in between was whole.
        if fs::read_link(&data).ok() == before || attempts == 0 {
            return result;
        }
    }
}

fn read_version(folder: &Path, target: Option<&Path>) -> Result<Option<Files>> {
    // The version is read by its own name: were it `..data/`, a swap between two files would mix two sets.
    // Without the link: files made by hand, or a copy that followed links (`cp -rL`).
    let version = target.map_or_else(|| folder.to_owned(), |target| folder.join(target));
    let entries = match fs::read_dir(&version) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound && target.is_none() => return Ok(None),
        Err(cause) => return Err(Error::io("read", &version, cause)),
    };
    let mut files = Files::new();
    for entry in entries {
        let path = entry.map_err(|cause| Error::io("read", &version, cause))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') || !path.is_file() {
            continue;
        }
        let content = fs::read(&path).map_err(|cause| Error::io("read", &path, cause))?;
        files.insert(name, content);
    }
    Ok(if files.is_empty() { None } else { Some(files) })
}

/// One writer at a time in a folder of folders. Ends with the value, or with the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Waits at most `patience` for the other one to end. `waiting` is told at once, in words, for whom.
    pub fn acquire(root: &Path, patience: Duration, waiting: &mut dyn FnMut(&str)) -> Result<Self> {
        fs::create_dir_all(root).map_err(|cause| Error::io("create", root, cause))?;
        let path = root.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|cause| Error::io("open", &path, cause))?;
        let end = Instant::now() + patience;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    let lock = Self { file };
                    lock.sign(&std::process::id().to_string());
                    return Ok(lock);
                }
                Err(TryLockError::Error(cause)) => return Err(Error::io("lock", &path, cause)),
                Err(TryLockError::WouldBlock) => {}
            }
            let other =
                || format!("another `meshward certs`{} is at work in `{}`", holder(&path), root.display());
            if Instant::now() >= end {
                return Err(Diagnostic::error("certs-busy", other())
                    .help("wait until it has ended, then run this again; nothing was changed")
                    .into());
            }
            if !told {
                waiting(&format!("waiting, at most {} s: {}", patience.as_secs(), other()));
                told = true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tells those who wait who has it. What holds is the kernel's lock; a file that cannot be written loses a word of a
    /// message.
    fn sign(&self, name: &str) {
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(name.as_bytes(), 0));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock goes, so that nobody reads the number of a process that has ended.
        self.sign("");
    }
}

/// ` (process 123)`, when the one who has the lock has signed it.
fn holder(lock: &Path) -> String {
    let text = fs::read_to_string(lock).unwrap_or_default();
    text.parse::<u32>().map(|process| format!(" (process {process})")).unwrap_or_default()
}

/// Writes one file atomically, mode 0600 if it is a key.
pub fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|cause| Error::io("create", parent, cause))?;
    // A temporary file has mode 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(parent)
        .map_err(|cause| Error::io("create a file in", parent, cause))?;
    file.write_all(content).map_err(|cause| Error::io("write", path, cause))?;
    if !is_key(path) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode).map_err(|cause| Error::io("write", path, cause))?;
    }
    file.as_file().sync_all().map_err(|cause| Error::io("write", path, cause))?;
    fault::step("file written");
    file.persist(path).map_err(|cause| Error::io("write", path, cause.error))?;
    sync(parent)
}

fn is_key(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "key")
}

/// Writes a complete version beside the one in force and returns its name.
fn write_version(folder: &Path, files: &Files) -> Result<PathBuf> {
    let fresh = tempfile::Builder::new()
        .prefix("..")
        .rand_bytes(8)
        .tempdir_in(folder)
        .map_err(|cause| Error::io("create a folder in", folder, cause))?;
    // Made with mode 0700; the sidecar may run as another user than the writer.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(fresh.path(), mode).map_err(|cause| Error::io("write", fresh.path(), cause))?;
    for (name, content) in files.iter() {
        let path = fresh.path().join(name);
        let mode = if is_key(&path) { 0o600 } else { 0o644 };
        let written =
            OpenOptions::new().create_new(true).write(true).mode(mode).open(&path).and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            });
        written.map_err(|cause| Error::io("write", &path, cause))?;
        fault::step("version file written");
    }
    sync(fresh.path())?;
    let path = fresh.keep();
    Ok(path.file_name().map(PathBuf::from).unwrap_or_default())
}

fn link(folder: &Path, name: &str) -> Result<()> {
    let temporary = folder.join(format!("..link_{name}"));
    let path = folder.join(name);
    remove_if_there(&temporary)?;
    symlink(Path::new(DATA).join(name), &temporary)
        .map_err(|cause| Error::io("create", &temporary, cause))?;
    fs::rename(&temporary, &path).map_err(|cause| Error::io("replace", &path, cause))
}

/// Removes what earlier versions and crashes left. Only names of our own making are touched.
fn clean(folder: &Path, version: &Path, files: &Files) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|cause| Error::io("read", folder, cause))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().map_err(|cause| Error::io("read", &path, cause))?;
        if kind.is_dir() && name.starts_with("..") && Path::new(&*name) != version {
            fs::remove_dir_all(&path).map_err(|cause| Error::io("remove", &path, cause))?;
        } else if kind.is_symlink() && files.get(&name).is_none() && !name.starts_with("..") {
            let ours = fs::read_link(&path).is_ok_and(|target| target.starts_with(DATA));
            if ours {
                remove_if_there(&path)?;
            }
        }
    }
    fault::step("cleaned");
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(Error::io("remove", path, cause)),
    }
}

/// A rename is on the disk only when its folder is.
fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|cause| Error::io("write", folder, cause))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let mut files = Files::new();
        for (name, content) in pairs {
            files.insert(*name, *content);
        }
        files
    }

    #[test]
    fn a_set_is_replaced_whole_and_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("bookapi-mtls-cert");
        assert_eq!(read(&folder).unwrap(), None);
        replace(&folder, &files(&[("tls.crt", "1"), ("tls.key", "k1"), ("old", "x")])).unwrap();
        let second = files(&[("tls.crt", "2"), ("tls.key", "k2"), ("ca.crt", "c")]);
        replace(&folder, &second).unwrap();
        assert_eq!(read(&folder).unwrap().unwrap(), second);
        assert_eq!(fs::read_to_string(folder.join("tls.crt")).unwrap(), "2");
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.retain(|name| !(name.starts_with("..") && name != "..data"));
        assert_eq!(names, ["..data", "ca.crt", "tls.crt", "tls.key"], "the link of `old` is gone");
        let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tls.key"), mode("tls.crt")), (0o600, 0o644));
    }

    #[test]
    fn files_made_by_hand_are_taken_over() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("tls.crt"), "by hand").unwrap();
        fs::write(root.path().join("README"), "mine").unwrap();
        assert_eq!(read(root.path()).unwrap().unwrap().get("tls.crt"), Some(&b"by hand"[..]));
        replace(root.path(), &files(&[("tls.crt", "1")])).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("tls.crt")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.path().join("README")).unwrap(), "mine");
    }

    #[test]
    fn two_at_once_are_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        let mut said = Vec::new();
        let mut acquire =
            |patience| Lock::acquire(root.path(), patience, &mut |words| said.push(words.to_owned()));
        let first = acquire(Duration::ZERO).unwrap();
        let busy = acquire(Duration::from_millis(40)).unwrap_err();
        assert_eq!(busy.code(), "certs-busy");
        drop(first);
        acquire(Duration::ZERO).unwrap();
        let me = format!("another `meshward certs` (process {}) is at work", std::process::id());
        assert!(busy.to_string().contains(&me), "{busy}");
        assert!(matches!(&*said, [one] if one.contains(&me)), "told once: {said:?}");
        assert_eq!(holder(&root.path().join(".lock")), "", "nobody's any more");
    }

    #[test]
    fn contents_are_never_printed() {
        assert_eq!(format!("{:?}", files(&[("tls.key", "secret")])), r#"{"tls.key"}"#);
    }
}

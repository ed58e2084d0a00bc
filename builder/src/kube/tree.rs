//! The folder on disk: compared with what `render` would write, and replaced as a whole or not at all.
//!
//! `base` and the overlays that it writes belong to `render` alone. A file in them that it did not write is somebody's work, and
//! stops it before anything is touched. Everything else in the folder (mesh.yaml, overlays of other names) is not its.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Filter;
use super::distribution::{Distribution, Source};
use crate::compile;
use crate::diagnostic::{Diagnostic, Failure};

/// The folders that belong to `render`.
pub const FOLDERS: [&str; 6] = [
    "base",
    "overlays/cert-manager",
    "overlays/csi-driver-spiffe",
    "overlays/dev",
    "overlays/prod",
    "overlays/spire",
];

/// Which module the manifests are made for, in `base`.
pub const LOCK: &str = "filter.lock";

/// What is in the lock file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Lock {
    sha256: String,
    /// The version of the plugin configuration that the module reads. The configurations beside it are written by
    /// whatever release of `meshward` renders, and a module of another one would refuse them all.
    wire_version: u8,
    /// Where pods get the module, when that is not its ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
}

pub(super) fn lock(filter: &Filter) -> Result<String, Failure> {
    let (from, image) = filter.distribution.parts();
    let lock = Lock {
        sha256: filter.sha256.clone(),
        wire_version: compile::wire_version()?,
        from: Some(from).filter(|from| *from != Source::Configmap),
        image: image.map(str::to_owned),
    };
    crate::yaml::to_string(&lock).map_err(|error| {
        Diagnostic::error("unwritable", format!("`{LOCK}` cannot be written: {error}")).into()
    })
}

/// The module that the folder's manifests are made for; none when there are no manifests yet.
///
/// # Errors
/// A lock file that says nothing of the kind, or one of a release with another plugin configuration.
pub fn locked_filter(folder: &Path) -> Result<Option<Filter>, Failure> {
    let path = folder.join("base").join(LOCK);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&path, &error).into()),
    };
    let is_hash = |text: &str| {
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let lock: Option<Lock> = serde_saphyr::from_str(&text).ok();
    let Some(lock) = lock.filter(|lock| is_hash(&lock.sha256)) else {
        let message = format!("`{}` does not say which module it is for", path.display());
        return Err(Diagnostic::error("bad-filter-lock", message)
            .help("build the module and render for it: `meshward render --build`")
            .into());
    };
    let ours = compile::wire_version()?;
    if lock.wire_version != ours {
        let message = format!(
            "the module of `{}` reads plugin configurations of version {}, and this meshward writes version {ours}",
            path.display(),
            lock.wire_version
        );
        return Err(Diagnostic::error("other-release", message)
            .help("build the module of this release and render for it: `meshward render --build`")
            .into());
    }
    let from = lock.from.unwrap_or(Source::Configmap);
    let distribution = Distribution::new(from, lock.image.as_deref()).map_err(|why| {
        Diagnostic::error("bad-filter-lock", format!("`{}`: {why}", path.display()))
            .help("render again, with --filter-from and --filter-image")
    })?;
    Ok(Some(Filter { sha256: lock.sha256, distribution }))
}

/// A file of the folder that is not what `render` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Below the folder.
    pub path: String,
    /// None: it is not there.
    pub present: Option<String>,
    /// None: it should not be there.
    pub wanted: Option<String>,
}

impl Difference {
    /// As a unified diff, from what is there to what is wanted.
    pub fn unified(&self, folder: &Path) -> String {
        let side = |text: &Option<String>, mark: char| match text {
            Some(_) => format!("{mark}/{}", folder.join(&self.path).display()),
            None => "/dev/null".to_owned(),
        };
        let (old, new) = (side(&self.present, 'a'), side(&self.wanted, 'b'));
        let empty = String::new();
        similar::TextDiff::from_lines(
            self.present.as_ref().unwrap_or(&empty),
            self.wanted.as_ref().unwrap_or(&empty),
        )
        .unified_diff()
        .header(&old, &new)
        .to_string()
    }
}

/// What differs between the folder and `wanted`, in order of path. Modules are not compared: they are not text, and
/// their names say what they are.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn differences(folder: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<Difference>, Failure> {
    let mut present = read(folder)?;
    let mut found = Vec::new();
    for (path, text) in wanted {
        let there = present.remove(path);
        if there.as_ref() != Some(text) {
            found.push(Difference { path: path.clone(), present: there, wanted: Some(text.clone()) });
        }
    }
    found.extend(present.into_iter().map(|(path, text)| Difference {
        path,
        present: Some(text),
        wanted: None,
    }));
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// All text files of `render`'s folders.
fn read(folder: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let mut files = BTreeMap::new();
    for name in FOLDERS {
        for path in walk(&folder.join(name))? {
            if path.extension().is_some_and(|extension| extension == "wasm") {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
            let relative = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.insert(relative, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(files)
}

fn walk(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(unreadable(folder, &error).into()),
    };
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Replaces `render`'s folders by `files` and, when given, the module. Nothing is touched before everything is written
/// beside it; a failure in the middle puts the old folders back.
///
/// # Errors
/// A file that `render` did not write, or a folder that cannot be written.
pub fn replace(
    folder: &Path,
    files: &BTreeMap<String, String>,
    module: Option<(&Filter, &Path)>,
) -> Result<(), Failure> {
    foreign_files(folder, files)?;
    let unwritable = |error: std::io::Error| unwritable(folder, &error);
    std::fs::create_dir_all(folder.join("overlays")).map_err(unwritable)?;
    // In the same folder, and so on the same file system: what follows are renames.
    let staging =
        tempfile::Builder::new().prefix(".meshward-render-").tempdir_in(folder).map_err(unwritable)?;
    let (new, old) = (staging.path().join("new"), staging.path().join("old"));
    for (path, text) in files {
        let file = new.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(unwritable)?;
        }
        std::fs::write(&file, text).map_err(unwritable)?;
    }
    if let Some((filter, path)) = module {
        let place = new.join("base/filter");
        std::fs::create_dir_all(&place).map_err(unwritable)?;
        std::fs::copy(path, place.join(filter.file_name())).map_err(unwritable)?;
    }
    std::fs::create_dir_all(old.join("overlays")).map_err(unwritable)?;
    let mut moved: Vec<&str> = Vec::new();
    for name in FOLDERS {
        if let Err(error) = swap(folder, name, &new, &old) {
            for name in moved.iter().copied().rev() {
                put_back(folder, name, &old);
            }
            return Err(unwritable(error).into());
        }
        moved.push(name);
    }
    Ok(())
}

fn swap(folder: &Path, name: &str, new: &Path, old: &Path) -> std::io::Result<()> {
    let place = folder.join(name);
    if place.exists() {
        std::fs::rename(&place, old.join(name))?;
    }
    // Not every mesh has all of them.
    if !new.join(name).exists() {
        return Ok(());
    }
    std::fs::rename(new.join(name), &place).inspect_err(|_| put_back(folder, name, old))
}

/// Best effort: what cannot be put back stays in the staging folder's place of old files until it is removed with it.
fn put_back(folder: &Path, name: &str, old: &Path) {
    if old.join(name).exists() {
        let _ = std::fs::remove_dir_all(folder.join(name));
        let _ = std::fs::rename(old.join(name), folder.join(name));
    }
}

/// Files in `render`'s folders that it neither writes nor wrote (no line of ours at the top).
fn foreign_files(folder: &Path, files: &BTreeMap<String, String>) -> Result<(), Failure> {
    let mut mistakes = Vec::new();
    for (path, text) in read(folder)? {
        if !files.contains_key(&path) && !text.starts_with("# Written by `meshward render`") {
            let message =
                format!("`{}` is not from `render`, and its folder is", folder.join(&path).display());
            mistakes.push(Diagnostic::error("foreign-file", message).help(
                "move it to an overlay of your own, next to `dev` and `prod`, with `resources: [../../base]`",
            ));
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes.into()) }
}

/// A summary for people: one line for each file.
pub fn summary(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences {
        let what = match (&difference.present, &difference.wanted) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "changed",
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{what:8}{}", difference.path);
    }
    text
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("unwritable", format!("`{}` cannot be written: {error}", path.display()))
        .help("give `--output-dir` a folder that can be written; nothing was changed")
}

#[cfg(test)]
mod tests;

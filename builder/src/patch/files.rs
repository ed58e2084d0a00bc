//! The files that `patch`, `unpatch`, `inject` and `uninject` read and write.
//!
//! Reads files, folders (YAML and JSON in them, all the way down), standard input, and what a kustomization's
//! `configMapGenerator` takes its content from. Writes whole files at once or not at all.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tree::{NodeId, Tree};
use crate::diagnostic::{Diagnostic, Failure, Source};

/// A manifest that was read.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name as the user wrote it, and its text.
    pub source: Arc<Source>,
    /// None for standard input.
    pub path: Option<PathBuf>,
    /// It was named, and not merely found in a folder: then it is a mistake when there is nothing to do in it.
    pub named: bool,
}

/// Reads everything that is meant, each file once.
///
/// # Errors
/// A file that cannot be read or is not text; those that are only found in a folder are left out instead.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let mut inputs: Vec<Input> = Vec::new();
    let mut mistakes = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            match stdin() {
                Ok(text) => {
                    inputs.push(Input { source: Source::new("<stdin>", text), path: None, named: true })
                }
                Err(mistake) => mistakes.push(mistake),
            }
        } else if path.is_dir() {
            let mut found = Vec::new();
            match walk(path, &mut found) {
                Ok(()) => found.iter().for_each(|file| drop(add(file, false, &mut inputs))),
                Err(error) => mistakes.push(unreadable(path, &error.to_string())),
            }
        } else if let Err(mistake) = add(path, true, &mut inputs) {
            mistakes.push(mistake);
        }
    }
    let mut at = 0;
    while let Some(input) = inputs.get(at).cloned() {
        let files = generated(&input);
        // What a kustomization is about is in its files: that is where something has to be found.
        if let Some(kustomization) = inputs.get_mut(at).filter(|_| !files.is_empty()) {
            kustomization.named = false;
        }
        for file in files {
            if let Err(mistake) = add(&file, false, &mut inputs) {
                mistakes
                    .push(mistake.help(format!("{} names it in `configMapGenerator`", input.source.name)));
            }
        }
        at += 1;
    }
    if mistakes.is_empty() { Ok(inputs) } else { Err(mistakes.into()) }
}

fn stdin() -> Result<String, Diagnostic> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| Diagnostic::error("unreadable", format!("standard input: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Diagnostic::error("not-text", "standard input is not UTF-8"))
}

fn add(path: &Path, named: bool, inputs: &mut Vec<Input>) -> Result<(), Diagnostic> {
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Diagnostic::error("not-text", format!("`{}` is not UTF-8", path.display())))?;
    let same = |input: &Input| {
        input.path.as_ref().is_some_and(|known| {
            known == path
                || known.canonicalize().is_ok_and(|known| path.canonicalize().is_ok_and(|path| path == known))
        })
    };
    if !inputs.iter().any(same) {
        let source = Source::new(path.display().to_string(), text);
        inputs.push(Input { source, path: Some(path.to_owned()), named });
    }
    Ok(())
}

fn unreadable(path: &Path, why: &str) -> Diagnostic {
    Diagnostic::error("unreadable", format!("`{}` cannot be read: {why}", path.display()))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        // A link may lead in a circle.
        if entry.file_type()?.is_dir() {
            if !hidden {
                walk(&path, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
        {
            found.push(path);
        }
    }
    Ok(())
}

/// The files that a kustomization puts into ConfigMaps and that are not there yet.
fn generated(input: &Input) -> Vec<PathBuf> {
    let Some(path) = input.path.as_ref().filter(|_| input.source.text.contains("configMapGenerator")) else {
        return Vec::new();
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let Ok(tree) = Tree::parse(&input.source.text) else { return Vec::new() };
    let generators = tree.documents().iter().filter_map(|root| tree.value(*root, "configMapGenerator"));
    let items = generators.flat_map(|generators| tree.items(generators).to_vec());
    items.flat_map(|item: NodeId| named_files(&tree, item)).map(|file| folder.join(file)).collect()
}

fn named_files(tree: &Tree, generator: NodeId) -> Vec<String> {
    let Some(files) = tree.value(generator, "files") else { return Vec::new() };
    let files = tree.items(files).iter().filter_map(|file| tree.text(*file));
    // `key=path`, or a path whose last part is the key.
    files.map(|file| file.split_once('=').map_or(file, |(_, path)| path).to_owned()).collect()
}

/// Replaces a file by a new text: readers see the old one or the new one, never a part. Its permissions stay.
///
/// # Errors
/// When the folder or the file cannot be written; then the file is as it was.
pub fn replace(path: &Path, text: &str) -> Result<(), Diagnostic> {
    let unwritable = |error: std::io::Error| {
        Diagnostic::error("unwritable", format!("`{}` cannot be written: {error}", path.display()))
    };
    // Of a link, the file that it leads to is replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(unwritable)?;
    file.write_all(text.as_bytes()).map_err(unwritable)?;
    if let Ok(metadata) = fs::metadata(&target) {
        fs::set_permissions(file.path(), metadata.permissions()).map_err(unwritable)?;
    } else {
        #[cfg(unix)]
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .map_err(unwritable)?;
    }
    file.persist(&target).map_err(|error| unwritable(error.error))?;
    Ok(())
}

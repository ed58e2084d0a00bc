//! The files of a mesh as they were in another revision of their git repository. Git itself is asked; nothing is checked out.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::discover::{folder_of, is_manifest_text};
use crate::diagnostic::{Diagnostic, Source};

/// The texts behind a path, as [`super::discover::sources`] would find them in that revision.
///
/// # Errors
/// No git, no such revision, no such path in it.
pub fn sources(revision: &str, path: &Path) -> Result<Vec<Arc<Source>>, Diagnostic> {
    // In the place of a revision, an option could write files.
    if revision.is_empty() || revision.starts_with('-') {
        return Err(failed(&format!("`{revision}` is no revision")));
    }
    let folder = folder_of(path);
    let read = |name: &str| -> Result<Arc<Source>, Diagnostic> {
        let text = git(&folder, &["show", &format!("{revision}:./{name}")])?;
        Ok(Source::new(format!("{revision}:{}", folder.join(name).display()), text))
    };
    if !path.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        return Ok(vec![read(name)?]);
    }
    let mut found = Vec::new();
    for name in git(&folder, &["ls-tree", "--name-only", revision])?.lines() {
        let is = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if is(&[".yaml", ".yml", ".json"]) {
            let source = read(name)?;
            if !is(&[".json"]) || is_manifest_text(source.text.as_bytes()) {
                found.push(source);
            }
        }
    }
    if found.is_empty() {
        let message = format!("there is no manifest in `{}` at `{revision}`", path.display());
        return Err(Diagnostic::error("empty-folder", message));
    }
    Ok(found)
}

fn git(folder: &Path, args: &[&str]) -> Result<String, Diagnostic> {
    let output = Command::new("git").arg("-C").arg(folder).args(args).output();
    let output = output.map_err(|error| failed(&error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("the file is not UTF-8 text"))
}

fn failed(why: &str) -> Diagnostic {
    Diagnostic::error("git", format!("git has no such files: {why}"))
        .help("write `git:` and a revision that this repository has: `git:main`, `git:HEAD~1`")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_folder_and_a_file_are_read_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
            Command::new("git").arg("-C").arg(folder.path()).args(identity).args(args).output()
        };
        let mesh = folder.path().join("deploy");
        std::fs::create_dir(&mesh).unwrap();
        for (name, text) in
            [("mesh.yaml", "kind: Mesh # old"), ("b.json", r#"{"kind": "A"}"#), ("c.json", "{}")]
        {
            std::fs::write(mesh.join(name), text).unwrap();
        }
        if git(&["init", "-q"]).is_err() {
            // Not `eprintln!`: the test runner keeps that to itself.
            return drop(writeln!(std::io::stderr(), "SKIPPED: files of another revision: there is no git"));
        }
        git(&["add", "."]).unwrap();
        git(&["commit", "-qm", "first"]).unwrap();
        std::fs::write(mesh.join("mesh.yaml"), "kind: Mesh # new").unwrap();
        let texts = |path: &Path| {
            let found = sources("HEAD", path).unwrap();
            found.iter().map(|source| source.text.clone()).collect::<Vec<_>>()
        };
        assert_eq!(texts(&mesh), [r#"{"kind": "A"}"#, "kind: Mesh # old"]);
        assert_eq!(texts(&mesh.join("mesh.yaml")), ["kind: Mesh # old"]);
        for wrong in ["nowhere", "--output=x", ""] {
            assert_eq!(sources(wrong, &mesh).unwrap_err().code, "git", "{wrong}");
        }
        assert_eq!(sources("HEAD", &mesh.join("other.yaml")).unwrap_err().code, "git");
    }
}

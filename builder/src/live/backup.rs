//! What was there before the first write: a file for each object, as it was read.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::diagnostic::Diagnostic;

/// Writes an object below `root`, readable by its owner only, and says where. A version that is kept already is not
/// written again.
///
/// # Errors
/// When it cannot be written: then nothing should be changed in the cluster either.
pub fn save(root: &Path, cluster: &str, object: &Value) -> Result<PathBuf, Diagnostic> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/kind").to_ascii_lowercase();
    let folder = root.join(safe(cluster)).join(safe(text("/metadata/namespace")));
    let name =
        format!("{kind}-{}.{}.json", safe(text("/metadata/name")), safe(text("/metadata/resourceVersion")));
    let path = folder.join(name);
    let failed = |error: std::io::Error| {
        Diagnostic::error("no-backup", format!("the backup `{}` cannot be written: {error}", path.display()))
            .help("nothing was changed; name another folder with --backup-dir")
    };
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    // The temporary file is made for its owner alone: an object may hold secrets.
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
    let bytes = serde_json::to_vec_pretty(&bare(object)).unwrap_or_default();
    file.write_all(&bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

/// An object without what the server alone writes: as somebody would apply it.
pub fn bare(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(fields) = bare.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in
            ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"]
        {
            metadata.remove(field);
        }
    }
    bare
}

/// A name as a file name: a context may be an address.
fn safe(name: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().map(|c| if kept(c) { c } else { '_' }).collect();
    if name.trim_matches('.').is_empty() { "_".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_kept_for_its_owner_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let object = json!({"kind": "Secret", "metadata": {"name": "a", "namespace": "../n", "resourceVersion": "7",
            "managedFields": []}, "data": {"k": "dg=="}});
        let path = save(folder.path(), "https://host:1/", &object).unwrap();
        assert_eq!(path, folder.path().join("https___host_1_/.._n/secret-a.7.json"));
        let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            kept,
            json!({"kind": "Secret", "metadata": {"name": "a", "namespace": "../n"}, "data": {"k": "dg=="}})
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
        }
        assert_eq!(save(folder.path(), "https://host:1/", &object).unwrap(), path);
    }
}

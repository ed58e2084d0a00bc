//! The module's file: named after its content, so that a new module is a new path (Envoy does not watch a `.wasm`).

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::diagnostic::Diagnostic;

/// Writes `bytes` as `meshward-<first 12 digits of sha256>.wasm` into `folder`, whole or not at all.
///
/// # Errors
/// The folder cannot be made or written.
pub fn write(folder: &Path, sha256: &str, bytes: &[u8]) -> Result<PathBuf, Diagnostic> {
    let path = folder.join(format!("meshward-{}.wasm", sha256.get(..12).unwrap_or(sha256)));
    // What is there under this name is the same module, unless someone damaged it.
    if std::fs::read(&path).is_ok_and(|present| present == bytes) {
        return Ok(path);
    }
    let failed = |error: std::io::Error| {
        Diagnostic::error("module-unwritable", format!("cannot write `{}`: {error}", path.display()))
            .help("give `--output-dir` a folder that can be written")
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new().prefix(".meshward-").tempfile_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    // Readable for an Envoy under another user, as any file that is no secret.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_module_is_replaced_and_nothing_else_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let sha256 = "0123456789abcdef";
        let path = write(folder.path(), sha256, b"module").unwrap();
        assert_eq!(path, folder.path().join("meshward-0123456789ab.wasm"));
        std::fs::write(&path, b"mod").unwrap();
        assert_eq!(write(folder.path(), sha256, b"module").unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), b"module");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = write(&file.join("below"), "00", b"x").unwrap_err();
        assert!(error.message.contains("file/below/meshward-00.wasm"), "{}", error.message);
    }
}

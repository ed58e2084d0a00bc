//! Reads the shared vectors, which are not in this repository.

use std::io::Write as _;
use std::path::PathBuf;

/// The parsed JSON of a vector file; without the vectors a visible SKIPPED and nothing.
pub fn read(path: &str) -> Option<serde_json::Value> {
    read_bytes(path).map(|bytes| serde_json::from_slice(&bytes).expect("vectors are JSON"))
}

/// The bytes of a vector file; without the vectors a visible SKIPPED and nothing.
#[expect(clippy::disallowed_methods, reason = "a test reads its vectors; the engine itself does no I/O")]
pub fn read_bytes(path: &str) -> Option<Vec<u8>> {
    let folder = match std::env::var("MESHWARD_VECTORS") {
        Ok(folder) => PathBuf::from(folder),
        Err(_) => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
    };
    let file = folder.join(path);
    if !folder.is_dir() {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: {path}: no vectors in {} (set MESHWARD_VECTORS)",
            folder.display()
        ));
        return None;
    }
    Some(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

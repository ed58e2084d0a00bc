//! Where the filter's sources are. They are not part of the `meshward` binary: a checkout has them, an installed
//! binary alone has not, and then `--module` names a module that was built elsewhere.

use std::path::{Path, PathBuf};

use crate::diagnostic::Diagnostic;

/// The workspace that holds the filter: `explicit`, else upwards from the working folder, else upwards from the
/// binary itself (so that `target/release/meshward` works from any folder).
///
/// # Errors
/// `explicit` is no such workspace, or there is none to be found.
pub fn locate(explicit: Option<&Path>) -> Result<PathBuf, Diagnostic> {
    if let Some(folder) = explicit {
        return if is_workspace(folder) {
            folder.canonicalize().map_err(|error| unreadable(folder, &error))
        } else {
            Err(Diagnostic::error(
                "no-filter-source",
                format!(
                    "`{}` does not hold the sources of the filter (no `filter/Cargo.toml`)",
                    folder.display()
                ),
            )
            .help("give `--source` the root of a checkout of Meshward"))
        };
    }
    let working = std::env::current_dir().ok();
    let binary = std::env::current_exe().and_then(|path| path.canonicalize()).ok();
    working
        .iter()
        .chain(binary.iter())
        .flat_map(|path| path.ancestors())
        .find(|folder| is_workspace(folder))
        .map(Path::to_owned)
        .ok_or_else(|| {
            Diagnostic::error(
                "no-filter-source",
                "the sources of the filter are neither above the working folder nor above this binary",
            )
            .help("run it in a checkout of Meshward, or give `--source` its root")
            .help("or give `--module` a module that `meshward build` wrote on another machine")
        })
}

fn is_workspace(folder: &Path) -> bool {
    let manifest = folder.join("filter/Cargo.toml");
    folder.join("Cargo.lock").is_file()
        && std::fs::read_to_string(manifest).is_ok_and(|text| text.contains("name = \"meshward-filter\""))
}

fn unreadable(folder: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("no-filter-source", format!("cannot read `{}`: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_workspace_from_its_binary_or_working_folder() {
        let found = locate(None).unwrap();
        assert!(found.join("filter/engine").is_dir(), "{}", found.display());
    }

    #[test]
    fn a_folder_without_the_filter_is_refused_by_name() {
        let empty = tempfile::tempdir().unwrap();
        let error = locate(Some(empty.path())).unwrap_err();
        assert_eq!(error.code, "no-filter-source");
        assert!(error.message.contains(&empty.path().display().to_string()), "{}", error.message);
    }
}

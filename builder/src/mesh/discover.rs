//! Which files hold the mesh: `-f` > `$MESHWARD_FILE` > `./mesh.yaml` or `deploy/mesh.yaml`, upwards to the git root.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Failure, Source};

/// The names that are looked for in each folder, the nearest folder first.
const NAMES: [&str; 2] = ["mesh.yaml", "deploy/mesh.yaml"];

/// The option that every command with a mesh has: `#[command(flatten)]` it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MeshFiles {
    /// A mesh file, a folder of them, or `-` for standard input; may be repeated. When not given: `mesh.yaml` or
    /// `deploy/mesh.yaml` here or further up, to the root of the git repository
    #[arg(short = 'f', long = "filename", value_name = "FILE", env = "MESHWARD_FILE")]
    pub filename: Vec<PathBuf>,
}

impl MeshFiles {
    /// The files meant, found when none was named.
    ///
    /// # Errors
    /// Nothing was named and nothing is to be found.
    pub fn paths(&self) -> Result<Vec<PathBuf>, Failure> {
        if self.filename.is_empty() { Ok(vec![discover()?]) } else { Ok(self.filename.clone()) }
    }
}

/// The mesh file of the current folder, or of the nearest one above it up to the root of the git repository.
///
/// # Errors
/// None is there.
pub fn discover() -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(|error| {
        Diagnostic::error("no-folder", format!("the current folder cannot be read: {error}"))
    })?;
    // A path relative to here reads better in messages than an absolute one.
    let mut upwards = PathBuf::new();
    for folder in here.ancestors() {
        for name in NAMES {
            if folder.join(name).is_file() {
                return Ok(upwards.join(name));
            }
        }
        if folder.join(".git").exists() {
            break;
        }
        upwards.push("..");
    }
    Err(Diagnostic::error("no-mesh-file", "no `mesh.yaml` or `deploy/mesh.yaml` here or further up")
        .help("name one: `-f path/to/mesh.yaml`, or set MESHWARD_FILE")
        .help("or write a first one with `meshward init`")
        .into())
}

/// The folder that a mesh's relative paths are taken from, and in which its `checks.yaml` is.
pub fn folder_of(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    // `mesh.yaml` has the parent "", which is here.
    folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// The texts behind the paths: files as they are, folders by their `.yaml` and `.yml` files, and `.json` ones that are
/// manifests, in order of name (not those of folders inside), `-` as standard input.
///
/// # Errors
/// One diagnostic for each path that cannot be read.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Arc<Source>>, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut mistakes = Vec::new();
    for path in paths {
        match files_of(path)
            .and_then(|files| files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>())
        {
            Ok(sources) => found.extend(sources),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(mistakes) }
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| unreadable(path, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is = |wanted: &str| file.extension().is_some_and(|extension| extension == wanted);
        if file.is_file() && (is("yaml") || is("yml") || is("json") && is_manifest(&file)) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Diagnostic::error(
            "empty-folder",
            format!("the folder `{}` has no manifest in a `.yaml`, `.yml` or `.json` file", path.display()),
        ));
    }
    Ok(files)
}

/// Whether a JSON file in a folder is meant. Other JSON may be there too, like a schema; but what says what it is, and what
/// cannot be read, is never left out in silence.
fn is_manifest(file: &Path) -> bool {
    std::fs::read(file).map_or(true, |bytes| is_manifest_text(&bytes))
}

pub(super) fn is_manifest_text(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) => value.get("kind").or_else(|| value.get("apiVersion")).is_some(),
        Err(_) => true,
    }
}

fn read(path: &Path) -> Result<Arc<Source>, Diagnostic> {
    let standard_input = path == Path::new("-");
    let name = if standard_input { "<stdin>".to_owned() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    if standard_input {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    } else {
        bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Diagnostic::error("not-utf8", format!("`{name}` is not UTF-8 text (byte {at})"))
            .help("save the file as UTF-8")
    })?;
    // A byte order mark belongs to the encoding and not to the text; offsets count from behind it.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok(Source::new(name, text))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    let mistake = Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()));
    if error.kind() == std::io::ErrorKind::NotFound {
        mistake.help("check the path given with `-f` or MESHWARD_FILE")
    } else {
        mistake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_manifests_in_json_too() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.yaml", "kind: Mesh"),
            ("b.json", r#"{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}"#),
            ("c.json", r#"{"kind": "#),
            ("d.json", r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}"#),
            ("e.json", r#"{"apiVersion": "security.istio.io/v1", "Kind": "AuthorizationPolicy"}"#),
            ("f.txt", "kind: Mesh"),
            ("g.yml", "kind: Mesh"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let sources = sources(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> =
            sources.iter().map(|source| source.name.rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.yaml", "b.json", "c.json", "e.json", "g.yml"]);
    }

    #[test]
    fn a_folder_without_a_manifest_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("schema.json"), "{}").unwrap();
        let mistakes = sources(&[folder.path().to_owned()]).unwrap_err();
        assert!(mistakes[0].message.contains("has no manifest"), "{:?}", mistakes[0].message);
    }
}

//! `meshward init`: a first mesh.yaml, with what there is to say about it in comments.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::schema;

/// Writes a commented mesh.yaml, and beside it the JSON Schema with which editors complete and check it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshward init\n  meshward init deploy --name bookstore --trust-domain bookstore.example\n\n\
    Then: `meshward up` runs the mesh here, `meshward render` writes its manifests."
)]
pub struct Args {
    /// The folder to write to
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// The mesh's name
    #[arg(long, default_value = "my-mesh")]
    name: String,
    /// The SPIFFE trust domain [default: <name>.example]
    #[arg(long)]
    trust_domain: Option<String>,
    /// Write over a mesh.yaml that is there
    #[arg(long)]
    force: bool,
}

/// Where the template has the name and the trust domain. Both are words that the file itself could hold.
const NAME: &str = "my-mesh";
const TRUST_DOMAIN: &str = "my-mesh.example";
const TEMPLATE: &str = include_str!("init/mesh.yaml");

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let trust_domain = args.trust_domain.clone().unwrap_or_else(|| format!("{}.example", args.name));
    let text = mesh_file(&args.name, &trust_domain);
    let path = args.folder.join("mesh.yaml");
    // Name and trust domain come from the command line: the file must be one that we would read.
    crate::mesh::load_sources(&[crate::diagnostic::Source::new(path.display().to_string(), text.clone())])?;
    if path.exists() && !args.force {
        return Err(Diagnostic::error("exists", format!("`{}` is there already", path.display()))
            .help("name another folder, or write over it with `--force`")
            .into());
    }
    write(&args.folder, &path, &text)?;
    let schema_path = args.folder.join(schema::FILE);
    write(&args.folder, &schema_path, &schema::text(None).unwrap_or_default())?;
    let _ = writeln!(console.out(), "{}\n{}", path.display(), schema_path.display());
    console.note("next: describe your services in it, then `meshward up` or `meshward render`");
    Ok(Exit::Success)
}

fn mesh_file(name: &str, trust_domain: &str) -> String {
    // The longer one first: it has the other in it.
    TEMPLATE.replace(TRUST_DOMAIN, "\0").replace(NAME, name).replace('\0', trust_domain)
}

/// The file appears whole or not at all.
fn write(folder: &Path, path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Diagnostic::error("unwritable", format!("`{}` cannot be written: {error}", path.display()))
            .help("name a folder that can be written")
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".meshward-init-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Source;

    #[test]
    fn what_it_writes_is_a_mesh_without_a_warning() {
        let mesh = crate::mesh::load_sources(&[Source::new("mesh.yaml", mesh_file("shop", "shop.example"))])
            .unwrap();
        assert_eq!((mesh.name.as_str(), mesh.trust_domain.as_str()), ("shop", "shop.example"));
        assert!(mesh.warnings.is_empty(), "{:?}", mesh.warnings);
        assert!(!TEMPLATE.is_empty() && TEMPLATE.starts_with("# yaml-language-server: $schema="));
    }

    #[test]
    fn it_writes_over_nothing_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let args = |force| Args {
            folder: folder.path().join("new"),
            name: "shop".into(),
            trust_domain: None,
            force,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        run(&args(false), &mut Console::new(&mut out, &mut err, false)).unwrap();
        std::fs::write(folder.path().join("new/mesh.yaml"), "mine").unwrap();
        let failure = run(&args(false), &mut Console::new(&mut out, &mut err, false)).unwrap_err();
        assert_eq!(failure.diagnostics[0].code, "exists");
        assert_eq!(std::fs::read_to_string(folder.path().join("new/mesh.yaml")).unwrap(), "mine");
        run(&args(true), &mut Console::new(&mut out, &mut err, false)).unwrap();
        assert_ne!(std::fs::read_to_string(folder.path().join("new/mesh.yaml")).unwrap(), "mine");
    }

    #[test]
    fn a_name_that_is_none_is_told_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let args = Args {
            folder: folder.path().join("new"),
            name: "No: name".into(),
            trust_domain: None,
            force: false,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        run(&args, &mut Console::new(&mut out, &mut err, false)).unwrap_err();
        assert!(!folder.path().join("new").exists());
    }
}

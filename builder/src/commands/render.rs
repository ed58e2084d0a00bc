//! `meshward render`: the manifests and Envoy configurations of a mesh, as a folder for kustomize.

use std::path::{Path, PathBuf};

use super::filter::{FilterFrom, Signer};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::kube::{self, Distribution, Filter, tree};
use crate::mesh::model::CertificateProvider;
use crate::mesh::{self, MeshFiles};
use crate::wasm::{self, BuildOptions, Origin};

/// Writes Kubernetes manifests and Envoy configurations: `base`, the overlays `dev` and `prod`, and one for each other issuer
/// of certificates: `cert-manager`, `csi-driver-spiffe` and `spire`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The folders `base` and `overlays/{dev,prod,cert-manager,csi-driver-spiffe,spire}` are replaced as a whole, or not at\n\
    all; your own overlays go beside them. No key is ever written: see `meshward certs export --help`.\n\n\
    Exit codes: 0 written, or up to date; 1 failed, or (with --check or --diff) not up to date.\n\n\
    Examples:\n  meshward render\n  meshward render --check                  # in CI: is deploy/ what mesh.yaml says?\n  \
    meshward render --diff | less\n  meshward render --build && kubectl apply --server-side -k deploy/overlays/dev\n  \
    meshward render --filter-from init-container --filter-image registry.example/filter@sha256:<digest>"
)]
pub struct Args {
    #[command(flatten)]
    files: MeshFiles,
    /// Where to write [default: the folder `deploy` of the mesh file, or beside it]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Change nothing; say whether the folder is up to date
    #[arg(long)]
    check: bool,
    /// Change nothing; print what would change as a unified diff
    #[arg(long)]
    diff: bool,
    /// Build the filter first, and render for what comes out
    #[arg(long, conflicts_with = "module")]
    build: bool,
    /// Who issues certificates in `dev` and `prod` [default: `spec.certificates.provider` of mesh.yaml]
    #[arg(long, value_name = "PROVIDER")]
    certificates: Option<CertificateProvider>,
    /// Render for this module of the filter [default: the one that the folder was rendered for, else a built one]
    #[arg(long, value_name = "FILE", env = "MESHWARD_MODULE")]
    module: Option<PathBuf>,
    #[command(flatten)]
    from: FilterFrom,
    #[command(flatten)]
    signer: Signer,
}

/// Where `meshward build` puts modules.
const BUILT: &str = ".meshward/filter";

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let paths = args.files.paths()?;
    let mut mesh = mesh::load(&paths)?;
    if let Some(provider) = args.certificates {
        if !mesh.can_use(provider) {
            return Err(cannot_give(provider).into());
        }
        mesh.certificates.provider = Some(provider);
    }
    for warning in &mesh.warnings {
        console.report(warning);
    }
    let folder = args.output_dir.clone().unwrap_or_else(|| default_folder(&paths));
    let (mut filter, module) = filter(args, &folder, console)?;
    args.signer.check(module.as_deref())?;
    // How pods got it before is how they get it, unless something else is asked for.
    let before = tree::locked_filter(&folder).ok().flatten().map(|filter| filter.distribution);
    filter.distribution = args.from.distribution()?.or(before).unwrap_or_default();
    let by_config_map = filter.distribution == Distribution::ConfigMap;
    let module = module.filter(|_| by_config_map);
    let files = kube::render(&mesh, &filter)?;
    for warning in kube::warnings(&mesh, &files) {
        console.report(&warning);
    }
    let differences = tree::differences(&folder, &files)?;
    if args.check || args.diff {
        if args.diff {
            for difference in &differences {
                let _ = write!(console.out(), "{}", difference.unified(&folder));
            }
        }
        if differences.is_empty() {
            console.note(&format!("{} is up to date ({} files)", folder.display(), files.len()));
            return Ok(Exit::Success);
        }
        if !args.diff {
            let _ = write!(console.out(), "{}", tree::summary(&differences));
        }
        console.note(&format!("{} is not up to date: run `meshward render`", folder.display()));
        return Ok(Exit::Failure);
    }
    tree::replace(&folder, &files, module.as_deref().map(|path| (&filter, path)))?;
    let _ = write!(console.out(), "{}", tree::summary(&differences));
    console.note(&format!("{}: {} files, {} changed", folder.display(), files.len(), differences.len()));
    if module.is_none() && by_config_map {
        console.note(&format!(
            "the module {} is not here: `meshward render --build` before `kubectl apply -k`",
            filter.file_name()
        ));
    }
    Ok(Exit::Success)
}

fn cannot_give(provider: CertificateProvider) -> Diagnostic {
    let name = provider.name();
    let message = format!(
        "`{name}` does not bring to the sidecars what mesh.yaml asks for (`federatesWith`, `revocation.crl`)"
    );
    Diagnostic::error("certificates", message)
        .help("`embedded` brings both, `spire` the bundles of other trust domains")
}

/// `deploy`, in which the mesh file is, or which is beside it.
pub fn default_folder(paths: &[PathBuf]) -> PathBuf {
    let file = paths.first().map_or(Path::new("."), PathBuf::as_path);
    let folder = if file.is_dir() { file } else { file.parent().unwrap_or(Path::new("")) };
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    if absolute.file_name().is_some_and(|name| name == "deploy") {
        folder.to_owned()
    } else {
        folder.join("deploy")
    }
}

/// Which module to render for, and its file, when it is here.
fn filter(
    args: &Args,
    folder: &Path,
    console: &mut Console<'_>,
) -> Result<(Filter, Option<PathBuf>), Failure> {
    let built = |origin, console: &mut Console<'_>| {
        let options = BuildOptions { origin, output_dir: PathBuf::from(BUILT), wasm_opt: false };
        let built = wasm::build(&options, console)?;
        Ok((Filter { sha256: built.sha256, distribution: Distribution::ConfigMap }, Some(built.path)))
    };
    if let Some(module) = &args.module {
        return built(Origin::Module(module.clone()), console);
    }
    if args.build {
        return built(Origin::Checkout(None), console);
    }
    if let Some(filter) = tree::locked_filter(folder)? {
        let here = [Path::new(BUILT).to_owned(), folder.join("base/filter")]
            .into_iter()
            .map(|place| place.join(filter.file_name()))
            .find(|path| path.is_file());
        return Ok((filter, here));
    }
    if args.check || args.diff {
        let message = format!("there is nothing rendered in `{}` yet", folder.display());
        return Err(Diagnostic::error("not-rendered", message).help("run `meshward render`").into());
    }
    built(Origin::Checkout(None), console)
}

//! `meshward validate`: everything that `render` writes, asked of those who will read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::console::{Console, Exit};
use crate::diagnostic::{Failure, Severity, Source};
use crate::kube::{Distribution, Filter};
use crate::mesh::{self, MeshFiles, discover};
use crate::patch::files::{self, Input};
use crate::policy::lint;
use crate::validate::foreign::Around;
use crate::validate::{self, Check, Outcome, Tools};
use crate::wasm::{self, BuildOptions, Origin};
use crate::{envoy_binary, validate::on_path};

/// Checks the mesh with the policies' lint, a real Envoy, kustomize and the Kubernetes schemas. Nothing is written, nothing is
/// contacted but for tools that are missing.
///
/// `-f` also takes Envoy configurations that somebody else wrote, and ConfigMaps that hold them: each is asked of a real Envoy
/// as it is and with its file-based dynamic parts put in their places, with throw-away certificates for those it names.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What cannot be checked here is SKIPPED, with the reason; with --strict that fails, too.\n\n\
    Exit codes: 0 all good; 1 something is wrong, or could not be checked at all.\n\n\
    Examples:\n  meshward validate\n  meshward validate -f deploy/mesh.yaml --envoy /usr/local/bin/envoy -o json\n  \
    meshward validate -f envoy.yaml -f k8s/ --root pod/\n  \
    meshward validate --strict --module .meshward/filter/meshward-0123456789ab.wasm"
)]
pub struct Args {
    #[command(flatten)]
    files: MeshFiles,
    /// The Envoy to ask [default: $ENVOY, PATH, else the pinned one, which is fetched]
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The filter's module [default: built from the sources]
    #[arg(long, value_name = "FILE", env = "MESHWARD_MODULE")]
    module: Option<PathBuf>,
    /// For foreign configurations: a folder that stands for `/` of the pod, where files are that they name
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
    /// Fetch nothing: skip the Kubernetes schemas when they are not here
    #[arg(long)]
    offline: bool,
    /// Fail when something is skipped
    #[arg(long)]
    strict: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let paths = args.files.paths()?;
    let sources = discover::sources(&paths)?;
    if let Some(inputs) = foreign(&paths, &sources)? {
        let envoy = envoy_binary::locate(args.envoy.as_deref(), console)?;
        let around = Around { root: args.root.clone(), module: args.module.clone() };
        let (checks, remarks) = validate::foreign::check(&inputs, &around, &envoy)?;
        for remark in &remarks {
            console.report(remark);
        }
        return Ok(conclude(args, &checks, console));
    }
    let mesh = mesh::load_sources(&sources)?;
    for warning in &mesh.warnings {
        console.report(warning);
    }
    let envoy = envoy_binary::locate(args.envoy.as_deref(), console)?;
    let options = BuildOptions {
        origin: Origin::from_args(args.module.as_deref(), None),
        output_dir: PathBuf::from(".meshward/filter"),
        wasm_opt: false,
    };
    let built = wasm::build(&options, console)?;
    let tools = Tools {
        envoy: Ok(envoy),
        kubectl: on_path("kubectl"),
        python: validate::python_with_schemas(cache_folder().as_deref(), !args.offline),
    };
    let mut checks = vec![lint(&sources, console)];
    checks.extend(validate::validate(
        &mesh,
        &Filter { sha256: built.sha256, distribution: Distribution::ConfigMap },
        Path::new(&built.path),
        &tools,
    )?);
    Ok(conclude(args, &checks, console))
}

/// Shows the checks, and says how they end.
fn conclude(args: &Args, checks: &[Check], console: &mut Console<'_>) -> Exit {
    match args.output {
        Format::Json => {
            let _ = writeln!(console.out(), "{:#}", serde_json::json!(checks));
        }
        Format::Table => table(checks, console),
    }
    let count = |wanted: fn(&Outcome) -> bool| checks.iter().filter(|check| wanted(&check.outcome)).count();
    let bad = count(|outcome| matches!(outcome, Outcome::Bad { .. }));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
    console.note(&format!("{} checks: {bad} bad, {skipped} skipped", checks.len()));
    if bad > 0 || (args.strict && skipped > 0) { Exit::Failure } else { Exit::Success }
}

/// The files as Envoy configurations, where they are that and no mesh.
fn foreign(paths: &[PathBuf], sources: &[Arc<Source>]) -> Result<Option<Vec<Input>>, Failure> {
    let is_mesh = |source: &Arc<Source>| {
        source.text.lines().any(|line| line.trim_start().starts_with("apiVersion: meshward.dev/"))
    };
    if sources.iter().any(is_mesh) {
        return Ok(None);
    }
    let inputs = if paths.iter().any(|path| path.is_dir()) {
        files::read(paths)?
    } else {
        let input = |source: &Arc<Source>| Input {
            source: Arc::clone(source),
            path: Some(PathBuf::from(&source.name)).filter(|path| path.is_file()),
            named: true,
        };
        sources.iter().map(input).collect()
    };
    let any = inputs.iter().any(|input| validate::foreign::is_foreign(&input.source.text));
    Ok(any.then_some(inputs))
}

/// The policies' own lint. Errors are bad; the rest is said, and passes.
fn lint(sources: &[Arc<Source>], console: &mut Console<'_>) -> Check {
    let (errors, others): (Vec<_>, Vec<_>) =
        lint::of_sources(sources).into_iter().partition(|finding| finding.severity == Severity::Error);
    for finding in &others {
        console.report(finding);
    }
    let subject = format!("policies: {} errors, {} other findings", errors.len(), others.len());
    let outcome = if errors.is_empty() { Outcome::Good } else { Outcome::Bad { diagnostics: errors } };
    Check { kind: "lint", subject, outcome }
}

fn table(checks: &[Check], console: &mut Console<'_>) {
    for check in checks {
        let word = match &check.outcome {
            Outcome::Good => "ok",
            Outcome::Skipped { .. } => "SKIPPED",
            Outcome::Bad { .. } => "BAD",
        };
        let reason = match &check.outcome {
            Outcome::Skipped { reason } => format!(": {reason}"),
            _ => String::new(),
        };
        let _ = writeln!(console.out(), "{word:8}{:10} {}{reason}", check.kind, check.subject);
        if let Outcome::Bad { diagnostics } = &check.outcome {
            for diagnostic in diagnostics {
                console.report(diagnostic);
            }
        }
    }
}

/// The folder for what is fetched, as `envoy_binary` has it.
fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MESHWARD_CACHE")
        .or_else(|| {
            set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute()).map(|folder| folder.join("meshward"))
        })
        .or_else(|| set("HOME").map(|home| home.join(".cache/meshward")))
}

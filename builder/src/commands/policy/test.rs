//! `meshward policy test`.

use std::path::PathBuf;

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::local::check::engine::{self, report};
use crate::local::check::{self, For};
use crate::mesh::{MeshFiles, discover};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is that of `meshward up --check`: what it sends for real is asked of the filter's engine here, without\n\
    an Envoy. What only the handshake decides (an expired certificate) is left out. Two fields more:\n\n  \
    at: 90s        not before this time after the first check: rate limits have filled up again by then\n  \
    request: {..}  what no service of the mesh sends, in the words of `policy eval`: source.ip, jwt, sni; only here\n\n\
    `expect.status` 400, 403, 429 and 503 are refusals by the mesh, unless `decided` begins with `allow`. `decided` is part\n\
    of `allow default/bookapi/0`: verdict, namespace/policy, and rule or limit. Exit code 1 when a check fails.\n\n\
    Examples:\n  meshward policy test                       # checks.yaml beside mesh.yaml\n  \
    meshward policy test -f mesh.yaml tests.yaml -o junit > report.xml"
)]
pub struct Args {
    /// The file of checks [default: checks.yaml beside the mesh]
    #[arg(value_name = "FILE")]
    checks: Option<PathBuf>,
    #[command(flatten)]
    mesh: MeshFiles,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// What is not as expected, and a closing line
    Text,
    /// A list of all checks with their answers
    Json,
    /// JUnit's XML
    Junit,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mesh = args.mesh.load()?;
    let file = match &args.checks {
        Some(file) => file.clone(),
        None => {
            let paths = args.mesh.paths()?;
            paths.first().map(|path| discover::folder_of(path)).unwrap_or_default().join("checks.yaml")
        }
    };
    let checks = check::load(&file, &mesh, For::Engine)?;
    let outcomes = engine::run(&checks, &mesh)?;
    let failures = report::failures(&outcomes, &checks.source);
    let summary = report::summary(&outcomes);
    let text = match args.output {
        Format::Text => {
            let colour = console.colour();
            let shown: String =
                failures.iter().map(|failure: &Diagnostic| failure.render(colour) + "\n").collect();
            format!("{shown}{summary}\n")
        }
        Format::Json => format!("{:#}\n", report::as_json(&outcomes, &checks.source)),
        Format::Junit => report::as_junit(&outcomes, &checks.source),
    };
    // A reader that left has what it wanted.
    let _ = console.out().write_all(text.as_bytes());
    if !matches!(args.output, Format::Text) {
        console.note(&summary);
    }
    Ok(if failures.is_empty() { Exit::Success } else { Exit::Failure })
}

//! `meshward policy diff`.

use std::path::{Path, PathBuf};

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::{self, Resolved, discover, revision};
use crate::policy::diff::{self, Ask, Way, report};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Both sides are asked the same requests, with the engine that runs in the filter. Without --requests they are made of\n\
    the policies' own constants: every value that a rule names and something beside it, every service of the mesh, strangers\n\
    and callers without a certificate. It is no proof: a difference that no constant tells may be missed. A workload that\n\
    only one side has refuses everything on the other. Rate limits are not asked.\n\n\
    Exit code 1 with --fail-on widened when something that was refused is allowed, with --fail-on changed on any change.\n\n\
    Examples:\n  meshward policy diff old/ deploy/mesh.yaml\n  \
    meshward policy diff git:main deploy/mesh.yaml --fail-on widened     # the same path as it is on main\n  \
    meshward policy diff old.yaml new.yaml --requests requests.jsonl -o json"
)]
pub struct Args {
    /// A mesh file or folder, or `git:REVISION` for NEW's path in another revision
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// A mesh file or folder
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Ask these requests, one JSON object per line as for `policy eval`, of every workload; `-` is standard input
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// At most so many requests to each workload, when they are made
    #[arg(long, value_name = "N", default_value_t = 20_000, conflicts_with = "requests")]
    most: usize,
    /// Also show what gets the same answer by another rule
    #[arg(long)]
    all: bool,
    /// What makes the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// A request that was refused is allowed
    Widened,
    /// Any answer has changed
    Changed,
    /// Always exit with 0
    Never,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// All changes, with an example each
    Json,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let new = mesh::load(std::slice::from_ref(&args.new))?;
    let old = old_mesh(&args.old, &args.new)?;
    let ask = match &args.requests {
        Some(file) => Ask::Given(requests(file)?),
        None => Ask::Generated(args.most),
    };
    let report = diff::compare(&old, &new, &ask)?;
    if report.possible > report.asked {
        console.note(&format!(
            "asked {} of {} requests that the policies' constants make; --most N asks more",
            report.asked, report.possible
        ));
    }
    if report.limits_differ {
        console.note("rate limits, concurrency limits or breakers differ too; they are not compared");
    }
    let text = match args.output {
        Format::Text => report::as_text(&report, args.all),
        Format::Json => format!("{:#}\n", report::as_json(&report)),
    };
    // A reader that left has what it wanted.
    let _ = console.out().write_all(text.as_bytes());
    let (widened, narrowed) = (report.count(Way::Widened), report.count(Way::Narrowed));
    let failed = match args.fail_on {
        FailOn::Widened => widened > 0,
        FailOn::Changed => widened + narrowed > 0,
        FailOn::Never => false,
    };
    Ok(if failed { Exit::Failure } else { Exit::Success })
}

fn old_mesh(old: &Path, new: &Path) -> Result<Resolved, Failure> {
    match old.to_str().and_then(|text| text.strip_prefix("git:")) {
        Some(name) => mesh::load_sources(&revision::sources(name, new)?),
        None => mesh::load(&[old.to_owned()]),
    }
}

fn requests(file: &Path) -> Result<Vec<serde_json::Value>, Failure> {
    let [source] = discover::sources(&[file.to_owned()])?.try_into().map_err(|_| {
        Diagnostic::error("unreadable", format!("`{}` is no file of requests", file.display()))
    })?;
    let (mut requests, mut mistakes) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        let span = start..start + line.trim_end().len();
        start += line.len();
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(request) => requests.push(request),
            Err(error) => mistakes.push(
                Diagnostic::error("unreadable-request", format!("this is no JSON: {error}"))
                    .at(&source, span),
            ),
        }
    }
    if mistakes.is_empty() { Ok(requests) } else { Err(mistakes.into()) }
}

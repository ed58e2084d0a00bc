//! From a mesh to running processes, step by step; each step fails with one clear error and leaves nothing running.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use time::OffsetDateTime;

use super::ledger::{self, Ledger};
use super::plan::{self, Plan};
use super::process::{self, Logs, Processes};
use super::programs;
use super::state::State;
use super::stop::Stop;
use super::wait::{self, Awaited, Condition};
use super::{certificates, check};
use crate::console::Console;
use crate::diagnostic::{Diagnostic, Failure};
use crate::envoy::{self, Placement};
use crate::envoy_binary;
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, Service};
use crate::pki::{Ca, folder};
use crate::wasm::{self, BuildOptions, BuiltFilter, Origin};

/// What listens there speaks PostgreSQL's protocol: nothing else says so.
pub(super) const POSTGRES_PORT: u16 = 5432;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state folder.
    pub state: PathBuf,
    /// The folder that paths in `local.command` are taken from: mesh.yaml's.
    pub base: PathBuf,
    pub envoy: Option<PathBuf>,
    pub filter: Origin,
    /// Worker threads of each Envoy, at least 1.
    pub concurrency: u32,
    /// Let the edge listen on 127.0.0.1 too.
    pub edge_on_localhost: bool,
}

/// A mesh that runs. Dropping it stops it.
pub struct Running {
    /// First, because fields are dropped in this order: the state folder is unlocked only when nothing runs from it.
    pub processes: Processes,
    pub mesh: Resolved,
    pub state: State,
    pub plan: Plan,
    pub ca: Ca,
    pub filter: BuiltFilter,
}

/// Starts everything, and waits until all is ready.
///
/// # Errors
/// The first step that fails, or all processes that do.
pub fn start(
    mesh: Resolved,
    options: &Options,
    stop: &Stop,
    console: &mut Console<'_>,
) -> Result<Running, Failure> {
    let state = State::open(&options.state)?;
    clean_up(&state, console)?;
    let envoy = envoy_binary::locate(options.envoy.as_deref(), console)?;
    stop.check()?;
    let build = BuildOptions { origin: options.filter.clone(), output_dir: state.filter(), wasm_opt: false };
    let filter = wasm::build(&build, console)?;
    stop.check()?;
    let commands = applications(&mesh, &options.base, console)?;
    stop.check()?;
    let plan = Plan::make(&mesh, &state.network(), options.edge_on_localhost)?;
    if let Some(edge) = mesh.services.iter().find_map(|service| service.edge.as_ref())
        && options.edge_on_localhost
        && plan.edge_also.is_none()
    {
        console
            .note(&format!("port {} of 127.0.0.1 is in use: the edge has its own address alone", edge.port));
    }
    let ca = certificates::prepare(&state, &mesh, OffsetDateTime::now_utc(), console)?;
    certificates::known_bundles(&state, &mesh)?;
    let placement = plan.placement(&mesh, &state, &filter.path);
    for service in &mesh.services {
        write_sidecar(&mesh, service, &placement, &state)?;
    }
    let processes = Processes::new(Ledger::open(&state.ledger()));
    let mut running = Running { processes, mesh, state, plan, ca, filter };
    console.note("starting the applications and their sidecars ...");
    let mut awaited = running.start_applications(commands)?;
    awaited.extend(running.start_sidecars(&envoy, options.concurrency)?);
    wait::until_all(&awaited, &mut running.processes, stop)?;
    Ok(running)
}

impl Running {
    /// The checks' view of it.
    pub fn places(&self) -> check::Places {
        self.plan.places(&self.mesh, &self.state)
    }

    fn start_applications(&mut self, commands: Vec<(String, PathBuf)>) -> Result<Vec<Awaited>, Diagnostic> {
        let mut awaited = Vec::new();
        for (name, program) in commands {
            let Some(service) = self.mesh.service(&name) else { continue };
            let (Some(local), Some(port)) = (&service.local, service.port) else { continue };
            let address = self.plan.address(&name);
            let local = local.at(address, port);
            let data = self.state.data(&name);
            std::fs::create_dir_all(&data).map_err(|error| super::state::unwritable(&data, &error))?;
            let mut command = Command::new(program);
            command.args(local.command.iter().skip(1)).envs(&local.env).current_dir(&data);
            programs::without_cargos_variables(&mut command);
            let log = self.state.log(&name);
            self.processes.start(&name, command, &Logs::together(log.clone()))?;
            let place = SocketAddr::new(address, port);
            let postgres = service.protocol == Protocol::Tcp && port == POSTGRES_PORT;
            let condition = if postgres { Condition::Postgres(place) } else { Condition::Listens(place) };
            awaited.push(Awaited { name, condition, log });
        }
        Ok(awaited)
    }

    fn start_sidecars(&mut self, envoy: &Path, concurrency: u32) -> Result<Vec<Awaited>, Diagnostic> {
        let mut awaited = Vec::new();
        for service in &self.mesh.services {
            let name = format!("the sidecar of {}", service.name);
            let log = self.state.log(&format!("{}.envoy", service.name));
            let logs = Logs { stdout: self.state.log(&plan::access_log(&service.name)), stderr: log.clone() };
            let command = sidecar(envoy, &self.state.envoy(&service.name), concurrency);
            self.processes.start(&name, command, &logs)?;
            awaited.push(Awaited {
                name,
                condition: Condition::Ready(self.plan.address(&service.name)),
                log,
            });
        }
        Ok(awaited)
    }
}

/// An Envoy for the configuration in that folder.
pub fn sidecar(envoy: &Path, config: &Path, concurrency: u32) -> Command {
    let mut command = Command::new(envoy);
    command
        .arg("-c")
        .arg(config.join(envoy::BOOTSTRAP_FILE))
        // Several on one machine: none may look for another's shared memory.
        .arg("--disable-hot-restart")
        .args(["--concurrency", &concurrency.to_string()])
        // Access logs within a moment, not after ten seconds.
        .args(["--file-flush-interval-msec", "50"])
        // `info` of the filter is its refusals.
        .args(["--log-level", "warning", "--component-log-level", "wasm:info"]);
    command
}

/// Writes a sidecar's files in the way of a mounted ConfigMap: all at once, watched.
///
/// # Errors
/// Mistakes that only show when the sidecar is rendered; a folder that cannot be written.
pub fn write_sidecar(
    mesh: &Resolved,
    service: &Service,
    placement: &Placement,
    state: &State,
) -> Result<(), Failure> {
    let mut files = folder::Files::new();
    for file in envoy::render(mesh, service, placement)? {
        files.insert(file.name, file.text);
    }
    Ok(folder::replace(&state.envoy(&service.name), &files).map_err(Diagnostic::from)?)
}

/// Stops what an earlier `up` left running when it was killed.
fn clean_up(state: &State, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut stuck = Vec::new();
    for entry in ledger::left_behind(&state.ledger()) {
        console.note(&format!(
            "stopping {} (process {}), left behind by an `up` that was killed",
            entry.name, entry.pid
        ));
        if !process::stop_group(entry.pid) {
            let message = format!(
                "{} (process {}), left behind by an earlier `up`, does not end",
                entry.name, entry.pid
            );
            stuck.push(
                Diagnostic::error("left-behind", message)
                    .help(format!("end it yourself: `kill -9 -{}`", entry.pid)),
            );
        }
    }
    if stuck.is_empty() { Ok(()) } else { Err(stuck.into()) }
}

/// Name and program of every service that has one. Each program is looked for, and built, once.
fn applications(
    mesh: &Resolved,
    base: &Path,
    console: &mut Console<'_>,
) -> Result<Vec<(String, PathBuf)>, Failure> {
    // None: looked for in vain, and told.
    let mut known: Vec<(&str, Option<PathBuf>)> = Vec::new();
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for service in &mesh.services {
        let Some(word) = service.local.as_ref().and_then(|local| local.command.first()) else {
            if !service.is_edge() {
                let message = format!(
                    "service `{}` has no `local`, so nothing answers behind its sidecar here",
                    service.name
                );
                console.report(
                    &Diagnostic::warning("no-application", message)
                        .at(&mesh.document.source, service.name_span.span.clone())
                        .help("say how to start it: `local: {command: [./my-app, --listen, \"{address}:{port}\"]}`"),
                );
            }
            continue;
        };
        let program = match known.iter().find(|(name, _)| *name == word) {
            Some((_, program)) => program.clone(),
            None => {
                let program = programs::find(word, base, console).map_err(|error| missing.push(error)).ok();
                known.push((word, program.clone()));
                program
            }
        };
        found.extend(program.map(|program| (service.name.clone(), program)));
    }
    if missing.is_empty() { Ok(found) } else { Err(missing.into()) }
}

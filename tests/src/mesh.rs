//! A mesh of a test: its sidecars run, each an Envoy of its own, with applications of the test behind them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use meshward_builder::console::Console;
use meshward_builder::diagnostic::{Failure, Source};
use meshward_builder::envoy::{self, Placement};
use meshward_builder::local::client::{self, Identity, Request, Response, Tls};
use meshward_builder::local::ledger::Ledger;
use meshward_builder::local::plan::{Plan, access_log};
use meshward_builder::local::process::{Logs, Processes};
use meshward_builder::local::run::sidecar;
use meshward_builder::local::state::State;
use meshward_builder::local::wait::envoy_is_ready;
use meshward_builder::local::{certificates, check};
use meshward_builder::mesh::model::Protocol;
use meshward_builder::mesh::{self, Resolved, Service, ports};
use meshward_builder::pki::{Ca, folder};
use time::OffsetDateTime;

use crate::application::{Application, Speaks};
use crate::connection::Connection;
use crate::tools;
use crate::wait::until;

/// What runs. Dropping it stops it and removes its files.
pub struct TestMesh {
    processes: Processes,
    pub mesh: Resolved,
    pub state: State,
    pub plan: Plan,
    pub ca: Ca,
    filter: PathBuf,
    agent: Option<Agent>,
    applications: BTreeMap<String, Application>,
    _folder: tempfile::TempDir,
}

/// SPIRE in place of the files of certificates.
pub struct Agent {
    pub socket: PathBuf,
    /// The Envoy of each service: the agent tells them apart by their paths.
    pub envoys: BTreeMap<String, PathBuf>,
}

/// A file of a sidecar before it is written: its name and text, for a test that wants it otherwise.
pub type Edit<'a> = &'a dyn Fn(&Service, &str, String) -> String;

impl TestMesh {
    /// Starts a sidecar and an application for every service of the mesh in `yaml`.
    ///
    /// # Errors
    /// Anything that keeps a sidecar from being ready, with its log.
    pub fn start(yaml: &str) -> anyhow::Result<Self> {
        Self::start_with(yaml, &tools::filter()?, 1, &|_, _, text| text)
    }

    /// The same with another module, with a number of workers, and with edited files.
    ///
    /// # Errors
    /// Anything that keeps a sidecar from being ready, with its log.
    pub fn start_with(yaml: &str, filter: &Path, concurrency: u32, edit: Edit<'_>) -> anyhow::Result<Self> {
        Self::start_all(yaml, filter, concurrency, edit, None)
    }

    /// The same with certificates from SPIRE's agent.
    ///
    /// # Errors
    /// Anything that keeps a sidecar from being ready, with its log.
    pub fn start_with_agent(
        yaml: &str,
        filter: &Path,
        concurrency: u32,
        agent: Agent,
    ) -> anyhow::Result<Self> {
        Self::start_all(yaml, filter, concurrency, &|_, _, text| text, Some(agent))
    }

    fn start_all(
        yaml: &str,
        filter: &Path,
        concurrency: u32,
        edit: Edit<'_>,
        agent: Option<Agent>,
    ) -> anyhow::Result<Self> {
        let envoy = tools::envoy()?;
        let folder = tempfile::tempdir()?;
        let state =
            State::open(&folder.path().join("state")).map_err(|error| tools::failure(&error.into()))?;
        let mesh = parse(yaml)?;
        let plan =
            Plan::make(&mesh, &state.network(), false).map_err(|error| tools::failure(&error.into()))?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::new(&mut out, &mut err, false);
        let ca = certificates::prepare(&state, &mesh, OffsetDateTime::now_utc(), &mut console)
            .map_err(|error| tools::failure(&error.into()))?;
        let processes = Processes::new(Ledger::open(&state.ledger()));
        let mut running = Self {
            processes,
            mesh,
            state,
            plan,
            ca,
            filter: filter.to_path_buf(),
            agent,
            applications: BTreeMap::new(),
            _folder: folder,
        };
        for service in running.mesh.services.clone() {
            if let Some(port) = service.port {
                let speaks = if service.protocol == Protocol::Tcp { Speaks::Tcp } else { Speaks::Http };
                let address = SocketAddr::new(running.plan.address(&service.name), port);
                running.applications.insert(service.name.clone(), Application::start(address, speaks)?);
            }
            running.write(&service, edit)?;
            let logs = Logs {
                stdout: running.state.log(&access_log(&service.name)),
                stderr: running.state.log(&format!("{}.envoy", service.name)),
            };
            let own = running.agent.as_ref().and_then(|agent| agent.envoys.get(&service.name));
            let command = sidecar(own.unwrap_or(&envoy), &running.state.envoy(&service.name), concurrency);
            running
                .processes
                .start(&service.name, command, &logs)
                .map_err(|error| tools::failure(&error.into()))?;
        }
        running.until_ready()?;
        Ok(running)
    }

    fn until_ready(&mut self) -> anyhow::Result<()> {
        let addresses: Vec<_> =
            self.mesh.services.iter().map(|service| self.plan.address(&service.name)).collect();
        let mut ended = Vec::new();
        until("the sidecars", || {
            ended = self.processes.ended();
            !ended.is_empty() || addresses.iter().all(|address| envoy_is_ready(*address))
        })?;
        if ended.is_empty() { Ok(()) } else { Err(tools::failure(&Failure::from(ended))) }
    }

    /// Renders the files of a service again, from another text of the same mesh, and swaps them in as Kubernetes does.
    ///
    /// # Errors
    /// Mistakes in the text; files that cannot be written.
    pub fn update(&mut self, service: &str, yaml: &str) -> anyhow::Result<()> {
        self.update_with(service, yaml, &|_, _, text| text)
    }

    /// The same with edited files.
    ///
    /// # Errors
    /// Mistakes in the text; files that cannot be written.
    pub fn update_with(&mut self, service: &str, yaml: &str, edit: Edit<'_>) -> anyhow::Result<()> {
        self.mesh = parse(yaml)?;
        let service = self.mesh.service(service).context("no such service")?.clone();
        self.write(&service, edit)
    }

    /// What is written from now on is for this module: an upgrade of the filter, as far as a sidecar that runs sees it.
    pub fn set_filter(&mut self, filter: &Path) {
        self.filter = filter.to_path_buf();
    }

    /// As [`TestMesh::update`] while others look on: what this mesh says of itself stays that of the start.
    ///
    /// # Errors
    /// Mistakes in the text; files that cannot be written.
    pub fn swap(&self, service: &str, yaml: &str) -> anyhow::Result<()> {
        let mesh = parse(yaml)?;
        let service = mesh.service(service).context("no such service")?;
        self.write_of(&mesh, service, &|_, _, text| text)
    }

    fn write(&self, service: &Service, edit: Edit<'_>) -> anyhow::Result<()> {
        self.write_of(&self.mesh, service, edit)
    }

    fn write_of(&self, mesh: &Resolved, service: &Service, edit: Edit<'_>) -> anyhow::Result<()> {
        let placement: Placement = self.plan.placement(mesh, &self.state, &self.filter);
        let mut files = folder::Files::new();
        let rendered = match &self.agent {
            Some(agent) => {
                let socket = agent.socket.display().to_string();
                envoy::render_with_agent(&self.mesh, service, &placement, &socket)
            }
            None => envoy::render(mesh, service, &placement),
        };
        for file in rendered.map_err(|error| tools::failure(&error))? {
            files.insert(file.name, edit(service, file.name, file.text));
        }
        folder::replace(&self.state.envoy(&service.name), &files).map_err(|error| anyhow!(error.to_string()))
    }

    /// Requests or pieces of data that reached the application of a service.
    pub fn seen(&self, service: &str) -> usize {
        self.applications.get(service).map_or(0, Application::seen)
    }

    /// The processes that have ended by themselves since the last call.
    pub fn ended(&mut self) -> usize {
        self.processes.ended().len()
    }

    /// The process of a sidecar, while it runs.
    pub fn process(&self, service: &str) -> Option<u32> {
        self.processes.id(service)
    }

    /// The same, with how each ended and its last words.
    pub fn endings(&mut self) -> Vec<String> {
        self.processes.ended().into_iter().map(|ended| ended.message).collect()
    }

    /// What the sidecar of a service has written: its own log.
    pub fn log(&self, service: &str) -> String {
        std::fs::read_to_string(self.state.log(&format!("{service}.envoy"))).unwrap_or_default()
    }

    /// A TLS client with the certificate of `from`, for the inbound listener of `to`.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn tls(&self, from: &str, to: &str) -> anyhow::Result<Tls> {
        let identity =
            certificates::identity(&self.state, from).map_err(|error| tools::failure(&error.into()))?;
        self.tls_as(Some(identity), to)
    }

    /// A TLS client with any identity, or none.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn tls_as(&self, identity: Option<Identity>, to: &str) -> anyhow::Result<Tls> {
        let callee = self.mesh.service(to).context("no such service")?;
        let root = self.ca.path().last().context("a CA without a certificate")?;
        Ok(Tls::new(root, &self.mesh.spiffe_id(callee), identity)?)
    }

    /// The inbound listener of a service.
    pub fn inbound(&self, service: &str) -> SocketAddr {
        SocketAddr::new(self.plan.address(service), ports::INBOUND)
    }

    /// A connection by mutual TLS from one service to another, without the caller's sidecar.
    ///
    /// # Errors
    /// The handshake fails.
    pub fn connect(
        &self,
        from: &str,
        to: &str,
    ) -> anyhow::Result<Connection<impl io::Read + io::Write + use<>>> {
        Ok(Connection::new(self.tls(from, to)?.connect(self.inbound(to))?))
    }

    /// One GET by mutual TLS, on a connection of its own.
    ///
    /// # Errors
    /// No answer came.
    pub fn get(&self, from: &str, to: &str, path: &str) -> anyhow::Result<Response> {
        let mut stream = self.tls(from, to)?.connect(self.inbound(to))?;
        let request = Request { method: "GET", path, host: to, headers: &[], body: b"" };
        Ok(client::exchange(&mut stream, &request)?)
    }

    /// One GET in plain text to the outbound listener of `from`, as its application does it.
    ///
    /// # Errors
    /// No answer came.
    pub fn get_by_sidecar(&self, from: &str, to: &str, path: &str) -> anyhow::Result<Response> {
        let mut stream = client::connect(SocketAddr::new(self.plan.address(from), ports::OUTBOUND))?;
        let request = Request { method: "GET", path, host: to, headers: &[], body: b"" };
        Ok(client::exchange(&mut stream, &request)?)
    }

    /// A plain connection to a port of a service's address.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn plain(&self, service: &str, port: u16) -> io::Result<TcpStream> {
        client::connect(SocketAddr::new(self.plan.address(service), port))
    }

    /// What the admin interface of a sidecar answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn admin(&self, service: &str, path: &str) -> io::Result<String> {
        let mut stream = self.plain(service, ports::ADMIN)?;
        let request = Request { method: "GET", path, host: "admin", headers: &[], body: b"" };
        Ok(client::exchange(&mut stream, &request)?.text())
    }

    /// The sum of the counters whose names contain all the parts.
    pub fn counter(&self, service: &str, parts: &[&str]) -> u64 {
        let text = self.admin(service, "/stats?usedonly").unwrap_or_default();
        let lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.split_once(": ")?.1.trim().parse::<u64>().ok()).sum()
    }

    /// For `meshward up`'s own checks.
    pub fn places(&self) -> check::Places {
        self.plan.places(&self.mesh, &self.state)
    }
}

fn parse(yaml: &str) -> anyhow::Result<Resolved> {
    mesh::load_sources(&[Source::new("mesh.yaml", yaml)]).map_err(|error| tools::failure(&error))
}

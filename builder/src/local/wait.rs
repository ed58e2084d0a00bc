//! Waiting for a condition: no fixed sleeps, an end to every wait, and the wish to stop heard within.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::client::{self, Request};
use super::process::Processes;
use super::stop::Stop;
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::ports;

/// How long an application or a sidecar may take to be ready. A first start compiles a module and makes a database.
const READY_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(25);

/// Something that is waited for.
pub struct Awaited {
    /// For messages.
    pub name: String,
    pub condition: Condition,
    /// The log to look into.
    pub log: std::path::PathBuf,
}

pub enum Condition {
    /// The port takes connections.
    Listens(SocketAddr),
    /// The Envoy at this address says it is ready.
    Ready(IpAddr),
}

impl Condition {
    fn holds(&self) -> bool {
        match self {
            Self::Listens(address) => TcpStream::connect_timeout(address, Duration::from_millis(500)).is_ok(),
            Self::Ready(address) => envoy_is_ready(*address),
        }
    }
}

/// Whether Envoy has all its configuration and serves: `/ready` of its admin interface.
pub fn envoy_is_ready(address: IpAddr) -> bool {
    let request = Request { method: "GET", path: "/ready", host: "admin", headers: &[], body: b"" };
    client::connect(SocketAddr::new(address, ports::ADMIN))
        .and_then(|mut socket| client::exchange(&mut socket, &request))
        .is_ok_and(|answer| answer.status == 200)
}

/// Until all hold.
///
/// # Errors
/// A process ended, time ran out, or a stop is wanted.
pub fn until_all(awaited: &[Awaited], processes: &mut Processes, stop: &Stop) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut left: Vec<&Awaited> = awaited.iter().collect();
    loop {
        left.retain(|awaited| !awaited.condition.holds());
        stop.check()?;
        let ended = processes.ended();
        if !ended.is_empty() {
            return Err(ended.into());
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(left.into_iter().map(late).collect::<Vec<_>>().into());
        }
        std::thread::sleep(PAUSE);
    }
}

fn late(awaited: &Awaited) -> Diagnostic {
    let why = match awaited.condition {
        Condition::Listens(address) => format!("does not listen on {address}"),
        Condition::Ready(address) => {
            format!("is not ready (its admin interface: http://{address}:{})", ports::ADMIN)
        }
    };
    let seconds = READY_WITHIN.as_secs();
    Diagnostic::error("not-ready", format!("{} {why} after {seconds} s", awaited.name))
        .help(format!("its log: {}", awaited.log.display()))
}

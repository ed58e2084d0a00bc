//! Waiting for a condition: no fixed sleeps, an end to every wait, and the wish to stop heard within.

use std::io::{Read as _, Write as _};
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
/// For one try.
const SHORT: Duration = Duration::from_millis(500);

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
    /// The same of PostgreSQL, which takes connections before it is ready for them.
    Postgres(SocketAddr),
    /// The Envoy at this address says it is ready.
    Ready(IpAddr),
}

impl Condition {
    fn holds(&self) -> bool {
        match self {
            Self::Listens(address) => connects(address).is_some(),
            Self::Postgres(address) => connects(address).is_some_and(|socket| !is_starting(socket)),
            Self::Ready(address) => envoy_is_ready(*address),
        }
    }
}

fn connects(address: &SocketAddr) -> Option<TcpStream> {
    let socket = TcpStream::connect_timeout(address, SHORT).ok()?;
    socket.set_read_timeout(Some(SHORT)).ok()?;
    Some(socket)
}

/// Whether a PostgreSQL says that it cannot take a connection yet: SQLSTATE 57P03, cannot_connect_now. Any other answer,
/// and none, is from a server that has started.
fn is_starting(mut socket: TcpStream) -> bool {
    // StartupMessage: its length, protocol 3.0, one parameter, the end of them.
    let message = b"\0\0\0\x15\0\x03\0\0user\0nobody\0\0";
    let mut answer = Vec::new();
    if socket.write_all(message).is_err() {
        return true;
    }
    // An error closes the connection; all else ends by the timeout.
    let _ = socket.take(512).read_to_end(&mut answer);
    answer.windows(5).any(|window| window == b"57P03")
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
        Condition::Listens(address) | Condition::Postgres(address) => format!("does not listen on {address}"),
        Condition::Ready(address) => {
            format!("is not ready (its admin interface: http://{address}:{})", ports::ADMIN)
        }
    };
    let seconds = READY_WITHIN.as_secs();
    Diagnostic::error("not-ready", format!("{} {why} after {seconds} s", awaited.name))
        .help(format!("its log: {}", awaited.log.display()))
}

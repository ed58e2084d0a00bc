//! The real envoyproxy/ratelimit on a real Redis.
//!
//! Optional: `MESHWARD_TEST_RATELIMIT=1` asks for it, and the first time builds the service from the Go module that
//! `tests/ratelimit` pins (a minute or two). It needs `go` and `redis-server`. Without them [`Real::start`] says `SKIPPED` and why.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::tools::{free_port, skipped};
use crate::{go, until};

/// Both run. Dropping it stops them.
pub struct Real {
    redis: Child,
    service: Option<Child>,
    binary: std::path::PathBuf,
    redis_port: u16,
    port: u16,
    folder: tempfile::TempDir,
}

impl Real {
    /// Starts both; None when they were not asked for or cannot be had here, which is said.
    ///
    /// # Errors
    /// They were asked for, and do not build or start.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let what = "the test on a real envoyproxy/ratelimit";
        if std::env::var_os("MESHWARD_TEST_RATELIMIT").is_none_or(|value| value.is_empty() || value == "0") {
            skipped(what, "MESHWARD_TEST_RATELIMIT=1 asks for it (the first time builds it)");
            return Ok(None);
        }
        let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if quiet(Command::new("redis-server").arg("--version")).is_err() {
            skipped(what, "there is no `redis-server` here");
            return Ok(None);
        }
        let Some(programs) = go::programs("ratelimit", &["ratelimit"])? else {
            skipped(what, "there is no `go` here to build it with");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("config"))?;
        // All that it needs to know: what is allowed comes with each question.
        fs::write(folder.path().join("config/meshward.yaml"), "domain: meshward\ndescriptors: []\n")?;
        let redis_port = free_port()?;
        let redis = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(redis_port.to_string())
            .stdin(Stdio::null())
            .stdout(log(folder.path(), "redis.log")?)
            .spawn()
            .context("redis-server")?;
        let mut real = Self {
            redis,
            service: None,
            binary: programs.join("ratelimit"),
            redis_port,
            port: free_port()?,
            folder,
        };
        until("redis-server", || TcpStream::connect(("127.0.0.1", redis_port)).is_ok())?;
        real.resume()?;
        Ok(Some(real))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Ends the service, not what is counted.
    pub fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }

    /// Brings it back, at the same address.
    ///
    /// # Errors
    /// It does not start.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let service = Command::new(&self.binary)
            .env("REDIS_SOCKET_TYPE", "tcp")
            .env("REDIS_URL", format!("127.0.0.1:{}", self.redis_port))
            .env("RUNTIME_ROOT", self.folder.path())
            .env("RUNTIME_SUBDIRECTORY", "")
            .env("RUNTIME_WATCH_ROOT", "false")
            .env("USE_STATSD", "false")
            .envs([("HOST", "127.0.0.1"), ("GRPC_HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")])
            .env("PORT", free_port()?.to_string())
            .env("DEBUG_PORT", free_port()?.to_string())
            .env("GRPC_PORT", self.port.to_string())
            .stdin(Stdio::null())
            .stdout(log(self.folder.path(), "ratelimit.log")?)
            .stderr(log(self.folder.path(), "ratelimit.log")?)
            .spawn()
            .context("ratelimit")?;
        self.service = Some(service);
        let address = self.address();
        until("envoyproxy/ratelimit", || TcpStream::connect(address).is_ok())
            .with_context(|| fs::read_to_string(self.folder.path().join("ratelimit.log")).unwrap_or_default())
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.stop();
        let _ = self.redis.kill();
        let _ = self.redis.wait();
    }
}

fn log(folder: &Path, name: &str) -> std::io::Result<File> {
    fs::OpenOptions::new().create(true).append(true).open(folder.join(name))
}

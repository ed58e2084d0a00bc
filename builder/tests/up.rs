//! `meshward up` as a process: what it leaves behind, what it reuses, and what it says when something is in its way.
//!
//! A mesh of two services whose applications are shell scripts, so that nothing but Envoy is needed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a failure is a failed test")]

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MESH: &str = r#"
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - name: callee
      port: 8000
      local: {command: [python3, -m, http.server, --bind, "{address}", "{port}"]}
    - name: envoy
      edge: {port: 18080, routes: [{prefix: /, service: callee}]}
"#;

/// The module that all of them run: built once, by the product.
fn module() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(module) = std::env::var_os("MESHWARD_MODULE").filter(|value| !value.is_empty()) {
                return module.into();
            }
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("up");
            let output = meshward()
                .args(["build", "--output-dir"])
                .arg(&folder)
                .args(["-o", "json"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let built: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            PathBuf::from(built.get("path").unwrap().as_str().unwrap())
        })
        .clone()
}

fn meshward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshward"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// A folder with a mesh in it, and `up` run there.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mesh.yaml"), MESH).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn up(&self) -> Command {
        let mut command = meshward();
        command.current_dir(self.folder.path()).args([
            "up",
            "-f",
            "mesh.yaml",
            "--concurrency",
            "1",
            "--module",
        ]);
        command.arg(module());
        command
    }

    /// Starts it and waits for its banner.
    fn started(&self) -> Up {
        let file = self.path("err");
        let child =
            self.up().stdout(Stdio::piped()).stderr(fs::File::create(&file).unwrap()).spawn().unwrap();
        let mut up = Up { child, banner: String::new() };
        let mut out = up.child.stdout.take().unwrap();
        let mut seen = Vec::new();
        let mut piece = [0; 256];
        while !up.banner.contains("Ctrl-C stops everything") {
            let length = out.read(&mut piece).unwrap();
            assert!(length > 0, "it ended: {}", fs::read_to_string(&file).unwrap());
            seen.extend_from_slice(piece.get(..length).unwrap());
            up.banner = String::from_utf8_lossy(&seen).into_owned();
        }
        up
    }

    /// Runs it to its end, which must come by itself.
    fn refused(&self, more: &[&str]) -> String {
        let Output { status, stderr, stdout } = self.up().args(more).output().unwrap();
        let text = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&stdout));
        text
    }

    /// Process numbers in the ledger.
    fn running(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path(".meshward/run.json")).unwrap();
        let entries: serde_json::Value = serde_json::from_str(&text).unwrap();
        entries
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["pid"].as_i64().unwrap().try_into().unwrap())
            .collect()
    }

    /// An address that the mesh listens on.
    fn admin(&self) -> SocketAddr {
        let network = fs::read_to_string(self.path(".meshward/network")).unwrap();
        network.trim().replace(".0/24", ".1:9901").parse().unwrap()
    }
}

struct Up {
    child: Child,
    banner: String,
}

impl Up {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn each_signal_leaves_no_process_and_no_port_and_the_state_is_reused() {
    let world = World::new();
    let mut certificates = Vec::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut up = world.started();
        assert!(up.banner.contains("spiffe://test.example/ns/default/sa/callee"), "{}", up.banner);
        let running = world.running();
        assert_eq!(running.len(), 3, "an application and two sidecars");
        assert!(running.iter().all(|pid| alive(*pid)));
        assert!(TcpStream::connect(world.admin()).is_ok());
        certificates.push(fs::read(world.path(".meshward/certs/callee-mtls-cert/tls.crt")).unwrap());
        up.signal(signal);
        let status = up.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}: {}", fs::read_to_string(world.path("err")).unwrap());
        assert!(running.iter().all(|pid| !alive(*pid)), "{signal} left a process behind");
        drop(
            TcpListener::bind(world.admin())
                .unwrap_or_else(|error| panic!("{signal} left a port behind: {error}")),
        );
        assert!(!world.path(".meshward/run.json").exists());
    }
    certificates.dedup();
    assert_eq!(certificates.len(), 1, "certificates were made anew");
}

#[test]
fn what_a_killed_one_left_behind_is_stopped_by_the_next() {
    let world = World::new();
    let mut first = world.started();
    let left = world.running();
    first.signal(Signal::SIGKILL);
    let _ = first.child.wait();
    assert!(left.iter().all(|pid| alive(*pid)), "they went by themselves: this test proves nothing");
    let second = world.started();
    assert!(left.iter().all(|pid| !alive(*pid)));
    let said = fs::read_to_string(world.path("err")).unwrap();
    assert!(said.contains("left behind by an `up` that was killed"), "{said}");
    drop(second);
}

#[test]
fn a_second_one_in_the_same_folder_and_a_taken_port_are_refused() {
    let world = World::new();
    let mut up = world.started();
    let said = world.refused(&[]);
    assert!(said.contains("error[already-running]") && said.contains(&up.child.id().to_string()), "{said}");
    up.signal(Signal::SIGTERM);
    up.child.wait().unwrap();
    let taken = TcpListener::bind(world.admin()).unwrap();
    let said = world.refused(&[]);
    assert!(
        said.contains("error[port-in-use]: port 9901") && said.contains("the admin interface of callee"),
        "{said}"
    );
    drop(taken);
}

#[test]
fn an_application_that_dies_is_told_with_its_last_words() {
    let world = World::new();
    let broken = MESH.replace(
        "command: [python3, -m, http.server, --bind, \"{address}\", \"{port}\"]",
        "command: [./app.sh]",
    );
    assert_ne!(broken, MESH);
    fs::write(world.path("mesh.yaml"), broken).unwrap();
    fs::write(world.path("app.sh"), "#!/bin/sh\necho no database here >&2\nexit 7\n").unwrap();
    let said = world.refused(&[]);
    assert!(
        said.contains("error[program-missing]") || said.contains("not-started"),
        "not executable: {said}"
    );
    fs::set_permissions(world.path("app.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = world.refused(&[]);
    assert!(
        said.contains("callee ended by itself (exit status: 7)") && said.contains("no database here"),
        "{said}"
    );

    // Later, while all runs: it is told, and the rest goes on.
    fs::write(world.path("mesh.yaml"), MESH).unwrap();
    let mut up = world.started();
    kill(Pid::from_raw(*world.running().first().unwrap()), Signal::SIGKILL).unwrap();
    until("the report", || fs::read_to_string(world.path("err")).unwrap().contains("callee ended by itself"));
    assert!(TcpStream::connect(world.admin()).is_ok(), "the rest was stopped");
    up.signal(Signal::SIGINT);
    assert_eq!(up.child.wait().unwrap().code(), Some(1));
}

#[test]
fn certificates_that_will_not_do_are_replaced_and_a_ca_that_will_not_do_is_refused() {
    let world = World::new();
    drop(world.started());
    let certificate = world.path(".meshward/certs/callee-mtls-cert/tls.crt");
    let before = fs::read(&certificate).unwrap();
    fs::write(&certificate, "garbage").unwrap();
    // And a list where mesh.yaml asks for one, or the sidecars would take nobody's certificate.
    let with = |spec: &str| {
        MESH.replace("trustDomain: test.example\n", &format!("trustDomain: test.example\n  {spec}\n"))
    };
    fs::write(world.path("mesh.yaml"), with("revocation: {crl: true}")).unwrap();
    drop(world.started());
    assert!(world.path(".meshward/certs/callee-mtls-cert/ca.crl").exists());
    let said = fs::read_to_string(world.path("err")).unwrap();
    assert!(said.contains("making a new certificate for callee"), "{said}");
    assert_ne!(fs::read(&certificate).unwrap(), before);

    fs::write(world.path("mesh.yaml"), with("federatesWith: [partner.example]")).unwrap();
    let said = world.refused(&[]);
    assert!(
        said.contains("error[federation]") && said.contains("certs federate partner.example=FILE"),
        "{said}"
    );
    fs::write(world.path("mesh.yaml"), MESH.replace("test.example", "other.example")).unwrap();
    let said = world.refused(&[]);
    assert!(said.contains("error[ca-unusable]") && said.contains("trust domain `test.example`"), "{said}");
    assert!(said.contains("rm -r"), "{said}");
    fs::write(world.path("mesh.yaml"), MESH).unwrap();
    fs::write(world.path(".meshward/certs/service-mesh-ca/ca.key"), "garbage").unwrap();
    assert!(world.refused(&[]).contains("error[ca-unusable]"));
}

#[test]
fn what_cannot_work_is_said_before_anything_is_started() {
    let world = World::new();
    let said = world.refused(&["--envoy", "/nowhere/envoy"]);
    assert!(said.contains("error[envoy-unusable]"), "{said}");
    let said = world.refused(&["--state", "/proc/nowhere"]);
    assert!(said.contains("error[state-unwritable]") && said.contains("--state FOLDER"), "{said}");
    let said = world.refused(&["--check"]);
    assert!(said.contains("error[checks-unreadable]") && said.contains("checks.yaml"), "{said}");
    fs::write(
        world.path("checks.yaml"),
        "checks:\n  - {name: a, from: envy, to: callee, path: /, expect: {status: 200}}\n  - {name: b, from: envoy, to: callee, expect: {}}\n",
    )
    .unwrap();
    let said = world.refused(&["--check"]);
    assert!(
        said.contains("service `envy` is not defined") && said.contains("did you mean `envoy`?"),
        "{said}"
    );
    assert!(said.contains("the check `b` has no `path`") && said.contains("nothing is expected"), "{said}");
    assert!(said.contains("checks.yaml:2:21"), "{said}");
    assert!(!world.path(".meshward/run.json").exists());
}

#[test]
fn checks_fail_when_an_answer_is_not_as_expected() {
    let world = World::new();
    let checks = |status: u16| {
        format!(
            "checks:\n  - {{name: the page, from: envoy, to: callee, through: edge, path: /, expect: {{status: {status}}}}}\n"
        )
    };
    for (status, code) in [(200, 0), (403, 1)] {
        fs::write(world.path("checks.yaml"), checks(status)).unwrap();
        let output = world.up().arg("--check").output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{table}{}", String::from_utf8_lossy(&output.stderr));
        assert!(table.contains("allow mesh/calls/0"), "{table}");
    }
}

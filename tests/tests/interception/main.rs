//! Traffic that is led to the sidecars without the applications' doing, in network namespaces with the very rules of the
//! rendered init container: who knows nothing of the mesh speaks mTLS, and who is not in it gets nowhere.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]
#![cfg(target_os = "linux")]

mod network;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use meshward_builder::console::Console;
use meshward_builder::diagnostic::Source;
use meshward_builder::envoy::{self, Placement, pod};
use meshward_builder::inject;
use meshward_builder::local::client::{self, Request, Response};
use meshward_builder::local::{certificates, state::State};
use meshward_builder::mesh::{self, INTERCEPTING_USER, Resolved, ports};
use meshward_tests::application::Speaks;
use meshward_tests::{Application, tools, until};
use network::{Bridge, Namespace};

/// `other` has a sidecar and a way to `books`, and no permission there.
const MESH: &str = "apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: caught}
spec:
  trustDomain: caught.example
  namespace: shop
  interception:
    image: registry.example/iptables@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    outside: pass
    exclude: {outboundPorts: [3306], outboundCidrs: [10.77.0.9/32], inboundPorts: [9090]}
  services:
    - {name: web, port: 8000, calls: [books, db]}
    - {name: books, port: 8000}
    - {name: db, protocol: tcp, port: 5432}
    - {name: other, port: 8000, calls: [books]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: books, namespace: shop}
spec:
  selector: {matchLabels: {app: books}}
  rules:
    - from: [{source: {serviceAccounts: [web]}}]
      to: [{operation: {methods: [GET]}}]
";

/// Who runs the applications; not the sidecar's user.
const APPLICATION: u32 = 1000;
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 8);
/// Excluded by its address.
const EXCLUDED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

fn address(service: &str) -> Ipv4Addr {
    let last = ["web", "books", "db", "other"].iter().position(|name| *name == service).unwrap();
    Ipv4Addr::new(10, 77, 0, 1 + u8::try_from(last).unwrap())
}

/// What cannot be done here, if anything.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces with users of their own need root".to_owned());
    }
    for program in ["ip", "nsenter", "unshare", "setpriv", "iptables-restore", "ip6tables-restore"] {
        let there = Command::new(program).arg("--version").output();
        if there.is_err() && Command::new(program).arg("-V").output().is_err() {
            return Some(format!("there is no `{program}` (Debian: iproute2, util-linux, iptables)"));
        }
    }
    let hosts = tempfile::NamedTempFile::new().ok()?;
    let tried = Bridge::new().and_then(|bridge| {
        let pod = bridge.pod(STRANGER, hosts.path())?;
        pod.run(&[
            "iptables",
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-p",
            "tcp",
            "-m",
            "owner",
            "--uid-owner",
            "1",
            "-j",
            "REDIRECT",
        ])?;
        pod.run(&["iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "RETURN"])
    });
    tried.err().map(|error| format!("no network namespace with iptables can be made: {error:#}"))
}

struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What all pods share.
struct Ground {
    folder: tempfile::TempDir,
    envoy: PathBuf,
    module: PathBuf,
    hosts: PathBuf,
    state: State,
}

impl Ground {
    fn new(mesh: &Resolved) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // The sidecar runs as a user that owns nothing here.
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (envoy, module) = (root.join("envoy"), root.join("filter.wasm"));
        std::fs::copy(tools::envoy().unwrap(), &envoy).unwrap();
        std::fs::copy(tools::filter().unwrap(), &module).unwrap();
        let mut names = "127.0.0.1 localhost\n".to_owned();
        for service in &mesh.services {
            names.push_str(&format!("{} {} {}\n", address(&service.name), service.fqdn(), service.name));
        }
        names.push_str(&format!("{STRANGER} stranger\n"));
        let hosts = root.join("hosts");
        std::fs::write(&hosts, names).unwrap();
        let state = State::open(&root.join("state")).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::new(&mut out, &mut err, false);
        certificates::prepare(&state, mesh, time::OffsetDateTime::now_utc(), &mut console).unwrap();
        Self { folder, envoy, module, hosts, state }
    }

    /// The pod's files, as `render` writes them, below a folder that stands for its root; and its Envoy.
    fn sidecar(&self, mesh: &Resolved, service: &str, pod: &Namespace) -> Sidecar {
        let root = self.folder.path().join("pods").join(service);
        let _ = std::fs::remove_dir_all(&root);
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        for path in [pod::CONFIG, pod::CERTIFICATES, pod::FILTER] {
            std::fs::create_dir_all(below(path)).unwrap();
        }
        let copy = |from: &Path, to: &Path| {
            std::fs::copy(from, to).unwrap();
            std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644)).unwrap();
        };
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            copy(&self.state.certificates(service).join(file), &below(pod::CERTIFICATES).join(file));
        }
        let sha12 = "0123456789ab".to_owned();
        copy(&self.module, &below(pod::FILTER).join(envoy::filter_file_name(&sha12)));
        let placement = Placement::Kubernetes { filter_sha12: sha12 };
        for file in envoy::render(mesh, mesh.service(service).unwrap(), &placement).unwrap() {
            let mut text = file.text;
            for path in [pod::CONFIG, pod::CERTIFICATES, pod::FILTER] {
                text = text.replace(path, &below(path).display().to_string());
            }
            std::fs::write(below(pod::CONFIG).join(file.name), text).unwrap();
        }
        let log = std::fs::File::create(self.log(service)).unwrap();
        let config = below(pod::CONFIG).join(envoy::BOOTSTRAP_FILE);
        let user = INTERCEPTING_USER.to_string();
        let line = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--pdeathsig",
            "KILL",
            self.envoy.to_str().unwrap(),
            "--config-path",
            config.to_str().unwrap(),
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--disable-hot-restart",
        ];
        let sidecar =
            pod.command(&line).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
        let sidecar = Sidecar(sidecar.unwrap());
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
        let ready = || get(pod, 0, admin, "admin", "/ready").is_some_and(|answer| answer.status == 200);
        if let Err(error) = until("the sidecar", ready) {
            panic!("{service}: {error}\n{}", std::fs::read_to_string(self.log(service)).unwrap());
        }
        sidecar
    }

    fn log(&self, service: &str) -> PathBuf {
        self.folder.path().join(format!("{service}.log"))
    }
}

/// The rendered init container, with no more rights than its own; None where there is none.
fn redirect(mesh: &Resolved, service: &str, pod: &Namespace) {
    let container = &inject::redirects(mesh)[service].container;
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let command: Vec<String> = container["command"].as_array().unwrap().iter().map(text).collect();
    let rights = &container["securityContext"]["capabilities"];
    assert_eq!(rights["drop"][0], "ALL");
    let add: Vec<String> = rights["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("+{}", text(name).to_lowercase()))
        .collect();
    let rights = format!("-all,{}", add.join(","));
    let mut line = vec!["setpriv", "--bounding-set", &rights, "--inh-caps", &rights, "--no-new-privs"];
    line.extend(command.iter().map(String::as_str));
    let mut first = None;
    // Kubernetes may run it again in a pod that has the rules.
    for _ in 0..2 {
        let mut command = pod.command(&line);
        for variable in container["env"].as_array().unwrap() {
            command.env(text(&variable["name"]), text(&variable["value"]));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{service}: {}", String::from_utf8_lossy(&output.stderr));
        let rules =
            pod.run(&["iptables", "-t", "nat", "-S"]).unwrap() + &pod.run(&["iptables", "-S"]).unwrap();
        assert_eq!(*first.get_or_insert_with(|| rules.clone()), rules);
    }
}

/// One request from a pod, by an application that knows nothing of the mesh; None when nobody answers.
fn get(pod: &Namespace, user: u32, to: impl Into<SocketAddr>, host: &str, path: &str) -> Option<Response> {
    request(pod, user, to, "GET", host, path)
}

fn request(
    pod: &Namespace,
    user: u32,
    to: impl Into<SocketAddr>,
    method: &str,
    host: &str,
    path: &str,
) -> Option<Response> {
    let to = to.into();
    let close = [("connection".to_owned(), "close".to_owned())];
    pod.inside(user, || {
        let mut stream = client::connect(to).ok()?;
        client::exchange(&mut stream, &Request { method, path, host, headers: &close, body: b"" }).ok()
    })
}

/// Whether these bytes come back.
fn echoes(pod: &Namespace, user: u32, to: impl Into<SocketAddr>, text: &str) -> bool {
    let to = to.into();
    pod.inside(user, || {
        let Ok(mut stream) = client::connect(to) else { return false };
        let mut back = vec![0; text.len()];
        stream.write_all(text.as_bytes()).is_ok()
            && stream.read_exact(&mut back).is_ok()
            && back == text.as_bytes()
    })
}

fn load(yaml: &str) -> Resolved {
    mesh::load_sources(&[Source::new("mesh.yaml", yaml)]).unwrap()
}

fn contains(all: &[u8], part: &str) -> bool {
    all.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn an_application_that_knows_nothing_speaks_mtls() {
    if let Some(why) = missing() {
        return tools::skipped("interception in network namespaces", &why);
    }
    let mesh = load(MESH);
    let ground = Ground::new(&mesh);
    let bridge = Bridge::new().unwrap();
    let stranger = bridge.pod(STRANGER, &ground.hosts).unwrap();
    let excluded = bridge.pod(EXCLUDED, &ground.hosts).unwrap();
    let listen = |pod: &Namespace, address: SocketAddr, speaks| {
        pod.inside(APPLICATION, || Application::start(address, speaks).unwrap())
    };
    let (mut pods, mut sidecars, mut applications) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for service in &mesh.services {
        let name = service.name.as_str();
        let pod = bridge.pod(address(name), &ground.hosts).unwrap();
        // On all addresses, as applications do: nothing but the rules keeps others from it.
        let port = service.port.unwrap();
        let speaks = if name == "db" { Speaks::Tcp } else { Speaks::Http };
        applications.insert(name, listen(&pod, (Ipv4Addr::UNSPECIFIED, port).into(), speaks));
        redirect(&mesh, name, &pod);
        sidecars.insert(name, ground.sidecar(&mesh, name, &pod));
        pods.insert(name, pod);
    }
    let (web, books, other) = (&pods["web"], &pods["books"], &pods["other"]);
    let (to_books, to_db) = ((address("books"), 8000), (address("db"), 5432));
    let seen = || applications["books"].seen();

    // Mesh traffic: mTLS on the wire, with the caller's identity, and nothing to read.
    let tap = bridge.tap();
    let answer = get(web, APPLICATION, to_books, "books:8000", "/a-secret-path").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("URI=spiffe://caught.example/ns/shop/sa/web"), "{}", answer.text());
    assert!(echoes(web, APPLICATION, to_db, "echo this"), "TCP, by the port");
    // An address that is excluded: not even HTTP is looked at, on its own port.
    let _plain = listen(&excluded, (EXCLUDED, 80).into(), Speaks::Tcp);
    assert!(echoes(web, APPLICATION, (EXCLUDED, 80), "in-plain-text"));
    let heard = tap.stop();
    assert!(contains(&heard, "in-plain-text"), "the tap hears");
    assert!(!contains(&heard, "a-secret-path") && !contains(&heard, "echo this"), "nothing to read");
    if Command::new("curl").arg("--version").output().is_ok() {
        let line =
            ["setpriv", "--reuid", "1000", "--clear-groups", "curl", "-sS", "http://books:8000/by-curl"];
        let answer = web.run(&line).unwrap();
        assert!(answer.contains("URI=spiffe://caught.example/ns/shop/sa/web"), "{answer}");
    }

    // Policies hold for who calls, and for what.
    assert_eq!(request(web, APPLICATION, to_books, "POST", "books", "/").unwrap().status, 403);
    assert_eq!(get(other, APPLICATION, to_books, "books", "/").unwrap().status, 403);

    // Who has no certificate gets nowhere: not to the application's port, to no other, and not by IPv6.
    let before = seen();
    let _second = listen(books, (Ipv4Addr::UNSPECIFIED, 8001).into(), Speaks::Http);
    assert!(get(&stranger, APPLICATION, to_books, "books", "/").is_none());
    assert!(get(&stranger, APPLICATION, (address("books"), 8001), "books", "/").is_none());
    assert!(!echoes(&stranger, APPLICATION, to_db, "echo this"));
    let six = |last: u16, port| SocketAddr::from((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last), port));
    if Path::new("/proc/net/if_inet6").exists() {
        let _six = listen(books, six(2, 8002), Speaks::Tcp);
        assert!(echoes(books, APPLICATION, six(2, 8002), "six"), "it listens");
        assert!(!echoes(&stranger, APPLICATION, six(2, 8002), "six"));
        let _out = listen(&stranger, six(8, 8002), Speaks::Tcp);
        assert!(!echoes(web, APPLICATION, six(8, 8002), "six"));
    }
    // A port that is excluded is open, as it was asked for.
    let _metrics = listen(books, (Ipv4Addr::UNSPECIFIED, 9090).into(), Speaks::Tcp);
    assert!(echoes(&stranger, APPLICATION, (address("books"), 9090), "metrics"));
    // The sidecar's health port, and not its admin interface.
    let health = |port| get(&stranger, APPLICATION, (address("books"), port), "books", "/healthz/ready");
    assert_eq!(health(ports::HEALTH).unwrap().status, 200);
    assert!(health(ports::ADMIN).is_none() && health(ports::OUTBOUND).is_none());

    // The sidecar's own user is not caught, or it would catch itself for ever; so it stands before `books` in plain text.
    assert!(get(web, INTERCEPTING_USER, to_books, "books", "/").is_none());
    assert_eq!(seen(), before, "none of these reached the application");

    // What is not in the mesh passes: HTTP, anything else, and excluded ports.
    let _http = listen(&stranger, (STRANGER, 80).into(), Speaks::Http);
    let _tcp = listen(&stranger, (STRANGER, 7000).into(), Speaks::Tcp);
    let _mysql = listen(&stranger, (STRANGER, 3306).into(), Speaks::Tcp);
    assert_eq!(get(web, APPLICATION, (STRANGER, 80), "stranger", "/").unwrap().status, 200);
    assert!(
        echoes(web, APPLICATION, (STRANGER, 7000), "echo this")
            && echoes(web, APPLICATION, (STRANGER, 3306), "echo this")
    );
    // A host that lies about where it goes reaches who it names, by mTLS: never the stranger.
    let lie = get(web, APPLICATION, (STRANGER, 80), "books", "/").unwrap();
    assert!(lie.text().contains("URI=spiffe://caught.example/ns/shop/sa/web"), "{}", lie.text());

    // Nothing comes round again: the own port, the own address, the listener's port elsewhere.
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::OUTBOUND));
    assert_eq!(get(web, APPLICATION, own, "books", "/").unwrap().status, 200, "called by itself, as ever");
    let itself = (address("web"), 8000);
    assert!(
        web.inside(APPLICATION, || client::connect(itself.into()).is_ok()),
        "what stays in the pod stays"
    );
    let round = get(web, APPLICATION, (STRANGER, ports::OUTBOUND), "stranger", "/").unwrap();
    assert!(round.text().contains("URI=spiffe://caught.example/ns/shop/sa/web"), "its one callee's, as ever");
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN));
    let stats = get(web, 0, admin, "admin", "/stats?usedonly&filter=downstream_cx_overload|cx_active")
        .unwrap()
        .text();
    let most = stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).max();
    assert!(most.unwrap_or_default() < 50, "{stats}");

    // Where mesh.yaml refuses the outside, it is refused, and what is excluded is not.
    sidecars.remove("other");
    let refusing = load(&MESH.replace("outside: pass", "outside: refuse"));
    let _other = ground.sidecar(&refusing, "other", other);
    assert_eq!(get(other, APPLICATION, (STRANGER, 80), "stranger", "/").unwrap().status, 404);
    assert!(!echoes(other, APPLICATION, (STRANGER, 7000), "echo this"));
    assert!(echoes(other, APPLICATION, (STRANGER, 3306), "echo this"));
    assert_eq!(get(other, APPLICATION, to_books, "books", "/").unwrap().status, 403);
}

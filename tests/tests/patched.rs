//! Configurations that strangers wrote, patched and started in a real Envoy with the real filter: they serve whom the mesh
//! lets in, and nobody else.
//!
//! Each gets ports of its own, a backend where its clusters are, and TLS with the mesh's certificates, as its owner would
//! give it; then it is patched and hardened by the product. The corpus is read from `$MESHWARD_CORPUS`, or
//! `../shared/corpus` beside the workspace. Two dozen by default, all with `MESHWARD_PATCH_ALL=1` (minutes).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meshward_builder::compile;
use meshward_builder::local::client::{self, Request, Tls};
use meshward_builder::patch::edit::Editor;
use meshward_builder::patch::splice::{self, Edit};
use meshward_builder::patch::tree::{NodeId, Tree};
use meshward_builder::patch::{Configurations, Outcome, Plugin, Selection, envoy, patch};
use meshward_engine::config::{Protocol, Role};
use meshward_tests::application::Speaks;
use meshward_tests::{Application, TestMesh, tools};
use serde_json::{Value, json};

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: callee, port: 8000}
    - {name: caller, port: 8001, calls: [callee]}
    - {name: stranger, port: 8002}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: default}
spec:
  selector: {matchLabels: {app: callee}}
  rules:
    - from: [{source: {principals: [test.example/ns/default/sa/caller]}}]
";

/// Enough for a default run: each is an Envoy that starts.
const ENOUGH: usize = 24;

fn corpus() -> Option<PathBuf> {
    let beside = tools::workspace().join("../shared/corpus");
    let folder = std::env::var_os("MESHWARD_CORPUS").map_or(beside, PathBuf::from).join("envoy");
    folder.join("index.json").is_file().then_some(folder)
}

/// Configurations that Envoy validates as they are, two of each repository first.
fn units(corpus: &Path) -> Vec<String> {
    let index: Value =
        serde_json::from_str(&std::fs::read_to_string(corpus.join("index.json")).unwrap()).unwrap();
    let rows = index.as_array().unwrap().iter();
    let all =
        rows.flat_map(|row| std::iter::once(row).chain(row["embedded"].as_array().into_iter().flatten()));
    let valid = all.filter(|row| row["validates"] == true && row["kind"] != "ConfigMap");
    let mut paths: Vec<String> =
        valid.map(|row| row["path"].as_str().or(row["file"].as_str()).unwrap().to_owned()).collect();
    let mut of_one: HashMap<String, usize> = HashMap::new();
    paths.sort();
    paths.sort_by_cached_key(|path| {
        let owner = path.split('/').nth(1).unwrap_or_default().split(['+', '_']).next().unwrap_or_default();
        let count = of_one.entry(owner.to_owned()).or_default();
        *count += 1;
        *count
    });
    paths
}

/// A configuration that can run here: which port speaks what.
struct Runnable {
    text: String,
    ports: Vec<(u16, Protocol)>,
}

/// The same configuration on free ports, with `http` or `tcp` where its clusters are, and TLS in front. None if it has no
/// plain inbound listener, or is written in a way that this cannot follow.
fn runnable(text: &str, certificates: &Path, http: SocketAddr, tcp: SocketAddr) -> Option<Runnable> {
    let tree = Tree::parse(text).ok()?;
    let root = *tree.documents().first()?;
    // It would wait for a control plane that is not there.
    if envoy::field(&tree, root, "dynamic_resources").is_some() {
        return None;
    }
    let editor = Editor { text, tree: &tree, takes_lines: true };
    let mut edits: BTreeMap<usize, Edit> = BTreeMap::new();
    let mut ports = Vec::new();
    let mut tls = Vec::new();
    let mut listening: HashMap<NodeId, SocketAddr> = HashMap::new();
    for listener in envoy::listeners(&tree, root) {
        let mut addresses = Vec::new();
        sockets(&tree, tree.value(listener.node, "address")?, &mut addresses);
        let [address] = addresses[..] else { return None };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
        listening.insert(address, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let plain = |chain: &&envoy::Chain| {
            ["filter_chain_match", "transport_socket"]
                .iter()
                .all(|key| envoy::field(&tree, chain.node, key).is_none())
        };
        let [chain] = &listener.chains[..] else { continue };
        let filtered = envoy::field(&tree, listener.node, "listener_filters").is_some();
        if listener.outbound || filtered || !plain(&chain) {
            continue;
        }
        let protocol = match &chain.filters[..] {
            [manager] if manager.is_manager() => Protocol::Http,
            [proxy] if proxy.ends_connections() => Protocol::Tcp,
            _ => continue,
        };
        let file = |name: &str| json!({"filename": certificates.join(name)});
        let socket = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": file("tls.crt"), "private_key": file("tls.key")}],
                "validation_context": {"trusted_ca": file("ca.crt")},
            },
        }});
        tls.push(editor.insert_entries(chain.node, 0, &[("transport_socket", socket)])?);
        ports.push((port, protocol));
    }
    let (_, protocol) = *ports.first()?;
    let backend = if protocol == Protocol::Http { http } else { tcp };
    let mut all = Vec::new();
    sockets(&tree, root, &mut all);
    let admin = tree.value(root, "admin");
    let mut administrative = Vec::new();
    if let Some(admin) = admin {
        sockets(&tree, admin, &mut administrative);
    }
    for socket in all {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let to = match listening.get(&socket) {
            Some(listening) => *listening,
            None if administrative.contains(&socket) => any,
            None => backend,
        };
        let address = tree.value(socket, "address")?;
        let port = envoy::field(&tree, socket, "port_value")?;
        for (node, value) in [(address, to.ip().to_string()), (port, to.port().to_string())] {
            let range = tree.node(tree.resolve(node)).span.clone();
            edits.insert(range.start, Edit { range, text: format!("\"{value}\"") });
        }
    }
    let edits: Vec<Edit> = edits.into_values().chain(tls).collect();
    Some(Runnable { text: splice::apply(text, &edits)?, ports })
}

/// The socket addresses below a node.
fn sockets(tree: &Tree, node: NodeId, found: &mut Vec<NodeId>) {
    if let Some(socket) = envoy::field(tree, node, "socket_address") {
        found.push(socket);
    }
    for (_, value) in tree.entries(node) {
        sockets(tree, value, found);
    }
    for item in tree.items(node) {
        sockets(tree, *item, found);
    }
}

/// A running Envoy; gone when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, text: &str, json: bool) -> Running {
    let file = folder.join(if json { "envoy.json" } else { "envoy.yaml" });
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(tools::envoy().unwrap());
    command.args(["-l", "off", "--concurrency", "1", "--use-dynamic-base-id", "--disable-hot-restart"]);
    command.args(["--service-node", "n", "--service-cluster", "c", "-c"]).arg(&file).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// Status and text of `GET /`, or none when the connection gives none.
fn get(tls: &Tls, port: u16) -> Option<(u16, String)> {
    let mut stream = tls.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    let request = Request { method: "GET", path: "/", host: "localhost", headers: &[], body: b"" };
    let answer = client::exchange(&mut stream, &request).ok()?;
    Some((answer.status, answer.text()))
}

/// Whether anything comes back for a line.
fn line(tls: &Tls, port: u16) -> bool {
    let Ok(mut stream) = tls.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) else { return false };
    let mut answer = [0; 4];
    stream.write_all(b"PING\r\n").and_then(|()| stream.flush()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
}

/// The plugin of `callee`, as `meshward patch` makes it.
fn plugin(mesh: &TestMesh) -> Plugin {
    let callee = mesh.mesh.service("callee").unwrap();
    let mut config = compile::plugin_config(&mesh.mesh, callee, Role::Inbound).unwrap();
    config.protocol = Protocol::Http;
    let http = config.encode().unwrap();
    config.protocol = Protocol::Tcp;
    let configurations = Configurations { http, tcp: config.encode().unwrap(), outbound: None };
    Plugin { wasm: tools::filter().unwrap().to_str().unwrap().to_owned(), configurations, discovery: None }
}

struct Trial<'a> {
    mesh: &'a TestMesh,
    plugin: Plugin,
    http: (Application, SocketAddr),
    tcp: (Application, SocketAddr),
}

#[derive(Debug, Default)]
struct Tally {
    /// Let the caller in and the stranger not.
    enforcing: usize,
    /// Of those: answered the caller with 200 (or, on TCP, with bytes).
    answered: usize,
    /// Refuse the stranger, and pass the caller on to an application that does not answer.
    passed: usize,
    /// Refuse both by themselves (an authorization of their own), which the filter comes behind.
    own: usize,
    silent: Vec<String>,
    wrong: Vec<String>,
}

impl<'a> Trial<'a> {
    fn new(mesh: &'a TestMesh) -> Self {
        let application = |speaks| {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
            (Application::start(free, speaks).unwrap(), free)
        };
        Self { mesh, plugin: plugin(mesh), http: application(Speaks::Http), tcp: application(Speaks::Tcp) }
    }

    /// Patches, starts and asks one configuration.
    fn run(&self, name: &str, text: &str, tally: &mut Tally) {
        let certificates = self.mesh.state.certificates("callee");
        let Some(runnable) = runnable(text, &certificates, self.http.1, self.tcp.1) else { return };
        let Outcome { text, done, findings, .. } =
            patch(&runnable.text, &self.plugin, &Selection::default(), true).unwrap();
        // A manager without filters serves nothing.
        if done.is_empty() && findings.iter().any(|finding| finding.code == "no-router") {
            return;
        }
        if done.is_empty() {
            tally.wrong.push(format!("{name} is not patched: {findings:?}"));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut running = start(folder.path(), &text, name.ends_with(".json"));
        let [caller, stranger] =
            ["caller", "stranger"].map(|service| self.mesh.tls(service, "callee").unwrap());
        let nobody = self.mesh.tls_as(None, "callee").unwrap();
        let up = |port: u16| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        // Some wait for something that is not there: there are others to ask.
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut ready = false;
        while !ready && Instant::now() < deadline && running.0.try_wait().unwrap().is_none() {
            ready = runnable.ports.iter().all(|(port, _)| up(*port));
            std::thread::sleep(Duration::from_millis(20));
        }
        if !ready {
            tally.silent.push(name.to_owned());
            return;
        }
        for (port, protocol) in runnable.ports {
            match protocol {
                Protocol::Http => {
                    let (allowed, denied, bare) =
                        (get(&caller, port), get(&stranger, port), get(&nobody, port));
                    // What the hardening cannot be noted in (JSON) takes a caller without a certificate as far as the
                    // filter.
                    let closed = bare.as_ref().is_none_or(|(status, _)| [401, 403].contains(status));
                    match (allowed, denied) {
                        (Some((allowed, _)), Some((403, body))) if allowed != 403 && closed => {
                            if body != "RBAC: access denied" {
                                tally.wrong.push(format!("{name}: refused with `{body}`"));
                            }
                            tally.enforcing += 1;
                            tally.answered += usize::from(allowed == 200);
                        }
                        (Some((own @ (401 | 403 | 500), _)), Some((other, _))) if own == other => {
                            tally.own += 1
                        }
                        // An authorization server that is not there, which comes before the filter.
                        (Some((503, _)), Some((503, _))) if text.contains("status_on_error") => {
                            tally.own += 1;
                        }
                        // Its cluster speaks HTTP/2, which the application here does not.
                        (None, Some((403, body))) if body == "RBAC: access denied" => tally.passed += 1,
                        (None, None) => tally.silent.push(name.to_owned()),
                        other => {
                            tally.wrong.push(format!("{name}: {other:?}, without a certificate {bare:?}"))
                        }
                    }
                }
                Protocol::Tcp => match (line(&caller, port), line(&stranger, port), line(&nobody, port)) {
                    (true, false, false) => {
                        tally.enforcing += 1;
                        tally.answered += 1;
                    }
                    (false, false, false) => tally.silent.push(name.to_owned()),
                    other => tally.wrong.push(format!("{name}: {other:?}")),
                },
            }
        }
    }
}

#[test]
fn patched_envoys_let_in_whom_the_mesh_lets_in() {
    let Some(corpus) = corpus() else {
        tools::skipped("patched Envoys that serve", "the corpus is not there; set MESHWARD_CORPUS");
        return;
    };
    let mesh = TestMesh::start(MESH).unwrap();
    let trial = Trial::new(&mesh);
    let all = std::env::var_os("MESHWARD_PATCH_ALL").is_some();
    let mut tally = Tally::default();
    for path in units(&corpus) {
        if tally.enforcing >= ENOUGH && !all {
            break;
        }
        let text = std::fs::read_to_string(corpus.join(&path)).unwrap();
        trial.run(&path, &text, &mut tally);
        if std::env::var_os("MESHWARD_VERBOSE").is_some() {
            println!("{path}: {} enforce, {} silent", tally.enforcing, tally.silent.len());
        }
    }
    println!(
        "{} listeners enforce, {} of them answered the caller with 200; {} more pass it on without an answer; {} refuse by themselves; {} never answered: {:#?}",
        tally.enforcing,
        tally.answered,
        tally.passed,
        tally.own,
        tally.silent.len(),
        tally.silent
    );
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
    assert!(tally.enforcing >= 20 && tally.answered >= 5, "{tally:?}");
}

#[test]
fn connections_of_every_kind_are_guarded() {
    let mesh = TestMesh::start(MESH).unwrap();
    let trial = Trial::new(&mesh);
    let mut tally = Tally::default();
    let kinds = [
        ("tcp_proxy.v3.TcpProxy", "stat_prefix: t, cluster: c"),
        ("echo.v3.Echo", ""),
        (
            "redis_proxy.v3.RedisProxy",
            "stat_prefix: r, settings: {op_timeout: 1s}, prefix_routes: {catch_all_route: {cluster: c}}",
        ),
    ];
    for (kind, config) in kinds {
        let text = format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}
static_resources:
  listeners:
    address: {{socket_address: {{address: 0.0.0.0, port_value: 1}}}}
    filter_chains:
      filters:
        name: last
        typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.{kind}, {config}}}
  clusters:
    name: c
    load_assignment:
      cluster_name: c
      endpoints: {{lb_endpoints: {{endpoint: {{address: {{socket_address: {{address: a, port_value: 1}}}}}}}}}}
"
        )
        .replace("address: a,", "address: 127.0.0.1,");
        trial.run(kind, &text, &mut tally);
    }
    assert!(tally.wrong.is_empty() && tally.silent.is_empty(), "{tally:?}");
    assert_eq!(tally.enforcing, kinds.len(), "{tally:?}");
}

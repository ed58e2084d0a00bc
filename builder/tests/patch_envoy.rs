//! What real Envoy says to patched configurations: every one that it validates as it is, it validates patched.
//!
//! Needs an Envoy (`$ENVOY`, or on `PATH`) and a module with the proxy-wasm ABI (`$MESHWARD_FILTER`); says so when one
//! is missing. A sample by default; all of the corpus with `MESHWARD_PATCH_ALL=1` (minutes). Configurations that name
//! absolute paths are only tried with `MESHWARD_STUB_ROOT=1`, in a file system that may be written all over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use meshward_builder::patch::{Configurations, Plugin, Selection, patch};
use serde_json::Value;

fn corpus() -> PathBuf {
    std::env::var_os("MESHWARD_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"), PathBuf::from)
        .join("envoy")
}

fn envoy() -> Option<PathBuf> {
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|file| file.is_file())
    });
    named.or(on_path).filter(|file| file.is_file())
}

/// One configuration of the corpus that Envoy accepts, alone or with files put where it names them.
struct Unit {
    path: String,
    stubs: Vec<(String, String)>,
    node: bool,
}

fn units(index: &Value) -> Vec<Unit> {
    let rows = index.as_array().unwrap().iter();
    let embedded = rows.clone().flat_map(|row| row["embedded"].as_array().into_iter().flatten());
    rows.chain(embedded)
        .filter(|row| row["validates"] == true || row["validates_with_stubs"] == true)
        // A ConfigMap's own row has no configuration; its embedded rows have.
        .filter(|row| row["kind"] != "ConfigMap")
        .map(|row| Unit {
            path: row["path"].as_str().or(row["file"].as_str()).unwrap().to_owned(),
            stubs: row["stubs"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(path, what)| (path.clone(), what.as_str().unwrap_or("xds").to_owned()))
                .collect(),
            node: row["needs_node_flags"].as_bool().unwrap_or(false),
        })
        .collect()
}

/// A key and a certificate of one run; Envoy wants them to be real.
fn pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["stub".into()]).unwrap().self_signed(&key).unwrap();
    format!("{}{}", certificate.pem(), key.serialize_pem())
}

struct Runner {
    envoy: PathBuf,
    folder: tempfile::TempDir,
}

impl Runner {
    fn validate(&self, name: &str, text: &str, node: bool) -> Result<(), String> {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(&self.envoy);
        command.args(["--mode", "validate", "-l", "error", "--use-dynamic-base-id", "-c"]).arg(&file);
        command.current_dir(self.folder.path());
        if node {
            command.args(["--service-node", "n", "--service-cluster", "c"]);
        }
        let output = command.output().unwrap();
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join(" / "))
    }
}

#[test]
fn what_envoy_accepts_it_accepts_patched() {
    let index = corpus().join("index.json");
    let Ok(index) = std::fs::read_to_string(&index) else {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: patched configurations in Envoy: {} is not there",
            index.display()
        ));
        return;
    };
    let Some(envoy) = envoy() else {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: patched configurations in Envoy: no Envoy; set ENVOY, or put one on PATH"
        ));
        return;
    };
    let Some(module) =
        std::env::var_os("MESHWARD_FILTER").and_then(|path| Path::new(&path).canonicalize().ok())
    else {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: patched configurations in Envoy: no module; set MESHWARD_FILTER to a filter's .wasm"
        ));
        return;
    };
    let (all, absolute) = (std::env::var_os("MESHWARD_PATCH_ALL"), std::env::var_os("MESHWARD_STUB_ROOT"));
    let plugin = Plugin {
        wasm: module.to_str().unwrap().to_owned(),
        configurations: Configurations::default(),
        discovery: None,
    };
    let units = units(&serde_json::from_str(&index).unwrap());
    let step = if all.is_some() { 1 } else { 14 };
    let pem = pem();
    let (mut good, mut hardened_good, mut none, mut refused, mut not_here) =
        (0, 0, 0, Vec::new(), Vec::new());
    let mut bad = Vec::new();
    for unit in units.iter().step_by(step) {
        let text = std::fs::read_to_string(corpus().join(&unit.path)).unwrap();
        let runner = Runner { envoy: envoy.clone(), folder: tempfile::tempdir().unwrap() };
        let outside = |path: &str| path.starts_with('/') || path.contains("..");
        if absolute.is_none() && unit.stubs.iter().any(|(path, _)| outside(path)) {
            not_here.push(unit.path.clone());
            continue;
        }
        for (path, what) in &unit.stubs {
            // A stub may be a folder (`certs/`), or be there already as the folder of another.
            let content = match what.as_str() {
                _ if path.ends_with('/') => continue,
                "wasm" => std::fs::read(&module).unwrap(),
                "pem" => pem.clone().into_bytes(),
                "lua" => b"function envoy_on_request(handle) end\n".to_vec(),
                _ => b"resources: []\n".to_vec(),
            };
            let file = runner.folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            if !file.is_dir() {
                std::fs::write(&file, content).unwrap();
            }
        }
        let suffix = if unit.path.ends_with(".json") { "envoy.json" } else { "envoy.yaml" };
        let outcome =
            patch(&text, &plugin, &Selection { outbound: true, ..Selection::default() }, false).unwrap();
        if outcome.failed() {
            let findings: Vec<_> = outcome.findings.iter().map(|finding| finding.message.as_str()).collect();
            refused.push(format!("{}: {}", unit.path, findings.join("; ")));
            continue;
        }
        if outcome.done.is_empty() {
            none += 1;
            continue;
        }
        if let Err(error) = runner.validate(suffix, &text, unit.node) {
            not_here.push(format!("{}: {error}", unit.path));
            continue;
        }
        match runner.validate(suffix, &outcome.text, unit.node) {
            Ok(()) => good += 1,
            Err(error) => {
                bad.push(format!("{}: {error}", unit.path));
                continue;
            }
        }
        let selection = Selection { outbound: true, ..Selection::default() };
        let hardened = patch(&text, &plugin, &selection, true).unwrap();
        if hardened.failed() || hardened.text == outcome.text {
            continue;
        }
        match runner.validate(suffix, &hardened.text, unit.node) {
            Ok(()) => hardened_good += 1,
            Err(error) => bad.push(format!("{} hardened: {error}", unit.path)),
        }
    }
    println!(
        "{good} validate patched, {hardened_good} hardened too; {} do not; {} refused; {none} without a filter list; {} not valid here",
        bad.len(),
        refused.len(),
        not_here.len()
    );
    for (what, lines) in [("REFUSED", &refused), ("NOT HERE", &not_here), ("BAD", &bad)] {
        for line in lines {
            println!("{what} {line}");
        }
    }
    assert!(bad.is_empty(), "{} configurations are valid, and not when patched: {bad:#?}", bad.len());
    assert!(good > 5, "only {good} were tried");
    assert!(refused.iter().all(|line| line.contains("router")), "refused without need: {refused:#?}");
}

/// The ports of the inbound HTTP listeners in plaintext, and nothing that needs TLS or another transport.
fn http_ports(text: &str) -> Vec<u32> {
    use meshward_builder::patch::{envoy, tree::Tree};
    let tree = Tree::parse(text).unwrap();
    let listeners = envoy::listeners(&tree, tree.documents()[0]);
    let plain = listeners.iter().filter(|listener| {
        !listener.outbound
            && listener.chains.len() == 1
            && listener.chains.iter().all(|chain| {
                let matched = envoy::field(&tree, chain.node, "filter_chain_match").is_some();
                let secured = envoy::field(&tree, chain.node, "transport_socket").is_some();
                !matched && !secured && chain.filters.len() == 1 && chain.filters[0].is_manager()
            })
            && envoy::field(&tree, listener.node, "listener_filters").is_none()
    });
    plain.filter_map(|listener| listener.port).collect()
}

/// The status of `GET /` with that header; none if nobody answers in HTTP/1.1.
fn get(port: u32, header: &str) -> Option<u16> {
    use std::io::{Read as _, Write as _};
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).ok()?));
    let mut stream =
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n").ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// In a network namespace of its own (`unshare -n`, loopback up): the ports are the configurations' own. The module must
/// let through what has `x-allow: 1` and nothing else, by setting the property `meshward` to `allow`.
#[test]
fn patched_envoys_serve_and_enforce() {
    let index = std::fs::read_to_string(corpus().join("index.json"));
    let module = std::env::var_os("MESHWARD_FILTER").map(PathBuf::from);
    let wanted = std::env::var_os("MESHWARD_PATCH_SERVE");
    let (Ok(index), Some(envoy), Some(module), Some(_)) = (index, envoy(), module, wanted) else {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: patched configurations that serve: needs the corpus, ENVOY, MESHWARD_FILTER and MESHWARD_PATCH_SERVE=1"
        ));
        return;
    };
    let plugin = Plugin {
        wasm: module.to_str().unwrap().to_owned(),
        configurations: Configurations::default(),
        discovery: None,
    };
    let (mut enforced, mut own, mut silent, mut wrong) = (0, 0, Vec::new(), Vec::new());
    for unit in units(&serde_json::from_str(&index).unwrap()).iter().filter(|unit| unit.stubs.is_empty()) {
        let text = std::fs::read_to_string(corpus().join(&unit.path)).unwrap();
        let Ok(outcome) = patch(&text, &plugin, &Selection::default(), false) else { continue };
        // Enough is enough: each is an Envoy that starts.
        if enforced >= 40 {
            break;
        }
        let ports = http_ports(&text);
        if outcome.failed() || outcome.done.is_empty() || ports.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(if unit.path.ends_with(".json") { "envoy.json" } else { "envoy.yaml" });
        std::fs::write(&file, &outcome.text).unwrap();
        let mut command = Command::new(&envoy);
        command.args(["-l", "off", "--concurrency", "1", "--use-dynamic-base-id", "--service-node", "n"]);
        command.args(["--service-cluster", "c", "-c"]).arg(&file).current_dir(folder.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(6);
        let mut answered = None;
        while answered.is_none()
            && std::time::Instant::now() < deadline
            && child.try_wait().unwrap().is_none()
        {
            answered = get(ports[0], "");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        match answered {
            None => silent.push(unit.path.clone()),
            Some(_) => {
                for port in ports {
                    match (get(port, ""), get(port, "x-allow: 1\r\n")) {
                        (Some(403), Some(allowed)) if allowed != 403 => enforced += 1,
                        // Authentication or authorization of the configuration's own refuses both, before the guard.
                        (Some(401 | 403 | 500), Some(401 | 403 | 500)) => own += 1,
                        other => wrong.push(format!("{} port {port}: {other:?}", unit.path)),
                    }
                }
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    println!(
        "{enforced} listeners enforce; {own} refuse by themselves; {} never answered; {} answer wrongly",
        silent.len(),
        wrong.len()
    );
    println!("silent: {silent:#?}\nwrong: {wrong:#?}");
    assert!(enforced >= 20, "only {enforced} listeners were seen to enforce");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

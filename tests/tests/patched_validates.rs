//! What real Envoy says to patched configurations, with the real filter: every one that it validates as it is, it validates
//! patched, and hardened. That they serve and enforce is in `patched.rs`.
//!
//! The corpus is read from `$MESHWARD_CORPUS`, or `../shared/corpus` beside the workspace. A sample by default; all of it
//! with `MESHWARD_PATCH_ALL=1` (minutes). Configurations that name absolute paths are only tried with
//! `MESHWARD_STUB_ROOT=1`, in a file system that may be written all over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::path::PathBuf;
use std::process::Command;

use meshward_builder::patch::{Configurations, Plugin, Selection, patch};
use meshward_engine::config::{PluginConfig, Protocol, Role, TrustDomain};
use meshward_tests::tools;
use serde_json::Value;

fn corpus() -> PathBuf {
    let beside = tools::workspace().join("../shared/corpus");
    std::env::var_os("MESHWARD_CORPUS").map_or(beside, PathBuf::from).join("envoy")
}

/// Configurations that the filter takes, and that let nobody in.
fn configurations() -> Configurations {
    let trust_domain = TrustDomain::parse("test.example").unwrap();
    let encoded = |protocol| {
        let config = PluginConfig::deny_all("default/any", Role::Inbound, protocol, trust_domain.clone());
        config.encode().unwrap()
    };
    Configurations { http: encoded(Protocol::Http), tcp: encoded(Protocol::Tcp), outbound: None }
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
    let Ok(index) = std::fs::read_to_string(corpus().join("index.json")) else {
        tools::skipped("patched configurations in Envoy", "the corpus is not there (set MESHWARD_CORPUS)");
        return;
    };
    let (envoy, module) = (tools::envoy().unwrap(), tools::filter().unwrap());
    let (all, absolute) = (std::env::var_os("MESHWARD_PATCH_ALL"), std::env::var_os("MESHWARD_STUB_ROOT"));
    let plugin = Plugin {
        wasm: module.to_str().unwrap().to_owned(),
        configurations: configurations(),
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

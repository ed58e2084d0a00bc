//! Ten thousand policies into a running Envoy: how long until they decide, and the memory of each worker's VM.
//!
//! The configuration comes as it does in a pod, from a file that Envoy watches. The time is from the moment the file is there
//! to the first answer that only the new policies give, so it holds what Envoy does with the file, the main thread's VM, and
//! the worker's. Memory of a VM is what a worker more takes, since workers have little else of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meshward_builder::envoy::filter::{self, Layer};
use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, IdentityMode, Match, Pattern, PluginConfig, Rule,
};
use meshward_tests::wait;
use serde_json::json;

use super::cases::authorization::{self, Kind};
use super::cases::{Modules, PATH};
use super::rig::{self, HOST, Process};
use super::{load, quantile};

const POLICIES: usize = 10_000;
/// Workers, beside the first.
const MORE: u32 = 3;
const REPETITIONS: usize = 3;

/// Measures and prints.
pub fn measure(modules: &Modules, folder: &Path) -> anyhow::Result<()> {
    let load = |policies: usize, workers: u32| -> anyhow::Result<(f64, f64)> {
        let loads = (0..REPETITIONS).map(|_| load_once(modules, folder, policies, workers));
        let (times, memory): (Vec<_>, Vec<_>) =
            loads.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
        let seconds = times.iter().map(Duration::as_secs_f64).collect();
        Ok((quantile(seconds, 0.5), quantile(memory.into_iter().map(|bytes| bytes as f64).collect(), 0.5)))
    };
    println!("| policies | configuration | in force after | Envoy, 1 worker | each further worker |");
    println!("|---|---|---|---|---|");
    for policies in [0, 1, POLICIES] {
        let (seconds, one) = load(policies, 1)?;
        let (_, all) = load(policies, 1 + MORE)?;
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        println!(
            "| {policies} mixed | {} bytes | {:.0} ms | {:.1} MiB | {:.1} MiB |",
            config(policies)?.encode()?.len(),
            seconds * 1000.0,
            mebibytes(one),
            mebibytes(all - one) / f64::from(MORE)
        );
    }
    Ok(())
}

/// So many policies, and one for everybody, by which one sees that they are in force.
fn config(policies: usize) -> anyhow::Result<PluginConfig> {
    let mut config = authorization::config(Kind::Mixed, policies)?;
    config.identity = IdentityMode::Optional;
    let path =
        Match { attribute: Attribute::Path, negated: false, patterns: vec![Pattern::Exact(PATH.into())] };
    config.policies.push(AuthorizationPolicy {
        name: "shop/everybody".into(),
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule { to: vec![Clause::new(vec![path])], ..Rule::any() }],
        deny_response: None,
    });
    Ok(config)
}

/// How long it took, and the memory of Envoy afterwards, in bytes.
fn load_once(
    modules: &Modules,
    folder: &Path,
    policies: usize,
    workers: u32,
) -> anyhow::Result<(Duration, u64)> {
    const NAME: &str = "filter.yaml";
    let watched = tempfile::tempdir_in(folder)?;
    let module = modules.ours.to_string_lossy();
    let mut none = config(0)?;
    none.policies.clear();
    let file = |config: &PluginConfig| -> anyhow::Result<()> {
        let file = filter::discovery_file(Layer::Http, &module, &config.encode()?);
        let beside = folder.join(NAME);
        std::fs::write(&beside, serde_json::to_vec(&file)?)?;
        Ok(std::fs::rename(beside, watched.path().join(NAME))?)
    };
    file(&none)?;
    let directory = watched.path().to_string_lossy();
    let discovered = filter::discovered(Layer::Http, &directory, NAME, &module, &none.encode()?);
    let guard = serde_json::to_value(filter::guard(Layer::Http))?;
    let answer = json!({ "direct_response": { "status": 200 } });
    let port = rig::free_port()?;
    let listener = rig::listener(port, vec![serde_json::to_value(discovered)?, guard], answer, None);
    let envoy: Process = rig::process(folder, "loaded", ("0,1", workers), vec![listener], vec![])?;
    let entry = SocketAddr::from((HOST, port));
    wait::until("an Envoy that listens", || std::net::TcpStream::connect(entry).is_ok())
        .with_context(|| rig::last_lines(folder, "loaded"))?;
    file(&config(policies)?)?;
    // The file is there from now on; making it was no work of Envoy's.
    let written = Instant::now();
    wait::until("the policies", || load::run(entry, 1, 1).is_ok())
        .with_context(|| rig::last_lines(folder, "loaded"))?;
    Ok((written.elapsed(), envoy.memory()?))
}

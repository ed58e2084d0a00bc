//! Envoy's own word on every configuration, several at a time.

use std::path::Path;
use std::process::{Command, Stdio};

use super::flatten::flatten;
use super::pod::Pods;
use super::{Check, Outcome, unwritable};
use crate::diagnostic::{Diagnostic, Failure};
use crate::envoy::BOOTSTRAP_FILE;
use crate::kube::Filter;
use crate::mesh::{Resolved, Service};

/// Every service's configuration, as it is and flattened.
pub fn check(
    mesh: &Resolved,
    filter: &Filter,
    module: &Path,
    envoy: &Path,
    folder: &Path,
) -> Result<Vec<Check>, Failure> {
    let folder = folder.join("pods");
    std::fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
    let pods = Pods::new(mesh, filter, module, &folder)?;
    super::in_parallel(&mesh.services, |service| one(mesh, service, &pods, envoy)).into_iter().collect()
}

fn one(mesh: &Resolved, service: &Service, pods: &Pods, envoy: &Path) -> Result<Check, Failure> {
    let pod = pods.lay_out(mesh, service)?;
    let config = pod.root.join(crate::envoy::pod::CONFIG.trim_start_matches('/'));
    let mut outcome = run(envoy, &config.join(BOOTSTRAP_FILE), &[]);
    if outcome.is_ok()
        && let Some((_, bootstrap)) = pod.files.iter().find(|(name, _)| *name == BOOTSTRAP_FILE)
    {
        let path = pod.root.join("flattened.json");
        let flat = serde_json::to_vec(&flatten(bootstrap, &pod.files)).unwrap_or_default();
        std::fs::write(&path, flat).map_err(|error| unwritable(&path, &error))?;
        outcome = run(envoy, &path, &[]);
    }
    // A mesh of a thousand services leaves no thousand pods behind while it is checked.
    let _ = std::fs::remove_dir_all(&pod.root);
    let outcome = match outcome {
        Ok(()) => Outcome::Good,
        Err(said) => Outcome::Bad { diagnostics: vec![refusal(mesh, service, &said)] },
    };
    Ok(Check { kind: "envoy", subject: service.name.clone(), outcome })
}

/// What Envoy says against a configuration.
pub(super) fn run(envoy: &Path, config: &Path, more: &[&str]) -> Result<(), String> {
    let output = Command::new(envoy)
        .args([
            "--mode",
            "validate",
            "--log-level",
            "error",
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-c",
        ])
        .arg(config)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&output.status) {
        return Err(format!("it was ended by signal {signal}"));
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.trim().is_empty() {
        said = format!("it ended with {}", output.status);
    }
    Err(said)
}

/// Envoy's words, placed at what they are about: a policy that they name, else the service.
fn refusal(mesh: &Resolved, service: &Service, said: &str) -> Diagnostic {
    let lines: Vec<&str> = said.lines().map(without_prefix).filter(|line| !line.is_empty()).collect();
    let reason = lines
        .iter()
        .find(|line| line.contains("configuration refused"))
        .or_else(|| lines.iter().find(|line| line.contains("error initializing configuration")))
        .or(lines.last())
        .map_or("no reason given", |line| line.rsplit("': ").next().unwrap_or(line));
    // The filter's own words come in a line of Envoy's log.
    let reason = reason.split_once("wasm log meshward meshward: ").map_or(reason, |(_, said)| said);
    let mistake = Diagnostic::error(
        "envoy-refuses",
        format!("Envoy refuses the configuration of `{}`: {reason}", service.name),
    );
    let policy = mesh.policy_documents.iter().find(|document| {
        let name = document.root.get("metadata").and_then(|metadata| metadata.get("name")?.as_str());
        name.is_some_and(|name| said.contains(&format!("/{name}`")))
    });
    match policy {
        Some(document) => mistake.at(&document.source, document.kind.span.clone()),
        None => mistake.at(&mesh.document.source, service.name_span.span.clone()),
    }
    .help("if mesh.yaml looks right to you, this is a mistake of Meshward's: please report it with `meshward render --diff`")
}

/// A log line without its time, thread and source.
fn without_prefix(line: &str) -> &str {
    let mut rest = line;
    while let Some(end) = rest.starts_with('[').then(|| rest.find("] ")).flatten() {
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    rest.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_loses_its_prefix() {
        let line = "[2026-11-24 02:28:23.500][15363][critical][main] [source/server/server.cc:424] error initializing \
                    configuration '/x': [not a prefix]";
        assert_eq!(without_prefix(line), "error initializing configuration '/x': [not a prefix]");
    }
}

//! The corpus of tests/decisions, through three runners: the engine, `policy eval`, and the sidecars of a real mesh.
//!
//! `expect` is the status and then the rule that decides, `namespace/policy/rule`, or the reason when no rule does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use meshward_builder::compile::plugin_config;
use meshward_builder::diagnostic::Source;
use meshward_builder::local::client::{self, Request};
use meshward_builder::local::plan::access_log;
use meshward_builder::mesh::{self, Resolved, ports};
use meshward_builder::policy::eval::{self, Evaluator, Options};
use meshward_builder::policy::listener;
use meshward_engine::config::{PluginConfig, Role};
use meshward_engine::decision::{Decision, Reason, Shadow};
use meshward_engine::policy::Policy;
use meshward_engine::request::{self, Field, Peer};
use meshward_engine::spiffe::SpiffeIdRef;
use meshward_tests::{TestMesh, tools, until};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policies: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// A service of the mesh, or `nobody`.
    from: String,
    #[serde(default = "api")]
    to: String,
    /// As `policy eval` reads it, without `id` and `source`.
    request: Asked,
    expect: String,
}

#[derive(Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
}

fn api() -> String {
    "api".to_owned()
}

/// Every file: its name, the text of its mesh with its policies, its cases.
fn corpus() -> Vec<(String, String, Vec<Case>)> {
    let folder = tools::workspace().join("tests/decisions");
    let base = std::fs::read_to_string(folder.join("mesh.yaml")).unwrap();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !file.ends_with("mesh.yaml"));
    files.sort();
    assert!(!files.is_empty());
    let read = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let file: File = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, format!("{base}---\n{}", file.policies), file.cases)
    };
    files.into_iter().map(read).collect()
}

fn load(yaml: &str) -> Resolved {
    mesh::load_sources(&[Source::new("mesh.yaml", yaml)]).map_err(|error| tools::failure(&error)).unwrap()
}

fn principal(mesh: &Resolved, case: &Case) -> Option<String> {
    (case.from != "nobody").then(|| mesh.spiffe_id(mesh.service(&case.from).unwrap()))
}

/// `200 books/readers/0`, `403 no_identity`.
fn answer(status: u16, policy: &Policy, decision: &Decision) -> String {
    match (decision.rule, decision.reason) {
        (Some(rule), _) => format!("{status} {}/{}", policy.name(rule), rule.rule),
        (None, Reason::Path(fault)) => format!("{status} path:{}", fault.as_str()),
        (None, reason) => format!("{status} {}", reason.as_str()),
    }
}

#[test]
fn the_engine() {
    let mut wrong = Vec::new();
    for (file, yaml, cases) in corpus() {
        let mesh = load(&yaml);
        for case in &cases {
            let service = mesh.service(&case.to).unwrap();
            let written =
                plugin_config(&mesh, service, Role::Inbound).map_err(|error| tools::failure(&error)).unwrap();
            // What the filter reads is what was written.
            let config = PluginConfig::decode(&written.encode().unwrap()).unwrap();
            let policy = Policy::compile(&config).unwrap();
            let principal = principal(&mesh, case);
            let headers: Vec<(String, &String)> = case
                .request
                .headers
                .iter()
                .flat_map(|(name, values)| values.iter().map(|value| (name.to_ascii_lowercase(), value)))
                .collect();
            let fields: Vec<Field<'_>> =
                headers.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
            let decision =
                match case.request.path.as_ref().map(|path| listener::normalize(path.as_bytes())).transpose()
                {
                    Err(fault) => Decision {
                        reason: Reason::Path(fault),
                        rule: None,
                        audit: None,
                        shadow: Shadow::default(),
                    },
                    Ok(path) => {
                        let request = request::Request {
                            peer: principal.as_ref().map_or(Peer::Absent, |id| {
                                Peer::Verified(SpiffeIdRef::parse(id.as_bytes()).unwrap())
                            }),
                            destination_port: Some(ports::INBOUND),
                            method: Some(case.request.method.as_deref().unwrap_or("GET").as_bytes()),
                            path: path.as_deref(),
                            authority: Some(case.request.host.as_deref().unwrap_or("api").as_bytes()),
                            headers: &fields,
                            ..request::Request::EMPTY
                        };
                        policy.decide(&request)
                    }
                };
            let status =
                policy.deny_response(&decision).map_or(decision.status(), |response| response.status);
            let got = answer(status, &policy, &decision);
            if got != case.expect {
                wrong.push(format!("{file}: {}: {got} instead of {}", case.name, case.expect));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn policy_eval() {
    let mut wrong = Vec::new();
    for (file, yaml, cases) in corpus() {
        let mesh = load(&yaml);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, &yaml).unwrap();
        for case in &cases {
            let service = mesh.service(&case.to).unwrap();
            let options = Options {
                mesh: vec![path.clone()],
                workload: Some((service.namespace.clone(), service.name.clone())),
                ..Options::default()
            };
            let evaluator =
                Evaluator::new(&options, &mut Vec::new()).map_err(|error| tools::failure(&error)).unwrap();
            let mut line = serde_json::to_value(&case.request).unwrap();
            line["id"] = json!(case.name);
            line["source"] =
                principal(&mesh, case).map_or(json!({}), |principal| json!({"principal": principal}));
            if case.request.protocol.is_none() {
                line["method"] = json!(case.request.method.as_deref().unwrap_or("GET"));
            }
            let mut output = Vec::new();
            eval::run(&evaluator, line.to_string().as_bytes(), &mut output).unwrap();
            let answer: Value = serde_json::from_slice(&output).unwrap();
            let rule = match answer["policy"].as_str() {
                Some(policy) => format!("{policy}/{}", answer["rule"]),
                // Behind the stable word is what came nearest.
                None => {
                    let reason = answer["reason"].as_str().unwrap_or("no answer");
                    reason.split(": ").next().unwrap_or(reason).to_owned()
                }
            };
            let got = format!("{} {rule}", answer["status"]);
            if got != case.expect {
                wrong.push(format!("{file}: {}: {got} instead of {}", case.name, case.expect));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The sidecars of a mesh. Which rule denied is in the access log; which one allowed the sidecar does not tell.
#[test]
fn envoy() {
    let mut wrong = Vec::new();
    for (file, yaml, cases) in corpus() {
        let mesh = TestMesh::start(&yaml).unwrap();
        for (number, case) in cases.iter().enumerate() {
            let id = format!("{file}-{number}");
            let (status, details) = match case.request.protocol.as_deref() {
                Some("tcp") => (tcp(&mesh, case), None),
                _ => http(&mesh, case, &id),
            };
            let (expected, rule) = case.expect.split_once(' ').unwrap();
            // The sidecar says that it was the path, not what was wrong with it.
            let denial =
                format!("meshward_denied[{}]", if rule.starts_with("path:") { "path" } else { rule });
            // What the listener refuses itself, and a handshake that fails, never reach the filter.
            let same_rule = match &details {
                Some(details) if details.starts_with("meshward_denied[") => *details == denial,
                _ => true,
            };
            if status != expected || !same_rule {
                wrong.push(format!("{file}: {}: {status} {details:?} instead of {}", case.name, case.expect));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The status, and the details of the access log's line.
fn http(mesh: &TestMesh, case: &Case, id: &str) -> (String, Option<String>) {
    let tls =
        if case.from == "nobody" { mesh.tls_as(None, &case.to) } else { mesh.tls(&case.from, &case.to) };
    let Ok(mut stream) = tls.unwrap().connect(mesh.inbound(&case.to)) else { return ("403".into(), None) };
    let mut headers = vec![("x-request-id".to_owned(), id.to_owned())];
    for (name, values) in &case.request.headers {
        headers.extend(values.iter().map(|value| (name.clone(), value.clone())));
    }
    let request = Request {
        method: case.request.method.as_deref().unwrap_or("GET"),
        path: case.request.path.as_deref().unwrap_or("/"),
        host: case.request.host.as_deref().unwrap_or("api"),
        headers: &headers,
        body: b"",
    };
    // Without a certificate TLS 1.3 fails only when something is read.
    let Ok(response) = client::exchange(&mut stream, &request) else { return ("403".into(), None) };
    let log = mesh.state.log(&access_log(&case.to));
    let mut line = None;
    until("the access log", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        line = lines.into_iter().find(|line| line["request_id"] == id);
        line.is_some()
    })
    .unwrap();
    let details = line.and_then(|line| line["details"].as_str().map(str::to_owned));
    (response.status.to_string(), details)
}

/// 200 when the application's echo came back.
fn tcp(mesh: &TestMesh, case: &Case) -> String {
    let tls =
        if case.from == "nobody" { mesh.tls_as(None, &case.to) } else { mesh.tls(&case.from, &case.to) };
    let echo = || -> std::io::Result<bool> {
        let mut stream = tls.unwrap().connect(mesh.inbound(&case.to))?;
        stream.write_all(b"hello")?;
        stream.flush()?;
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer)?;
        Ok(&buffer == b"hello")
    };
    if echo().unwrap_or(false) { "200".into() } else { "403".into() }
}

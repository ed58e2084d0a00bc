//! Real SPIRE in place of `meshward certs`: three real Envoys with the filter get their certificates from the agent's socket.
//!
//! `MESHWARD_SPIRE=1` switches it on: the first time, Go builds SPIRE, which takes minutes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

#[path = "spire/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;

use meshward_tests::mesh::Agent;
use meshward_tests::{TestMesh, tools, until};
use server::Spire;

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  certificates: {provider: spire}
  services:
    - {name: callee, port: 8000}
    - {name: caller, port: 8001, calls: [callee]}
    - {name: stranger, port: 8002, calls: [callee]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: default}
spec:
  selector: {matchLabels: {app: callee}}
  rules:
    - from: [{source: {principals: [test.example/ns/default/sa/caller]}}]
      to: [{operation: {paths: [/a]}}]
";

/// The serial numbers of the certificates that a sidecar has.
fn serials(running: &TestMesh, service: &str) -> Vec<String> {
    let certs: serde_json::Value = serde_json::from_str(&running.admin(service, "/certs").unwrap()).unwrap();
    let chains = certs["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|entry| entry["cert_chain"].as_array().cloned().unwrap_or_default());
    chains.map(|certificate| certificate["serial_number"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn sidecars_live_on_what_spires_agent_gives_them() {
    if std::env::var_os("MESHWARD_SPIRE").is_none_or(|value| value != "1") {
        tools::skipped("SPIRE", "MESHWARD_SPIRE=1 is not set; the first run builds it, for minutes");
        return;
    }
    let programs = server::programs().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let spire = Spire::start(&programs, folder.path(), "test.example").unwrap();
    // The agent tells workloads by the path of their program, so each sidecar has an Envoy of its own.
    let mut envoys: BTreeMap<String, PathBuf> = BTreeMap::new();
    for name in ["callee", "caller", "stranger"] {
        let envoy = folder.path().join(format!("envoy-{name}"));
        std::fs::copy(tools::envoy().unwrap(), &envoy).unwrap();
        // Renewed at half of its lifetime.
        spire.register(&format!("spiffe://test.example/ns/default/sa/{name}"), &envoy, 20).unwrap();
        envoys.insert(name.to_owned(), envoy);
    }
    let agent = Agent { socket: spire.socket(), envoys };
    let mut running = TestMesh::start_with_agent(MESH, &tools::filter().unwrap(), 2, agent).unwrap();
    let status = |running: &TestMesh, from: &str, path: &str| {
        running.get_by_sidecar(from, "callee", path).map(|answer| answer.status).unwrap_or_default()
    };
    until("certificates from the agent", || status(&running, "caller", "/a") == 200).unwrap();
    assert_eq!(status(&running, "caller", "/b"), 403, "another path");
    assert_eq!(status(&running, "stranger", "/a"), 403, "another identity");
    assert_eq!(
        running.seen("callee"),
        running.counter("callee", &["meshward_decisions", "verdict.allow"]) as usize
    );

    // A leaf of each is renewed, twice; and the server's CA is rotated. Nobody notices.
    let (mut asked, mut failed) = (0, Vec::new());
    let mut serve_until = |running: &TestMesh, what: &str, condition: &dyn Fn() -> bool| {
        until(what, || {
            asked += 1;
            let got = status(running, "caller", "/a");
            if got != 200 {
                failed.push(format!("request {asked}, while waiting for {what}: {got}"));
            }
            condition()
        })
        .unwrap();
    };
    for round in ["the first renewal", "the second renewal"] {
        let before = (serials(&running, "callee"), serials(&running, "caller"));
        serve_until(&running, round, &|| {
            serials(&running, "callee")[0] != before.0[0] && serials(&running, "caller")[0] != before.1[0]
        });
    }
    spire.rotate_ca().unwrap();
    let before = (serials(&running, "callee"), serials(&running, "caller"));
    serve_until(&running, "leaves of the next CA", &|| {
        serials(&running, "callee")[0] != before.0[0] && serials(&running, "caller")[0] != before.1[0]
    });
    assert_eq!(status(&running, "stranger", "/a"), 403);
    println!("{asked} requests over two renewals and a rotation of the CA, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(running.ended(), 0);
}

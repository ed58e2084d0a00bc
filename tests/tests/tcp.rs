//! TCP through two sidecars: what may pass passes whole, what may not sends not a byte on.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::io::{Read, Write};

use meshward_builder::envoy::INBOUND_FILE;
use meshward_builder::mesh::Service;
use meshward_tests::{TestMesh, broken, tools};

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: store, protocol: tcp, port: 8000}
    - {name: caller, port: 8001, calls: [{service: store, port: 7000}]}
    - {name: stranger, port: 8002, calls: [{service: store, port: 7000}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: default}
spec:
  selector: {matchLabels: {app: store}}
  rules:
    - from: [{source: {principals: [test.example/ns/default/sa/caller]}}]
";

/// Sends `data` and reads until as much has come back, or the connection ends.
fn echo(stream: &mut (impl Read + Write), data: &[u8]) -> Vec<u8> {
    let mut back = Vec::new();
    let mut buffer = [0; 16 * 1024];
    for piece in data.chunks(8 * 1024) {
        if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
            return back;
        }
        let wanted = back.len() + piece.len();
        while back.len() < wanted {
            match stream.read(&mut buffer) {
                Ok(length) if length > 0 => back.extend_from_slice(&buffer[..length]),
                _ => return back,
            }
        }
    }
    back
}

#[test]
fn bytes_pass_whole_both_ways_and_a_stranger_sends_none() {
    let mesh = TestMesh::start(MESH).unwrap();
    let data: Vec<u8> =
        (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(echo(&mut mesh.plain("caller", 7000).unwrap(), &data) == data, "the bytes were not the same");
    let direct = &mut mesh.tls("caller", "store").unwrap().connect(mesh.inbound("store")).unwrap();
    assert_eq!(echo(direct, b"hello"), b"hello");
    let before = mesh.seen("store");
    assert_eq!(echo(&mut mesh.plain("stranger", 7000).unwrap(), b"hello"), b"");
    let direct = &mut mesh.tls("stranger", "store").unwrap().connect(mesh.inbound("store")).unwrap();
    assert_eq!(echo(direct, b"hello"), b"");
    assert_eq!(mesh.seen("store"), before, "a byte of a stranger reached the application");
    assert_eq!(mesh.counter("store", &["meshward_decisions", "verdict.deny"]), 2);
}

#[test]
fn a_configuration_that_the_filter_refuses_leaves_the_port_closed() {
    let garbage = |service: &Service, name: &str, text: String| {
        if service.name == "store" && name == INBOUND_FILE {
            broken::configuration(&text).unwrap()
        } else {
            text
        }
    };
    let mesh = TestMesh::start_with(MESH, &tools::filter().unwrap(), 1, &garbage).unwrap();
    assert_eq!(echo(&mut mesh.plain("caller", 7000).unwrap(), b"hello"), b"");
    assert_eq!(mesh.seen("store"), 0);
}

#[test]
fn a_filter_that_fails_in_the_workers_only_lets_no_byte_through() {
    let folder = tempfile::tempdir().unwrap();
    let bare = |_: &Service, name: &str, text: String| {
        if name == "envoy.yaml" { broken::without_guard(&text).unwrap() } else { text }
    };
    let mut open = false;
    for good in 1..8 {
        let module = broken::fails_in_workers(folder.path(), good).unwrap();
        // Too few: Envoy itself refuses to start.
        let Ok(mesh) = TestMesh::start_with(MESH, &module, 1, &bare) else { continue };
        if echo(&mut mesh.plain("stranger", 7000).unwrap(), b"hello") != b"hello" {
            continue;
        }
        open = true;
        drop(mesh);
        let guarded = TestMesh::start_with(MESH, &module, 1, &|_, _, text| text).unwrap();
        assert_eq!(echo(&mut guarded.plain("stranger", 7000).unwrap(), b"hello"), b"", "after {good}");
        assert_eq!(guarded.seen("store"), 0);
        break;
    }
    assert!(
        open,
        "the hole that the guard closes was not seen without it: this test proves nothing any more"
    );
}

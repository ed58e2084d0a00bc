//! What happens when something is wrong with the filter, its configuration or a request: nobody gets through.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::io::{Read as _, Write as _};

use meshward_builder::envoy::INBOUND_FILE;
use meshward_tests::{TestMesh, broken, tools, until};

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
";

#[test]
fn without_a_policy_only_calls_are_let_through() {
    let mesh = TestMesh::start(MESH).unwrap();
    assert_eq!(mesh.get("caller", "callee", "/a").unwrap().status, 200);
    assert_eq!(mesh.get_by_sidecar("caller", "callee", "/a").unwrap().status, 200);
    assert_eq!(mesh.seen("callee"), 2);
    let refused = mesh.get("stranger", "callee", "/a").unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (403, "RBAC: access denied"));
    assert_eq!(mesh.seen("callee"), 2, "a refused request reached the application");
}

#[test]
fn a_filter_that_fails_in_the_workers_only_lets_nobody_through() {
    let folder = tempfile::tempdir().unwrap();
    // The main thread configures once for the default configuration and once for the one from the file; Envoy tries
    // each in a VM that it throws away before that.
    let mut open = false;
    for good in 1..8 {
        let module = broken::fails_in_workers(folder.path(), good).unwrap();
        let bare = |_: &meshward_builder::mesh::Service, name: &str, text: String| {
            if name == "envoy.yaml" { broken::without_guard(&text).unwrap() } else { text }
        };
        // Too few: Envoy itself refuses to start, or keeps answering 500.
        let Ok(mesh) = TestMesh::start_with(MESH, &module, 1, &bare) else { continue };
        if mesh.get("stranger", "callee", "/a").is_ok_and(|answer| answer.status == 200) {
            open = true;
            drop(mesh);
            let guarded = TestMesh::start_with(MESH, &module, 1, &|_, _, text| text).unwrap();
            for caller in ["stranger", "caller"] {
                let answer = guarded.get(caller, "callee", "/a").unwrap();
                assert_eq!(
                    answer.status, 403,
                    "{caller}, with a filter that fails after {good} configurations"
                );
            }
            assert_eq!(guarded.seen("callee"), 0);
            break;
        }
    }
    assert!(
        open,
        "the hole that the guard closes was not seen without it: this test proves nothing any more"
    );
}

#[test]
fn a_configuration_that_the_filter_refuses_leaves_everything_closed() {
    let garbage = |service: &meshward_builder::mesh::Service, name: &str, text: String| {
        if service.name == "callee" && name == INBOUND_FILE {
            broken::configuration(&text).unwrap()
        } else {
            text
        }
    };
    let mesh = TestMesh::start_with(MESH, &tools::filter().unwrap(), 1, &garbage).unwrap();
    let answer = mesh.get("caller", "callee", "/a").unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(mesh.seen("callee"), 0);
}

#[test]
fn a_refused_update_keeps_the_policy_that_was_there() {
    let mut mesh = TestMesh::start(MESH).unwrap();
    assert_eq!(mesh.get("caller", "callee", "/a").unwrap().status, 200);
    let garbage = |_: &meshward_builder::mesh::Service, name: &str, text: String| {
        if name == INBOUND_FILE { broken::configuration(&text).unwrap() } else { text }
    };
    mesh.update_with("callee", MESH, &garbage).unwrap();
    until("the refusal", || mesh.counter("callee", &["extension_config_discovery", "config_fail"]) > 0)
        .unwrap();
    assert_eq!(mesh.get("caller", "callee", "/a").unwrap().status, 200);
    assert_eq!(mesh.get("stranger", "callee", "/a").unwrap().status, 403);
}

#[test]
fn bytes_that_are_no_text_do_not_take_the_filter_down() {
    let mesh = TestMesh::start(MESH).unwrap();
    let mut connection = mesh.connect("caller", "callee").unwrap();
    for value in [&b"a\xff b"[..], b"\xc3\x28", b"\x80"] {
        let headers = [("x-user", value)];
        assert_eq!(connection.request("GET", "callee", "/a", &headers).unwrap().0, 200, "{value:?}");
    }
    assert_eq!(connection.get("callee", "/a").unwrap().0, 200);
    assert_eq!(mesh.counter("callee", &["vm_reload"]), 0, "a VM was lost");
}

#[test]
fn plain_text_gets_no_answer_from_the_inbound_listener() {
    let mesh = TestMesh::start(MESH).unwrap();
    let mut socket = mesh.plain("callee", mesh.inbound("callee").port()).unwrap();
    socket.write_all(b"GET /a HTTP/1.1\r\nhost: callee\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Closed or reset: both are no answer.
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert_eq!(mesh.seen("callee"), 0);
}

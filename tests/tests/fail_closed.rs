//! What happens when something is wrong with the filter, its configuration or a request: nobody gets through.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use meshward_builder::envoy::{INBOUND_FILE, filter};
use meshward_tests::{TestMesh, tools, until};

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

/// A module that behaves like no real one: lets everything through, and refuses its configuration from the second VM on
/// that is given it. Envoy asks the main thread's VM first, so that the workers' are the ones that fail.
fn fails_in_workers(folder: &tempfile::TempDir, good: u32) -> PathBuf {
    let text = format!(
        r#"(module
  (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "n")
  (global $free (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (i32.and (i32.add (local.get $size) (i32.const 15)) (i32.const -16)))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (local $count i32)
    (if (i32.eqz (call $get (i32.const 16) (i32.const 1) (i32.const 32) (i32.const 36) (i32.const 40)))
      (then (local.set $count (i32.load8_u (i32.load (i32.const 32))))))
    (i32.store8 (i32.const 48) (i32.add (local.get $count) (i32.const 1)))
    (drop (call $set (i32.const 16) (i32.const 1) (i32.const 48) (i32.const 1) (i32.const 0)))
    (i32.lt_u (local.get $count) (i32.const {good})))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))"#
    );
    let file = folder.path().join(format!("fails-after-{good}.wasm"));
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    file
}

/// Takes the guard out of a bootstrap: what everybody who does without one has.
fn without_guard(text: &str) -> String {
    let mut value: serde_json::Value = serde_yaml::from_str(text).unwrap();
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Array(items) => {
                items.retain(|item| item.get("name").and_then(|name| name.as_str()) != Some(filter::GUARD));
                items.iter_mut().for_each(strip);
            }
            serde_json::Value::Object(entries) => entries.values_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value.to_string()
}

#[test]
fn a_filter_that_fails_in_the_workers_only_lets_nobody_through() {
    let folder = tempfile::tempdir().unwrap();
    // The main thread configures once for the default configuration and once for the one from the file; Envoy tries
    // each in a VM that it throws away before that.
    let mut open = false;
    for good in 1..8 {
        let module = fails_in_workers(&folder, good);
        let bare = |_: &meshward_builder::mesh::Service, name: &str, text: String| {
            if name == "envoy.yaml" { without_guard(&text) } else { text }
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
        if service.name == "callee" && name == INBOUND_FILE { broken(&text) } else { text }
    };
    let mesh = TestMesh::start_with(MESH, &tools::filter().unwrap(), 1, &garbage).unwrap();
    let answer = mesh.get("caller", "callee", "/a").unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(mesh.seen("callee"), 0);
}

/// The same file with a plugin configuration that is nothing.
fn broken(text: &str) -> String {
    let mut value: serde_json::Value = serde_yaml::from_str(text).unwrap();
    let configuration = value.pointer_mut("/resources/0/typed_config/config/configuration/value").unwrap();
    *configuration = "Z2FyYmFnZQ==".into();
    value.to_string()
}

#[test]
fn a_refused_update_keeps_the_policy_that_was_there() {
    let mut mesh = TestMesh::start(MESH).unwrap();
    assert_eq!(mesh.get("caller", "callee", "/a").unwrap().status, 200);
    let garbage = |_: &meshward_builder::mesh::Service, name: &str, text: String| {
        if name == INBOUND_FILE { broken(&text) } else { text }
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

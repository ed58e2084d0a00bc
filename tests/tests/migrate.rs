//! What a migration's `watch` looks at, on a real Envoy: who comes without a certificate is let in, and counted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::io::{Read as _, Write as _};

use meshward_builder::mesh::ports;
use meshward_builder::migrate::counter::plain_text;
use meshward_tests::{TestMesh, until};

/// As `meshward migrate` proposes it.
const MESH: &str = "apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: moving}
spec:
  trustDomain: moving.example
  defaultAction: ALLOW
  services:
    - {name: old, port: 8000, calls: [shop]}
    - {name: shop, port: 8001}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: migration}
spec:
  mtls: {mode: PERMISSIVE}
";

#[test]
fn plain_text_is_let_in_and_counted_and_mtls_is_not() {
    let mesh = TestMesh::start(MESH).unwrap();
    let admin = format!("{}:{}", mesh.plan.address("shop"), ports::ADMIN);
    let before = plain_text(&admin).unwrap();
    // Through the sidecar of the caller: mTLS.
    assert_eq!(mesh.get_by_sidecar("old", "shop", "/").unwrap().status, 200);
    assert_eq!(mesh.seen("shop"), 1);
    assert_eq!(plain_text(&admin).unwrap(), before);
    let mut socket = mesh.plain("shop", mesh.inbound("shop").port()).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(mesh.seen("shop"), 2);
    until("the counter", || plain_text(&admin).is_ok_and(|count| count == before + 1)).unwrap();
}

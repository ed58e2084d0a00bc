//! PERMISSIVE, the mode to move in with: who still comes without a certificate is let in as far as the policies say, and
//! counted apart, so that one sees when STRICT shuts nobody out.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

use std::io::{Read as _, Write as _};

use meshward_builder::local::client::{Request, exchange};
use meshward_builder::mesh::ports;
use meshward_tests::{TestMesh, until};

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: api, port: 8000}
    - {name: store, protocol: tcp, port: 8001}
    - {name: caller, port: 8002, calls: [api]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: open, namespace: default}
spec:
  rules:
    - {to: [{operation: {paths: [/open]}}]}
    - {from: [{source: {principals: [\"*\"]}}]}
    - {to: [{operation: {ports: [\"8001\"]}}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: moving, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
";

#[test]
fn plain_text_is_judged_and_counted_apart() {
    let mesh = TestMesh::start(MESH).unwrap();
    let plain = |path| {
        let request = Request { method: "GET", path, host: "api", headers: &[], body: b"" };
        exchange(&mut mesh.plain("api", ports::INBOUND).unwrap(), &request).unwrap().status
    };
    assert_eq!((plain("/open"), plain("/other")), (200, 403));
    assert_eq!(mesh.get("caller", "api", "/other").unwrap().status, 200);
    until("the counters", || {
        mesh.counter("api", &["http.inbound_plaintext.downstream_rq_total"]) == 2
            && mesh.counter("api", &["http.inbound.downstream_rq_total"]) == 1
    })
    .unwrap();
    let mut stream = mesh.plain("store", ports::INBOUND).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    until("the counter", || mesh.counter("store", &["tcp.inbound_plaintext.downstream_cx_total"]) == 1)
        .unwrap();
}

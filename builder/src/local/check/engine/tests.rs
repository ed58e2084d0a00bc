use super::*;
use crate::diagnostic::Source;
use crate::local::check::{For, model};
use crate::mesh;

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  services:
    - {name: api, port: 8000}
    - {name: db, protocol: tcp, port: 5432}
    - {name: web, port: 8001, calls: [api, db]}
    - {name: edge, edge: {routes: [{prefix: /shop, service: api, rewrite: /}, {prefix: /web, service: web}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: api}}
  rules:
    - from: [{source: {principals: [shop.example/ns/default/sa/web, shop.example/ns/default/sa/edge]}}]
      to: [{operation: {methods: [GET], paths: [/books*, /]}}]
    - from: [{source: {ipBlocks: [10.1.0.0/16]}}]
      to: [{operation: {paths: [/intern]}}]
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: often}
spec:
  selector: {matchLabels: {app: api}}
  limits:
    - {name: twice, to: [{operation: {paths: [/books/twice]}}], key: [identity], rates: [{requests: 2, per: 1m}]}
";

/// What is not as expected: empty, or the messages with their places and helps.
fn test(checks: &str) -> String {
    let mesh = mesh::load_sources(&[Source::new("mesh.yaml", MESH)]).unwrap();
    let source = Source::new("checks.yaml", format!("checks:\n{checks}"));
    let checks = match model::read(&source, &mesh, For::Engine) {
        Ok(checks) => checks,
        Err(failure) => return failure.diagnostics.iter().map(|one| one.render(false) + "\n").collect(),
    };
    match run(&checks, &mesh) {
        Ok(outcomes) => {
            let failures = report::failures(&outcomes, &source);
            let shown: String = failures.iter().map(|one| one.render(false) + "\n").collect();
            shown + &report::summary(&outcomes) + "\n"
        }
        Err(failure) => failure.diagnostics.iter().map(|one| one.render(false) + "\n").collect(),
    }
}

#[test]
fn what_is_as_expected_passes() {
    let said = test(
        "
  - {name: a, from: web, to: api, path: /books, expect: {status: 200, contains: x, decided: allow default/readers/0}}
  - {name: b, from: web, to: api, method: POST, path: /books, expect: {status: 403, decided: deny no_allow_rule}}
  - {name: c, from: web, to: api, path: /books/9, expect: {status: 404}}
  - {name: d, from: web, to: api, path: /books/9, expect: {status: 403, decided: allow}}
  - {name: e, from: web, to: api, path: /books%2f, expect: {status: 400}}
  - {name: f, from: edge, to: api, through: edge, path: /shop/books?a=b, expect: {status: 200, decided: allow default/readers/0}}
  - {name: g, from: edge, to: api, through: edge, path: /shop, expect: {status: 200}}
  - {name: h, from: edge, to: api, through: edge, path: /shopping, expect: {status: 404}}
  - {name: i, from: web, to: db, protocol: tcp, send: \"00\", expect: {contains: N, decided: allow}}
  - {name: j, from: api, to: db, through: direct, protocol: tcp, send: \"00\", expect: {refused: true, decided: deny}}
  - {name: k, from: web, to: api, through: direct, certificate: expired, path: /books, expect: {refused: true}}
  - {name: l, from: web, to: api, through: direct, certificate: two-uris, path: /books, expect: {status: 403, decided: deny invalid_identity}}
  - {name: m, from: db, to: api, through: direct, path: /intern, request: {source: {ip: 10.1.2.3}}, expect: {status: 200}}
  - {name: n, from: web, to: api, path: /books/twice, expect: {status: 200}}
  - {name: o, from: web, to: api, path: /books/twice, expect: {status: 200}}
  - {name: p, from: web, to: api, path: /books/twice, expect: {status: 429, decided: deny default/often/twice}}
  - {name: q, from: web, to: api, path: /books/twice, at: 61s, expect: {status: 200}}
",
    );
    assert_eq!(said, "17 checks: 16 as expected, 0 not, 1 left out\n");
}

#[test]
fn what_is_not_is_told_with_its_place_and_what_came_nearest() {
    insta::assert_snapshot!(test(
        "
  - {name: may add, from: web, to: api, method: POST, path: /books, expect: {status: 200}}
  - {name: may not read, from: web, to: api, path: /books, expect: {status: 403}}
  - {name: another rule, from: web, to: api, path: /books, expect: {status: 200, decided: allow default/readers/1}}
  - {name: not limited, from: web, to: api, path: /books, expect: {status: 429}}
  - {name: closed, from: web, to: db, protocol: tcp, send: \"00\", expect: {refused: true}}
  - {name: open, from: api, to: db, through: direct, protocol: tcp, send: \"00\", expect: {contains: N}}
  - {name: elsewhere, from: edge, to: api, through: edge, path: /web/x, expect: {status: 200}}
"
    ));
    insta::assert_snapshot!(test(
        "  - {name: a, from: web, to: api, path: /books, request: {sorce: {ip: 10.1.2.3}}, expect: {status: 200}}\n"
    ));
}

#[test]
fn what_no_sidecar_sends_is_for_the_engine_alone() {
    let mesh = mesh::load_sources(&[Source::new("mesh.yaml", MESH)]).unwrap();
    let text =
        "checks:\n  - {name: a, from: web, to: api, path: /, request: {sni: x}, expect: {status: 200}}\n";
    let refused = model::read(&Source::new("checks.yaml", text), &mesh, For::Sidecars).unwrap_err();
    assert_eq!(refused.diagnostics[0].code, "only-in-policy-test");
    assert_eq!(refused.diagnostics[0].place().unwrap(), "checks.yaml:2:54");
}

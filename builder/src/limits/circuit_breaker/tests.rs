//! What a CircuitBreakerPolicy becomes in a mesh, and what is refused.

use meshward_engine::config::Role;
use meshward_engine::limits::config::KeyPart;

use super::*;
use crate::compile::plugin_config;
use crate::diagnostic::Source;
use crate::mesh::load_sources;

const SECOND: u64 = 1_000_000_000;

const MESH: &str = "apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: web, port: 8000, calls: [api, other, db]}
    - {name: api, port: 8001, calls: [other]}
    - {name: other, port: 8002}
    - {name: db, protocol: tcp, port: 5432}
    - {name: edge, edge: {routes: [{prefix: /, service: web}]}}
";

fn policy(app: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {{name: policy}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
{spec}"
    )
}

fn load(policies: &str) -> Result<Resolved, Vec<Diagnostic>> {
    load_sources(&[Source::new("mesh.yaml", format!("{MESH}{policies}"))])
        .map_err(|failure| failure.diagnostics)
}

fn limits(mesh: &Resolved, service: &str, role: Role) -> LimitsConfig {
    plugin_config(mesh, mesh.service(service).unwrap(), role).unwrap().limits
}

/// Codes of all mistakes.
fn mistakes(app: &str, spec: &str) -> Vec<&'static str> {
    load(&policy(app, spec)).unwrap_err().iter().map(|one| one.code).collect()
}

#[test]
fn nothing_but_a_name_is_linkerds_breaker_for_each_destination() {
    let mesh = load(&policy("web", "  breakers: [{name: calls}]\n")).unwrap();
    assert!(mesh.warnings.is_empty(), "{:?}", mesh.warnings);
    let config = limits(&mesh, "web", Role::Outbound);
    let [breaker] = config.breakers.as_slice() else { panic!("{config:?}") };
    assert_eq!((&*breaker.name, &breaker.key), ("default/policy/calls", &vec![KeyPart::Destination]));
    let expected = BreakerSettings {
        consecutive_failures: 7,
        failure_permille: 201,
        slow_permille: 0,
        window: 10 * SECOND,
        min_requests: 5,
        backoff: SECOND,
        max_backoff: 60 * SECOND,
        jitter_permille: 500,
        probes: 1,
        probe_timeout: 30 * SECOND,
    };
    assert_eq!(breaker.settings, expected);
    assert_eq!(breaker.failures.statuses, [(500, 599)]);
    assert_eq!(breaker.slow_call, 5 * SECOND, "the patience");
    for (service, role) in [("web", Role::Inbound), ("api", Role::Outbound), ("edge", Role::Outbound)] {
        assert!(limits(&mesh, service, role).is_empty(), "{service}");
    }
}

#[test]
fn all_that_can_be_said_arrives() {
    let spec = r#"  breakers:
  - name: books
    destinations: [other]
    to: [{operation: {methods: [GET], paths: ["/books/{*}"]}}]
    key: [destination, {path: ["/books/{*}", "/books"]}]
    consecutiveFailures: 3
    failureRatio: 0.5
    slowCalls: {threshold: 250ms, ratio: 0.8}
    window: 30s
    minRequests: 20
    backoff: {min: 500ms, max: 10s, jitter: 0.1}
    probes: 2
    probeTimeout: 4s
    failures: {statuses: [408, "500-503"], grpc: [UNAVAILABLE, UNKNOWN]}
    honourRetryAfter: true
    fallback: {status: 200, contentType: application/json, body: "[]"}
    mode: shadow
  - name: callers
    side: inbound
    from: [{source: {namespaces: [default]}}]
  concurrency:
  - {name: all, limit: 100}
  - {name: each, key: [identity], limit: 10}
  - {name: out, side: outbound, destinations: [api, other], limit: 5}
"#;
    let mesh = load(&policy("web", spec)).unwrap();
    let outbound = limits(&mesh, "web", Role::Outbound);
    let [books] = outbound.breakers.as_slice() else { panic!("{outbound:?}") };
    assert_eq!(books.destinations, [Text::from("other")]);
    assert_eq!(books.selector, Some(0));
    assert_eq!(books.key, [KeyPart::Destination, KeyPart::Template(vec![1, 2])]);
    let expected = BreakerSettings {
        consecutive_failures: 3,
        failure_permille: 500,
        slow_permille: 800,
        window: 30 * SECOND,
        min_requests: 20,
        backoff: SECOND / 2,
        max_backoff: 10 * SECOND,
        jitter_permille: 100,
        probes: 2,
        probe_timeout: 4 * SECOND,
    };
    assert_eq!(books.settings, expected);
    assert_eq!(books.failures, Failures { statuses: vec![(408, 408), (500, 503)], grpc: 1 << 14 | 1 << 2 });
    assert!(books.honour_retry_after && books.shadow);
    assert_eq!((books.slow_call, books.fallback.as_ref().map(|one| one.status)), (SECOND / 4, Some(200)));
    // All HTTP services that it calls: nothing need be compared.
    assert_eq!(outbound.concurrency[0].destinations, []);
    let inbound = limits(&mesh, "web", Role::Inbound);
    assert_eq!(inbound.breakers[0].key, [KeyPart::Identity]);
    assert_eq!(inbound.breakers[0].settings.consecutive_failures, 7);
    let each: Vec<_> = inbound.concurrency.iter().map(|one| (one.limit, one.key.clone())).collect();
    assert_eq!(each, [(100, vec![]), (10, vec![KeyPart::Identity])]);
}

#[test]
fn with_one_callee_its_name_is_not_asked_for() {
    let spec =
        "  breakers: [{name: calls, destinations: [other]}, {name: db-free, key: [destination, method]}]\n";
    let mesh = load(&policy("api", spec)).unwrap();
    let config = limits(&mesh, "api", Role::Outbound);
    assert_eq!((config.breakers[0].destinations.len(), config.breakers[0].key.len()), (0, 0));
    assert_eq!(config.breakers[1].key, [KeyPart::Method]);
}

#[test]
fn the_edge_has_breakers_for_what_it_sends() {
    let mesh = load(&policy("edge", "  breakers: [{name: calls}]\n")).unwrap();
    assert_eq!(limits(&mesh, "edge", Role::Outbound).breakers.len(), 1);
    assert_eq!(mistakes("edge", "  breakers: [{name: calls, side: inbound}]\n"), ["edge-policy"]);
}

#[test]
fn envoys_own_protections_come_from_the_same_policy() {
    let spec = "  envoy:
    destinations: [api]
    connectionPool: {http: {http2MaxRequests: 9}}
    outlierDetection: {consecutive5xxErrors: 3}
    retries: {attempts: 1, retryOn: [5xx, reset], perTryTimeout: 2s, budget: {percent: 10}}
    timeout: 15s
";
    let mesh = load(&policy("web", spec)).unwrap();
    let call = |caller: &str, callee: &str| {
        native::for_call(&mesh, mesh.service(caller).unwrap(), mesh.service(callee).unwrap())
    };
    let found = call("web", "api");
    assert!(found.connection_pool.is_some() && found.outlier_detection.is_some() && found.retries.is_some());
    assert_eq!(found.timeout.map(|timeout| timeout.to_envoy()).as_deref(), Some("15s"));
    assert!(call("web", "other").timeout.is_none() && call("edge", "web").timeout.is_none());
    assert_eq!(
        mistakes("web", "  envoy: {destinations: [apis], retries: {attempts: 0, retryOn: [5x]}}\n").len(),
        3
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (app, spec, expected) in [
        ("web", "", &["nothing"][..]),
        ("web", "  breakers: []\n", &["empty-list"]),
        ("web", "  breakers: [{name: a}, {name: a}]\n", &["duplicate-name"]),
        ("web", "  breakers: [{name: a, destinations: [apis]}]\n", &["unknown-service"]),
        ("web", "  breakers: [{name: a, destinations: [db]}]\n", &["http-only"]),
        ("web", "  breakers: [{name: a, destinations: []}]\n", &["empty-list"]),
        ("web", "  breakers: [{name: a, key: [identity]}]\n", &["only-inbound"]),
        ("web", "  breakers: [{name: a, side: inbound, key: [destination]}]\n", &["only-outbound"]),
        ("web", "  breakers: [{name: a, side: inbound, destinations: [api]}]\n", &["only-outbound"]),
        ("web", "  breakers: [{name: a, from: [{source: {namespaces: [x]}}]}]\n", &["only-inbound"]),
        ("web", "  breakers: [{name: a, consecutiveFailures: 0}]\n", &["zero"]),
        ("web", "  breakers: [{name: a, failureRatio: 0}]\n", &["ratio"]),
        ("web", "  breakers: [{name: a, failureRatio: 1.5}]\n", &["ratio"]),
        ("web", "  breakers: [{name: a, consecutiveFailures: 2, window: 5s}]\n", &["no-ratio"]),
        ("web", "  breakers: [{name: a, backoff: {min: 5s, max: 1s}}]\n", &["backoff"]),
        ("web", "  breakers: [{name: a, probes: 256}]\n", &["probes"]),
        ("web", "  breakers: [{name: a, failures: {grpc: [UNAVAILIBLE]}}]\n", &["grpc-status"]),
        ("web", "  breakers: [{name: a, failures: {grpc: [OK]}}]\n", &["grpc-status"]),
        ("web", "  breakers: [{name: a, fallback: {status: 99}}]\n", &["invalid-status"]),
        ("web", "  breakers: [{name: a, slowCalls: {threshold: 1s}, patience: 2s}]\n", &["two-thresholds"]),
        ("db", "  breakers: [{name: a, side: inbound}]\n", &["http-only"]),
        ("web", "  concurrency: [{name: a, limit: 0}]\n", &["zero"]),
        ("web", "  breakers: [{name: a, failures: {statuses: [200]}}]\n", &["invalid-value"]),
        ("web", "  breakers: [{name: a, unknown: 1}]\n", &["unknown-field"]),
    ] {
        assert_eq!(mistakes(app, spec), expected, "{spec}");
    }
}

#[test]
fn a_breaker_that_nobody_asks_is_a_surprise() {
    for (app, spec) in [
        ("other", "  breakers: [{name: a}]\n"),
        ("api", "  breakers: [{name: a, destinations: [web]}]\n"),
        ("nobody", "  breakers: [{name: a}]\n"),
    ] {
        let mesh = load(&policy(app, spec)).unwrap();
        assert_eq!(mesh.warnings.len(), 1, "{app}: {:?}", mesh.warnings);
    }
}

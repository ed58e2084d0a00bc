//! What is refused, and where; and which rule is for which call.

use super::*;
use crate::diagnostic::Source;
use crate::mesh::load_sources;

const MESH: &str = "apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: web, port: 8000, calls: [api, other]}
    - {name: job, port: 8003, namespace: batch, calls: [api]}
    - {name: api, port: 8001}
    - {name: other, port: 8002}
";

fn load(rules: &str) -> Result<Resolved, Vec<(String, String)>> {
    let text = format!("{MESH}{rules}");
    load_sources(&[Source::new("mesh.yaml", text)]).map_err(|failure| {
        let lines = MESH.lines().count();
        let place = |one: &Diagnostic| {
            let place = one.location.as_ref().map(|at| at.source.position(at.span.start));
            place.map_or(String::new(), |(line, column)| format!("{}:{column}", line - lines))
        };
        failure.diagnostics.iter().map(|one| (one.code.to_owned(), place(one))).collect()
    })
}

fn rule(spec: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec:
{spec}"
    )
}

fn mistakes(spec: &str) -> Vec<(String, String)> {
    load(&rule(spec)).unwrap_err()
}

#[test]
fn what_is_not_done_is_refused_at_its_line() {
    let at = |code: &str, place: &str| (code.to_owned(), place.to_owned());
    let unsupported = "  host: api
  subsets: []
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    tls: {mode: DISABLE}
    connectionPool:
      tcp: {tcpKeepalive: {}}
      http: {h2UpgradePolicy: UPGRADE}
    outlierDetection: {consecutiveErrors: 5}
";
    let codes: Vec<_> = mistakes(unsupported);
    assert_eq!(codes.len(), 6, "{codes:?}");
    assert!(codes.iter().all(|(code, _)| code == "unknown-field"), "{codes:?}");
    assert_eq!(codes[0].1, "7:3");
    assert_eq!(mistakes("  host: apis\n"), [at("unknown-service", "6:9")]);
    assert_eq!(mistakes("  host: api.batch\n"), [at("unknown-service", "6:9")]);
    assert_eq!(mistakes("  host: \"*.example.com\"\n"), [at("unknown-service", "6:9")]);
    let values = "  host: api
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 0, connectTimeout: 5}
      http: {http2MaxRequests: 0}
    outlierDetection:
      interval: 0s
      maxEjectionPercent: 101
      consecutiveLocalOriginFailures: 5
";
    let found = mistakes(values);
    let codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes.len(), 6, "{found:?}");
    for code in ["zero", "percent", "no-effect"] {
        assert!(codes.contains(&code), "{code}: {found:?}");
    }
}

#[test]
fn a_rule_is_for_the_calls_that_it_names() {
    let connections = |mesh: &Resolved, caller: &str, callee: &str| {
        let call = for_call(mesh, mesh.service(caller).unwrap(), mesh.service(callee).unwrap());
        let tcp = call.connection_pool.and_then(|pool| pool.tcp.as_ref());
        tcp.and_then(|tcp| tcp.max_connections.as_ref()).map(|number| number.value)
    };
    let pool = "  trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}\n";
    for (host, more, expected) in [
        ("api", "", [Some(7), Some(7), None]),
        ("api.default.svc.cluster.local", "", [Some(7), Some(7), None]),
        ("api", "  exportTo: [batch]\n", [None, Some(7), None]),
        ("api", "  exportTo: [\".\"]\n", [Some(7), None, None]),
        ("api", "  exportTo: [\"*\"]\n", [Some(7), Some(7), None]),
        ("api", "  workloadSelector: {matchLabels: {app: web}}\n", [Some(7), None, None]),
        ("other", "", [None, None, Some(7)]),
    ] {
        let mesh = load(&rule(&format!("  host: {host}\n{more}{pool}"))).unwrap();
        let found = [("web", "api"), ("job", "api"), ("web", "other")];
        assert_eq!(
            found.map(|(caller, callee)| connections(&mesh, caller, callee)),
            expected,
            "{host} {more}"
        );
    }
}

#[test]
fn the_same_said_twice_is_a_mistake() {
    let pool = "  host: api\n  trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}\n";
    let outlier = "  host: api\n  trafficPolicy: {outlierDetection: {}}\n";
    let (one, other) = (rule(pool), rule(outlier).replace("name: rule", "name: other"));
    assert!(load(&format!("{one}{other}")).is_ok());
    let twice = format!("{one}{}", rule(pool).replace("name: rule", "name: other"));
    assert_eq!(load(&twice).unwrap_err(), [("two-settings".to_owned(), "14:36".to_owned())]);
}

//! RateLimitPolicy in real Envoys: what is admitted against what was promised, whatever the number of workers.
//!
//! Each load takes a few seconds; `MESHWARD_LOAD_SECONDS=20` makes it as many.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::io::{Read, Write};
use std::time::Duration;

use meshward_builder::local::client::{self, Request, Response};
use meshward_builder::pki::{self, SvidRequest, folder};
use meshward_tests::hammer::{For, Outcome};
use meshward_tests::{TestMesh, hammer, tools, until};
use time::OffsetDateTime;

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: callee, port: 8000}
    - {name: store, protocol: tcp, port: 8003}
    - {name: caller, port: 8001, calls: [callee, {service: store, port: 7000}]}
    - {name: stranger, port: 8002, calls: [callee, {service: store, port: 7000}]}
";

/// The mesh with limits for a service.
fn mesh(app: &str, limits: &str) -> String {
    format!(
        "{MESH}---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: test}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  limits:
{limits}"
    )
}

fn start(workers: u32, text: &str) -> TestMesh {
    TestMesh::start_with(text, &tools::filter().unwrap(), workers, &|_, _, text| text).unwrap()
}

/// How long one load goes on.
fn load_time() -> Duration {
    let wanted = std::env::var("MESHWARD_LOAD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(wanted.unwrap_or(2))
}

const CALLERS: usize = 8;

/// Never more than promised, and at saturation at most 2 % less.
#[track_caller]
fn is_exact(outcome: &Outcome, burst: u32, per_second: f64) {
    let (admitted, promise) = (outcome.admitted() as f64, outcome.promise(burst, per_second));
    println!(
        "sent {} in {:.3?}: admitted {admitted}, promised {promise:.1} ({:+.2} %)",
        outcome.sent(),
        outcome.elapsed,
        (admitted / promise - 1.0) * 100.0
    );
    assert!(outcome.statuses.keys().all(|status| matches!(status, 200 | 429)), "{:?}", outcome.statuses);
    assert_eq!(outcome.closed, 0);
    assert!(admitted <= promise, "{admitted} of {promise}");
    assert!(outcome.sent() as f64 > promise * 1.2, "the load did not saturate the limit: {}", outcome.sent());
    assert!(admitted >= promise * 0.98, "{admitted} of {promise}");
}

const HOT: &str = "    - {name: hot, key: [identity], rates: [{requests: 500, per: 1s, burst: 100}]}\n";

#[test]
fn a_hot_key_gets_what_was_promised_with_one_two_and_four_workers() {
    for workers in [1, 2, 4] {
        let running = start(workers, &mesh("callee", HOT));
        let mut load = hammer(&running, "caller", "callee", CALLERS).unwrap();
        is_exact(&load.run(For::Time(load_time()), |_, _| "x".to_owned()).unwrap(), 100, 500.0);
        // Another caller's budget is untouched by it.
        assert_eq!(running.get("stranger", "callee", "/").unwrap().status, 200);
    }
}

#[test]
fn ten_thousand_keys_have_a_budget_each() {
    /// What a key has: nothing comes back in the time of a test.
    const BUDGET: usize = 2;
    const KEYS_OF_ONE: usize = 10_000 / CALLERS;
    let limit =
        "    - {name: tenants, key: [identity, {header: x-tenant}], rates: [{requests: 2, per: 1h}]}\n";
    let running = start(2, &mesh("callee", limit));
    let mut load = hammer(&running, "caller", "callee", CALLERS).unwrap();
    // Each key is asked three times, with all the others in between.
    let key = |connection: usize, turn: usize| format!("{connection}-{}", turn % KEYS_OF_ONE);
    let outcome = load.run(For::Requests(KEYS_OF_ONE * (BUDGET + 1)), key).unwrap();
    assert_eq!(outcome.keys.len(), KEYS_OF_ONE * CALLERS);
    let over: Vec<_> = outcome.keys.iter().filter(|(_, (_, admitted))| *admitted > BUDGET).collect();
    assert!(over.is_empty(), "{over:?}");
    let (admitted, promised) = (outcome.admitted(), BUDGET * KEYS_OF_ONE * CALLERS);
    println!("10,000 keys: admitted {admitted} of {promised} in {:?}", outcome.elapsed);
    assert!(admitted * 100 >= promised * 98, "{admitted} of {promised}");
}

#[test]
fn a_caller_that_invents_keys_gets_no_fresh_burst_and_takes_nothing_from_others() {
    let limit = "    - name: tenants
      key: [identity, {header: x-tenant}]
      rates: [{requests: 5, per: 1h}]
      overrides:
      - from: [{source: {serviceAccounts: [caller]}}]
        rates: [{requests: 500, per: 1s, burst: 100}]
";
    let running = start(4, &mesh("callee", limit));
    let mut inventing = hammer(&running, "stranger", "callee", 6).unwrap();
    let mut honest = hammer(&running, "caller", "callee", 3).unwrap();
    let time = For::Time(load_time());
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            // Every other request is of a key that was there before: it must not have a fresh burst.
            inventing.run(time, |connection, turn| match turn % 2 {
                0 => format!("{connection}-{turn}"),
                _ => format!("{connection}-{}", turn % 31 * 2),
            })
        });
        is_exact(&honest.run(time, |_, _| "mine".to_owned()).unwrap(), 100, 500.0);
        let flood = flood.join().unwrap().unwrap();
        let most = flood.keys.values().map(|(_, admitted)| *admitted).max().unwrap();
        let (keys, sent, admitted) = (flood.keys.len(), flood.sent(), flood.admitted());
        println!("flood: {keys} keys, {sent} requests, {admitted} admitted, at most {most} of a key");
        assert!(most <= 5, "a key had {most}");
    });
}

#[test]
fn a_new_policy_and_a_new_certificate_are_no_fresh_burst_and_fail_no_request() {
    let limit = |status: u16| {
        let response = format!(", response: {{status: {status}}}}}");
        mesh("callee", &HOT.replace("}\n", &format!("{response}\n")))
    };
    let mut running = start(2, &limit(429));
    let mut load = hammer(&running, "caller", "callee", CALLERS).unwrap();
    let load = std::thread::spawn(move || load.run(For::Time(load_time()), |_, _| "x".to_owned()));
    until("some load", || running.seen("callee") > 60).unwrap();
    running.update("callee", &limit(503)).unwrap();
    rotate(&running, "callee");
    let mut outcome = load.join().unwrap().unwrap();
    let refused = outcome.statuses.remove(&503);
    assert!(refused.is_some(), "the new policy is not in force: {:?}", outcome.statuses);
    *outcome.statuses.entry(429).or_default() += refused.unwrap_or(0);
    is_exact(&outcome, 100, 500.0);
}

/// Gives a service a new certificate, as Kubernetes does.
fn rotate(running: &TestMesh, service: &str) {
    let service = running.mesh.service(service).unwrap();
    let (domain, namespace) = (running.ca.trust_domain(), &service.namespace);
    let request =
        SvidRequest::for_service(domain, namespace, &service.service_account, &service.name).unwrap();
    let issued = pki::issue(&running.ca, &request, OffsetDateTime::now_utc()).unwrap();
    let mut files = folder::Files::new();
    files.insert("tls.crt", issued.chain_pem);
    files.insert("tls.key", issued.key_pem.unwrap().as_bytes().to_vec());
    files.insert("ca.crt", issued.bundle_pem);
    folder::replace(&running.state.certificates(&service.name), &files).unwrap();
}

/// One request with a connection of its own, by mutual TLS.
fn ask(running: &TestMesh, from: &str, method: &str, headers: &[(&str, &str)]) -> Response {
    let mut stream = running.tls(from, "callee").unwrap().connect(running.inbound("callee")).unwrap();
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = Request { method, path: "/", host: "callee", headers: &headers, body: b"" };
    client::exchange(&mut stream, &request).unwrap()
}

#[test]
fn callers_are_told_what_they_have_and_when_to_come_back() {
    let limits = "    - name: flood
      stage: beforeAuthorization
      to: [{operation: {methods: [DELETE]}}]
      rates: [{requests: 1, per: 1h}]
    - name: quota
      to: [{operation: {methods: [GET]}}]
      key: [identity]
      rates: [{requests: 2, per: 1h}, {requests: 10, per: 24h}]
      response: {headers: always, problem: true}
    - name: trial
      mode: shadow
      to: [{operation: {methods: [PUT]}}]
      rates: [{requests: 1, per: 1h}]
    - name: calls
      to: [{operation: {methods: [POST]}}]
      rates: [{requests: 1, per: 20s}]
";
    let running = start(1, &mesh("callee", limits));
    let first = ask(&running, "caller", "GET", &[]);
    assert_eq!(
        (first.status, first.header("x-ratelimit-remaining")),
        (200, Some("1")),
        "{:?}",
        first.headers
    );
    assert_eq!(first.header("ratelimit-policy"), Some(r#""1h";q=2;w=3600, "24h";q=10;w=86400"#));
    assert_eq!(ask(&running, "caller", "GET", &[]).status, 200);
    let refused = ask(&running, "caller", "GET", &[]);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-envoy-ratelimited"), Some("true"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&wait), "{wait}");
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem["status"], 429);
    assert_eq!(problem["violated-policies"], serde_json::json!(["1h"]));

    // gRPC: 200 with RESOURCE_EXHAUSTED.
    let grpc = [("content-type", "application/grpc")];
    assert_eq!(ask(&running, "caller", "POST", &grpc).status, 200);
    let refused = ask(&running, "caller", "POST", &grpc);
    assert_eq!((refused.status, refused.header("grpc-status")), (200, Some("8")), "{:?}", refused.headers);
    assert!(refused.header("retry-after").is_some());

    // Counted, let through.
    assert_eq!(
        [ask(&running, "caller", "PUT", &[]).status, ask(&running, "caller", "PUT", &[]).status],
        [200, 200]
    );
    assert_eq!(ask(&running, "caller", "DELETE", &[]).status, 200);
    assert_eq!(ask(&running, "stranger", "DELETE", &[]).status, 429, "one bucket for all callers");

    for (policy, verdict, count) in [
        ("quota", "allow", 2),
        ("quota", "deny", 1),
        ("calls", "deny", 1),
        ("trial", "shadow_deny", 1),
        ("flood", "deny", 1),
    ] {
        let (policy, verdict) = (format!("default/test/{policy}"), format!("verdict.{verdict}."));
        assert_eq!(
            running.counter("callee", &["meshward_rate_limits", &policy, &verdict]),
            count,
            "{policy}"
        );
    }
    assert!(
        running
            .log("callee")
            .contains("rate limited: default/test/quota refuses spiffe://test.example/ns/default/sa/caller")
    );
}

#[test]
fn what_is_denied_costs_its_caller_nothing() {
    let text = mesh("callee", "    - {name: few, key: [identity], rates: [{requests: 2, per: 1h}]}\n");
    let deny = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-delete}
spec:
  selector: {matchLabels: {app: callee}}
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
";
    let running = start(1, &format!("{text}{deny}"));
    for _ in 0..5 {
        assert_eq!(ask(&running, "caller", "DELETE", &[]).status, 403);
    }
    let statuses = [(); 3].map(|()| ask(&running, "caller", "GET", &[]).status);
    assert_eq!(statuses, [200, 200, 429]);
}

/// A connection to the store that is open, or none when it was refused.
fn open(running: &TestMesh, from: &str) -> Option<impl Read + Write + use<>> {
    let mut stream = running.tls(from, "store").unwrap().connect(running.inbound("store")).unwrap();
    let mut buffer = [0; 2];
    stream.write_all(b"hi").and_then(|()| stream.flush()).ok()?;
    stream.read_exact(&mut buffer).ok()?;
    Some(stream)
}

#[test]
fn connections_are_counted_by_identity() {
    let limit = "    - {name: often, key: [identity], rates: [{requests: 2, per: 1h}]}\n";
    let running = start(2, &mesh("store", limit));
    let opened = [(); 3].map(|()| open(&running, "caller").is_some());
    assert_eq!(opened, [true, true, false]);
    assert!(open(&running, "stranger").is_some());
    assert_eq!(running.counter("store", &["meshward_rate_limits", "often", "verdict.deny."]), 1);
}

#[test]
fn open_connections_are_counted_by_identity() {
    let limit = "    - {name: open, key: [identity], concurrency: 2}\n";
    let running = start(2, &mesh("store", limit));
    let (first, second) = (open(&running, "caller"), open(&running, "caller"));
    assert!(first.is_some() && second.is_some());
    assert!(open(&running, "caller").is_none(), "two may be open at once");
    assert!(open(&running, "stranger").is_some());
    drop(first);
    until("a place", || open(&running, "caller").is_some()).unwrap();
}

/// How many of ten requests are let through.
fn admitted(running: &TestMesh, tenant: &str) -> usize {
    let ask = |_: &usize| ask(running, "caller", "GET", &[("x-tenant", tenant)]).status == 200;
    (0..10).filter(ask).count()
}

#[test]
fn a_limit_of_the_service_is_shared_by_as_many_sidecars_as_a_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replicas");
    let say = |text: &str| {
        // As Kubernetes changes a volume: the new file takes the place of the old one.
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), &file).unwrap();
    };
    say("4\n");
    let limit = "    - {name: all, scope: service, key: [identity, {header: x-tenant}], rates: [{requests: 8, per: 1h}]}\n";
    let replicas = format!("replicas: 2, replicasFile: {}}}", file.display());
    let text = mesh("callee", limit).replace("port: 8000}", &format!("port: 8000, {replicas}"));
    let running = start(2, &text);
    assert_eq!(admitted(&running, "before"), 2, "a quarter of it");
    let mut tenant = 0;
    let mut until_share = |share: usize| {
        // Asked by a new tenant each time; the filter looks at the file once in a second.
        until("the share", || {
            tenant += 1;
            admitted(&running, &format!("tenant-{tenant}")) == share
        })
        .unwrap();
    };
    say("1\n");
    until_share(8);
    say("many\n");
    until_share(4);
    say("8\n");
    until_share(1);
    assert_eq!(admitted(&running, "before"), 0, "that the share has changed is no fresh burst");
}

#[test]
fn connections_are_shared_by_as_many_sidecars_as_a_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replicas");
    std::fs::write(&file, "3\n").unwrap();
    let limit = "    - {name: all, scope: service, key: [identity], rates: [{requests: 6, per: 1h}]}\n";
    let written = format!("port: 8003, replicasFile: {}}}", file.display());
    let running = start(1, &mesh("store", limit).replace("port: 8003}", &written));
    let opened = [(); 4].map(|()| open(&running, "caller").is_some());
    assert_eq!(opened, [true, true, false, false], "a third of six");
}

#[test]
fn a_limit_of_the_service_is_shared_by_its_replicas() {
    let limit =
        "    - {name: all, scope: service, key: [identity], rates: [{requests: 500, per: 1s, burst: 100}]}\n";
    let text = mesh("callee", limit).replace("port: 8000}", "port: 8000, replicas: 4}");
    let running = start(2, &text);
    let mut load = hammer(&running, "caller", "callee", CALLERS).unwrap();
    is_exact(&load.run(For::Time(load_time()), |_, _| "x".to_owned()).unwrap(), 25, 125.0);
}

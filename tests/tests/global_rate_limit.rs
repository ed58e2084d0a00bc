//! Limits of the whole mesh: several sidecars on one budget, counted by a service that is asked for leases; and what
//! becomes of requests when it is slow, gone, and back.
//!
//! Each load takes a few seconds; `MESHWARD_LOAD_SECONDS=20` makes it as many. `MESHWARD_TEST_RATELIMIT=1` has the real
//! envoyproxy/ratelimit count too.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use meshward_tests::hammer::{For, Outcome};
use meshward_tests::rls::real::Real;
use meshward_tests::{RateLimitService, TestMesh, hammer, tools, until};

const CALLEES: [&str; 3] = ["one", "two", "three"];

/// One policy for the callees; `limits` are its limits.
fn mesh(service: SocketAddr, timeout: &str, limits: &str) -> String {
    format!(
        "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {{name: test}}
spec:
  trustDomain: test.example
  rateLimitService: {{address: '{service}', timeout: {timeout}}}
  services:
    - {{name: one, port: 8000, labels: {{tier: callee}}, replicas: 3}}
    - {{name: two, port: 8001, labels: {{tier: callee}}}}
    - {{name: three, port: 8002, labels: {{tier: callee}}}}
    - {{name: caller, port: 8003, calls: [one, two, three]}}
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: test}}
spec:
  selector: {{matchLabels: {{tier: callee}}}}
  limits:
{limits}"
    )
}

fn start(workers: u32, text: &str) -> TestMesh {
    TestMesh::start_with(text, &tools::filter().unwrap(), workers, &|_, _, text| text).unwrap()
}

fn load_time() -> Duration {
    let wanted = std::env::var("MESHWARD_LOAD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(wanted.unwrap_or(3))
}

fn second() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// What a second has.
const BUDGET: usize = 500;

/// All sidecars, hammered at once, while something else is done: what came back, and how many windows it touched.
fn saturate(running: &mut TestMesh, meanwhile: impl FnOnce(&mut TestMesh)) -> (Outcome, usize) {
    let mut loads: Vec<_> =
        CALLEES.iter().map(|callee| hammer(running, "caller", callee, 3).unwrap()).collect();
    let (first, began) = (second(), Instant::now());
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let loads: Vec<_> = loads
            .iter_mut()
            .map(|load| scope.spawn(move || load.run(For::Time(load_time()), |_, _| "x".to_owned())))
            .collect();
        meanwhile(running);
        for load in loads {
            all.add(load.join().unwrap().unwrap());
        }
    });
    all.elapsed = began.elapsed();
    (all, (second() - first + 1) as usize)
}

/// Never more than the budget of the windows that were touched, little less than that of those that were whole.
#[track_caller]
fn kept_to_the_budget(running: &TestMesh, (outcome, windows): &(Outcome, usize)) -> usize {
    let (sent, admitted) = (outcome.sent(), outcome.admitted());
    let count = |callee| running.counter(callee, &["meshward_rate_limit_calls"]);
    let calls = CALLEES.into_iter().map(count).sum::<u64>() as usize;
    println!(
        "{windows} windows of {BUDGET} in {:.2?}: sent {sent}, admitted {admitted}, {calls} calls: one for {} requests, {} admitted ones",
        outcome.elapsed,
        sent / calls.max(1),
        admitted / calls.max(1)
    );
    assert!(outcome.statuses.keys().all(|status| matches!(status, 200 | 429)), "{:?}", outcome.statuses);
    assert!(sent > windows * BUDGET * 6 / 5, "the load did not saturate the limit: {sent}");
    assert!(admitted <= windows * BUDGET, "{admitted} of {}", windows * BUDGET);
    assert!(admitted * 100 >= (windows - 2) * BUDGET * 95, "{admitted} of {}", (windows - 2) * BUDGET);
    calls
}

const ALL: &str = "    - {name: all, scope: global, key: [identity], rates: [{requests: 500, per: 1s}]}\n";

#[test]
fn three_sidecars_keep_to_one_budget_and_seldom_ask() {
    let service = RateLimitService::start().unwrap();
    let mut running = start(2, &mesh(service.address(), "50ms", ALL));
    let load = saturate(&mut running, |_| ());
    let calls = kept_to_the_budget(&running, &load);
    assert_eq!(calls, service.calls());
    assert!(calls * 20 <= load.0.sent(), "{calls} calls for {} requests", load.0.sent());
    let granted = service.granted();
    assert!(granted.values().all(|granted| *granted <= BUDGET as u64), "{granted:?}");
    // Not a token that the service has not counted.
    assert!(load.0.admitted() as u64 <= granted.values().sum(), "{granted:?}");
}

#[test]
fn a_service_that_says_yes_or_no_and_nothing_else_is_kept_to_as_well() {
    let service = RateLimitService::start().unwrap();
    service.be_terse();
    let mut running = start(2, &mesh(service.address(), "50ms", ALL));
    let load = saturate(&mut running, |_| ());
    kept_to_the_budget(&running, &load);
}

#[test]
fn a_new_policy_in_the_middle_fails_no_request_and_is_no_fresh_budget() {
    let service = RateLimitService::start().unwrap();
    let text = mesh(service.address(), "50ms", ALL);
    let mut running = start(2, &text);
    let before = running.counter("one", &["meshward_configurations", "accepted"]);
    let load = saturate(&mut running, |running| {
        until("some load", || running.seen("one") > 30).unwrap();
        running.update("one", &text.replace("per: 1s}]", "per: 1s}], response: {problem: true}")).unwrap();
        until("the new policy", || running.counter("one", &["meshward_configurations", "accepted"]) > before)
            .unwrap();
    });
    kept_to_the_budget(&running, &load);
}

#[test]
fn the_real_service_counts() {
    let Some(mut service) = Real::start().unwrap() else { return };
    let mut running = start(2, &mesh(service.address(), "200ms", ALL));
    let load = saturate(&mut running, |_| ());
    let calls = kept_to_the_budget(&running, &load);
    assert!(calls * 20 <= load.0.sent(), "{calls} calls for {} requests", load.0.sent());
    service.stop();
    // It counts for itself, and the service is heard again when it is back.
    let says = |what: &str| {
        until(what, || running.get("caller", "two", "/").is_ok() && running.log("two").contains(what))
            .unwrap();
    };
    says("the rate limit service does not answer");
    until("the share", || running.get("caller", "two", "/").unwrap().status == 200).unwrap();
    service.resume().unwrap();
    says("the rate limit service answers again");
}

#[test]
fn a_service_that_is_gone_or_slow_holds_nobody_up_and_is_asked_again_when_it_is_back() {
    let mut service = RateLimitService::start().unwrap();
    let limit = |path: &str, on_failure: &str| {
        format!(
            "    - name: {path}
      scope: global
      onFailure: {on_failure}
      to: [{{operation: {{paths: [/{path}]}}}}]
      rates: [{{requests: 9, per: 24h}}]
"
        )
    };
    let limits = [limit("open", "failOpen"), limit("closed", "failClosed"), limit("local", "local")].concat();
    // Long enough for a machine that does much else to answer in time.
    let running = start(1, &mesh(service.address(), "500ms", &limits));
    let ask = |path: &str| {
        let began = Instant::now();
        let status = running.get("caller", "one", path).unwrap().status;
        assert!(began.elapsed() < Duration::from_secs(10), "it was held up for {:?}", began.elapsed());
        status
    };
    let times = |path: &str, count: usize| (0..count).filter(|_| ask(path) == 200).count();
    assert_eq!(times("/open", 4), 4);

    // Slower than the timeout.
    service.slow_down(Duration::from_secs(60));
    assert_eq!(times("/open", 12), 12);
    assert_eq!(ask("/closed"), 503);
    // A third of nine: there are three replicas.
    assert_eq!(times("/local", 12), 3);
    assert!(running.log("one").contains("the rate limit service does not answer"));
    assert!(running.counter("one", &["meshward_rate_limit_calls", "error"]) > 0);

    service.stop();
    assert_eq!(times("/open", 12), 12);
    assert_eq!(ask("/closed"), 503);

    service.slow_down(Duration::ZERO);
    service.resume().unwrap();
    until("the service", || ask("/closed") == 200).unwrap();
    let admitted = 1 + times("/closed", 20);
    println!("after it came back {admitted} of 9");
    assert!(admitted <= 9, "{admitted}");
    until("the limit", || ask("/open") == 429).unwrap();
}

#[test]
fn what_another_limit_refuses_costs_nothing_of_the_budget() {
    let service = RateLimitService::start().unwrap();
    let limits =
        "    - {name: all, scope: global, rates: [{requests: 4, per: 24h}], response: {headers: always}}
    - {name: tenants, key: [{header: x-tenant}], rates: [{requests: 1, per: 1h}]}
";
    let running = start(1, &mesh(service.address(), "500ms", limits));
    let mut connection = running.connect("caller", "one").unwrap();
    let mut ask = |tenant: &[u8]| connection.request("GET", "one", "/", &[("x-tenant", tenant)]).unwrap().0;
    assert_eq!(
        [ask(b"a"), ask(b"a"), ask(b"a"), ask(b"b"), ask(b"b"), ask(b"c")],
        [200, 429, 429, 200, 429, 200]
    );
    assert_eq!([ask(b"d"), ask(b"e")], [200, 429]);
    let refused = running.get("caller", "one", "/").unwrap();
    assert_eq!((refused.status, refused.header("x-ratelimit-remaining")), (429, Some("0")));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
}

/// The first address behind `name` in a rendered configuration.
fn address_behind<'a>(text: &'a str, name: &str) -> &'a str {
    let part = text.split_once(name).unwrap().1;
    part.split_once("address: \"").unwrap().1.split_once('"').unwrap().0
}

/// The first address and port behind `name`, replaced.
fn moved(text: &str, name: &str, to: (&str, u16)) -> String {
    let (before, behind) = text.split_once(name).unwrap();
    let (head, rest) = behind.split_once("address: \"").unwrap();
    let (_, rest) = rest.split_once("port_value: ").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    let indent = " ".repeat(16);
    format!("{before}{name}{head}address: \"{}\"\n{indent}port_value: {}\n{rest}", to.0, to.1)
}

#[test]
fn the_service_is_asked_by_mutual_tls_where_the_mesh_knows_who_it_is() {
    let service = RateLimitService::start().unwrap();
    // The service has a sidecar of its own here; its application is the service that counts.
    let text = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  rateLimitService: {address: '127.0.0.1:9', timeout: 500ms, identity: 'spiffe://test.example/ns/default/sa/counter'}
  services:
    - {name: one, port: 8000, calls: [counter]}
    - {name: counter, port: 8001}
    - {name: caller, port: 8002, calls: [one]}
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: test}
spec:
  selector: {matchLabels: {app: one}}
  limits:
    - {name: all, scope: global, onFailure: failClosed, rates: [{requests: 2, per: 24h}]}
";
    let running = TestMesh::start_with(text, &tools::filter().unwrap(), 1, &|who, file, text| match (
        who.name.as_str(),
        file,
    ) {
        ("one", "envoy.yaml") => {
            let sidecar = address_behind(&text, "- name: counter\n    type: ").to_owned();
            moved(&text, "- name: rate_limit_service\n", (&sidecar, 15001))
        }
        ("counter", "envoy.yaml") => {
            moved(&text, "- name: local_application\n", ("127.0.0.1", service.address().port()))
        }
        _ => text,
    })
    .unwrap();
    let mut statuses = Vec::new();
    // Its first connection may take longer than a request waits.
    until("the service", || {
        statuses.push(running.get("caller", "one", "/").unwrap().status);
        statuses.last() == Some(&429)
    })
    .unwrap();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
    assert_eq!(running.counter("counter", &["meshward_decisions", "allow"]), service.calls() as u64);
}

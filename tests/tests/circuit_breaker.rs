//! Breakers and bulkheads in real Envoys, before an application that fails in every way there is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshward_builder::local::client::{self, Request, Response};
use meshward_builder::mesh::ports;
use meshward_tests::{TestMesh, tools, until};

/// `web` calls `api` and `other`; `web` and `job` are callers of `api`.
fn mesh(app: &str, policy: &str) -> String {
    format!(
        "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {{name: test}}
spec:
  trustDomain: test.example
  services:
    - {{name: web, port: 8000, calls: [api, other]}}
    - {{name: job, port: 8003, calls: [api]}}
    - {{name: api, port: 8001}}
    - {{name: other, port: 8002}}
---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {{name: test}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
{policy}
"
    )
}

fn start(workers: u32, app: &str, policy: &str) -> TestMesh {
    let filter = tools::filter().unwrap();
    TestMesh::start_with(&mesh(app, policy), &filter, workers, &|_, _, text| text).unwrap()
}

/// The application's way: plain HTTP to the sidecar.
fn ask(running: &TestMesh, to: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let headers = headers.as_slice();
    let mut stream = running.plain("web", ports::OUTBOUND).unwrap();
    client::exchange(&mut stream, &Request { method: "GET", path, host: to, headers, body: b"" }).unwrap()
}

fn status(running: &TestMesh, to: &str, path: &str) -> u16 {
    ask(running, to, path, &[]).status
}

/// Asks, and gives up without an answer after `patience`.
fn give_up(running: &TestMesh, path: &str, patience: Duration) {
    let mut stream = running.plain("web", ports::OUTBOUND).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let request = Request { method: "GET", path, host: "api", headers: &[], body: b"" };
    client::exchange(&mut stream, &request).unwrap_err();
}

fn is_refused(response: &Response) -> bool {
    response.status == 503 && response.text() == "circuit breaker open"
}

fn transitions(running: &TestMesh, parts: &[&str]) -> u64 {
    let mut all = vec!["meshward_breaker_transitions"];
    all.extend(parts);
    running.counter("web", &all)
}

/// Breakers of `web` in that state, as the gauge has it.
fn gauge(running: &TestMesh, state: &str) -> u64 {
    running.counter("web", &["meshward_breaker_states", &format!("result.{state}.")])
}

const FOR_GOOD: &str = "backoff: {min: 1h, max: 1h, jitter: 0}";

#[test]
fn it_opens_at_the_promised_request_whatever_the_number_of_workers() {
    for workers in [1, 2, 4] {
        let policy = format!("  breakers: [{{name: calls, consecutiveFailures: 5, {FOR_GOOD}}}]");
        let running = start(workers, "web", &policy);
        // A connection for each, so that every worker has its share.
        for number in 0..5 {
            let response = ask(&running, "api", "/do/status/500", &[]);
            assert_eq!((response.status, running.seen("api")), (500, number + 1), "{workers} workers");
        }
        for _ in 0..10 {
            let response = ask(&running, "api", "/do/status/500", &[]);
            assert!(is_refused(&response), "{} {}", response.status, response.text());
            assert_eq!(response.header("x-envoy-overloaded"), Some("true"));
            let seconds: u32 = response.header("retry-after").unwrap().parse().unwrap();
            assert!((3500..=3600).contains(&seconds), "{seconds}");
        }
        assert_eq!(running.seen("api"), 5, "refused without a word to the callee");
        assert_eq!(status(&running, "other", "/"), 200, "the other destination has a breaker of its own");
        assert_eq!(transitions(&running, &[]), 1, "one worker saw the change");
        let reason = ["result.open.", "reason.consecutive_failures.", "destination.api"];
        assert_eq!(transitions(&running, &reason), 1);
        assert_eq!((gauge(&running, "open"), gauge(&running, "half_open")), (1, 0));
        assert_eq!(running.counter("web", &["meshward_breakers.", "verdict.deny", "default/test/calls"]), 10);
        until("the log line", || {
            running.log("web").contains(
                "circuit breaker default/test/calls to api: open for 3600000 ms, consecutive_failures",
            )
        })
        .unwrap();
        let details = "meshward_breaker_open[default/test/calls]";
        let log = running.state.log(&meshward_builder::local::plan::access_log("web"));
        until("the access log", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(details)))
            .unwrap();
    }
}

#[test]
fn many_at_once_get_no_more_through_than_were_under_way() {
    let policy = format!("  breakers: [{{name: calls, consecutiveFailures: 5, {FOR_GOOD}}}]");
    let running = start(4, "web", &policy);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    ask(&running, "api", "/do/status/500", &[]);
                }
            });
        }
    });
    let seen = running.seen("api");
    assert!((5..5 + 16).contains(&seen), "{seen}");
    assert_eq!(transitions(&running, &[]), 1);
}

#[test]
fn every_way_to_fail_counts_and_what_is_no_failure_does_not() {
    let policy = format!(
        "  breakers: [{{name: calls, key: [destination, {{header: x-case}}], consecutiveFailures: 3, patience: 200ms, \
         failures: {{statuses: [408, 500-599], grpc: [UNAVAILABLE, INTERNAL]}}, {FOR_GOOD}}}]"
    );
    let running = start(2, "web", &policy);
    let opens = |case: &str, paths: &[&str]| {
        let headers = [("x-case".to_owned(), case.to_owned())];
        for path in paths {
            let mut stream = running.plain("web", ports::OUTBOUND).unwrap();
            let request = Request { method: "GET", path, host: "api", headers: &headers, body: b"" };
            if path.contains("hang") {
                stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            }
            // Half an answer is no answer to our client either.
            let _ = client::exchange(&mut stream, &request);
        }
        // The end of a stream is heard of a moment after the caller has seen it.
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        loop {
            let response = ask(&running, "api", "/", &[("x-case", case)]);
            if is_refused(&response) || std::time::Instant::now() > deadline {
                break is_refused(&response);
            }
        }
    };
    for (case, path) in [
        ("status", "/do/status/503"),
        ("timeout", "/do/status/408"),
        ("reset", "/do/reset/0"),
        ("grpc", "/do/grpc/14"),
        ("half", "/do/half/0"),
        ("hang", "/do/hang/0"),
    ] {
        assert!(opens(case, &[path; 3]), "{case}");
    }
    for (case, paths) in [
        ("client", ["/do/status/404"; 6]),
        // Which Envoy maps to INTERNAL.
        ("bad-request", ["/do/status/400"; 6]),
        ("grpc-not-found", ["/do/grpc/5"; 6]),
        ("between", ["/do/status/500", "/do/status/500", "/", "/do/status/500", "/do/status/500", "/"]),
    ] {
        assert!(!opens(case, &paths), "{case}");
    }
}

/// gRPC answers 200, and says at the end how it went.
#[test]
fn a_grpc_status_in_the_trailers_counts() {
    let policy = format!("  breakers: [{{name: calls, consecutiveFailures: 3, {FOR_GOOD}}}]");
    let running = start(2, "web", &policy);
    let address = std::net::SocketAddr::new(running.plan.address("web"), ports::OUTBOUND);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let get = |path: &str| {
        runtime.block_on(async {
            let mut connection = meshward_tests::http2::Connection::open(address, "api").await.unwrap();
            connection.get(path).await.unwrap()
        })
    };
    for path in ["/do/trailers/0", "/do/trailers/5", "/do/trailers/14", "/do/trailers/14", "/do/trailers/0"] {
        assert_eq!(get(path), Some(200), "{path}");
    }
    assert_eq!(transitions(&running, &[]), 0);
    until("refusals", || get("/do/trailers/14") == Some(503)).unwrap();
    assert!((7..=9).contains(&running.seen("api")), "{}", running.seen("api"));
}

#[test]
fn a_caller_that_leaves_early_says_nothing_of_the_callee() {
    let policy = format!("  breakers: [{{name: calls, consecutiveFailures: 2, patience: 20s, {FOR_GOOD}}}]");
    let running = start(1, "web", &policy);
    for _ in 0..4 {
        give_up(&running, "/do/hang/0", Duration::from_millis(100));
    }
    assert_eq!(status(&running, "api", "/"), 200);
    assert_eq!(transitions(&running, &[]), 0);
}

#[test]
fn one_probe_at_a_time_and_its_success_closes_it() {
    for workers in [1, 4] {
        let policy =
            "  breakers: [{name: calls, consecutiveFailures: 2, backoff: {min: 300ms, max: 10s, jitter: 0}}]";
        let running = start(workers, "web", policy);
        for _ in 0..2 {
            status(&running, "api", "/do/status/500");
        }
        assert_eq!(running.seen("api"), 2);
        // Whoever comes first when the time is up is the probe, and it takes long. Who is refused was refused before
        // it was heard of, so that until then nobody else may have got through.
        let refused = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let seen = running.seen("api");
                        let response = ask(&running, "api", "/do/slow/1500", &[]);
                        if !is_refused(&response) {
                            assert_eq!(response.status, 200);
                            return;
                        }
                        assert!(seen <= 3, "a second probe, {workers} workers");
                        refused.fetch_add(usize::from(seen == 3), Ordering::SeqCst);
                    }
                });
            }
        });
        let refused = refused.into_inner();
        assert!(refused > 0, "nobody asked while the probe was out");
        assert_eq!(running.seen("api"), 3 + 7);
        assert_eq!(transitions(&running, &["result.closed.", "reason.probes_succeeded."]), 1);
        assert_eq!(transitions(&running, &[]), 3);
        assert_eq!((gauge(&running, "open"), gauge(&running, "half_open")), (0, 0));
        assert_eq!(status(&running, "api", "/"), 200);
    }
}

#[test]
fn a_probe_whose_stream_dies_is_not_lost() {
    let policy = "  breakers: [{name: calls, consecutiveFailures: 2, patience: 30s, probeTimeout: 500ms, \
                  backoff: {min: 100ms, max: 10s, jitter: 0}}]";
    let running = start(2, "web", policy);
    for _ in 0..2 {
        status(&running, "api", "/do/status/500");
    }
    // The probe hangs, and its caller leaves long before that would be a failure: nobody reports its outcome.
    until("a probe", || {
        let mut stream = running.plain("web", ports::OUTBOUND).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let request = Request { method: "GET", path: "/do/hang/0", host: "api", headers: &[], body: b"" };
        client::exchange(&mut stream, &request).is_err()
    })
    .unwrap();
    assert_eq!(running.seen("api"), 3);
    until("the next probe", || status(&running, "api", "/") == 200).unwrap();
    assert_eq!(running.seen("api"), 4);
    assert_eq!(status(&running, "api", "/"), 200, "closed");
}

#[test]
fn a_probe_on_a_long_stream_is_judged_by_its_headers() {
    let policy =
        "  breakers: [{name: calls, consecutiveFailures: 2, backoff: {min: 100ms, max: 10s, jitter: 0}}]";
    let running = start(1, "web", policy);
    for _ in 0..2 {
        status(&running, "api", "/do/status/500");
    }
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            until("a probe", || status(&running, "api", "/do/stream/3000") == 200).unwrap();
        });
        until("closed", || transitions(&running, &["result.closed."]) == 1).unwrap();
        assert!(!stream.is_finished(), "while the stream goes on");
        assert_eq!(status(&running, "api", "/"), 200);
    });
}

/// The probe of a gRPC callee may be a stream that stays for hours, whose end nobody can wait for.
#[test]
fn a_probe_on_a_stream_that_stays_closes_it_when_its_time_is_over() {
    let policy = "  breakers: [{name: calls, consecutiveFailures: 2, probeTimeout: 4s, \
                  backoff: {min: 100ms, max: 10s, jitter: 0}}]";
    let running = start(2, "web", policy);
    for _ in 0..2 {
        status(&running, "api", "/do/status/500");
    }
    let address = std::net::SocketAddr::new(running.plan.address("web"), ports::OUTBOUND);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut probe = None;
    until("a probe", || {
        runtime.block_on(async {
            let mut connection = meshward_tests::http2::Connection::open(address, "api").await.unwrap();
            probe = connection.stream("/").await.ok().map(|stream| (connection, stream));
        });
        probe.is_some()
    })
    .unwrap();
    assert!(is_refused(&ask(&running, "api", "/", &[])), "the probe is out, and its time is not over");
    assert_eq!(gauge(&running, "half_open"), 1);
    until("closed", || status(&running, "api", "/") == 200).unwrap();
    assert_eq!(transitions(&running, &["result.closed.", "reason.probes_succeeded."]), 1);
    let (_connection, mut stream) = probe.unwrap();
    runtime.block_on(stream.echo(b"still there")).unwrap();
    drop(stream);
    assert_eq!(status(&running, "api", "/"), 200);
    assert_eq!(transitions(&running, &[]), 3, "how the stream ends is not heard");
    assert_eq!((gauge(&running, "open"), gauge(&running, "half_open")), (0, 0));
}

/// A configuration without the breaker, or with another key for it, and nobody who asks any more: in each case nothing
/// happens that could take it out of the gauge.
#[test]
fn a_breaker_that_is_dropped_or_forgotten_while_open_is_counted_no_more() {
    let breaker =
        |rest: &str| format!("  breakers: [{{name: calls, consecutiveFailures: 2, {rest}, {FOR_GOOD}}}]");
    let running = start(2, "web", &breaker("honourRetryAfter: true"));
    let open = || {
        for _ in 0..2 {
            assert_eq!(status(&running, "api", "/do/status/500"), 500);
        }
        until("the gauge", || gauge(&running, "open") == 1).unwrap();
    };
    let swap = |policy: &str| {
        let accepted = || running.counter("web", &["meshward_configurations", "accepted"]);
        let before = accepted();
        running.swap("web", &mesh("web", policy)).unwrap();
        // The main thread's VM and each worker's.
        until("the configuration", || accepted() >= before + 3).unwrap();
    };
    open();
    swap(&breaker("honourRetryAfter: false"));
    assert!(is_refused(&ask(&running, "api", "/", &[])), "the same breaker is still open");
    assert_eq!(gauge(&running, "open"), 1);
    swap(&breaker("key: [destination, method]"));
    until("the old one to be gone", || gauge(&running, "open") == 0).unwrap();
    open();
    swap("  concurrency: [{name: out, side: outbound, limit: 5}]");
    until("the breaker to be gone", || gauge(&running, "open") == 0).unwrap();
    swap("  breakers: [{name: other, consecutiveFailures: 2, backoff: {min: 100ms, max: 100ms, jitter: 0}}]");
    open();
    until("it to be forgotten", || gauge(&running, "open") == 0).unwrap();
    assert_eq!(transitions(&running, &["result.half_open."]), 0, "nobody has asked");
}

#[test]
fn a_flapping_callee_is_tried_ever_more_seldom() {
    let policy =
        "  breakers: [{name: calls, consecutiveFailures: 2, backoff: {min: 50ms, max: 400ms, jitter: 0}}]";
    let running = start(2, "web", policy);
    until("five failed probes", || {
        status(&running, "api", "/do/status/500");
        transitions(&running, &["reason.probe_failed."]) >= 5
    })
    .unwrap();
    until("the log lines", || running.log("web").matches("probe_failed").count() >= 5).unwrap();
    let log = running.log("web");
    let times: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split_once(": open for ")?.1.split_once(" ms,")?.0.parse().ok())
        .take(6)
        .collect();
    assert_eq!(times, [50, 100, 200, 400, 400, 400]);
    // Well again for a while: closed, and the backoff starts anew.
    until("closed", || status(&running, "api", "/") == 200).unwrap();
    for _ in 0..2 {
        status(&running, "api", "/do/status/500");
    }
    let opened = || {
        let log = running.log("web");
        log.lines().rfind(|line| line.contains("consecutive_failures")).map(str::to_owned)
    };
    until("the log line", || running.log("web").matches("consecutive_failures").count() == 2).unwrap();
    assert!(opened().unwrap().contains("open for 50 ms"), "{:?}", opened());
}

#[test]
fn ratios_slow_answers_and_what_the_callee_asks_for_open_it_too() {
    let policy = "  breakers:
  - {name: ratio, to: [{operation: {paths: [/do/status/*, /]}}], failureRatio: 0.5, minRequests: 6, backoff: {min: 1h, max: 1h}}
  - {name: slow, to: [{operation: {paths: [/do/slow/*]}}], slowCalls: {threshold: 50ms, ratio: 1.0}, minRequests: 3, backoff: {min: 1h, max: 1h}}
  - {name: asked, consecutiveFailures: 1, honourRetryAfter: true, backoff: {min: 1s, max: 1m, jitter: 0}}
";
    let running = start(2, "web", policy);
    let mut failed = 0;
    for number in 0.. {
        let path = if number % 2 == 0 { "/do/status/500" } else { "/" };
        if is_refused(&ask(&running, "api", path, &[])) {
            break;
        }
        failed += 1;
    }
    assert_eq!(failed, 6, "half of the first six, and not before");
    assert_eq!(transitions(&running, &["reason.failure_ratio."]), 1);
    for _ in 0..3 {
        assert_eq!(status(&running, "api", "/do/slow/120"), 200);
    }
    until("slow answers", || is_refused(&ask(&running, "api", "/do/slow/0", &[]))).unwrap();
    assert_eq!(transitions(&running, &["reason.slow_ratio."]), 1);
    assert_eq!(status(&running, "api", "/do/retry-after/40"), 503);
    let refused = ask(&running, "api", "/do/half/0", &[]);
    let seconds: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(is_refused(&refused) && (20..=40).contains(&seconds), "{seconds}");
}

#[test]
fn the_answer_while_open_is_grpcs_or_the_fallback() {
    let policy = format!(
        "  breakers:
  - {{name: books, destinations: [other], consecutiveFailures: 1, {FOR_GOOD},
     fallback: {{status: 200, contentType: application/json, body: '[]'}}}}
  - {{name: calls, consecutiveFailures: 1, {FOR_GOOD}}}
"
    );
    let running = start(1, "web", &policy);
    for to in ["api", "other"] {
        assert_eq!(status(&running, to, "/do/status/500"), 500);
    }
    let grpc = ask(&running, "api", "/x.Y/Z", &[("content-type", "application/grpc")]);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")));
    let fallback = ask(&running, "other", "/", &[]);
    assert_eq!((fallback.status, fallback.text()), (200, "[]".to_owned()));
    assert_eq!(fallback.header("content-type"), Some("application/json"));
}

/// What the mesh itself refuses is no outcome.
#[test]
fn refusals_of_the_mesh_count_for_nothing() {
    let policy = format!("  breakers: [{{name: calls, consecutiveFailures: 1, {FOR_GOOD}}}]");
    let bulkhead = "---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {name: bulkhead}
spec:
  selector: {matchLabels: {app: api}}
  concurrency: [{name: all, limit: 1}]
";
    let text = mesh("web", &policy) + bulkhead;
    let running = TestMesh::start_with(&text, &tools::filter().unwrap(), 1, &|_, _, text| text).unwrap();
    let _held = hold(&running, "job", 1);
    for _ in 0..3 {
        let response = ask(&running, "api", "/", &[]);
        assert_eq!((response.status, response.text().as_str()), (503, "too many requests in flight"));
    }
    assert_eq!(transitions(&running, &[]), 0);
}

#[test]
fn shadow_mode_refuses_nothing_and_counts() {
    let policy = format!("  breakers: [{{name: calls, mode: shadow, consecutiveFailures: 2, {FOR_GOOD}}}]");
    let running = start(1, "web", &policy);
    for _ in 0..6 {
        assert_eq!(status(&running, "api", "/do/status/500"), 500);
    }
    assert_eq!(running.seen("api"), 6);
    assert_eq!(running.counter("web", &["meshward_breakers.", "verdict.shadow_deny"]), 4);
    assert_eq!(gauge(&running, "open"), 1);
}

/// Inbound, by mutual TLS as the callers themselves.
#[test]
fn one_bad_caller_does_not_open_it_for_the_others() {
    let policy =
        format!("  breakers: [{{name: callers, side: inbound, consecutiveFailures: 3, {FOR_GOOD}}}]");
    let running = start(2, "api", &policy);
    for _ in 0..3 {
        assert_eq!(running.get("job", "api", "/do/status/500").unwrap().status, 500);
    }
    for _ in 0..5 {
        assert!(is_refused(&running.get("job", "api", "/").unwrap()));
        assert_eq!(running.get("web", "api", "/").unwrap().status, 200);
    }
    until("the log line", || {
        running.log("api").contains("callers of spiffe://test.example/ns/default/sa/job: open for")
    })
    .unwrap();
}

/// So many requests of `from` that hang in `api`, by connections that are given back. One that is refused, since the place
/// of a stream that has ended is not free yet, is sent again.
fn hold(running: &TestMesh, from: &str, count: usize) -> Vec<Box<dyn std::any::Any>> {
    let one = || {
        let seen = running.seen("api");
        let mut held: Option<Box<dyn std::any::Any>> = None;
        until("a request to be held", || {
            let mut stream = running.tls(from, "api").unwrap().connect(running.inbound("api")).unwrap();
            stream.write_all(b"GET /do/hang/0 HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
            stream.flush().unwrap();
            stream.sock.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            loop {
                if running.seen("api") > seen {
                    held = Some(Box::new(stream));
                    return true;
                }
                // An answer: it was refused.
                if stream.read(&mut [0; 64]).is_ok() {
                    return false;
                }
            }
        })
        .unwrap();
        held.unwrap()
    };
    (0..count).map(|_| one()).collect()
}

fn in_flight_refused(running: &TestMesh, from: &str) -> bool {
    let response = running.get(from, "api", "/").unwrap();
    response.status == 503 && response.text() == "too many requests in flight"
}

/// All places of `from` are free: as many as the limit pass, and then no more.
fn all_free(running: &TestMesh, from: &str, limit: usize) {
    until("a free place", || !in_flight_refused(running, from)).unwrap();
    let held = hold(running, from, limit);
    assert!(in_flight_refused(running, from));
    drop(held);
    until("a free place", || !in_flight_refused(running, from)).unwrap();
}

#[test]
fn places_of_a_bulkhead_are_given_back_however_a_stream_ends() {
    let bulkhead = "  concurrency:
  - {name: all, limit: 6}
  - {name: each, key: [identity], limit: 4}
";
    for workers in [1, 4] {
        let mut running = start(workers, "api", bulkhead);
        // Refused at once, and the others are not.
        let held = hold(&running, "job", 4);
        assert!(in_flight_refused(&running, "job"));
        assert!(!in_flight_refused(&running, "web"));
        // All together are limited as well.
        let others = hold(&running, "web", 2);
        assert!(in_flight_refused(&running, "web"));
        assert_eq!(running.counter("api", &["meshward_concurrency.", "verdict.deny", "default/test/all"]), 1);
        drop(others);
        // A new configuration in the middle: those under way still count, and leave.
        let changed = format!("{bulkhead}  - {{name: more, limit: 1000}}\n");
        let accepted = running.counter("api", &["meshward_configurations", "accepted"]);
        running.update("api", &mesh("api", &changed)).unwrap();
        until("the new configuration", || {
            running.counter("api", &["meshward_configurations", "accepted"]) >= accepted + u64::from(workers)
        })
        .unwrap();
        until("still full", || in_flight_refused(&running, "job")).unwrap();
        // The callers leave.
        drop(held);
        all_free(&running, "job", 4);
        // The application breaks off, half way or at once; the caller leaves early; many at once.
        std::thread::scope(|scope| {
            for path in ["/do/reset/0", "/do/half/0", "/do/status/500", "/do/slow/20", "/"] {
                let running = &running;
                scope.spawn(move || {
                    for _ in 0..if path.contains("half") { 2 } else { 10 } {
                        let _ = running.get("job", "api", path);
                        let mut stream =
                            running.tls("job", "api").unwrap().connect(running.inbound("api")).unwrap();
                        let _ =
                            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n").as_bytes());
                    }
                });
            }
        });
        all_free(&running, "job", 4);
        all_free(&running, "web", 4);
        assert_eq!(running.ended(), 0);
    }
}

#[test]
fn a_bulkhead_of_what_a_workload_sends() {
    let running =
        start(2, "web", "  concurrency: [{name: out, side: outbound, destinations: [api], limit: 2}]");
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = running.plain("web", ports::OUTBOUND).unwrap();
            stream.write_all(b"GET /do/hang/0 HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
            stream
        })
        .collect();
    until("the held requests", || running.seen("api") == 2).unwrap();
    assert_eq!(ask(&running, "api", "/", &[]).text(), "too many requests in flight");
    assert_eq!(status(&running, "other", "/"), 200);
    drop(held);
    until("free places", || status(&running, "api", "/") == 200).unwrap();
}

/// Whatever callers and paths there are, the memory is that of the first few.
#[test]
fn ten_thousand_routes_and_callers_take_no_more_memory_than_a_few() {
    let policy = "  breakers: [{name: calls, key: [destination, {header: x-caller}], consecutiveFailures: 1, failureRatio: 0.5}]
  concurrency: [{name: each, side: outbound, key: [{header: x-caller}], limit: 3}]
";
    let running = start(2, "web", policy);
    let keys = AtomicUsize::new(0);
    let load = |until: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let stream = running.plain("web", ports::OUTBOUND).unwrap();
                    let mut connection = meshward_tests::Connection::new(stream);
                    loop {
                        let key = keys.fetch_add(1, Ordering::SeqCst);
                        if key >= until {
                            return;
                        }
                        let (name, path) = (key.to_string(), ["/", "/do/status/500"][key % 2]);
                        connection.request("GET", "api", path, &[("x-caller", name.as_bytes())]).unwrap();
                    }
                });
            }
        });
        keys.store(until, Ordering::SeqCst);
    };
    let memory = || {
        let text = running.admin("web", "/memory").unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["allocated"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let names = || running.admin("web", "/stats?filter=meshward").unwrap().lines().count();
    load(3000);
    let (before, known) = (memory(), names());
    load(10_000);
    let after = memory();
    assert!(after < before + (2 << 20), "{before} bytes, then {after}");
    assert_eq!(names(), known);
    // There is room for 2,048 that fail.
    assert!(running.counter("web", &["meshward_breaker_untracked", "policy.default/test/calls"]) > 0);
    assert!(gauge(&running, "open") <= 2048);
}

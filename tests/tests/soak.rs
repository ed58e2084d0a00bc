//! Breakers and bulkheads under load for long, with faults by command and a new configuration every few seconds: nothing is
//! lost that was not refused on purpose, counters come back to zero, memory stays where it was.
//!
//! `MESHWARD_SOAK_SECONDS=600 cargo test -p meshward-tests --test soak -- --nocapture`; without the variable it says SKIPPED.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshward_builder::local::client;
use meshward_builder::local::plan::access_log;
use meshward_builder::mesh::ports;
use meshward_tests::{Connection, TestMesh, tools, until};

/// Connections that always have a request under way.
const CALLERS: usize = 8;
/// Places of the bulkheads, outbound and inbound: fewer than callers, so that they refuse, too.
const PLACES: usize = 6;
/// How often everything is configured anew.
const RELOAD: Duration = Duration::from_secs(3);
/// Heap of Envoy and resident memory may grow by so much over the second half.
const GROWTH: u64 = 8 << 20;

/// `round` makes each configuration another one.
fn mesh(round: u64) -> String {
    let ratio = if round.is_multiple_of(2) { 0.5 } else { 0.6 };
    format!(
        "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {{name: soak}}
spec:
  trustDomain: soak.example
  services:
    - {{name: web, port: 8000, calls: [api]}}
    - {{name: api, port: 8001}}
---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {{name: callers}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  breakers:
    - {{name: ill, to: [{{operation: {{paths: [/do/*]}}}}], consecutiveFailures: 5, failureRatio: {ratio}, patience: 200ms,
       backoff: {{min: 100ms, max: 1s, jitter: 0.5}}}}
    - {{name: well, consecutiveFailures: 5, failureRatio: {ratio}, patience: 5s}}
  concurrency: [{{name: out, side: outbound, limit: {PLACES}}}]
---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {{name: callee}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  concurrency: [{{name: each, key: [identity], limit: {PLACES}}}, {{name: all, limit: {}}}]
",
        PLACES + 1 + usize::try_from(round % 3).unwrap()
    )
}

fn outbound(running: &TestMesh) -> SocketAddr {
    SocketAddr::new(running.plan.address("web"), ports::OUTBOUND)
}

/// A connection, and none only when the sidecar is gone: then the test is as good as over, and says why elsewhere.
fn connect(sidecar: SocketAddr, tally: &Tally) -> Option<TcpStream> {
    client::connect(sidecar).inspect_err(|error| count(tally, format!("lost: no connection: {error}"))).ok()
}

/// What became of requests that should be answered with 200, by what came back.
type Tally = Mutex<BTreeMap<String, u64>>;

fn count(tally: &Tally, what: impl Into<String>) {
    *tally.lock().unwrap().entry(what.into()).or_default() += 1;
}

/// Asks again and again on one connection for what is well.
fn well(sidecar: SocketAddr, done: &AtomicBool, tally: &Tally) {
    let Some(socket) = connect(sidecar, tally) else { return };
    let mut connection = Connection::new(socket);
    while !done.load(Ordering::SeqCst) {
        match connection.whole("GET", "api", "/", &[]) {
            Ok((200, closes, _)) => count(tally, if closes { "200, closed" } else { "200" }),
            Ok((status, _, answer)) => {
                let answer = String::from_utf8_lossy(&answer);
                count(tally, format!("{status} {}", answer.rsplit("\r\n\r\n").next().unwrap()));
            }
            Err(error) => {
                count(tally, format!("lost: {error}"));
                let Some(socket) = connect(sidecar, tally) else { return };
                connection = Connection::new(socket);
            }
        }
    }
}

/// Fails in every way there is, for a second in every four; connections are thrown away in the middle.
fn ill(sidecar: SocketAddr, done: &AtomicBool, tally: &Tally) {
    const WAYS: [&str; 7] = [
        "/do/status/503",
        "/do/reset/0",
        "/do/half/0",
        "/do/hang/0",
        "/do/slow/50",
        "/do/grpc/14",
        "/do/status/500",
    ];
    let begin = Instant::now();
    for number in 0.. {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let path = if begin.elapsed().as_secs().is_multiple_of(4) {
            WAYS[number % WAYS.len()]
        } else {
            "/do/slow/0"
        };
        let Some(mut socket) = connect(sidecar, tally) else { return };
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n");
        if let Err(error) = socket.write_all(request.as_bytes()) {
            count(tally, format!("lost: not sent: {error}"));
            continue;
        }
        // Every fifth caller does not even wait.
        if number % 5 != 0 {
            let mut answer = [0; 512];
            let length = socket.read(&mut answer).unwrap_or(0);
            let is_refused = answer[..length].ends_with(b"circuit breaker open");
            count(tally, if is_refused { "ill: refused" } else { "ill: sent" });
        }
    }
}

/// Envoy's heap and what is resident, in bytes.
fn memory(running: &TestMesh, service: &str) -> (u64, u64) {
    let text = running.admin(service, "/memory").unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let heap = value["allocated"].as_str().unwrap().parse().unwrap();
    let folder = running.state.envoy(service).display().to_string();
    let resident = std::fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let command = std::fs::read_to_string(process.path().join("cmdline")).ok()?;
        let status = std::fs::read_to_string(process.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        command.contains(&folder).then(|| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
    });
    (heap, resident.unwrap_or(0))
}

#[test]
fn nothing_is_lost_nothing_leaks() {
    let Some(time) = std::env::var("MESHWARD_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()) else {
        return tools::skipped("the soak", "MESHWARD_SOAK_SECONDS is not set");
    };
    let time = Duration::from_secs(time);
    let filter = tools::filter().unwrap();
    let mut view = TestMesh::start_with(&mesh(0), &filter, 2, &|_, _, text| text).unwrap();
    let sidecar = outbound(&view);
    let (done, tally) = (AtomicBool::new(false), Tally::default());
    let mut samples: Vec<[(u64, u64); 2]> = Vec::new();
    let mut rounds = 0;
    let mut ended = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| well(sidecar, &done, &tally));
        }
        for _ in 0..2 {
            scope.spawn(|| ill(sidecar, &done, &tally));
        }
        let begin = Instant::now();
        while begin.elapsed() < time && ended.is_empty() {
            std::thread::sleep(RELOAD);
            rounds += 1;
            ended = view.endings();
            for service in ["web", "api"] {
                view.swap(service, &mesh(rounds)).unwrap();
                // Nobody reads them here, and they would fill the disk.
                let log = std::fs::File::options().write(true).open(view.state.log(&access_log(service)));
                log.and_then(|file| file.set_len(0)).unwrap();
            }
            if rounds % 5 == 0 && ended.is_empty() {
                samples.push(["web", "api"].map(|service| memory(&view, service)));
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    let tally = tally.into_inner().unwrap();
    println!("{rounds} configurations of each sidecar in {time:?}");
    tally.iter().for_each(|(what, number)| println!("{number:>9} {what}"));
    for (at, service) in ["web", "api"].into_iter().enumerate() {
        for (sample, memory) in samples.iter().enumerate() {
            println!("{service} {sample:>3}: heap {:>9} resident {:>9}", memory[at].0, memory[at].1);
        }
    }
    let on_purpose = ["503 too many requests in flight", "ill: refused", "ill: sent", "200"];
    let lost: Vec<_> = tally.keys().filter(|what| !on_purpose.contains(&what.as_str())).collect();
    if !(lost.is_empty() && ended.is_empty()) {
        keep_logs(&view);
    }
    assert!(ended.is_empty(), "{}", ended.join("\n"));
    assert!(lost.is_empty(), "lost, and not refused on purpose: {lost:?}");
    for what in on_purpose {
        assert!(tally.get(what).is_some_and(|number| *number > 0), "no load: {what}");
    }
    for service in ["web", "api"] {
        assert_eq!(view.counter(service, &["meshward_configurations", "rejected"]), 0);
        assert_eq!(view.counter(service, &["vm_reload"]), 0, "a VM has trapped");
    }
    assert!(view.counter("api", &["meshward_configurations", "accepted"]) >= rounds);
    for name in ["result.open.", "result.half_open.", "result.closed."] {
        assert!(view.counter("web", &["meshward_breaker_transitions", name]) > 0, "{name}");
    }
    counters_are_zero(&view);
    let half = &samples[samples.len() / 2..];
    for at in [0, 1] {
        let (first, last) = (half.first().unwrap()[at], half.last().unwrap()[at]);
        assert!(last.0 <= first.0 + GROWTH, "heap: {} and then {}", first.0, last.0);
        assert!(last.1 <= first.1 + GROWTH, "resident: {} and then {}", first.1, last.1);
    }
}

/// The mesh's folder goes with the test: what the sidecars have said stays.
fn keep_logs(running: &TestMesh) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak");
    std::fs::create_dir_all(&kept).unwrap();
    for service in ["web", "api"] {
        let log = running.state.log(&format!("{service}.envoy"));
        std::fs::copy(&log, kept.join(log.file_name().unwrap())).unwrap();
    }
    println!("the sidecars' logs: {}", kept.display());
}

/// As many requests as there are places pass, and then no more; then the breaker of what was ill closes.
fn counters_are_zero(running: &TestMesh) {
    let sidecar = outbound(running);
    let connect = || client::connect(sidecar).unwrap();
    let active = || running.counter("web", &["http.outbound.downstream_rq_active"]);
    until("the last request", || active() == 0).unwrap();
    until("the breaker to close", || {
        let (status, ..) = Connection::new(connect()).whole("GET", "api", "/do/slow/0", &[]).unwrap();
        status == 200 && running.counter("web", &["meshward_breaker_states"]) == 0
    })
    .unwrap();
    let seen = running.seen("api");
    let held: Vec<TcpStream> = (0..PLACES)
        .map(|_| {
            let mut socket = connect();
            socket.write_all(b"GET /do/hang/0 HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
            socket
        })
        .collect();
    until("as many as there are places", || running.seen("api") == seen + PLACES).unwrap();
    let (status, _, answer) = Connection::new(connect()).whole("GET", "api", "/", &[]).unwrap();
    assert!(status == 503 && answer.ends_with(b"too many requests in flight"), "{status}");
    drop(held);
}

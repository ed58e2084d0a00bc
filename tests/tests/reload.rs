//! A new policy and a new certificate reach a running sidecar, and nobody's connection is dropped for it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use meshward_builder::local::certificates;
use meshward_builder::pki::{self, SvidRequest, folder};
use meshward_tests::{TestMesh, tools, until};
use time::OffsetDateTime;

fn mesh(paths: &str) -> String {
    format!(
        "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {{name: test}}
spec:
  trustDomain: test.example
  services:
    - {{name: callee, port: 8000}}
    - {{name: caller, port: 8001, calls: [callee]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: readers, namespace: default}}
spec:
  selector: {{matchLabels: {{app: callee}}}}
  rules:
    - from: [{{source: {{principals: [test.example/ns/default/sa/caller]}}}}]
      to: [{{operation: {{paths: [{paths}]}}}}]
"
    )
}

#[test]
fn a_new_policy_reaches_open_connections_and_drops_none() {
    let mut running = TestMesh::start(&mesh("/a")).unwrap();
    let mut connections: Vec<_> = (0..8).map(|_| running.connect("caller", "callee").unwrap()).collect();
    for connection in &mut connections {
        assert_eq!(connection.get("callee", "/a").unwrap().0, 200);
        assert_eq!(connection.get("callee", "/b").unwrap().0, 403);
    }
    // Somebody keeps asking while it happens, and must get an answer each time.
    let mut busy = running.connect("caller", "callee").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = 0;
            while !done.load(Ordering::SeqCst) {
                let (status, closes) = busy.get("callee", "/a").unwrap();
                assert!(matches!(status, 200 | 403) && !closes, "{status} {closes}");
                answers += 1;
            }
            answers
        });
        for round in 0..5 {
            let (path, other) = if round % 2 == 0 { ("/b", "/a") } else { ("/a", "/b") };
            running.update("callee", &mesh(path)).unwrap();
            for connection in &mut connections {
                until("the new policy", || {
                    let (status, closes) = connection.get("callee", path).unwrap();
                    assert!(!closes, "the server wants to close a connection");
                    status == 200
                })
                .unwrap();
                assert_eq!(connection.get("callee", other).unwrap(), (403, false));
            }
        }
        done.store(true, Ordering::SeqCst);
        assert!(asking.join().unwrap() > 0);
    });
    assert_eq!(running.counter("callee", &["listener.", "downstream_cx_total"]).min(9), 9);
    assert_eq!(running.ended(), 0);
}

/// How long the threads of a process have waited for a processor so far, summed up (proc(5), `schedstat`).
fn waited_for_a_processor(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let waited = |thread: std::io::Result<std::fs::DirEntry>| {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(waited).sum()
}

/// What one worker of Envoy did about a swap.
struct Seen {
    /// Since the swap: when the first request that got the new answer had its answer.
    new: Duration,
    /// Since the swap: when the last request that got the old answer was sent.
    old: Duration,
}

/// Each worker of Envoy decides by itself: in each, no request that is sent a second after the swap or later may be
/// answered by the old policy, under load, too. What Envoy waited for a processor meanwhile is the machine's affair.
#[test]
fn a_new_policy_is_in_force_in_every_worker_within_a_second() {
    const WORKERS: usize = 4;
    const SWAPS: usize = 10;
    let filter = tools::filter().unwrap();
    let workers = u32::try_from(WORKERS).unwrap();
    let mut running = TestMesh::start_with(&mesh("/a"), &filter, workers, &|_, _, text| text).unwrap();
    let envoy = running.process("callee").unwrap();
    let connections_of = |running: &TestMesh, worker: usize| {
        running.counter("callee", &[&format!("_15001.worker_{worker}.downstream_cx_total")])
    };
    // A connection of each worker; which one the kernel gives it to, Envoy's counters tell.
    let mut of_worker: Vec<Option<_>> = (0..WORKERS).map(|_| None).collect();
    until("a connection of each worker", || {
        let before: Vec<u64> = (0..WORKERS).map(|worker| connections_of(&running, worker)).collect();
        let mut connection = running.connect("caller", "callee").unwrap();
        assert_eq!(connection.get("callee", "/a").unwrap(), (200, false));
        let worker = (0..WORKERS).find(|worker| connections_of(&running, *worker) > before[*worker]).unwrap();
        of_worker[worker] = Some(connection);
        of_worker.iter().all(Option::is_some)
    })
    .unwrap();
    let mut of_worker: Vec<_> = of_worker.into_iter().flatten().collect();
    let mut busy: Vec<_> = (0..8).map(|_| running.connect("caller", "callee").unwrap()).collect();
    let (done, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begin = Instant::now();
    let (mut took, mut late) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for connection in &mut busy {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let (status, closes) = connection.get("callee", "/a").unwrap();
                    assert!(matches!(status, 200 | 403) && !closes, "{status} {closes}");
                    answers.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        for round in 0..SWAPS {
            let (path, other) = if round % 2 == 0 { ("/b", "/a") } else { ("/a", "/b") };
            let waited = waited_for_a_processor(envoy);
            running.update("callee", &mesh(path)).unwrap();
            // The link was made just before it was put in place.
            let link = running.state.envoy("callee").join("..data");
            let swapped = std::fs::symlink_metadata(link).unwrap().modified().unwrap();
            let since = || swapped.elapsed().unwrap_or_default();
            let seen: Vec<Seen> = std::thread::scope(|scope| {
                let ask = |connection| scope.spawn(|| until_new(connection, path, other, since));
                let asking: Vec<_> = of_worker.iter_mut().map(ask).collect();
                asking.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let waited = waited_for_a_processor(envoy).saturating_sub(waited);
            let old = seen.iter().map(|one| one.old).max().unwrap();
            if old.saturating_sub(waited) > Duration::from_secs(1) {
                late.push((old, waited));
            }
            took.extend(seen.into_iter().map(|one| one.new));
        }
        done.store(true, Ordering::SeqCst);
    });
    took.sort();
    let rate = answers.load(Ordering::SeqCst) as f64 / begin.elapsed().as_secs_f64();
    println!(
        "in force in a worker: {:?} at the median, {:?} at most, of {SWAPS} swaps in {WORKERS} workers; \
         {rate:.0} requests a second beside",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(
        late.is_empty(),
        "the old policy still answered (after, of which waiting for a processor): {late:?}"
    );
}

/// Asks until the answer is the new policy's, and once more for what the old one allowed: never again, in no worker.
fn until_new<S: std::io::Read + std::io::Write>(
    connection: &mut meshward_tests::Connection<S>,
    path: &str,
    other: &str,
    since: impl Fn() -> Duration,
) -> Seen {
    let (mut old, mut new) = (Duration::ZERO, Duration::ZERO);
    until("the new policy", || {
        let sent = since();
        let (status, closes) = connection.get("callee", path).unwrap();
        assert!(!closes, "the server wants to close a connection");
        if status == 200 {
            new = since();
        } else {
            old = sent;
        }
        status == 200
    })
    .unwrap();
    assert_eq!(connection.get("callee", other).unwrap(), (403, false));
    Seen { new, old }
}

#[test]
fn a_new_certificate_serves_new_connections_and_keeps_the_old_ones() {
    let running = TestMesh::start(&mesh("/a")).unwrap();
    let mut old = running.connect("caller", "callee").unwrap();
    assert_eq!(old.get("callee", "/a").unwrap().0, 200);
    let before = serials(&running);

    let callee = running.mesh.service("callee").unwrap();
    let request = SvidRequest::for_service(
        running.ca.trust_domain(),
        &callee.namespace,
        &callee.service_account,
        &callee.name,
    )
    .unwrap();
    let issued = pki::issue(&running.ca, &request, OffsetDateTime::now_utc()).unwrap();
    let mut files = folder::Files::new();
    files.insert("tls.crt", issued.chain_pem);
    files.insert("tls.key", issued.key_pem.unwrap().as_bytes().to_vec());
    files.insert("ca.crt", issued.bundle_pem);
    folder::replace(&running.state.certificates("callee"), &files).unwrap();

    until("the new certificate", || serials(&running) != before).unwrap();
    assert_eq!(old.get("callee", "/a").unwrap(), (200, false), "the old connection was dropped");
    assert_eq!(running.get("caller", "callee", "/a").unwrap().status, 200);
}

#[test]
fn a_certificate_of_another_ca_is_not_taken_for_a_good_one() {
    let running = TestMesh::start(&mesh("/a")).unwrap();
    let identity = certificates::identity(&running.state, "caller").unwrap();
    assert!(running.tls_as(Some(identity), "callee").unwrap().connect(running.inbound("callee")).is_ok());
    let other = TestMesh::start(&mesh("/a")).unwrap();
    let foreign = certificates::identity(&other.state, "caller").unwrap();
    let client = running.tls_as(Some(foreign), "callee").unwrap();
    // In TLS 1.3 the client is done before the server has looked at its certificate.
    let answer = client
        .connect(running.inbound("callee"))
        .and_then(|stream| meshward_tests::Connection::new(stream).get("callee", "/a"));
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("UnknownCA") || error.contains("CertificateUnknown"), "{error}");
    assert_eq!(running.seen("callee"), 0);
}

/// The serial numbers of the certificates that the callee's Envoy serves with.
fn serials(running: &TestMesh) -> Vec<String> {
    let text = running.admin("callee", "/certs").unwrap();
    let certs: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for entry in certs["certificates"].as_array().unwrap() {
        for chain in entry["cert_chain"].as_array().into_iter().flatten() {
            found.push(chain["serial_number"].as_str().unwrap().to_owned());
        }
    }
    assert!(!found.is_empty(), "{text}");
    found
}

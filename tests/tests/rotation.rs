//! Certificates for life, on real sidecars: leaves and the CA change under load without a failed request; what is revoked
//! or of another trust domain does not get in.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

#[path = "rotation/load.rs"]
mod load;
#[path = "rotation/support.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use load::{Stop, Tally};
use meshward_builder::envoy::INBOUND_FILE;
use meshward_builder::local::client::{self, Identity};
use meshward_builder::mesh::ports;
use meshward_builder::pki::ledger::Reason;
use meshward_builder::pki::rotate::Direction;
use meshward_builder::pki::{Ca, CaOptions, SvidRequest, federation, issue, key, svid};
use meshward_tests::{Connection, broken, http2, tools, until};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use support::Certificates;
use time::OffsetDateTime;

const HEAD: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
";

const SERVICES: &str = "
  services:
    - {name: callee, port: 8000}
    - {name: db, protocol: tcp, port: 5432}
    - {name: caller, port: 8001, calls: [callee, db]}
";

/// How often `/c` may be asked for: once an hour, or as often as anybody wants.
const SELDOM: &str = "{requests: 1, per: 1h}";
const OFTEN: &str = "{requests: 1000, per: 1s}";

/// The callee's policies: `/a` and `/c` for the caller always, `/b` sometimes; `/c` as often as `rate` says.
fn with_policy(paths: &str, rate: &str) -> String {
    format!(
        "{HEAD}{SERVICES}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: readers, namespace: default}}
spec:
  selector: {{matchLabels: {{app: callee}}}}
  rules:
    - from: [{{source: {{principals: [test.example/ns/default/sa/caller]}}}}]
      to: [{{operation: {{paths: [{paths}, /c]}}}}]
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: slowly, namespace: default}}
spec:
  selector: {{matchLabels: {{app: callee}}}}
  limits:
    - name: slowly
      to: [{{operation: {{paths: [/c]}}}}]
      key: [identity]
      rates: [{rate}]
"
    )
}

/// The same filter as other bytes, and so of another name: what an upgrade is to a sidecar.
fn another_module(folder: &Path, number: usize) -> PathBuf {
    let mut bytes = std::fs::read(tools::filter().unwrap()).unwrap();
    // A custom section (WebAssembly 1.0, 5.5.3): id 0, its length, the length of its name, name, content.
    let content = number.to_string();
    bytes.extend([0, u8::try_from(5 + content.len()).unwrap(), 4]);
    bytes.extend(b"test");
    bytes.extend(content.as_bytes());
    let sha256 = meshward_builder::wasm::inspect(&bytes).sha256;
    let file = folder.join(meshward_builder::envoy::filter_file_name(&sha256[..12]));
    std::fs::write(&file, bytes).unwrap();
    file
}

/// What of a sidecar tells that it refused something: a policy, or a certificate.
fn refusals(running: &meshward_tests::TestMesh, service: &str) -> u64 {
    ["key_rotation_failed", "update_rejected", "config_fail"]
        .iter()
        .map(|name| running.counter(service, &[name]))
        .sum()
}

/// All that may change in a life, under load: HTTP/1, HTTP/2 with streams that stay, TCP with a connection that stays. Every
/// change of files is Kubernetes': a new folder, and the link `..data` put in place of the old one.
///
/// `MESHWARD_LONG_LOAD=<seconds>` goes on for that long, and wants 500 answers a second.
#[test]
fn everything_changes_under_load_without_a_failed_request() {
    let long = std::env::var("MESHWARD_LONG_LOAD").ok().and_then(|text| text.parse::<u64>().ok());
    if long.is_none() {
        tools::skipped(
            "the long load test",
            "MESHWARD_LONG_LOAD (in seconds) is not set; the short one runs",
        );
    }
    let pause = || std::thread::sleep(Duration::from_millis(if long.is_some() { 4000 } else { 1200 }));
    let modules = tempfile::tempdir().unwrap();
    let (closed, open) = (with_policy("/a", SELDOM), with_policy("/a, /b", SELDOM));
    let open_often = with_policy("/a, /b", OFTEN);
    let certificates = Certificates::new(&CaOptions { intermediate: true, ..CaOptions::default() });
    // Connections end every few seconds, so that handshakes happen all the time, with whatever is in force.
    let mut running = certificates.start(&closed, &|text| text.replace("3300s", "2s").replace("3600s", "3s"));
    let outbound = SocketAddr::new(running.plan.address("caller"), ports::OUTBOUND);
    let database = SocketAddr::new(running.plan.address("caller"), 5432);
    until("the mesh", || {
        running.get_by_sidecar("caller", "callee", "/a").is_ok_and(|answer| answer.status == 200)
    })
    .unwrap();
    let first_root = certificates.root();
    let (first_identity, second_identity) =
        (certificates.identity("caller"), certificates.identity("caller"));
    let done = AtomicBool::new(false);
    let begin = Instant::now();
    let mut tally = Tally::default();
    let (mut rounds, mut filters) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let mut askers = Vec::new();
        for _ in 0..24 {
            askers.push(scope.spawn(|| load::http1(outbound, "/a", 25, false, &done)));
        }
        for path in ["/b", "/c"] {
            askers.push(scope.spawn(|| load::http1(outbound, path, 20, true, &done)));
        }
        askers.push(scope.spawn(|| load::http2(outbound, 50, 4, Duration::from_millis(50), &done)));
        askers.push(scope.spawn(|| load::tcp(database, 20, &done)));
        pause();
        while rounds == 0 || long.is_some_and(|seconds| begin.elapsed().as_secs() < seconds) {
            rounds += 1;
            let asks = |running: &meshward_tests::TestMesh, path: &str, status: u16| {
                until(&format!("{status} for {path}"), || {
                    running
                        .get_by_sidecar("caller", "callee", path)
                        .is_ok_and(|answer| answer.status == status)
                })
                .unwrap();
            };
            // 1. New leaves.
            let before = support::updates(&running);
            certificates.issue_all(true);
            support::until_updated(&running, &before);
            pause();
            // 2. All phases of a rotation of the CA.
            for _ in ["adding", "switched", "stable"] {
                let before = support::updates(&running);
                certificates.step(Direction::Advance);
                support::until_updated(&running, &before);
                pause();
            }
            // 3. A new policy, and one that the filter refuses: the old one stays in force.
            running.update("callee", &open).unwrap();
            asks(&running, "/b", 200);
            let before = refusals(&running, "callee");
            running
                .update_with("callee", &closed, &|_, name, text| {
                    if name == INBOUND_FILE { broken::configuration(&text).unwrap() } else { text }
                })
                .unwrap();
            until("the refusal of a policy", || refusals(&running, "callee") > before).unwrap();
            pause();
            asks(&running, "/b", 200);
            // 4. Another rate limit, and back.
            asks(&running, "/c", 429);
            running.update("callee", &open_often).unwrap();
            asks(&running, "/c", 200);
            pause();
            running.update("callee", &open).unwrap();
            asks(&running, "/c", 429);
            // 5. Another filter, inbound and outbound; and a policy with it.
            filters += 1;
            let module = another_module(modules.path(), filters);
            running.set_filter(&module);
            for service in ["callee", "caller", "db"] {
                running.update(service, &closed).unwrap();
            }
            let name = module.file_name().unwrap().to_str().unwrap().to_owned();
            for service in ["callee", "caller", "db"] {
                until("the new filter", || {
                    running.admin(service, "/config_dump").is_ok_and(|dump| dump.contains(&name))
                })
                .unwrap();
            }
            asks(&running, "/b", 403);
            pause();
            // 6. Certificates that are half written, swapped in and in place: the old ones stay in force.
            for tear in [Certificates::break_certificate, Certificates::tear_certificate] {
                let before = refusals(&running, "callee");
                tear(&certificates, "callee");
                until("the refusal of half a certificate", || refusals(&running, "callee") > before).unwrap();
                pause();
                let before = support::updates(&running);
                certificates.issue_all(true);
                support::until_updated(&running, &before);
            }
            // 7. All at once, in every phase of another rotation of the CA: a new trust bundle, half a certificate, a bad
            // policy and another filter; when those that must be are refused, a good policy, another rate limit, new leaves.
            for (phase, policy) in [("adding", &open_often), ("switched", &closed), ("stable", &open_often)] {
                let before = support::updates(&running);
                let (of_callee, of_db) = (refusals(&running, "callee"), refusals(&running, "db"));
                certificates.step(Direction::Advance);
                certificates.break_certificate("db");
                filters += 1;
                running.set_filter(&another_module(modules.path(), filters));
                running
                    .update_with("callee", policy, &|_, name, text| {
                        if name == INBOUND_FILE { broken::configuration(&text).unwrap() } else { text }
                    })
                    .unwrap();
                for service in ["caller", "db"] {
                    running.update(service, policy).unwrap();
                }
                until("both refusals", || {
                    refusals(&running, "callee") > of_callee && refusals(&running, "db") > of_db
                })
                .unwrap();
                running.update("callee", policy).unwrap();
                certificates.issue_all(true);
                let (of_b, of_c) = if phase == "switched" { (403, 429) } else { (200, 200) };
                asks(&running, "/b", of_b);
                asks(&running, "/c", of_c);
                support::until_updated(&running, &before);
                pause();
            }
            // 8. A rotation that is given up, and the first policies again.
            let before = support::updates(&running);
            certificates.step(Direction::Advance);
            certificates.step(Direction::Abort);
            support::until_updated(&running, &before);
            running.update("callee", &closed).unwrap();
            asks(&running, "/b", 403);
            asks(&running, "/c", 429);
            pause();
        }
        done.store(true, Ordering::SeqCst);
        for asker in askers {
            tally.add(asker.join().unwrap());
        }
    });
    let rate = tally.asked as f64 / begin.elapsed().as_secs_f64();
    println!(
        "{} asked in {:.0} s and {rounds} rounds, {rate:.0} a second, {} refused by a policy, {} by a rate limit, {} failed",
        tally.asked,
        begin.elapsed().as_secs_f64(),
        tally.refused,
        tally.limited,
        tally.failed.len()
    );
    let shown = &tally.failed[..tally.failed.len().min(10)];
    assert!(tally.failed.is_empty(), "{} of {}: {shown:#?}", tally.failed.len(), tally.asked);
    assert!(tally.refused > 0 && tally.limited > 0, "no policy or no rate limit refused anything");
    // Eight hundred are asked for; a machine that is busy with other things gives less.
    let least = if long.is_some() { 500.0 } else { 200.0 };
    assert!(rate > least, "{rate:.0} requests a second are no load");
    assert_eq!(running.ended(), 0);

    // What the first root issued no longer opens anything, and nothing trusts a server of it.
    let id = running.mesh.spiffe_id(running.mesh.service("callee").unwrap());
    let tls = client::Tls::new(&certificates.root(), &id, Some(first_identity)).unwrap();
    let answer = tls.connect(running.inbound("callee")).and_then(|s| Connection::new(s).get("callee", "/a"));
    assert!(answer.is_err(), "an identity of the dropped root gets {answer:?}");
    let tls = client::Tls::new(&first_root, &id, Some(second_identity)).unwrap();
    assert!(
        tls.connect(running.inbound("callee")).is_err(),
        "the callee still serves with the old root's leaf"
    );
}

/// By all that goes over a sidecar: a request's connection, a stream that stays, a TCP connection that stays. The bound is
/// mesh.yaml's.
#[test]
fn an_old_connection_ends_in_bounded_time() {
    let certificates = Certificates::new(&CaOptions::default());
    let mesh = format!("{HEAD}  certificates: {{maxConnectionDuration: 4s}}{SERVICES}");
    let running = certificates.start(&mesh, &|text| text);
    let mut open = certificates.connect(&running, "caller", "callee");
    assert_eq!(open.get("callee", "/a").unwrap().0, 200);
    let mut tcp = running.plain("caller", 5432).unwrap();
    let mut echo = || tcp.write_all(b"ping").and_then(|()| tcp.read_exact(&mut [0; 4]));
    echo().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outbound = SocketAddr::new(running.plan.address("caller"), ports::OUTBOUND);
    let mut stream = runtime.block_on(async {
        let mut connection = http2::Connection::open(outbound, "callee").await.unwrap();
        connection.stream("/a").await.unwrap()
    });
    runtime.block_on(stream.echo(b"ping")).unwrap();
    // Nobody trusts it any more, but it was let in before.
    for _ in 0..3 {
        let before = support::updates(&running);
        certificates.step(Direction::Advance);
        support::until_updated(&running, &before);
    }
    until("the end of the old connection", || {
        open.get("callee", "/a").is_ok_and(|(_, closes)| closes) || open.get("callee", "/a").is_err()
    })
    .unwrap();
    until("the end of the old stream", || runtime.block_on(stream.echo(b"ping")).is_err()).unwrap();
    until("the end of the old TCP connection", || echo().is_err()).unwrap();
}

/// The identity that a CA gives to the caller at some time, for five minutes.
fn short_lived(ca: &Ca, at: OffsetDateTime) -> Identity {
    let request = SvidRequest {
        id: svid::spiffe_id("spiffe://test.example/ns/default/sa/caller").unwrap(),
        dns_names: Vec::new(),
        lifetime: time::Duration::minutes(5),
    };
    identity(issue(ca, &request, at).unwrap())
}

fn identity(issued: meshward_builder::pki::Issued) -> Identity {
    let leaf_key = key::decode("the key", issued.key_pem.unwrap().as_bytes(), None).unwrap();
    Identity {
        chain: vec![issued.certificate],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der())),
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_and_a_ca_of_a_century_serves() {
    let now = OffsetDateTime::now_utc();
    let options =
        CaOptions { lifetime_seconds: time::Duration::days(36_500).whole_seconds(), ..CaOptions::default() };
    let certificates = Certificates::made_at(&options, now - time::Duration::days(7_300));
    let running = certificates.start(&format!("{HEAD}{SERVICES}"), &|text| text);
    let ca = certificates.ca();
    assert!(ca.not_after() > now + time::Duration::days(29_000));
    let ask = |at| certificates.try_connect(&running, short_lived(&ca, at), "callee");
    until("the callee", || ask(now).is_ok()).unwrap();
    assert_eq!(ask(now).unwrap(), 200);
    for (at, what) in [
        (now - time::Duration::minutes(6), "one that expired a minute ago"),
        (now + time::Duration::hours(1), "one of tomorrow's clock"),
        (now - time::Duration::days(3650), "one of ten years ago"),
    ] {
        let answer = ask(at);
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
}

#[test]
fn a_revoked_certificate_is_refused_by_the_list_and_by_the_filter() {
    let mesh = |revocation: &str| format!("{HEAD}  revocation: {revocation}{SERVICES}");
    let certificates = Certificates::new(&CaOptions::default());
    certificates.refresh_list();
    let mut running = certificates.start(&mesh("{crl: true}"), &|text| text);
    let mut open = certificates.connect(&running, "caller", "callee");
    assert_eq!(open.get("callee", "/a").unwrap().0, 200);
    let stolen = certificates.identity("caller");
    // A new connection is refused by the list...
    let before = support::updates(&running);
    let serials = certificates.revoke("caller", Reason::KeyCompromise);
    support::until_updated(&running, &before);
    let refused = certificates.try_connect(&running, stolen, "callee");
    assert!(refused.is_err(), "the list does not refuse: {refused:?}");
    // ...and the open one by the filter, as soon as the deny list has its serial number.
    assert_eq!(open.get("callee", "/a").unwrap().0, 200);
    running.update("callee", &mesh(&format!("{{crl: true, serials: [\"{}\"]}}", serials[0]))).unwrap();
    until("the deny list", || open.get("callee", "/a").unwrap().0 == 403).unwrap();
    // The workload itself has a new certificate, and goes on.
    certificates.issue_all(false);
    until("the new certificate", || {
        certificates
            .try_connect(&running, certificates.identity("caller"), "callee")
            .is_ok_and(|status| status == 200)
    })
    .unwrap();
    // Until its identity is denied.
    let deny = mesh("{crl: true, ids: [\"spiffe://test.example/ns/default/sa/caller\"]}");
    running.update("callee", &deny).unwrap();
    until("the denied identity", || {
        certificates
            .try_connect(&running, certificates.identity("caller"), "callee")
            .is_ok_and(|status| status == 403)
    })
    .unwrap();
}

/// A leaf with any ID, signed by any CA: what only an attacker makes.
fn forged(ca: &Ca, id: &str) -> Identity {
    let key = key::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::now_utc() - time::Duration::minutes(1);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::hours(1);
    let certificate = params.signed_by(&key, ca.issuer()).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    }
}

#[test]
fn the_bundle_of_one_trust_domain_never_validates_an_id_of_another() {
    const ALLOW: &str = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: default}
spec:
  selector: {matchLabels: {app: callee}}
  rules:
    - from: [{source: {principals: [\"partner.example/ns/shop/sa/reader\", \"test.example/ns/default/sa/caller\"]}}]
";
    let now = OffsetDateTime::now_utc();
    let ca = |name: &str| Ca::create(&svid::trust_domain(name).unwrap(), &CaOptions::default(), now).unwrap();
    let (partner, stranger) = (ca("partner.example"), ca("stranger.example"));
    let certificates = Certificates::new(&CaOptions::default());
    certificates.federate("partner.example", &federation::bundle(partner.path(), 1).unwrap());
    let running = certificates
        .start(&format!("{HEAD}  federatesWith: [partner.example]{SERVICES}{ALLOW}"), &|text| text);
    let (reader, caller) =
        ("spiffe://partner.example/ns/shop/sa/reader", "spiffe://test.example/ns/default/sa/caller");
    let own = certificates.ca();
    let ask = |identity| certificates.try_connect(&running, identity, "callee");

    until("the callee", || ask(certificates.identity("caller")).is_ok()).unwrap();
    // Each by its own trust domain's root.
    assert_eq!(ask(certificates.identity("caller")).unwrap(), 200);
    let request = SvidRequest {
        id: svid::spiffe_id(reader).unwrap(),
        dns_names: Vec::new(),
        lifetime: time::Duration::hours(1),
    };
    let partner_reader = identity(issue(&partner, &request, now).unwrap());
    assert_eq!(ask(partner_reader).unwrap(), 200, "a partner is let in");
    assert_eq!(
        ask(forged(&partner, reader)).unwrap(),
        200,
        "the forger's tool makes certificates that would do"
    );
    // Never crossing, in either direction, and nobody else's.
    for (ca, id, what) in [
        (&partner, caller, "the partner makes our caller"),
        (&own, reader, "we make the partner's reader"),
        (&stranger, reader, "a stranger makes the partner's reader"),
        (&stranger, caller, "a stranger makes our caller"),
        (&stranger, "spiffe://stranger.example/ns/a/sa/b", "a stranger comes as itself"),
        (&partner, "spiffe://stranger.example/ns/a/sa/b", "the partner makes a stranger"),
    ] {
        let answer = ask(forged(ca, id));
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
    // The partner rotates; its old root goes while ours stays.
    let next = ca("partner.example");
    let before = running.counter("callee", &["ssl_context_update_by_sds"]);
    certificates.federate("partner.example", &federation::bundle(next.path(), 2).unwrap());
    certificates.issue_all(false);
    until("the partner's new root", || ask(forged(&next, reader)).is_ok_and(|status| status == 200)).unwrap();
    assert!(ask(forged(&partner, reader)).is_err(), "the partner's old root (updates before: {before})");
    assert_eq!(ask(certificates.identity("caller")).unwrap(), 200);
}

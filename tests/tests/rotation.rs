//! Certificates for life, on real sidecars: leaves and the CA change under load without a failed request; what is revoked
//! or of another trust domain does not get in.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

#[path = "rotation/support.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshward_builder::local::client::{self, Identity};
use meshward_builder::mesh::ports;
use meshward_builder::pki::ledger::Reason;
use meshward_builder::pki::rotate::Direction;
use meshward_builder::pki::{Ca, CaOptions, SvidRequest, federation, issue, key, svid};
use meshward_tests::{Connection, until};
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

/// Asks for ever, on connections that stay open as long as the server lets them; what failed, and how many were asked.
fn ask(address: SocketAddr, done: &AtomicBool) -> (usize, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    let mut connection: Option<Connection<_>> = None;
    let mut next = Instant::now();
    while !done.load(Ordering::SeqCst) {
        // A steady rate, not as fast as it goes: 25 a second each.
        next += Duration::from_millis(40);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::new(client::connect(address).unwrap()),
        };
        asked += 1;
        match open.get("callee", "/a") {
            Ok((200, closes)) => connection = (!closes).then_some(open),
            other => failed.push(format!("request {asked}: {other:?}")),
        }
    }
    (asked, failed)
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The same by TCP: a connection for each question, and one that stays.
fn ask_tcp(address: SocketAddr, done: &AtomicBool) -> (usize, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    let mut stays = client::connect(address).unwrap();
    let mut echo = |stream: &mut std::net::TcpStream, what: &str| {
        let mut answer = [0; 4];
        let result = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer));
        asked += 1;
        if result.is_err() || answer != *b"ping" {
            failed.push(format!("{what} {asked}: {result:?}"));
        }
    };
    while !done.load(Ordering::SeqCst) {
        echo(&mut stays, "on the connection that stays,");
        echo(&mut client::connect(address).unwrap(), "on a new connection,");
        std::thread::sleep(Duration::from_millis(15));
    }
    (asked, failed)
}

#[test]
fn leaves_and_the_ca_change_under_load_without_a_failed_request() {
    let mesh = format!("{HEAD}{SERVICES}");
    let certificates = Certificates::new(&CaOptions { intermediate: true, ..CaOptions::default() });
    // Connections end every few seconds, so that handshakes happen all the time, with whatever is in force.
    let mut running = certificates.start(&mesh, &|text| text.replace("3300s", "2s").replace("3600s", "3s"));
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
    let (mut asked, mut failed) = (0, Vec::new());
    std::thread::scope(|scope| {
        // A failure below must not leave the askers asking.
        let _stop = Stop(&done);
        let askers: Vec<_> = (0..24).map(|_| scope.spawn(|| ask(outbound, &done))).collect();
        let tcp = scope.spawn(|| ask_tcp(database, &done));
        let pause = || std::thread::sleep(Duration::from_millis(2500));
        pause();
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
        // 3. A certificate file that is half written: the old one stays in force.
        certificates.break_certificate("callee");
        until("the refusal of half a certificate", || {
            running.counter("callee", &["key_rotation_failed"])
                + running.counter("callee", &["update_rejected"])
                > 0
        })
        .unwrap();
        pause();
        let before = support::updates(&running);
        certificates.issue_all(true);
        support::until_updated(&running, &before);
        // 4. A way back, and all at once: a phase, leaves, and a policy.
        certificates.step(Direction::Advance);
        running.update("callee", &mesh.replace("calls: [callee, db]", "calls: [db, callee]")).unwrap();
        certificates.issue_all(true);
        pause();
        certificates.step(Direction::Abort);
        pause();
        done.store(true, Ordering::SeqCst);
        for asker in askers.into_iter().chain([tcp]) {
            let (more, wrong) = asker.join().unwrap();
            asked += more;
            failed.extend(wrong);
        }
    });
    let rate = asked as f64 / begin.elapsed().as_secs_f64();
    println!("{asked} requests, {rate:.0} a second, {} failed", failed.len());
    assert!(failed.is_empty(), "{} of {asked}: {:#?}", failed.len(), &failed[..failed.len().min(10)]);
    // Six hundred are asked for; a machine that is busy with other things gives less.
    assert!(rate > 200.0, "{rate:.0} requests a second are no load");
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

#[test]
fn an_old_connection_ends_in_bounded_time() {
    let certificates = Certificates::new(&CaOptions::default());
    let running = certificates.start(&format!("{HEAD}{SERVICES}"), &|text| text.replace("3600s", "2s"));
    let mut open = certificates.connect(&running, "caller", "callee");
    assert_eq!(open.get("callee", "/a").unwrap().0, 200);
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
    let issued = issue(&partner, &request, now).unwrap();
    let leaf_key = key::decode("the key", issued.key_pem.unwrap().as_bytes(), None).unwrap();
    let identity = Identity {
        chain: vec![issued.certificate],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der())),
    };
    assert_eq!(ask(identity).unwrap(), 200, "a partner is let in");
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

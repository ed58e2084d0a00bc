//! When leaves are renewed, and what is never touched.

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::support::{HOUR, NOW, World, all_trust_all};
use crate::pki::renewal::{Done, Reason, renew_at};
use crate::pki::store::Store as _;
use crate::pki::{CaOptions, pem, revoke};

fn reasons(outcomes: &[crate::pki::renewal::Outcome]) -> Vec<Option<Reason>> {
    let reason = |done: &Done| match done {
        Done::Issued { reason, .. } => Some(*reason),
        _ => None,
    };
    outcomes.iter().map(|outcome| reason(&outcome.done)).collect()
}

proptest! {
    #[test]
    fn renewal_lies_between_a_half_and_two_thirds(seconds in 60i64..3_200_000_000, serial in any::<[u8; 16]>()) {
        let end = NOW + Duration::seconds(seconds);
        let at = renew_at(NOW, end, &serial);
        prop_assert!(at >= NOW + Duration::seconds(seconds) / 2);
        prop_assert!(at <= NOW + Duration::seconds(seconds) * 2 / 3);
        prop_assert_eq!(at, renew_at(NOW, end, &serial), "the same certificate, the same time");
    }
}

#[test]
fn many_certificates_are_not_due_at_once() {
    let mut times: Vec<_> = (0..1000u32).map(|n| renew_at(NOW, NOW + HOUR * 24, &n.to_be_bytes())).collect();
    times.sort();
    // Four hours are a sixth of a day; a tenth of them must not hold more than a fifth of all.
    let slot = HOUR * 4 / 10;
    for start in 0..10 {
        let from = NOW + HOUR * 12 + slot * start;
        let here = times.iter().filter(|time| **time >= from && **time < from + slot).count();
        assert!((50..200).contains(&here), "{here} of 1000 in slot {start}");
    }
}

#[test]
fn what_is_valid_is_kept_and_what_is_due_is_replaced() {
    let mut world = World::new(&CaOptions::default());
    let before = world.store.0.clone();
    assert_eq!(reasons(&world.issue(&["bookapi", "pgadmin"]).unwrap()), [None, None]);
    assert_eq!(world.store.0, before, "a second run writes nothing");
    world.now = NOW + HOUR * 11;
    assert_eq!(reasons(&world.renew().unwrap()), [None, None], "before half of the lifetime");
    world.now = NOW + HOUR * 16;
    assert_eq!(reasons(&world.renew().unwrap()), [Some(Reason::Due); 2], "after two thirds");
    assert_eq!(reasons(&world.renew().unwrap()), [None, None]);
    world.now += HOUR * 100;
    assert_eq!(reasons(&world.renew().unwrap()), [Some(Reason::Expired); 2]);
    all_trust_all(&world.pods(), world.now).unwrap();
}

#[test]
fn a_clock_that_leapt_is_survived() {
    let mut world = World::new(&CaOptions::default());
    // A year ahead: all looks expired, and is issued for a time that has not come.
    world.now = NOW + HOUR * 24 * 365;
    assert_eq!(reasons(&world.renew().unwrap()), [Some(Reason::Expired); 2]);
    // Back again: peers would refuse these.
    world.now = NOW + HOUR;
    assert!(all_trust_all(&world.pods(), world.now).is_err());
    assert_eq!(reasons(&world.renew().unwrap()), [Some(Reason::NotYetValid); 2]);
    all_trust_all(&world.pods(), world.now).unwrap();
    // Before the CA was made, or after its end: nothing can be signed, and nothing is changed.
    let before = world.store.0.clone();
    world.now = NOW - HOUR;
    assert_eq!(world.renew().unwrap_err().code(), "not-yet-valid");
    world.now = NOW + HOUR * 24 * 3651;
    assert_eq!(world.renew().unwrap_err().code(), "expired");
    assert_eq!(world.store.0, before);
}

#[test]
fn five_minute_leaves_are_renewed_in_time() {
    let mut world = World::new(&CaOptions::default());
    let mut request = super::support::request();
    request.lifetime = Duration::minutes(5);
    let wanted = [("bookapi-mtls-cert".to_owned(), request)].into();
    assert_eq!(reasons(&world.reconcile(&wanted, false).unwrap()), [Some(Reason::Lifetime)]);
    let mut renewed = 0;
    for _ in 0..240 {
        world.now += Duration::seconds(15);
        renewed += usize::from(reasons(&world.reconcile(&wanted, false).unwrap()) == [Some(Reason::Due)]);
        all_trust_all(&world.pods(), world.now).unwrap();
    }
    // Five and a half minutes of validity, half a minute of it before the issue: 2.25 to 3.2 minutes after it, looked at
    // four times a minute.
    assert!((17..=27).contains(&renewed), "{renewed}");
}

#[test]
fn damaged_and_foreign_material_is_left_alone_and_named() {
    let cases: [(&str, &[u8], &str, &str); 5] = [
        ("tls.crt", b"-----BEGIN CERTIFICATE-----\nMIIB", "damaged", "`tls.crt` of `bookapi-mtls-cert`"),
        ("tls.crt", b"", "damaged", "`tls.crt` of `bookapi-mtls-cert`"),
        (
            "tls.key",
            b"-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n",
            "key-format",
            "EC PRIVATE KEY",
        ),
        ("tls.key", b"rubbish", "damaged", "`tls.key` of `bookapi-mtls-cert`"),
        ("tls.crt", b"another", "foreign-certificate", "was not issued by this CA"),
    ];
    for (file, content, code, words) in cases {
        let mut world = World::new(&CaOptions::default());
        let other = World::new(&CaOptions::default());
        let foreign = other.store.read("bookapi-mtls-cert").unwrap().unwrap();
        let content = if content == b"another" { foreign.get("tls.crt").unwrap() } else { content };
        world.store.0.get_mut("bookapi-mtls-cert").unwrap().insert(file, content);
        let before = world.store.0.clone();
        world.now = NOW + HOUR * 20;
        let error = world.renew().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let diagnostic = crate::diagnostic::Diagnostic::from(error);
        assert!(!diagnostic.help.is_empty(), "the remedy: {diagnostic:?}");
        assert_eq!(world.store.0, before, "nothing was changed, not even the other service");
        let wanted = [("bookapi-mtls-cert".to_owned(), super::support::request())].into();
        assert_eq!(reasons(&world.reconcile(&wanted, true).unwrap()), [Some(Reason::Forced)]);
        all_trust_all(&world.pods(), world.now).unwrap();
    }
}

#[test]
fn a_key_of_another_certificate_is_found() {
    let mut world = World::new(&CaOptions::default());
    let key = world.store.0["pgadmin-mtls-cert"].get("tls.key").unwrap().to_vec();
    world.store.0.get_mut("bookapi-mtls-cert").unwrap().insert("tls.key", key);
    assert_eq!(world.renew().unwrap_err().code(), "key-mismatch");
}

#[test]
fn the_ledger_forgets_what_expired_and_keeps_what_lives() {
    let mut world = World::new(&CaOptions::default());
    for day in 1..40 {
        world.now = NOW + HOUR * 20 * day;
        world.renew().unwrap();
    }
    let ledger = world.ledger();
    assert!(ledger.issued.len() <= 8, "{} entries after 40 renewals", ledger.issued.len());
    assert!(ledger.issued.iter().filter(|entry| entry.not_after > world.now).count() >= 2);
}

#[test]
fn a_revoked_leaf_is_replaced_and_on_the_list() {
    let mut world = World::new(&CaOptions { intermediate: true, ..CaOptions::default() });
    let (mut authority, mut ledger) = (world.authority(), world.ledger());
    let serials = revoke::mark(
        revoke::select(&mut ledger, "bookapi", NOW),
        crate::pki::ledger::Reason::KeyCompromise,
        NOW,
    );
    assert_eq!(serials.len(), 1);
    assert!(revoke::select(&mut ledger, "nobody", NOW).is_empty());
    revoke::refresh(&mut authority, &mut ledger, None, NOW).unwrap();
    ledger.save(&mut world.store).unwrap();
    authority.save(&mut world.store).unwrap();
    let old = world.pods();
    assert_eq!(reasons(&world.renew().unwrap()), [Some(Reason::Revoked), None]);

    // webpki reads the list: the old leaf is refused, the new one is not.
    let crl = ::pem::parse(world.authority().crl().unwrap()).unwrap().into_contents();
    let list: webpki::CertRevocationList<'_> =
        webpki::BorrowedCertRevocationList::from_der(&crl).unwrap().into();
    let lists = [&list];
    let options = || {
        let builder = webpki::RevocationOptionsBuilder::new(&lists).unwrap();
        builder.with_depth(webpki::RevocationCheckDepth::EndEntity).build()
    };
    let verdict = |chain: &[rustls_pki_types::CertificateDer<'static>],
                   root: &rustls_pki_types::CertificateDer<'static>| {
        let anchor = webpki::anchor_from_trusted_cert(root).unwrap();
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
        let time = std::time::Duration::from_secs(u64::try_from(NOW.unix_timestamp()).unwrap());
        let time = rustls_pki_types::UnixTime::since_unix_epoch(time);
        let usage = webpki::KeyUsage::client_auth();
        let anchors = [anchor];
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, &chain[1..], time, usage, Some(options()), None)
            .map(|_| ())
    };
    assert_eq!(verdict(&old[0].0, &old[0].1[0]), Err(webpki::Error::CertRevoked));
    let new = world.pods();
    assert_eq!(verdict(&new[0].0, &new[0].1[0]), Ok(()));
    assert_eq!(verdict(&new[1].0, &new[1].1[0]), Ok(()));
    assert!(world.store.0["pgadmin-mtls-cert"].get("ca.crl").is_some());
}

#[test]
fn every_time_is_stored_as_whole_seconds() {
    let now = NOW + Duration::nanoseconds(123_456_789);
    let mut world = World::new(&CaOptions::default());
    world.now = now + HOUR * 20;
    world.renew().unwrap();
    let ledger = world.ledger();
    assert!(ledger.issued.iter().all(|entry| entry.not_after.nanosecond() == 0));
    let chain = pem::certificates("x", world.store.0["bookapi-mtls-cert"].get("tls.crt").unwrap()).unwrap();
    let leaf = crate::pki::ca::parse("x", &chain[0]).unwrap();
    let newest: OffsetDateTime = ledger.issued.iter().map(|entry| entry.not_after).max().unwrap();
    assert_eq!(leaf.validity().not_after.to_datetime(), newest);
}

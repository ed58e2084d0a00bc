//! A rotation never parts two pods, wherever each of them is; and no phase can be skipped.

use time::Duration;

use super::support::{HOUR, NOW, World, all_trust_all, request};
use crate::pki::authority::Phase;
use crate::pki::rotate::Direction::{Abort, Advance};
use crate::pki::store::leaf_set;
use crate::pki::{CaOptions, revoke, sign_csr};

fn worlds() -> [World; 2] {
    [World::new(&CaOptions::default()), World::new(&CaOptions { intermediate: true, ..CaOptions::default() })]
}

#[test]
fn pods_of_adjacent_phases_trust_each_other() {
    for mut world in worlds() {
        world.settle = Duration::ZERO;
        let mut before = world.pods();
        let first = before.clone();
        for (step, phase) in
            [Phase::Adding, Phase::Switched, Phase::Stable, Phase::Adding, Phase::Switched, Phase::Stable]
                .iter()
                .enumerate()
        {
            world.now += HOUR;
            let done = world.step(Advance).unwrap();
            assert_eq!(done.to, *phase);
            let after = world.pods();
            // Some pods have the new files already, some not yet.
            let mixed: Vec<_> = before.iter().chain(&after).cloned().collect();
            all_trust_all(&mixed, world.now).unwrap_or_else(|why| panic!("step {step}: {why}"));
            before = after;
        }
        let far: Vec<_> = first.iter().chain(&before).cloned().collect();
        assert!(all_trust_all(&far, world.now).is_err(), "the first root is really gone");
    }
}

#[test]
fn the_way_back_is_as_safe() {
    for mut world in worlds() {
        world.settle = Duration::ZERO;
        let mut before = world.pods();
        let old = world.authority().active().name();
        for (direction, phase) in [
            (Advance, Phase::Adding),
            (Advance, Phase::Switched),
            (Abort, Phase::Adding),
            (Abort, Phase::Stable),
        ] {
            assert_eq!(world.step(direction).unwrap().to, phase);
            let after = world.pods();
            let mixed: Vec<_> = before.iter().chain(&after).cloned().collect();
            all_trust_all(&mixed, world.now).unwrap();
            before = after;
        }
        assert_eq!(world.authority().active().name(), old);
        assert_eq!(world.step(Abort).unwrap_err().code(), "no-rotation");
    }
}

#[test]
fn a_phase_waits_until_the_last_one_has_settled() {
    let mut world = World::new(&CaOptions::default());
    world.step(Advance).unwrap();
    world.now += Duration::minutes(4);
    assert_eq!(world.step(Advance).unwrap_err().code(), "not-settled");
    assert_eq!(world.authority().phase(), Phase::Adding);
    world.now += Duration::minutes(1);
    assert_eq!(world.step(Advance).unwrap().to, Phase::Switched);
    assert_eq!(world.step(Advance).unwrap_err().code(), "not-settled");
}

#[test]
fn the_old_root_stays_while_a_leaf_of_it_lives() {
    let mut world = World::new(&CaOptions::default());
    world.settle = Duration::ZERO;
    // A leaf whose key is elsewhere: nobody here can replace it.
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let authority = world.authority();
    let mut ledger = world.ledger();
    let issued = sign_csr(&authority.ca(None).unwrap(), csr.as_bytes(), &request(), NOW).unwrap();
    ledger.enter(&issued, &request(), authority.active().name(), None);
    ledger.save(&mut world.store).unwrap();
    world.step(Advance).unwrap();
    world.step(Advance).unwrap();
    let error = world.step(Advance).unwrap_err();
    assert_eq!(error.code(), "leaf-alive");
    assert!(error.to_string().contains(&crate::pki::authority::hex(&issued.serial)), "{error}");
    // It expires; or it is revoked.
    let before = world.store.0.clone();
    world.now = NOW + HOUR * 24 + Duration::seconds(1);
    assert_eq!(world.step(Advance).unwrap().to, Phase::Stable);
    world.store.0 = before;
    world.now = NOW + HOUR;
    let mut ledger = world.ledger();
    let serial = crate::pki::authority::hex(&issued.serial);
    revoke::mark(
        revoke::select(&mut ledger, &serial, world.now),
        crate::pki::ledger::Reason::Superseded,
        world.now,
    );
    ledger.save(&mut world.store).unwrap();
    assert_eq!(world.step(Advance).unwrap().to, Phase::Stable);
}

#[test]
fn a_leaf_that_the_ledger_does_not_know_holds_the_root_too() {
    let mut world = World::new(&CaOptions::default());
    world.settle = Duration::ZERO;
    let stray = world.store.0[&leaf_set("bookapi")].clone();
    world.step(Advance).unwrap();
    world.step(Advance).unwrap();
    // Restored from a backup under another name.
    world.store.0.insert(leaf_set("stray"), stray);
    let error = world.step(Advance).unwrap_err();
    assert_eq!(error.code(), "leaf-alive");
    assert!(error.to_string().contains("stray-mtls-cert"), "{error}");
}

#[test]
fn an_interrupted_step_is_completed_before_the_next() {
    let mut world = World::new(&CaOptions::default());
    let old = world.store.0[&leaf_set("pgadmin")].clone();
    world.step(Advance).unwrap();
    // As after a crash between the CA's set and this one.
    world.store.0.insert(leaf_set("pgadmin"), old);
    world.now += HOUR;
    let step = world.step(Advance).unwrap();
    assert_eq!((step.from, step.to), (Phase::Adding, Phase::Adding), "the bundle reached the pod only now");
    world.now += Duration::minutes(4);
    assert_eq!(world.step(Advance).unwrap_err().code(), "not-settled", "the settling time counts from then");
    world.now += Duration::minutes(1);
    assert_eq!(world.step(Advance).unwrap().to, Phase::Switched);
}

#[test]
fn revocation_lists_follow_a_rotation() {
    let mut world = World::new(&CaOptions::default());
    world.settle = Duration::ZERO;
    let (mut authority, mut ledger) = (world.authority(), world.ledger());
    revoke::refresh(&mut authority, &mut ledger, None, NOW).unwrap();
    ledger.save(&mut world.store).unwrap();
    authority.save(&mut world.store).unwrap();
    for lists in [2, 2, 1] {
        world.step(Advance).unwrap();
        let crl = world.store.0[&leaf_set("bookapi")].get("ca.crl").unwrap().to_vec();
        let found = ::pem::parse_many(&crl).unwrap().len();
        assert_eq!(found, lists, "a list for each root of the bundle");
    }
    assert_eq!(world.ledger().crl_number, 4, "grows each time");
}

#[test]
fn a_ca_in_its_last_third_is_due() {
    let mut world = World::new(&CaOptions { lifetime_seconds: 30 * 86_400, ..CaOptions::default() });
    let due = |world: &World| crate::pki::renewal::ca_due(&world.authority(), world.now).unwrap();
    assert!(!due(&world));
    world.now = NOW + HOUR * 24 * 19;
    assert!(!due(&world));
    world.now = NOW + HOUR * 24 * 21;
    assert!(due(&world));
    world.settle = Duration::ZERO;
    world.step(Advance).unwrap();
    assert!(!due(&world), "a rotation is under way");
}

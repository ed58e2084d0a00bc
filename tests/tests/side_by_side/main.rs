//! The same policies as Envoy's native RBAC and as ours, in one real Envoy: they answer every request the same.
//!
//! The policies are Istio's own cases, the policies of its generator beside the very RBAC that Istio wrote for them, and
//! generated ones. Callers' addresses are those of the PROXY protocol, tokens come ready in metadata, as jwt_authn
//! leaves them. What cannot be asked so is listed in `sets.rs`, each with its reason.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

mod rig;
mod sets;
mod token;

use rig::Rig;
use sets::Set;

/// Listeners ask for free ports, and find out later whether they are.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Every answer must be the same. Returns how often each was given.
fn compare(sets: &[Set]) -> BTreeMap<String, usize> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::start(folder.path(), sets).unwrap();
    let (mut same, mut counts, mut wrong) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    for (number, set) in sets.iter().enumerate() {
        for asked in &set.requests {
            let native = rig.ask(number, 0, asked);
            let ours = rig.ask(number, 1, asked);
            *counts.entry(native.clone()).or_default() += 1;
            if native == ours {
                same += 1;
            } else {
                wrong.push(format!(
                    "{}: {asked:?}: native {native}, ours {ours}\n  {:?}",
                    set.name, set.config.policies
                ));
            }
        }
    }
    println!("{} sets, {same} answers are the same: {counts:?}", sets.len());
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    );
    counts
}

/// Every way out was taken.
fn took_all(counts: &BTreeMap<String, usize>) {
    assert!(counts.len() == 4 && counts.values().all(|count| *count > 4), "{counts:?}");
}

#[test]
fn istios_cases() {
    let Some(mut sets) = sets::istio() else { return };
    sets.extend(sets::istios_generator().unwrap());
    took_all(&compare(&sets));
}

#[test]
fn claims_of_every_kind() {
    let counts = compare(&sets::claims());
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[test]
fn generated_policies() {
    took_all(&compare(&sets::generated(30, 24)));
}

//! Changing the CA under a mesh that runs: add the next root to every bundle, issue from it, drop the old one.
//!
//! ```text
//!            advance: a next root is made        advance: it issues            advance: the old one goes
//!  Stable ─────────────────────────────▶ Adding ─────────────────▶ Switched ─────────────────────────▶ Stable
//!            ◀───────────────────────── abort    ◀────────────────  abort
//! ```
//!
//! INVARIANT: a root leaves the bundle only when no leaf below it is alive; a root issues only when it has been in every
//! bundle for the settling time. Each step begins with one atomic write of the CA's set, after which the leaves' sets
//! follow; a crash in between is made good by the next run of anything that reconciles.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

use super::authority::{Authority, KeyPlace, Phase, hex};
use super::ca::{self, Ca};
use super::error::{Error, Result, stamp};
use super::key::Passphrase;
use super::ledger::Ledger;
use super::renewal::{self, Outcome};
use super::store::{LEAF_CERTIFICATE, Store};
use super::{fault, pem, revoke};
use crate::diagnostic::Diagnostic;

/// How long every pod is given to see what changed: the kubelet's sync period and cache, with a margin.
pub const SETTLE: Duration = Duration::minutes(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Advance,
    Abort,
}

/// A rotation to be moved on by one phase.
pub struct Rotation<'a> {
    pub store: &'a mut dyn Store,
    pub place: KeyPlace,
    /// See [`SETTLE`].
    pub settle: Duration,
    pub now: OffsetDateTime,
}

/// What one step did.
#[derive(Debug)]
pub struct Step {
    pub from: Phase,
    pub to: Phase,
    pub outcomes: Vec<Outcome>,
}

/// Loads the CA, or says that there is none.
pub fn authority(store: &dyn Store) -> Result<Authority> {
    Authority::load(store)?.ok_or_else(|| {
        Diagnostic::error("no-ca", format!("there is no CA in {}", store.place(super::authority::SET)))
            .help("make one: `meshward certs init-ca`, for the trust domain of mesh.yaml or of `--trust-domain NAME`")
            .help("it is elsewhere: `--dir DIR`, or `--secrets-in NAMESPACE`")
            .into()
    })
}

impl Rotation<'_> {
    fn passphrase(&self) -> Option<Passphrase> {
        self.place.passphrase.clone()
    }

    /// Completes what an interrupted run left: every set is brought to the phase in force.
    pub fn settle_sets(&mut self, authority: &Authority, ledger: &mut Ledger) -> Result<Vec<Outcome>> {
        authority.remove_retired()?;
        let passphrase = self.passphrase();
        let mut open = || -> Result<Ca> { authority.ca(passphrase.as_ref()) };
        let wanted = renewal::managed(ledger)?;
        renewal::reconcile(self.store, authority, ledger, &wanted, &mut open, false, self.now)
    }

    /// One phase on, or one back; or, when an earlier step was interrupted, the rest of that one.
    ///
    /// # Errors
    /// When the step is not safe yet; nothing but an interrupted step's rest has then been changed.
    pub fn step(&mut self, direction: Direction) -> Result<Step> {
        let mut authority = authority(self.store)?;
        let mut ledger = Ledger::load(self.store)?;
        let first = self.settle_sets(&authority, &mut ledger)?;
        let from = authority.phase();
        if from != Phase::Stable && first.iter().any(|outcome| outcome.done.is_rotation()) {
            // An interrupted step's rest was delivered only now; pods need their time to see it, counted from now.
            authority.restart(self.now);
            authority.save(self.store)?;
            return Ok(Step { from, to: from, outcomes: first });
        }
        match (direction, from) {
            (Direction::Advance, Phase::Stable) => {
                if authority.encrypted() && self.place.passphrase.is_none() {
                    return Err(Error::PassphraseMissing { what: "the CA key".into() });
                }
                authority.add(&self.place, self.now)?;
                fault::step("next root made");
            }
            (Direction::Advance, Phase::Adding) => {
                self.check_settled(&authority)?;
                // The new key is opened before it is relied on.
                if let Some(next) = authority.other() {
                    authority.open(next, self.place.passphrase.as_ref())?;
                }
                authority.swap(Phase::Switched, self.now);
            }
            (Direction::Advance, Phase::Switched) => {
                self.check_settled(&authority)?;
                self.check_none_alive(&authority, &ledger)?;
                authority.drop_other(self.now);
            }
            (Direction::Abort, Phase::Switched) => authority.swap(Phase::Adding, self.now),
            (Direction::Abort, Phase::Adding) => {
                self.check_none_alive(&authority, &ledger)?;
                authority.drop_other(self.now);
            }
            (Direction::Abort, Phase::Stable) => {
                return Err(Diagnostic::error("no-rotation", "no rotation of the CA is under way").into());
            }
        }
        // A peer that checks revocation needs a list of every root in its bundle.
        if authority.crl().is_some() {
            revoke::refresh(&mut authority, &mut ledger, self.place.passphrase.as_ref(), self.now)?;
            ledger.save(self.store)?;
        }
        authority.save(self.store)?;
        fault::step("phase entered");
        let second = self.settle_sets(&authority, &mut ledger)?;
        Ok(Step { from, to: authority.phase(), outcomes: merge(first, second) })
    }

    fn check_settled(&self, authority: &Authority) -> Result<()> {
        let ready = authority.since()? + self.settle;
        if self.now >= ready {
            return Ok(());
        }
        let message =
            format!("the last phase began at {}; pods may not have its files yet", stamp(authority.since()?));
        Err(Diagnostic::error("not-settled", message)
            .help(format!("run this again from {} on", stamp(ready)))
            .help("when you know that every pod has them, give `--settle 0s`")
            .into())
    }

    /// INVARIANT: the root that is not the issuing one signs nothing that lives.
    fn check_none_alive(&self, authority: &Authority, ledger: &Ledger) -> Result<()> {
        let alive = alive(self.store, authority, ledger, self.now)?;
        if alive.is_empty() {
            return Ok(());
        }
        let mut diagnostic = Diagnostic::error(
            "leaf-alive",
            format!(
                "{} of the root that would be dropped would no longer be trusted: {}",
                count(alive.len()),
                alive.join(", ")
            ),
        );
        diagnostic = diagnostic
            .help("issue them anew (a managed service: `meshward certs renew`; a signing request: sign it again), or wait until they expire")
            .help("a certificate that must die at once: `meshward certs revoke SERIAL`, then run this again");
        Err(diagnostic.into())
    }
}

/// One outcome for each set: what the second pass did, or, where it did nothing, the first.
fn merge(first: Vec<Outcome>, second: Vec<Outcome>) -> Vec<Outcome> {
    let earlier = |later: &Outcome| first.iter().find(|outcome| outcome.set == later.set).cloned();
    let choose = |later: Outcome| if later.done.changed() { later } else { earlier(&later).unwrap_or(later) };
    second.into_iter().map(choose).collect()
}

fn count(number: usize) -> String {
    if number == 1 { "1 living leaf".into() } else { format!("{number} living leaves") }
}

/// Leaves of the generation that does not issue, which peers may still present.
pub fn alive(
    store: &dyn Store,
    authority: &Authority,
    ledger: &Ledger,
    now: OffsetDateTime,
) -> Result<Vec<String>> {
    let Some(other) = authority.other() else { return Ok(Vec::new()) };
    let other = other.name();
    let mut serials = BTreeSet::new();
    let mut alive = Vec::new();
    // What lies in the sets, whether the ledger knows of it or not.
    for set in store.list()? {
        if !set.ends_with(super::store::LEAF_SUFFIX) && !ledger.managed.contains_key(&set) {
            continue;
        }
        let Some(files) = store.read(&set)? else { continue };
        let Some(certificate) = files.get(LEAF_CERTIFICATE) else { continue };
        let what = format!("`{LEAF_CERTIFICATE}` of {}", store.place(&set));
        let chain = pem::certificates(&what, certificate)?;
        let Some(der) = chain.first() else { continue };
        let leaf = ca::parse(&what, der)?;
        let serial = hex(leaf.raw_serial());
        let signed_by_other = authority.signer_of(&leaf).is_some_and(|signer| signer.name() == other);
        let not_after = leaf.validity().not_after.to_datetime();
        if signed_by_other && not_after > now && !ledger.is_revoked(&serial) {
            alive.push(format!("`{set}` (serial {serial}, until {})", stamp(not_after)));
        }
        serials.insert(serial);
    }
    // What was signed for keys elsewhere.
    for entry in &ledger.issued {
        let elsewhere = entry.set.is_none() && !serials.contains(&entry.serial);
        if elsewhere && entry.generation == other && entry.not_after > now && entry.revoked.is_none() {
            alive.push(entry.to_string());
        }
    }
    Ok(alive)
}

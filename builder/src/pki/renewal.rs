//! Which leaves need renewal, and bringing all sets to where they should be: the one path by which leaves are written.
//!
//! `issue`, `renew` and every phase of `rotate-ca` are the same act: look at each set, keep what is valid, replace what
//! is not. So each can be stopped anywhere and run again.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use super::authority::{Authority, Phase, TRUST_FILES, hex};
use super::ca::{self, Ca};
use super::error::{Error, Result, stamp};
use super::folder::Files;
use super::ledger::{Ledger, Managed};
use super::store::{LEAF_CERTIFICATE, LEAF_KEY, Store};
use super::svid::{self, Issued, SvidRequest};
use super::{key, pem};

/// When a certificate is to be renewed: between 1/2 and 2/3 of its lifetime.
///
/// The place in between comes from the serial number: always the same for one certificate, and spread evenly over many,
/// so that a mesh issued in one second is not renewed in one second.
pub fn renew_at(not_before: OffsetDateTime, not_after: OffsetDateTime, serial: &[u8]) -> OffsetDateTime {
    let digest = Sha256::digest(serial);
    let jitter = digest.iter().take(4).fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    let span = not_after - not_before;
    // 1/2 + jitter/6, in whole numbers: a lifetime of millennia still fits into i128 milliseconds.
    let parts = 3 * i128::from(u32::MAX) + i128::from(jitter);
    let offset = span.whole_milliseconds() * parts / (6 * i128::from(u32::MAX));
    not_before + Duration::milliseconds(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// Why a leaf is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There was none.
    Missing,
    /// Its time for renewal has come.
    Due,
    Expired,
    /// It was made by a clock that was ahead.
    NotYetValid,
    /// Another generation of the CA issues now.
    CaRotated,
    /// Its ID or DNS names are no longer those asked for.
    Names,
    /// It lives longer than what is asked for.
    Lifetime,
    Revoked,
    /// The user asked for it.
    Forced,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "there was none",
            Self::Due => "it was due",
            Self::Expired => "it had expired",
            Self::NotYetValid => "it was not valid yet",
            Self::CaRotated => "the CA was rotated",
            Self::Names => "its names were others",
            Self::Lifetime => "it lived longer than asked for",
            Self::Revoked => "it was revoked",
            Self::Forced => "you asked for it",
        })
    }
}

/// What a set needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing until then.
    Nothing { renew_at: OffsetDateTime },
    /// Another trust bundle; the leaf stays.
    Bundle { renew_at: OffsetDateTime },
    /// A new leaf.
    Leaf(Reason),
}

/// Looks at one set. `trust` is what [`Authority::trust_files`] gives.
///
/// # Errors
/// When what is there was not issued by this CA or is damaged: it is the user's to decide about, not ours to overwrite.
pub fn need(
    place: &str,
    current: Option<&Files>,
    wanted: &SvidRequest,
    authority: &Authority,
    trust: &Files,
    ledger: &Ledger,
    now: OffsetDateTime,
) -> Result<Need> {
    let Some(files) = current else { return Ok(Need::Leaf(Reason::Missing)) };
    let (certificate_name, key_name) =
        (format!("`{LEAF_CERTIFICATE}` of {place}"), format!("`{LEAF_KEY}` of {place}"));
    let (Some(certificate), Some(key)) = (files.get(LEAF_CERTIFICATE), files.get(LEAF_KEY)) else {
        return match (files.get(LEAF_CERTIFICATE), files.get(LEAF_KEY)) {
            (None, None) => Ok(Need::Leaf(Reason::Missing)),
            _ => Err(Error::damaged(
                place,
                format!("only one of `{LEAF_CERTIFICATE}` and `{LEAF_KEY}` is there"),
            )),
        };
    };
    let chain = pem::certificates(&certificate_name, certificate)?;
    let der = chain.first().ok_or_else(|| Error::damaged(&certificate_name, "it is empty"))?;
    let leaf = ca::parse(&certificate_name, der)?;
    let Some(signer) = authority.signer_of(&leaf) else {
        return Err(Error::Foreign {
            what: certificate_name,
            trust_domain: authority.trust_domain()?.to_string(),
        });
    };
    let leaf_key = key::decode(&key_name, key, None)?;
    if !key::matches(&leaf_key, leaf.public_key().raw) {
        return Err(Error::KeyMismatch { key: key_name, certificate: certificate_name });
    }
    let not_before = leaf.validity().not_before.to_datetime();
    let not_after = leaf.validity().not_after.to_datetime();
    let renew_at = renew_at(not_before, not_after, leaf.raw_serial());
    let wants = |reason| Ok(Need::Leaf(reason));
    if ledger.is_revoked(&hex(leaf.raw_serial())) {
        return wants(Reason::Revoked);
    }
    if not_after <= now {
        return wants(Reason::Expired);
    }
    if not_before > now {
        return wants(Reason::NotYetValid);
    }
    if signer.name() != authority.active().name() {
        return wants(Reason::CaRotated);
    }
    if svid::names(&leaf) != (vec![wanted.id.to_string()], wanted.dns_names.clone()) {
        return wants(Reason::Names);
    }
    if not_after - not_before > wanted.lifetime + svid::skew(wanted.lifetime) {
        return wants(Reason::Lifetime);
    }
    if renew_at <= now {
        return wants(Reason::Due);
    }
    if TRUST_FILES.iter().any(|name| files.get(name) != trust.get(name)) {
        return Ok(Need::Bundle { renew_at });
    }
    Ok(Need::Nothing { renew_at })
}

/// What was done to a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub set: String,
    pub id: String,
    pub done: Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Kept {
        renew_at: OffsetDateTime,
    },
    /// The trust bundle or the revocation list was replaced, the leaf kept.
    Bundle {
        renew_at: OffsetDateTime,
    },
    Issued {
        reason: Reason,
        not_after: OffsetDateTime,
        renew_at: OffsetDateTime,
    },
}

impl Done {
    pub fn changed(&self) -> bool {
        !matches!(self, Self::Kept { .. })
    }

    /// Whether this was a phase of a rotation reaching the set, not an everyday renewal.
    pub fn is_rotation(&self) -> bool {
        matches!(self, Self::Bundle { .. } | Self::Issued { reason: Reason::CaRotated, .. })
    }

    pub fn renew_at(&self) -> OffsetDateTime {
        match self {
            Self::Kept { renew_at } | Self::Bundle { renew_at } | Self::Issued { renew_at, .. } => *renew_at,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { set, id, done } = self;
        match done {
            Done::Kept { renew_at } => write!(f, "{set}: kept ({id}, to be renewed at {})", stamp(*renew_at)),
            Done::Bundle { .. } => write!(f, "{set}: trust bundle replaced, leaf kept ({id})"),
            Done::Issued { reason, not_after, .. } => {
                write!(f, "{set}: issued until {}, since {reason} ({id})", stamp(*not_after))
            }
        }
    }
}

/// Brings sets to where they should be. `open` gives the CA's key, and is asked only when something must be signed.
///
/// With `force`, every leaf is made anew, whatever is there.
pub fn reconcile(
    store: &mut dyn Store,
    authority: &Authority,
    ledger: &mut Ledger,
    wanted: &BTreeMap<String, SvidRequest>,
    open: &mut dyn FnMut() -> Result<Ca>,
    force: bool,
    now: OffsetDateTime,
) -> Result<Vec<Outcome>> {
    let trust = authority.trust_files()?;
    // All is looked at before anything is changed, so that one damaged set stops the run while all is as it was.
    let mut plan = Vec::new();
    for (set, request) in wanted {
        store.assign(set, Managed::new(request).namespace.as_deref());
        let current = store.read(set)?;
        let need = if force && current.is_some() {
            Need::Leaf(Reason::Forced)
        } else {
            need(&store.place(set), current.as_ref(), request, authority, &trust, ledger, now)?
        };
        plan.push((set, request, current, need));
    }
    let managed_before = ledger.managed.clone();
    for (set, request) in wanted {
        ledger.managed.insert(set.clone(), Managed::new(request));
    }
    let mut ca = None;
    let mut issued = BTreeMap::new();
    for (set, request, _, need) in &plan {
        if matches!(need, Need::Leaf(_)) {
            let ca = match &mut ca {
                Some(ca) => ca,
                none => none.insert(open()?),
            };
            let leaf = svid::issue(ca, request, now)?;
            ledger.enter(&leaf, request, authority.active().name(), Some(set.as_str()));
            issued.insert((*set).clone(), leaf);
        }
    }
    if !issued.is_empty() || managed_before != ledger.managed {
        // Before any leaf is handed out.
        ledger.prune(now);
        ledger.save(store)?;
    }
    let (mut outcomes, mut writes) = (Vec::new(), Vec::new());
    for (set, request, current, need) in plan {
        let done = match need {
            Need::Nothing { renew_at } => Done::Kept { renew_at },
            Need::Bundle { renew_at } => {
                let mut files = current.unwrap_or_default();
                put_trust(&mut files, &trust);
                writes.push((set.clone(), files));
                Done::Bundle { renew_at }
            }
            Need::Leaf(reason) => {
                let Some(leaf) = issued.get(set) else { continue };
                writes.push((set.clone(), leaf_files(leaf, &trust)));
                let renew_at = self::renew_at(leaf.not_before, leaf.not_after, &leaf.serial);
                Done::Issued { reason, not_after: leaf.not_after, renew_at }
            }
        };
        outcomes.push(Outcome { set: set.clone(), id: request.id.to_string(), done });
    }
    store.write_all(&writes)?;
    Ok(outcomes)
}

fn leaf_files(leaf: &Issued, trust: &Files) -> Files {
    let mut files = Files::new();
    files.insert(LEAF_CERTIFICATE, leaf.chain_pem.as_bytes());
    if let Some(key) = &leaf.key_pem {
        files.insert(LEAF_KEY, key.as_bytes());
    }
    put_trust(&mut files, trust);
    files
}

fn put_trust(files: &mut Files, trust: &Files) {
    for name in TRUST_FILES {
        match trust.get(name) {
            Some(content) => files.insert(name, content),
            None => {
                files.remove(name);
            }
        }
    }
}

/// What the ledger keeps fresh.
pub fn managed(ledger: &Ledger) -> Result<BTreeMap<String, SvidRequest>> {
    ledger.managed.iter().map(|(set, managed)| Ok((set.clone(), managed.request()?))).collect()
}

/// Whether it is time to begin rotating the CA: the last third of its life, or earlier when a leaf would be cut short.
pub fn ca_due(authority: &Authority, now: OffsetDateTime) -> Result<bool> {
    let active = authority.active();
    let (begin, end) = (active.not_before()?, active.not_after()?);
    Ok(authority.phase() == Phase::Stable && now >= end - (end - begin) / 3)
}

/// Puts trust bundles and the revocation list in force into every workload's set. Returns the sets that changed.
pub fn deliver_trust(store: &mut dyn Store, authority: &Authority) -> Result<Vec<String>> {
    let trust = authority.trust_files()?;
    let mut writes = Vec::new();
    for set in store.list()? {
        if !set.ends_with(super::store::LEAF_SUFFIX) {
            continue;
        }
        let Some(before) = store.read(&set)? else { continue };
        let mut files = before.clone();
        put_trust(&mut files, &trust);
        if files != before {
            writes.push((set, files));
        }
    }
    store.write_all(&writes)?;
    Ok(writes.into_iter().map(|(set, _)| set).collect())
}

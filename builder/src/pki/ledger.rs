//! What was issued and is still alive: for revocation, and so that no root is dropped under a living leaf.
//!
//! A leaf is entered before it is handed out; a crash in between leaves an entry of a certificate that nobody has.
//! Entries go when their certificate expires.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::authority::hex;
use super::error::{Error, Result, stamp};
use super::folder::Files;
use super::store::Store;
use super::svid::{self, Issued, SvidRequest};

/// The set that holds the ledger.
pub const SET: &str = "service-mesh-issued";
const FILE: &str = "issued.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    version: u32,
    /// The sets that are kept fresh, and what their leaves say.
    pub managed: BTreeMap<String, Managed>,
    pub issued: Vec<Entry>,
    /// Of the last revocation list (RFC 5280, 5.2.3: never goes back).
    #[serde(default)]
    pub crl_number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Managed {
    /// The namespace of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub id: String,
    pub dns_names: Vec<String>,
    pub lifetime_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Hex, as OpenSSL shows it, lower case.
    pub serial: String,
    pub id: String,
    /// The generation that issued it.
    pub generation: String,
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// The set it was written to; none when a signing request was signed and the key is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub reason: Reason,
}

/// RFC 5280, 5.3.1; those that make sense for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is said
    Unspecified,
    /// The key is, or may be, in other hands
    KeyCompromise,
    /// A newer certificate took its place
    Superseded,
    /// The workload is gone
    CessationOfOperation,
    /// The workload may no longer act under this identity
    PrivilegeWithdrawn,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { version: 1, managed: BTreeMap::new(), issued: Vec::new(), crl_number: 0 }
    }
}

impl Ledger {
    /// Empty when there is none yet.
    pub fn load(store: &dyn Store) -> Result<Self> {
        let Some(files) = store.read(SET)? else { return Ok(Self::default()) };
        let what = || format!("`{FILE}` of {}", store.place(SET));
        let bytes =
            files.get(FILE).ok_or_else(|| Error::damaged(store.place(SET), format!("it has no `{FILE}`")))?;
        let ledger: Self =
            serde_json::from_slice(bytes).map_err(|cause| Error::damaged(what(), cause.to_string()))?;
        if ledger.version != 1 {
            return Err(Error::damaged(what(), format!("version {} is of a newer meshward", ledger.version)));
        }
        Ok(ledger)
    }

    pub fn save(&self, store: &mut dyn Store) -> Result<()> {
        let mut files = Files::new();
        files.insert(FILE, serde_json::to_vec(self).map_err(|cause| Error::Build(cause.to_string()))?);
        store.write(SET, &files)
    }

    pub fn enter(&mut self, issued: &Issued, request: &SvidRequest, generation: String, set: Option<&str>) {
        self.issued.push(Entry {
            serial: hex(&issued.serial),
            id: request.id.to_string(),
            generation,
            not_after: issued.not_after,
            set: set.map(str::to_owned),
            revoked: None,
        });
    }

    /// Forgets what has expired. Revoked ones stay on the list a day longer, for peers whose clocks are behind.
    pub fn prune(&mut self, now: OffsetDateTime) {
        self.issued.retain(|entry| entry.not_after + Duration::days(1) > now);
    }

    pub fn entry(&self, serial: &str) -> Option<&Entry> {
        self.issued.iter().find(|entry| entry.serial == serial)
    }

    pub fn is_revoked(&self, serial: &str) -> bool {
        self.entry(serial).is_some_and(|entry| entry.revoked.is_some())
    }
}

impl Managed {
    /// The namespace is the ID's, when it is of the form `/ns/<namespace>/...`.
    pub fn new(request: &SvidRequest) -> Self {
        let namespace = request.id.path().strip_prefix("/ns/").and_then(|rest| rest.split('/').next());
        Self {
            namespace: namespace.map(str::to_owned),
            id: request.id.to_string(),
            dns_names: request.dns_names.clone(),
            lifetime_seconds: request.lifetime.whole_seconds(),
        }
    }

    pub fn request(&self) -> Result<SvidRequest> {
        Ok(SvidRequest {
            id: svid::spiffe_id(&self.id)?,
            dns_names: self.dns_names.clone(),
            lifetime: Duration::seconds(self.lifetime_seconds),
        })
    }
}

/// For messages.
impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` (serial {}, until {})", self.id, self.serial, stamp(self.not_after))
    }
}

/// Reads a time as files hold it.
pub fn parse_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

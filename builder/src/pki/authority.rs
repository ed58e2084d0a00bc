//! The CA as it is kept: the generation that issues, during a rotation a second one, and where their keys are.
//!
//! All of it is one set of files, so that each phase of a rotation begins at one rename:
//!
//! | file | holds |
//! |---|---|
//! | `ca.crt` | the trust bundle: every root that is trusted now |
//! | `issuer.crt`, `ca.key` | the generation that issues: its path up to the root; its key |
//! | `other.crt`, `other.key` | in a rotation: the next generation (`adding`), or the last one (`switched`) |
//! | `root.key`, `other-root.key` | with an intermediate: the root's key, unless it is kept elsewhere |
//! | `ca.crl` | the revocation list, when there is one |
//! | `federated.json` | the trust bundles of other trust domains, by name |
//! | `state.json` | phase, options, where keys are |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use spiffe::TrustDomain;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::ca::{self, BUNDLE, Ca, CaOptions, ISSUER, KEY};
use super::error::{Error, Result, stamp};
use super::folder::{self, Files};
use super::key::{self, Passphrase};
use super::store::Store;
use super::{federation, pem, svid};

/// The set that holds the CA.
pub const SET: &str = "service-mesh-ca";
const STATE: &str = "state.json";
const OTHER: &str = "other.crt";
const OTHER_KEY: &str = "other.key";
const ROOT_KEY: &str = "root.key";
const OTHER_ROOT_KEY: &str = "other-root.key";

/// Where a rotation of the CA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// One root.
    Stable,
    /// The next root is in every bundle; the old one issues.
    Adding,
    /// The new root issues; the old one is still in every bundle.
    Switched,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    trust_domain: String,
    phase: Phase,
    /// When the phase began, RFC 3339.
    since: String,
    options: CaOptions,
    /// The folder of keys that are kept outside the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<PathBuf>,
    /// Keys are encrypted with a passphrase; the next generation's will be too.
    encrypted: bool,
    /// Key files outside that are no longer needed and are removed once this state is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<PathBuf>,
}

/// A root, perhaps an intermediate, and the keys as they are stored.
#[derive(Clone)]
pub struct Generation {
    /// The issuing certificate first, the root last.
    path: Vec<CertificateDer<'static>>,
    /// PEM, perhaps encrypted; none when the file is outside and was not read yet.
    key: Option<Zeroizing<String>>,
    root_key: Option<Zeroizing<String>>,
}

impl Generation {
    pub fn path(&self) -> &[CertificateDer<'static>] {
        &self.path
    }

    pub fn root(&self) -> Option<&CertificateDer<'static>> {
        self.path.last()
    }

    pub fn issuer(&self) -> Option<&CertificateDer<'static>> {
        self.path.first()
    }

    /// Names the generation in the ledger and in key files: the start of its root's SHA-256.
    pub fn name(&self) -> String {
        self.root().map(|root| fingerprint(root)).unwrap_or_default().chars().take(16).collect()
    }

    /// When the first certificate of the path ends.
    pub fn not_after(&self) -> Result<OffsetDateTime> {
        let mut end = None;
        for certificate in &self.path {
            let this = ca::parse("a CA certificate", certificate)?.validity().not_after.to_datetime();
            end = Some(end.map_or(this, |end: OffsetDateTime| end.min(this)));
        }
        end.ok_or_else(|| Error::damaged("the CA", "it has no certificate"))
    }

    /// When the issuing certificate was made.
    pub fn not_before(&self) -> Result<OffsetDateTime> {
        let issuer = self.issuer().ok_or_else(|| Error::damaged("the CA", "it has no certificate"))?;
        Ok(ca::parse("the CA certificate", issuer)?.validity().not_before.to_datetime())
    }
}

/// SHA-256 of a certificate, hex.
pub fn fingerprint(certificate: &[u8]) -> String {
    hex(&Sha256::digest(certificate))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a new CA's keys go.
#[derive(Clone, Debug, Default)]
pub struct KeyPlace {
    /// A folder outside the working folder.
    pub keys: Option<PathBuf>,
    pub passphrase: Option<Passphrase>,
    /// Where the root's key goes when an intermediate issues; none: beside the other.
    pub root_key: Option<PathBuf>,
}

pub struct Authority {
    state: State,
    active: Generation,
    other: Option<Generation>,
    /// The revocation list of all generations, PEM.
    crl: Option<String>,
    /// The bundles of other trust domains, in the SPIFFE format.
    federated: BTreeMap<String, serde_json::Value>,
}

/// The set's file that holds the revocation list.
pub const CRL: &str = "ca.crl";
/// The workload's file that holds the bundles of all trust domains, for Envoy's SPIFFE validator.
pub const TRUST_BUNDLES: &str = "trust-bundles.json";
const FEDERATED: &str = "federated.json";
/// What of a workload's set is trust in others: changes without a new leaf.
pub const TRUST_FILES: [&str; 3] = [BUNDLE, CRL, TRUST_BUNDLES];

impl Authority {
    /// A new CA with a first generation. Nothing is written but the keys that go outside.
    pub fn create(
        trust_domain: &TrustDomain,
        options: &CaOptions,
        place: &KeyPlace,
        now: OffsetDateTime,
    ) -> Result<Self> {
        let ca = Ca::create(trust_domain, options, now)?;
        let active = Self::generation(trust_domain, &ca, place)?;
        let state = State {
            version: 1,
            trust_domain: trust_domain.to_string(),
            phase: Phase::Stable,
            since: stamp(now),
            options: options.clone(),
            keys: place.keys.clone(),
            encrypted: place.passphrase.is_some(),
            retired: Vec::new(),
        };
        Ok(Self { state, active, other: None, crl: None, federated: BTreeMap::new() })
    }

    fn generation(trust_domain: &TrustDomain, ca: &Ca, place: &KeyPlace) -> Result<Generation> {
        let sealed = key::encode(ca.key(), place.passphrase.as_ref())?;
        let root_key = ca.root_key().map(|root| key::encode(root, place.passphrase.as_ref())).transpose()?;
        let mut generation = Generation { path: ca.path().to_vec(), key: Some(sealed), root_key };
        let name = generation.name();
        // A key is on the disk before anything refers to it; its file's name is its own, so none is overwritten.
        if let (Some(file), Some(root)) = (&place.root_key, &generation.root_key) {
            folder::write_file(file, root.as_bytes())?;
            generation.root_key = None;
        }
        if let Some(keys) = &place.keys {
            if let Some(sealed) = generation.key.take() {
                folder::write_file(&key_file(keys, trust_domain.as_str(), &name), sealed.as_bytes())?;
            }
            if let Some(root) = generation.root_key.take() {
                folder::write_file(&keys.join(format!("{trust_domain}-{name}-root.key")), root.as_bytes())?;
            }
        }
        Ok(generation)
    }

    /// None when the store holds no CA.
    pub fn load(store: &dyn Store) -> Result<Option<Self>> {
        let Some(files) = store.read(SET)? else { return Ok(None) };
        Self::from_files(&files, &store.place(SET)).map(Some)
    }

    fn from_files(files: &Files, place: &str) -> Result<Self> {
        let what = |name: &str| format!("`{name}` of {place}");
        let need =
            |name: &str| files.get(name).ok_or_else(|| Error::damaged(place, format!("it has no `{name}`")));
        let state: State = serde_json::from_slice(need(STATE)?)
            .map_err(|cause| Error::damaged(what(STATE), cause.to_string()))?;
        if state.version != 1 {
            return Err(Error::damaged(
                what(STATE),
                format!("version {} is of a newer meshward", state.version),
            ));
        }
        svid::trust_domain(&state.trust_domain)?;
        let text = |name: &str| -> Result<Option<Zeroizing<String>>> {
            let Some(bytes) = files.get(name) else { return Ok(None) };
            let text =
                std::str::from_utf8(bytes).map_err(|_| Error::damaged(what(name), "it is not text"))?;
            Ok(Some(Zeroizing::new(text.to_owned())))
        };
        let active = Generation {
            path: pem::certificates(&what(ISSUER), need(ISSUER)?)?,
            key: text(KEY)?,
            root_key: text(ROOT_KEY)?,
        };
        let other = match files.get(OTHER) {
            None => None,
            Some(bytes) => Some(Generation {
                path: pem::certificates(&what(OTHER), bytes)?,
                key: text(OTHER_KEY)?,
                root_key: text(OTHER_ROOT_KEY)?,
            }),
        };
        if (state.phase == Phase::Stable) != other.is_none() {
            return Err(Error::damaged(what(STATE), "its phase does not fit the certificates beside it"));
        }
        let crl = text(CRL)?.map(|crl| crl.to_string());
        let federated = match files.get(FEDERATED) {
            None => BTreeMap::new(),
            Some(text) => serde_json::from_slice(text)
                .map_err(|cause| Error::damaged(what(FEDERATED), cause.to_string()))?,
        };
        Ok(Self { state, active, other, crl, federated })
    }

    fn to_files(&self) -> Result<Files> {
        let mut files = Files::new();
        files.insert(BUNDLE, self.bundle_pem());
        files.insert(ISSUER, pem::encode_certificates(&self.active.path));
        let mut put = |name: &str, text: &Option<Zeroizing<String>>| {
            if let Some(text) = text {
                files.insert(name, text.as_bytes());
            }
        };
        put(KEY, &self.active.key);
        put(ROOT_KEY, &self.active.root_key);
        if let Some(other) = &self.other {
            put(OTHER_KEY, &other.key);
            put(OTHER_ROOT_KEY, &other.root_key);
            files.insert(OTHER, pem::encode_certificates(&other.path));
        }
        if let Some(crl) = &self.crl {
            files.insert(CRL, crl.as_bytes());
        }
        if !self.federated.is_empty() {
            let text =
                serde_json::to_vec(&self.federated).map_err(|cause| Error::Build(cause.to_string()))?;
            files.insert(FEDERATED, text);
        }
        let state =
            serde_json::to_vec_pretty(&self.state).map_err(|cause| Error::Build(cause.to_string()))?;
        files.insert(STATE, state);
        Ok(files)
    }

    /// Puts this state in force, then removes key files that it no longer needs.
    pub fn save(&self, store: &mut dyn Store) -> Result<()> {
        store.write(SET, &self.to_files()?)?;
        self.remove_retired()
    }

    /// Removes key files that an interrupted `save` left.
    pub fn remove_retired(&self) -> Result<()> {
        for path in &self.state.retired {
            match std::fs::remove_file(path) {
                Ok(()) => super::fault::step("retired key removed"),
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => return Err(Error::io("remove", path, cause)),
            }
        }
        Ok(())
    }

    /// The generation that issues, ready to sign.
    pub fn ca(&self, passphrase: Option<&Passphrase>) -> Result<Ca> {
        self.open(&self.active, passphrase)
    }

    pub(crate) fn open(&self, generation: &Generation, passphrase: Option<&Passphrase>) -> Result<Ca> {
        let key = match (&generation.key, &self.state.keys) {
            (Some(text), _) => key::decode("the CA key", text.as_bytes(), passphrase)?,
            (None, Some(keys)) => {
                let path = key_file(keys, &self.state.trust_domain, &generation.name());
                let text =
                    Zeroizing::new(std::fs::read(&path).map_err(|cause| Error::io("read", &path, cause))?);
                key::decode(&format!("`{}`", path.display()), &text, passphrase)?
            }
            (None, None) => return Err(Error::damaged("the CA", format!("its key (`{KEY}`) is not there"))),
        };
        Ca::from_parts(generation.path.clone(), key)
    }

    /// Begins a rotation: makes the next generation, with the options of the first.
    pub(crate) fn add(&mut self, place: &KeyPlace, now: OffsetDateTime) -> Result<()> {
        let trust_domain = self.trust_domain()?;
        let ca = Ca::create(&trust_domain, &self.state.options, now)?;
        let place = KeyPlace { keys: self.state.keys.clone(), ..place.clone() };
        self.other = Some(Self::generation(&trust_domain, &ca, &place)?);
        self.enter(Phase::Adding, now);
        Ok(())
    }

    /// Lets the other generation issue.
    pub(crate) fn swap(&mut self, phase: Phase, now: OffsetDateTime) {
        if let Some(other) = &mut self.other {
            std::mem::swap(&mut self.active, other);
            self.enter(phase, now);
        }
    }

    /// Ends a rotation: the other generation's root leaves the bundle, its keys go.
    pub(crate) fn drop_other(&mut self, now: OffsetDateTime) {
        if let (Some(other), Some(keys)) = (self.other.take(), &self.state.keys) {
            let name = other.name();
            self.state.retired = vec![
                key_file(keys, &self.state.trust_domain, &name),
                keys.join(format!("{}-{name}-root.key", self.state.trust_domain)),
            ];
        }
        self.enter(Phase::Stable, now);
    }

    /// Counts the settling time anew.
    pub(crate) fn restart(&mut self, now: OffsetDateTime) {
        self.state.since = stamp(now);
    }

    fn enter(&mut self, phase: Phase, now: OffsetDateTime) {
        self.state.phase = phase;
        self.state.since = stamp(now);
        if phase != Phase::Stable {
            self.state.retired.clear();
        }
    }

    pub fn trust_domain(&self) -> Result<TrustDomain> {
        svid::trust_domain(&self.state.trust_domain)
    }

    pub fn phase(&self) -> Phase {
        self.state.phase
    }

    /// When the phase began.
    pub fn since(&self) -> Result<OffsetDateTime> {
        OffsetDateTime::parse(&self.state.since, &time::format_description::well_known::Rfc3339)
            .map_err(|cause| Error::damaged(format!("`{STATE}` of the CA"), cause.to_string()))
    }

    pub fn options(&self) -> &CaOptions {
        &self.state.options
    }

    pub fn encrypted(&self) -> bool {
        self.state.encrypted
    }

    pub fn keys(&self) -> Option<&Path> {
        self.state.keys.as_deref()
    }

    pub fn active(&self) -> &Generation {
        &self.active
    }

    pub fn other(&self) -> Option<&Generation> {
        self.other.as_ref()
    }

    pub fn generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&self.active).chain(&self.other)
    }

    /// Every root that is trusted now, the issuing generation's first.
    pub fn bundle(&self) -> Vec<CertificateDer<'static>> {
        self.generations().filter_map(Generation::root).cloned().collect()
    }

    pub fn bundle_pem(&self) -> String {
        pem::encode_certificates(self.generations().filter_map(Generation::root))
    }

    pub fn crl(&self) -> Option<&str> {
        self.crl.as_deref()
    }

    pub(crate) fn set_crl(&mut self, crl: Option<String>) {
        self.crl = crl;
    }

    /// The bundles of other trust domains, in the SPIFFE format.
    pub fn federated(&self) -> &BTreeMap<String, serde_json::Value> {
        &self.federated
    }

    /// Trusts another trust domain's bundle, or no longer (`None`). Returns whether that changes anything.
    ///
    /// # Errors
    /// When it is the own trust domain, or the bundle shares a root with another one's.
    pub fn federate(
        &mut self,
        trust_domain: &TrustDomain,
        bundle: Option<serde_json::Value>,
    ) -> Result<bool> {
        if trust_domain.as_str() == self.state.trust_domain {
            let message = format!("`{trust_domain}` is this CA's own trust domain");
            let diagnostic = crate::diagnostic::Diagnostic::error("federation", message);
            return Err(diagnostic.help("name another trust domain").into());
        }
        let name = trust_domain.to_string();
        let before = match bundle {
            Some(bundle) => self.federated.insert(name.clone(), bundle),
            None => self.federated.remove(&name),
        };
        self.trust_files()?;
        Ok(before.as_ref() != self.federated.get(&name))
    }

    /// What every workload's set holds of trust in others: some of [`TRUST_FILES`].
    pub fn trust_files(&self) -> Result<Files> {
        let mut files = Files::new();
        files.insert(BUNDLE, self.bundle_pem());
        if let Some(crl) = &self.crl {
            files.insert(CRL, crl.as_bytes());
        }
        if !self.federated.is_empty() {
            let map = federation::bundle_map(&self.trust_bundles()?)?;
            files.insert(
                TRUST_BUNDLES,
                serde_json::to_vec(&map).map_err(|cause| Error::Build(cause.to_string()))?,
            );
        }
        Ok(files)
    }

    /// The bundle of each trust domain, the own one first.
    pub fn trust_bundles(&self) -> Result<Vec<(TrustDomain, serde_json::Value)>> {
        // Each phase of a rotation has a later beginning, so its time is a sequence number.
        let sequence = u64::try_from(self.since()?.unix_timestamp()).unwrap_or(1);
        let mut bundles = vec![(self.trust_domain()?, federation::bundle(&self.bundle(), sequence)?)];
        for (name, bundle) in &self.federated {
            bundles.push((svid::trust_domain(name)?, bundle.clone()));
        }
        Ok(bundles)
    }

    /// The generation whose issuing certificate signed this one.
    pub fn signer_of(&self, certificate: &x509_parser::prelude::X509Certificate<'_>) -> Option<&Generation> {
        self.generations().find(|generation| {
            let issuer = generation.issuer().and_then(|issuer| ca::parse("the CA certificate", issuer).ok());
            issuer.is_some_and(|issuer| {
                certificate.issuer() == issuer.subject()
                    && certificate.verify_signature(Some(issuer.public_key())).is_ok()
            })
        })
    }
}

fn key_file(keys: &Path, trust_domain: &str, generation: &str) -> PathBuf {
    keys.join(format!("{trust_domain}-{generation}.key"))
}

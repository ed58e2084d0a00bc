//! Who is at the other end: the peer's certificate, checked by the engine, remembered by its digest.
//!
//! The digest costs one host call of 64 bytes. The certificate itself, ten times as long, is asked for and parsed only
//! when its digest is new to this VM. Deliberately absent: validation of the chain, which Envoy's TLS has done.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use meshward_engine::request::Peer;
use meshward_engine::spiffe::SpiffeId;
use meshward_engine::svid::{self, Svid, SvidError};

use crate::host;

/// Certificates remembered per VM. A worker talks to a few peers; what is beyond is parsed again.
const REMEMBERED: usize = 256;

/// SHA-256 of the certificate (DER) in hexadecimal, as Envoy writes it.
type Digest = [u8; 64];

/// What a peer's certificate says.
#[derive(Debug)]
pub enum Identity {
    /// There is none.
    Absent,
    /// It is no valid X509-SVID.
    Invalid(Fault),
    Verified {
        id: SpiffeId,
        /// Big-endian, without leading zeroes.
        serial: Box<[u8]>,
    },
}

/// Why a certificate is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The engine's rules for it.
    Svid(SvidError),
    /// Envoy cannot say what it is.
    Unreadable,
}

impl Fault {
    /// A stable name for the log and the counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Svid(error) => error.as_str(),
            Self::Unreadable => "unreadable",
        }
    }
}

impl Identity {
    /// As the engine wants it.
    pub fn peer(&self) -> Peer<'_> {
        match self {
            Self::Absent => Peer::Absent,
            Self::Invalid(_) => Peer::Invalid,
            Self::Verified { id, .. } => Peer::Verified(id.as_ref()),
        }
    }

    /// Serial number of a valid certificate.
    pub fn serial(&self) -> Option<&[u8]> {
        match self {
            Self::Verified { serial, .. } => Some(serial),
            Self::Absent | Self::Invalid(_) => None,
        }
    }

    /// For the log.
    pub fn describe(&self) -> &str {
        match self {
            Self::Absent => "a caller without a certificate",
            Self::Invalid(_) => "a caller whose certificate is no X509-SVID",
            Self::Verified { id, .. } => id.as_str(),
        }
    }
}

/// The certificates that this VM has seen.
pub struct Identities {
    /// In no order; scanned. Each VM sees few, and the newest one first is the likely one.
    seen: RefCell<Vec<(Digest, Rc<Identity>)>>,
    nobody: Rc<Identity>,
}

impl Default for Identities {
    fn default() -> Self {
        Self { seen: RefCell::default(), nobody: Rc::new(Identity::Absent) }
    }
}

impl Identities {
    /// For a configuration that does not ask who calls.
    pub fn nobody(&self) -> Rc<Identity> {
        Rc::clone(&self.nobody)
    }

    /// The peer of the current request or connection.
    ///
    /// In a TCP filter there is none before the handshake is done, so not in `on_new_connection`.
    pub fn current(&self) -> Rc<Identity> {
        let digest = match host::property("connection\0sha256_peer_certificate_digest") {
            Ok(Some(digest)) if !digest.is_empty() => digest,
            Ok(_) => return self.nobody(),
            Err(_) => return Rc::new(Identity::Invalid(Fault::Unreadable)),
        };
        let Ok(digest) = Digest::try_from(&*digest) else {
            return Rc::new(Identity::Invalid(Fault::Unreadable));
        };
        // No callback of ours runs inside another, so it is free; if it were not, nothing is remembered.
        let Ok(mut seen) = self.seen.try_borrow_mut() else { return Rc::new(read_certificate()) };
        if let Some(place) = seen.iter().position(|(known, _)| *known == digest) {
            // To the front, one step at a time: what comes often is found early.
            let front = place.saturating_sub(1);
            seen.swap(front, place);
            return seen.get(front).map_or_else(|| self.nobody(), |(_, identity)| Rc::clone(identity));
        }
        let identity = Rc::new(read_certificate());
        if seen.len() >= REMEMBERED {
            seen.pop();
        }
        seen.push((digest, Rc::clone(&identity)));
        identity
    }
}

fn read_certificate() -> Identity {
    match host::property("connection\0peer_certificate") {
        Ok(Some(pem)) => check(&pem).unwrap_or_else(|error| Identity::Invalid(Fault::Svid(error))),
        Ok(None) | Err(_) => Identity::Invalid(Fault::Unreadable),
    }
}

fn check(pem: &[u8]) -> Result<Identity, SvidError> {
    let mut der = Vec::new();
    svid::decode_pem(pem, &mut der)?;
    let svid = Svid::parse(&der)?;
    Ok(Identity::Verified { id: svid.id.to_owned(), serial: svid.serial.into() })
}

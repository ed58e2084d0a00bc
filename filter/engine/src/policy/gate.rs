//! What is refused before any policy is asked: ambiguous paths, callers without a good identity, revoked ones.

use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::needs;
use crate::config::{AcceptedPeers, GuardMode, IdentityMode, PathParams, PluginConfig, Protocol, Text};
use crate::decision::Reason;
use crate::path_guard::{self, PathFault};
use crate::request::{Peer, Request};
use crate::spiffe::TrustDomain;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    /// How paths are checked, if they are.
    guard: Option<PathParams>,
    /// Whether a path that templates do not see could evade a rule.
    guards_templates: bool,
    identity: IdentityMode,
    /// Trust domains whose peers are accepted; `None` for any.
    accepted: Option<Vec<TrustDomain>>,
    hasher: FixedState,
    revoked_serials: HashTable<Vec<u8>>,
    revoked_ids: HashTable<Text>,
}

impl Gate {
    /// Of a configuration.
    pub fn new(config: &PluginConfig) -> Self {
        let guarded = match config.path_guard.mode {
            GuardMode::Always => true,
            GuardMode::Never => false,
            GuardMode::WhenPathsMatter => needs::has_path_rules(config),
        };
        let accepted = match &config.accepted_peers {
            AcceptedPeers::AnyTrustDomain => None,
            AcceptedPeers::OwnAnd(others) => {
                let own = [&config.trust_domain].into_iter().chain(&config.trust_domain_aliases);
                Some(own.chain(others).cloned().collect())
            }
        };
        let hasher = FixedState::default();
        let mut revoked_serials = HashTable::new();
        for serial in &config.revoked.serials {
            revoked_serials
                .insert_unique(hasher.hash_one(&**serial), serial.clone(), |other| hasher.hash_one(&**other));
        }
        let mut revoked_ids = HashTable::new();
        for id in &config.revoked.ids {
            let hash = |id: &Text| hasher.hash_one(id.as_bytes());
            revoked_ids.insert_unique(hash(id), id.clone(), hash);
        }
        Self {
            guard: (guarded && config.protocol == Protocol::Http).then_some(config.path_guard.path_params),
            guards_templates: needs::has_evadable_templates(config),
            identity: config.identity,
            accepted,
            hasher,
            revoked_serials,
            revoked_ids,
        }
    }

    fn check_path(&self, path: &[u8], params: PathParams) -> Result<(), PathFault> {
        path_guard::check(path, params)?;
        if self.guards_templates { path_guard::check_beside_templates(path) } else { Ok(()) }
    }

    /// Why a request is refused, if it is.
    pub fn refuses(&self, request: &Request) -> Option<Reason> {
        if let (Some(params), Some(path)) = (self.guard, request.path)
            && let Err(fault) = self.check_path(path, params)
        {
            return Some(Reason::Path(fault));
        }
        let id = match request.peer {
            Peer::Verified(id) => id,
            Peer::Invalid => return Some(Reason::InvalidIdentity),
            Peer::Absent if self.identity == IdentityMode::Required => return Some(Reason::NoIdentity),
            Peer::Absent => return None,
        };
        if let Some(accepted) = &self.accepted
            && !accepted.iter().any(|domain| domain.as_str() == id.trust_domain())
        {
            return Some(Reason::ForeignTrustDomain);
        }
        let serial_revoked = !self.revoked_serials.is_empty()
            && match request.serial {
                Some(serial) => {
                    self.revoked_serials.find(self.hasher.hash_one(serial), |one| **one == *serial).is_some()
                }
                // What cannot be checked is refused.
                None => true,
            };
        let id_revoked = !self.revoked_ids.is_empty() && {
            let text = id.as_str();
            self.revoked_ids.find(self.hasher.hash_one(text.as_bytes()), |one| **one == *text).is_some()
        };
        (serial_revoked || id_revoked).then_some(Reason::Revoked)
    }
}

//! What is refused before any policy is asked: ambiguous paths, callers without a good identity, revoked ones.

use alloc::vec::Vec;

use super::needs;
use crate::config::{AcceptedPeers, GuardMode, IdentityMode, PathParams, PluginConfig, Protocol, Text};
use crate::decision::Reason;
use crate::index::table::{Table, hash};
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
    revoked_serials: Vec<Vec<u8>>,
    serial_table: Table,
    revoked_ids: Vec<Text>,
    id_table: Table,
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
        let (mut serial_table, mut id_table) = (Table::default(), Table::default());
        for (number, serial) in (0..).zip(&config.revoked.serials) {
            serial_table.insert(hash(0, serial), number);
        }
        for (number, id) in (0..).zip(&config.revoked.ids) {
            id_table.insert(hash(0, id.as_bytes()), number);
        }
        Self {
            guard: (guarded && config.protocol == Protocol::Http).then_some(config.path_guard.path_params),
            guards_templates: needs::has_evadable_templates(config),
            identity: config.identity,
            accepted,
            revoked_serials: config.revoked.serials.clone(),
            serial_table,
            revoked_ids: config.revoked.ids.clone(),
            id_table,
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
        let serial_revoked = match request.serial {
            _ if self.serial_table.is_empty() => false,
            Some(serial) => {
                let is_it =
                    &mut |at: u32| self.revoked_serials.get(at as usize).is_some_and(|one| one == serial);
                self.serial_table.find(hash(0, serial), is_it).is_some()
            }
            // What cannot be checked is refused.
            None => true,
        };
        let id_revoked = !self.id_table.is_empty() && {
            let is_it =
                &mut |at: u32| self.revoked_ids.get(at as usize).is_some_and(|one| **one == *id.as_str());
            self.id_table.find(hash(0, id.as_str().as_bytes()), is_it).is_some()
        };
        (serial_revoked || id_revoked).then_some(Reason::Revoked)
    }
}

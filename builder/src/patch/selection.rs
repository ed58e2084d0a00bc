//! Which filter lists are meant.

use super::envoy::{self, Filter, Listener};
use super::tree::Tree;

/// Which filter lists are meant. With nothing said: all inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names of listeners.
    pub listeners: Vec<String>,
    /// Ports of listeners.
    pub ports: Vec<u32>,
    /// HTTP connection managers, by their `stat_prefix` or the name of the filter.
    pub managers: Vec<String>,
    /// Outbound listeners too.
    pub outbound: bool,
}

impl Selection {
    /// Somebody named what is meant: then its direction does not matter.
    pub(super) fn names(&self) -> bool {
        !(self.listeners.is_empty() && self.ports.is_empty() && self.managers.is_empty())
    }

    pub(super) fn listener(&self, listener: &Listener) -> bool {
        let named = self.listeners.is_empty()
            || listener.name.as_ref().is_some_and(|name| self.listeners.contains(name));
        let port = self.ports.is_empty() || listener.port.is_some_and(|port| self.ports.contains(&port));
        named && port && (self.outbound || self.names() || !listener.outbound)
    }

    pub(super) fn manager(&self, tree: &Tree, filter: &Filter) -> bool {
        let prefix = filter.config.and_then(|config| envoy::field(tree, config, "stat_prefix"));
        let prefix = prefix.and_then(|prefix| tree.text(prefix));
        self.managers.is_empty()
            || self.managers.iter().any(|name| filter.name.as_deref() == Some(name) || prefix == Some(name))
    }
}

//! What a policy wants to know of a request, so that nothing else is read from the host.

use alloc::vec::Vec;

use super::clauses;
use crate::config::{
    AcceptedPeers, Action, Attribute, Clause, GuardMode, IdentityMode, Match, PluginConfig, Protocol, Role,
    Text,
};
use crate::pattern::Pattern;

/// What a policy wants to know of a request. What is not asked for need not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The peer's certificate; asked for by every inbound configuration, and outbound only where rules or keys speak of it.
    pub peer: bool,
    /// The certificate's serial number.
    pub serial: bool,
    /// Address of the direct peer.
    pub source_ip: bool,
    /// Address of the original client.
    pub remote_ip: bool,
    /// Local address.
    pub destination_ip: bool,
    /// Local port.
    pub destination_port: bool,
    /// Server name of the TLS handshake.
    pub sni: bool,
    /// `:method`.
    pub method: bool,
    /// `:path`.
    pub path: bool,
    /// `:authority`.
    pub authority: bool,
    /// `<iss>/<sub>` of the token.
    pub request_principal: bool,
    /// Names of headers, in lower case, sorted.
    pub headers: Vec<Text>,
    /// Paths of claims, `[a][b]`, sorted.
    pub claims: Vec<Text>,
    /// Metadata, `filter[key]`, sorted.
    pub metadata: Vec<Text>,
}

/// Whether some rule is about paths.
pub fn has_path_rules(config: &PluginConfig) -> bool {
    matches(config).any(|one| one.attribute == Attribute::Path)
}

/// Whether some rule refuses what a path template matches: in a DENY policy, or by its negation.
pub fn has_evadable_templates(config: &PluginConfig) -> bool {
    let has_template =
        |one: &Match| one.patterns.iter().any(|pattern| matches!(pattern, Pattern::Template(_)));
    config.policies.iter().any(|policy| {
        let denies = policy.action == Action::Deny;
        let mut matches = policy.rules.iter().flat_map(clauses).flat_map(Clause::matches);
        matches.any(|one| has_template(one) && (denies || one.negated))
    })
}

fn matches(config: &PluginConfig) -> impl Iterator<Item = &Match> {
    let rules = config.policies.iter().flat_map(|policy| &policy.rules);
    let rules = rules.chain(config.selectors.iter().flat_map(|selector| &selector.rules));
    rules.flat_map(clauses).flat_map(Clause::matches)
}

/// Whether anything depends on who calls, rules and keys apart. Behind the application that is the application itself.
fn needs_peer(config: &PluginConfig) -> bool {
    config.role == Role::Inbound
        || config.identity == IdentityMode::Required
        || config.accepted_peers != AcceptedPeers::AnyTrustDomain
        || !config.revoked.ids.is_empty()
        || !config.revoked.serials.is_empty()
}

/// What the rules of a configuration, its path guard and its deny lists ask for.
pub fn needs(config: &PluginConfig) -> Attributes {
    let mut needs = Attributes {
        peer: needs_peer(config),
        serial: !config.revoked.serials.is_empty(),
        ..Attributes::default()
    };
    let http = config.protocol == Protocol::Http;
    needs.path = http && config.path_guard.mode == GuardMode::Always;
    for one in matches(config) {
        if !http && one.attribute.is_http_only() {
            continue;
        }
        match &one.attribute {
            Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain => needs.peer = true,
            Attribute::SourceIp => needs.source_ip = true,
            Attribute::RemoteIp => needs.remote_ip = true,
            Attribute::RequestPrincipal => needs.request_principal = true,
            Attribute::Host => needs.authority = true,
            Attribute::DestinationPort => needs.destination_port = true,
            Attribute::Method => needs.method = true,
            Attribute::Path => needs.path = true,
            Attribute::Header { name, .. } => match &**name {
                ":method" => needs.method = true,
                ":path" => needs.path = true,
                ":authority" => needs.authority = true,
                _ => note(&mut needs.headers, name),
            },
            Attribute::DestinationIp => needs.destination_ip = true,
            Attribute::Sni => needs.sni = true,
            Attribute::Claim(path) => note(&mut needs.claims, path),
            Attribute::Metadata(path) => note(&mut needs.metadata, path),
        }
    }
    crate::limits::Limits::needs(&config.limits, &mut needs);
    needs
}

/// Puts a name into a sorted list, once.
fn note(names: &mut Vec<Text>, name: &Text) {
    if let Err(place) = names.binary_search(name) {
        names.insert(place, name.clone());
    }
}

//! The plugin configuration: the only thing that the builder and the filter say to each other.
//!
//! Istio's AuthorizationPolicy after name resolution: selectors are applied, namespaces filled in, text parsed. On the
//! wire it is [postcard](https://docs.rs/postcard) behind a magic and a version ([`PluginConfig::encode`]).
//! Deliberately absent: `Default` for anything that decides who may do what.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

pub use crate::limits::config::LimitsConfig;
pub use crate::path_guard::{GuardMode, PathGuard, PathParams};
pub use crate::pattern::{Pattern, Text};
pub use crate::spiffe::TrustDomain;
use crate::text::decimal;

/// Everything that the filter in one place of one workload knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginConfig {
    /// Hash of the policy, to see in a metric and a log which one is in force.
    pub revision: Text,
    /// `namespace/name` of the workload.
    pub workload: Text,
    /// Before or behind the application.
    pub role: Role,
    /// What the listener speaks.
    pub protocol: Protocol,
    /// Our own trust domain.
    pub trust_domain: TrustDomain,
    /// Its other names: a principal of one of them (or of `cluster.local`) in a policy stands for all of them.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Whose certificates are accepted at all.
    pub accepted_peers: AcceptedPeers,
    /// Whether a caller without a certificate gets as far as the policies.
    pub identity: IdentityMode,
    /// What happens when no ALLOW policy is there.
    pub default_action: DefaultAction,
    /// Which paths are refused before the policies.
    pub path_guard: PathGuard,
    /// Answer to a denied request, for policies that have none of their own; `None` is Envoy's RBAC wording.
    pub deny_response: Option<DenyResponse>,
    /// Identities and certificates that are refused at once.
    pub revoked: Revoked,
    /// Authorization, in any order.
    pub policies: Vec<AuthorizationPolicy>,
    /// Sets of rules that other features (limits) ask about: matched by the same index as the policies.
    pub selectors: Vec<Selector>,
    /// Rate limits, breakers, concurrency limits.
    pub limits: LimitsConfig,
}

/// Where the filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Before the application: decides who may call it.
    Inbound,
    /// Behind the application: limits and breakers for what it calls.
    Outbound,
}

/// What the listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1, HTTP/2, gRPC.
    Http,
    /// Anything: only the connection is known.
    Tcp,
}

/// What happens when no ALLOW policy is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DefaultAction {
    /// As Istio.
    Allow,
    /// Meshward's default.
    Deny,
}

/// Whether a caller without a certificate gets as far as the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IdentityMode {
    /// No: refused as [`crate::decision::Reason::NoIdentity`] (STRICT).
    Required,
    /// Yes: the policies decide, and negations match it (PERMISSIVE, and Istio's own semantics).
    Optional,
}

/// Whose certificates are accepted at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceptedPeers {
    /// Any trust domain whose certificate TLS has let through (Istio's semantics, for `policy eval`).
    AnyTrustDomain,
    /// [`PluginConfig::trust_domain`], its aliases, and these (federation).
    OwnAnd(Vec<TrustDomain>),
}

/// Identities and certificates that are refused whatever the policies say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Serial numbers, big-endian, without leading zeroes (RFC 5280 section 4.1.2.2: at most 20 bytes).
    pub serials: Vec<Vec<u8>>,
    /// SPIFFE IDs, whole, with `spiffe://`.
    pub ids: Vec<Text>,
}

impl Revoked {
    /// Nothing is revoked.
    pub const NONE: Self = Self { serials: Vec::new(), ids: Vec::new() };
}

/// Answer to a denied HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DenyResponse {
    /// 400 to 599.
    pub status: u16,
    /// For example `application/problem+json` (RFC 9457).
    pub content_type: Text,
    /// Sent as it is.
    pub body: Text,
}

/// One AuthorizationPolicy that selects this workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// `namespace/name`.
    pub name: Text,
    /// What it does when a rule matches.
    pub action: Action,
    /// Evaluated and counted, without a say.
    pub dry_run: bool,
    /// One that matches is enough. None at all: matches never.
    pub rules: Vec<Rule>,
    /// Answer to requests that it denies (an ALLOW policy: that no ALLOW policy let through).
    pub deny_response: Option<DenyResponse>,
}

/// What a policy does when a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Lets the request through, unless a DENY policy matches.
    Allow,
    /// Refuses it.
    Deny,
    /// Reports it.
    Audit,
}

/// A set of rules with a place of its own in the index, see [`crate::policy::Policy::selects`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// One that matches is enough. `[Rule::any()]` matches everything; none at all matches nothing.
    pub rules: Vec<Rule>,
}

/// `(any of from) and (any of to) and (all of when)`; an empty list means anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// `source`s.
    pub from: Vec<Clause>,
    /// `operation`s.
    pub to: Vec<Clause>,
    /// Conditions. One with both `values` and `notValues` is two matches.
    pub when: Clause,
}

impl Rule {
    /// `{}`: matches everything.
    #[must_use]
    pub fn any() -> Self {
        Self { from: Vec::new(), to: Vec::new(), when: Clause::always() }
    }
}

/// Matches that must all hold. Empty: holds always.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Clause(Arc<[Match]>);

impl Clause {
    /// Of one match or more.
    #[must_use]
    pub fn new(matches: Vec<Match>) -> Self {
        Self(matches.into())
    }

    /// Holds always.
    #[must_use]
    pub fn always() -> Self {
        Self::new(Vec::new())
    }

    /// What must hold.
    #[must_use]
    pub fn matches(&self) -> &[Match] {
        &self.0
    }
}

/// `attribute is one of patterns`, or its negation, which holds as well when the attribute is absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Match {
    /// What is compared.
    pub attribute: Attribute,
    /// `notPrincipals`, `notValues`, …
    pub negated: bool,
    /// One that matches is enough. INVARIANT after compile: not empty.
    pub patterns: Vec<Pattern>,
}

/// What a match compares. "Strings" are `Any`, `Exact`, `Prefix` and `Suffix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attribute {
    /// SPIFFE ID without `spiffe://`: strings and `Segments` (`principals`, `source.principal`).
    Principal,
    /// Its namespace: strings and `Glob` (`namespaces`, `source.namespace`).
    Namespace,
    /// Its namespace and account: `ServiceAccount` (`serviceAccounts`, `source.serviceAccount`).
    ServiceAccount,
    /// Its trust domain: strings and `Glob` (`trustDomains`, `source.trustDomain`).
    TrustDomain,
    /// Direct peer: `Cidr` (`ipBlocks`, `source.ip`).
    SourceIp,
    /// Original client: `Cidr` (`remoteIpBlocks`, `remote.ip`).
    RemoteIp,
    /// Issuer and subject, see [`crate::request::principal_of_token`]: strings (`requestPrincipals`,
    /// `request.auth.principal`). HTTP only.
    RequestPrincipal,
    /// `:authority` with its port, case folded: strings (`hosts`). HTTP only.
    Host,
    /// Local port: `Port` (`ports`, `destination.port`).
    DestinationPort,
    /// `:method`: strings (`methods`). HTTP only.
    Method,
    /// `:path` without query and fragment: strings and `Template` (`paths`). HTTP only.
    Path,
    /// A header: strings (`request.headers[name]`). `:method`, `:path` and `:authority` too. HTTP only.
    Header {
        /// In lower case.
        name: Text,
        /// How a repeated header is read.
        mode: HeaderMode,
    },
    /// Local address: `Cidr` (`destination.ip`).
    DestinationIp,
    /// Server name: strings (`connection.sni`).
    Sni,
    /// A claim by its path, `[a][b]`: strings, one element of a list is enough. `request.auth.audiences` is `[aud]`,
    /// `request.auth.presenter` is `[azp]`. HTTP only.
    Claim(Text),
    /// Dynamic metadata by `filter[key]`: strings (`experimental.envoy.filters.*`).
    Metadata(Text),
}

impl Attribute {
    /// Kinds from this number on have a name.
    pub(crate) const FIRST_NAMED: u8 = 13;

    /// What has this [`Self::key`].
    pub(crate) fn from_key(kind: u8, name: Text) -> Option<Self> {
        Some(match kind {
            0 => Self::Principal,
            1 => Self::Namespace,
            2 => Self::ServiceAccount,
            3 => Self::TrustDomain,
            4 => Self::SourceIp,
            5 => Self::RemoteIp,
            6 => Self::RequestPrincipal,
            7 => Self::Host,
            8 => Self::DestinationPort,
            9 => Self::Method,
            10 => Self::Path,
            11 => Self::DestinationIp,
            12 => Self::Sni,
            13 => Self::Claim(name),
            14 => Self::Metadata(name),
            15 => Self::Header { name, mode: HeaderMode::Joined },
            16 => Self::Header { name, mode: HeaderMode::Any },
            17 => Self::Header { name, mode: HeaderMode::All },
            _ => return None,
        })
    }

    /// A number for each kind, and the name that tells attributes of one kind apart.
    #[must_use]
    pub fn key(&self) -> (u8, &str) {
        match self {
            Self::Principal => (0, ""),
            Self::Namespace => (1, ""),
            Self::ServiceAccount => (2, ""),
            Self::TrustDomain => (3, ""),
            Self::SourceIp => (4, ""),
            Self::RemoteIp => (5, ""),
            Self::RequestPrincipal => (6, ""),
            Self::Host => (7, ""),
            Self::DestinationPort => (8, ""),
            Self::Method => (9, ""),
            Self::Path => (10, ""),
            Self::DestinationIp => (11, ""),
            Self::Sni => (12, ""),
            Self::Claim(path) => (13, path),
            Self::Metadata(key) => (14, key),
            Self::Header { name, mode: HeaderMode::Joined } => (15, name),
            Self::Header { name, mode: HeaderMode::Any } => (16, name),
            Self::Header { name, mode: HeaderMode::All } => (17, name),
        }
    }

    /// Whether it is known of an HTTP request only, so that on TCP a rule with it cannot match.
    #[must_use]
    pub fn is_http_only(&self) -> bool {
        matches!(
            self,
            Self::RequestPrincipal
                | Self::Host
                | Self::Method
                | Self::Path
                | Self::Header { .. }
                | Self::Claim(_)
        )
    }
}

/// How a repeated header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HeaderMode {
    /// All values joined with `,`, as Envoy did before it was taken for a hole.
    Joined,
    /// One value that matches is enough, as Envoy 1.40 and so Istio do (measured).
    Any,
    /// Every value matches, and there is one.
    All,
}

/// Why a configuration is refused. It is refused whole; the one in force stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The bytes are something else; usual cause: JSON or YAML where `meshward render`'s bytes belong.
    NotOurs,
    /// Made by another version of the builder.
    Version {
        /// What it has.
        found: u8,
        /// What we read.
        expected: u8,
    },
    /// Cut off or damaged.
    Damaged(&'static str),
    /// A match that no builder of ours writes.
    Rule {
        /// `namespace/name`, or `selector <n>`.
        policy: Text,
        /// From 0.
        rule: u32,
        /// What is wrong.
        problem: &'static str,
    },
    /// `action: DENY` or `AUDIT` without rules (or DENY whose response is no error).
    Policy {
        /// `namespace/name`.
        policy: Text,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something outside the policies.
    Other(&'static str),
}

impl ConfigError {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let number = |number: u32| decimal(number.into());
        match self {
            Self::NotOurs => "it is no plugin configuration of Meshward (the magic is missing)".to_owned(),
            Self::Version { found, expected } => {
                let (found, expected) = (number((*found).into()), number((*expected).into()));
                let mend = ": render with the builder of the same release";
                ["its version is ", &found, ", this filter reads ", &expected, mend].concat()
            }
            Self::Damaged(problem) => ["it is damaged: ", problem].concat(),
            Self::Rule { policy, rule, problem } => {
                ["policy `", policy, "` rule ", &number(*rule), ": ", problem].concat()
            }
            Self::Policy { policy, problem } => ["policy `", policy, "`: ", problem].concat(),
            Self::Other(problem) => (*problem).to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_text())
    }
}

impl core::error::Error for ConfigError {}

impl PluginConfig {
    /// A configuration that denies everything: the start to build on, and what a workload without policies has.
    #[must_use]
    pub fn deny_all(workload: &str, role: Role, protocol: Protocol, trust_domain: TrustDomain) -> Self {
        Self {
            revision: Text::from(""),
            workload: Text::from(workload),
            role,
            protocol,
            trust_domain,
            trust_domain_aliases: Vec::new(),
            accepted_peers: AcceptedPeers::OwnAnd(Vec::new()),
            identity: IdentityMode::Required,
            default_action: DefaultAction::Deny,
            path_guard: PathGuard { mode: GuardMode::WhenPathsMatter, path_params: PathParams::Strip },
            deny_response: None,
            revoked: Revoked::NONE,
            policies: Vec::new(),
            selectors: Vec::new(),
            limits: LimitsConfig::NONE,
        }
    }

    /// The bytes for the filter: deterministic, the same for the same configuration.
    pub fn encode(&self) -> Result<Vec<u8>, ConfigError> {
        crate::wire::encode(self)
    }

    /// Reads what [`Self::encode`] wrote. Whether it makes sense is [`crate::policy::Policy::compile`]'s to say.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        crate::wire::decode(bytes)
    }
}

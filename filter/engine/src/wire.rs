//! The bytes of a [`PluginConfig`]: postcard of tables in which every text, match and clause stands once.
//!
//! Ten thousand policies must fit a ConfigMap, so texts are sorted and share their prefixes, and what repeats is a
//! number. Deliberately absent: compatibility between versions; builder and filter are of one release.

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{
    AcceptedPeers, Action, Attribute, AuthorizationPolicy, Clause, ConfigError, DefaultAction, DenyResponse,
    HeaderMode, IdentityMode, LimitsConfig, Match, PathGuard, PluginConfig, Protocol, Revoked, Role, Rule,
    Selector, TrustDomain,
};
use crate::pattern::{Pattern, Text};

/// In front of every configuration.
const MAGIC: &[u8] = b"meshward";
/// Of the format behind the magic. Raise it with every change of a wire type.
const VERSION: u8 = 2;
/// A text longer than this is damage: the longest is a SPIFFE ID (2048) or a path.
const MAX_TEXT: usize = 16 * 1024;
/// All texts together; beyond it the bytes were made to exhaust memory.
const MAX_TEXTS: usize = 32 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    role: Role,
    protocol: Protocol,
    identity: IdentityMode,
    default_action: DefaultAction,
    path_guard: PathGuard,
    #[serde(borrow)]
    revision: &'a str,
    workload: &'a str,
    trust_domain: TrustDomain,
    trust_domain_aliases: Vec<TrustDomain>,
    accepted_peers: AcceptedPeers,
    responses: Vec<Response<'a>>,
    /// Number of the default response, plus one.
    deny_response: u32,
    revoked_serials: Vec<&'a [u8]>,
    revoked_ids: Vec<u32>,
    texts: Vec<SharedText<'a>>,
    matches: Vec<WireMatch>,
    /// Numbers of matches.
    clauses: Vec<Vec<u32>>,
    policies: Vec<WirePolicy>,
    selectors: Vec<Vec<WireRule>>,
    limits: LimitsConfig,
}

/// A text as what it shares with the one before and what differs.
#[derive(Serialize, Deserialize)]
struct SharedText<'a>(u16, &'a str);

#[derive(Serialize, Deserialize)]
struct Response<'a>(u16, &'a str, &'a str);

#[derive(Serialize, Deserialize)]
struct WirePolicy {
    name: u32,
    /// Action in the low two bits, dry-run in the third, "has a response" in the fourth.
    flags: u8,
    /// Number of the response, plus one.
    response: u32,
    rules: Vec<WireRule>,
}

/// Numbers of clauses; `when` plus one.
#[derive(Serialize, Deserialize)]
struct WireRule(Vec<u32>, Vec<u32>, u32);

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct WireMatch {
    attribute: WireAttribute,
    negated: bool,
    patterns: Vec<WirePattern>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum WireAttribute {
    Principal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    RequestPrincipal,
    Host,
    DestinationPort,
    Method,
    Path,
    Header(u32, HeaderMode),
    DestinationIp,
    Sni,
    Claim(u32),
    Metadata(u32),
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum WirePattern {
    Any,
    Exact(u32),
    Prefix(u32),
    Suffix(u32),
    Glob(u32),
    Template(u32),
    Segments(u32),
    ServiceAccount(u32, u32),
    V4([u8; 4], u8),
    V6([u8; 16], u8),
    Port(u16),
}

/// See [`PluginConfig::encode`].
pub fn encode(config: &PluginConfig) -> Result<Vec<u8>, ConfigError> {
    let mut tables = Tables::default();
    tables.gather_texts(config);
    let policies = config.policies.iter().map(|policy| tables.policy(policy)).collect();
    let selectors = config.selectors.iter().map(|selector| tables.rules(&selector.rules)).collect();
    let deny_response = tables.response(config.deny_response.as_ref());
    let wire = Wire {
        role: config.role,
        protocol: config.protocol,
        identity: config.identity,
        default_action: config.default_action,
        path_guard: config.path_guard,
        revision: &config.revision,
        workload: &config.workload,
        trust_domain: config.trust_domain.clone(),
        trust_domain_aliases: config.trust_domain_aliases.clone(),
        accepted_peers: config.accepted_peers.clone(),
        deny_response,
        revoked_serials: config.revoked.serials.iter().map(Vec::as_slice).collect(),
        revoked_ids: config.revoked.ids.iter().map(|id| tables.text(id)).collect(),
        texts: share(tables.texts.keys().copied())?,
        responses: tables.responses,
        matches: tables.matches,
        clauses: tables.clauses,
        policies,
        selectors,
        limits: config.limits.clone(),
    };
    let head = [MAGIC, &[VERSION]].concat();
    postcard::to_extend(&wire, head).map_err(|_| ConfigError::Other("it is too large to be written"))
}

/// See [`PluginConfig::decode`].
pub fn decode(bytes: &[u8]) -> Result<PluginConfig, ConfigError> {
    let (version, body) =
        bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first).ok_or(ConfigError::NotOurs)?;
    if *version != VERSION {
        return Err(ConfigError::Version { found: *version, expected: VERSION });
    }
    let (wire, rest) = postcard::take_from_bytes::<Wire>(body)
        .map_err(|_| ConfigError::Damaged("it ends early or is garbled"))?;
    if !rest.is_empty() {
        return Err(ConfigError::Damaged("something follows its end"));
    }
    let tables = Decoded::new(&wire)?;
    Ok(PluginConfig {
        revision: Text::from(wire.revision),
        workload: Text::from(wire.workload),
        role: wire.role,
        protocol: wire.protocol,
        deny_response: tables.response(wire.deny_response)?,
        revoked: Revoked {
            serials: wire.revoked_serials.iter().map(|serial| serial.to_vec()).collect(),
            ids: wire.revoked_ids.iter().map(|id| tables.text(*id)).collect::<Result<_, _>>()?,
        },
        policies: wire.policies.iter().map(|policy| tables.policy(policy)).collect::<Result<_, _>>()?,
        selectors: wire
            .selectors
            .iter()
            .map(|rules| Ok(Selector { rules: tables.rules(rules)? }))
            .collect::<Result<_, ConfigError>>()?,
        limits: wire.limits,
        trust_domain: wire.trust_domain,
        trust_domain_aliases: wire.trust_domain_aliases,
        accepted_peers: wire.accepted_peers,
        identity: wire.identity,
        default_action: wire.default_action,
        path_guard: wire.path_guard,
    })
}

/// What repeats, in the order of first use (texts: sorted).
#[derive(Default)]
struct Tables<'a> {
    texts: BTreeMap<&'a str, u32>,
    responses: Vec<Response<'a>>,
    response_numbers: BTreeMap<&'a DenyResponse, u32>,
    matches: Vec<WireMatch>,
    match_numbers: BTreeMap<&'a Match, u32>,
    clauses: Vec<Vec<u32>>,
    clause_numbers: BTreeMap<&'a Clause, u32>,
}

/// The number of something that has just been counted. A table of 2^32 entries does not fit the memory of a builder.
fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl<'a> Tables<'a> {
    /// Numbers follow the sorted order, so all texts must be known before the first is used.
    fn gather_texts(&mut self, config: &'a PluginConfig) {
        let mut note = |text: &'a str| _ = self.texts.insert(text, 0);
        config.revoked.ids.iter().for_each(|id| note(id));
        config.policies.iter().for_each(|policy| note(&policy.name));
        let rules = config.policies.iter().flat_map(|policy| &policy.rules);
        for rule in rules.chain(config.selectors.iter().flat_map(|selector| &selector.rules)) {
            for clause in rule.from.iter().chain(&rule.to).chain([&rule.when]) {
                for one in clause.matches() {
                    match &one.attribute {
                        Attribute::Header { name, .. }
                        | Attribute::Claim(name)
                        | Attribute::Metadata(name) => note(name),
                        _ => {}
                    }
                    for pattern in &one.patterns {
                        match pattern {
                            Pattern::Exact(text)
                            | Pattern::Prefix(text)
                            | Pattern::Suffix(text)
                            | Pattern::Glob(text)
                            | Pattern::Template(text)
                            | Pattern::Segments(text) => note(text),
                            Pattern::ServiceAccount { namespace, name } => {
                                note(namespace);
                                note(name);
                            }
                            Pattern::Any | Pattern::Cidr { .. } | Pattern::Port(_) => {}
                        }
                    }
                }
            }
        }
        for (at, value) in self.texts.values_mut().enumerate() {
            *value = number(at);
        }
    }

    fn text(&self, text: &str) -> u32 {
        self.texts.get(text).copied().unwrap_or(u32::MAX)
    }

    fn policy(&mut self, policy: &'a AuthorizationPolicy) -> WirePolicy {
        let action = match policy.action {
            Action::Allow => 0,
            Action::Deny => 1,
            Action::Audit => 2,
        };
        WirePolicy {
            name: self.text(&policy.name),
            flags: action | u8::from(policy.dry_run) << 2,
            response: self.response(policy.deny_response.as_ref()),
            rules: self.rules(&policy.rules),
        }
    }

    fn response(&mut self, response: Option<&'a DenyResponse>) -> u32 {
        let Some(response) = response else { return 0 };
        *self.response_numbers.entry(response).or_insert_with(|| {
            self.responses.push(Response(response.status, &response.content_type, &response.body));
            number(self.responses.len())
        })
    }

    fn rules(&mut self, rules: &'a [Rule]) -> Vec<WireRule> {
        rules
            .iter()
            .map(|rule| {
                let from = rule.from.iter().map(|clause| self.clause(clause)).collect();
                let to = rule.to.iter().map(|clause| self.clause(clause)).collect();
                let when = if rule.when.matches().is_empty() { 0 } else { self.clause(&rule.when) + 1 };
                WireRule(from, to, when)
            })
            .collect()
    }

    fn clause(&mut self, clause: &'a Clause) -> u32 {
        if let Some(number) = self.clause_numbers.get(clause) {
            return *number;
        }
        let matches = clause.matches().iter().map(|one| self.matching(one)).collect();
        let number = number(self.clauses.len());
        self.clauses.push(matches);
        self.clause_numbers.insert(clause, number);
        number
    }

    fn matching(&mut self, one: &'a Match) -> u32 {
        if let Some(number) = self.match_numbers.get(one) {
            return *number;
        }
        let attribute = match &one.attribute {
            Attribute::Principal => WireAttribute::Principal,
            Attribute::Namespace => WireAttribute::Namespace,
            Attribute::ServiceAccount => WireAttribute::ServiceAccount,
            Attribute::TrustDomain => WireAttribute::TrustDomain,
            Attribute::SourceIp => WireAttribute::SourceIp,
            Attribute::RemoteIp => WireAttribute::RemoteIp,
            Attribute::RequestPrincipal => WireAttribute::RequestPrincipal,
            Attribute::Host => WireAttribute::Host,
            Attribute::DestinationPort => WireAttribute::DestinationPort,
            Attribute::Method => WireAttribute::Method,
            Attribute::Path => WireAttribute::Path,
            Attribute::Header { name, mode } => WireAttribute::Header(self.text(name), *mode),
            Attribute::DestinationIp => WireAttribute::DestinationIp,
            Attribute::Sni => WireAttribute::Sni,
            Attribute::Claim(name) => WireAttribute::Claim(self.text(name)),
            Attribute::Metadata(name) => WireAttribute::Metadata(self.text(name)),
        };
        let patterns = one
            .patterns
            .iter()
            .map(|pattern| match pattern {
                Pattern::Any => WirePattern::Any,
                Pattern::Exact(text) => WirePattern::Exact(self.text(text)),
                Pattern::Prefix(text) => WirePattern::Prefix(self.text(text)),
                Pattern::Suffix(text) => WirePattern::Suffix(self.text(text)),
                Pattern::Glob(text) => WirePattern::Glob(self.text(text)),
                Pattern::Template(text) => WirePattern::Template(self.text(text)),
                Pattern::Segments(text) => WirePattern::Segments(self.text(text)),
                Pattern::ServiceAccount { namespace, name } => {
                    WirePattern::ServiceAccount(self.text(namespace), self.text(name))
                }
                Pattern::Cidr { address: IpAddr::V4(address), prefix } => {
                    WirePattern::V4(address.octets(), *prefix)
                }
                Pattern::Cidr { address: IpAddr::V6(address), prefix } => {
                    WirePattern::V6(address.octets(), *prefix)
                }
                Pattern::Port(port) => WirePattern::Port(*port),
            })
            .collect();
        let number = number(self.matches.len());
        self.matches.push(WireMatch { attribute, negated: one.negated, patterns });
        self.match_numbers.insert(one, number);
        number
    }
}

/// Sorted texts, each without what it shares with the one before.
fn share<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<SharedText<'a>>, ConfigError> {
    let mut before = "";
    texts
        .map(|text| {
            if text.len() > MAX_TEXT {
                return Err(ConfigError::Other("a value is longer than 16 KiB"));
            }
            let same = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            let same = (0..=same).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            before = text;
            let rest = text.get(same..).unwrap_or(text);
            Ok(SharedText(u16::try_from(same).unwrap_or(0), rest))
        })
        .collect()
}

/// The tables as the engine's own types, shared by whatever uses them.
struct Decoded {
    texts: Vec<Text>,
    clauses: Vec<Clause>,
    responses: Vec<DenyResponse>,
    nothing: Clause,
}

const NO_SUCH_NUMBER: ConfigError = ConfigError::Damaged("a number points behind its table");

impl Decoded {
    fn new(wire: &Wire) -> Result<Self, ConfigError> {
        let responses = wire
            .responses
            .iter()
            .map(|Response(status, content_type, body)| DenyResponse {
                status: *status,
                content_type: Text::from(*content_type),
                body: Text::from(*body),
            })
            .collect();
        let mut decoded =
            Self { texts: unshare(&wire.texts)?, clauses: Vec::new(), responses, nothing: Clause::always() };
        let matches: Vec<Match> =
            wire.matches.iter().map(|one| decoded.matching(one)).collect::<Result<_, _>>()?;
        decoded.clauses = wire
            .clauses
            .iter()
            .map(|numbers| {
                let of_clause = numbers.iter().map(|at| get(&matches, *at).cloned());
                Ok(Clause::new(of_clause.collect::<Result<_, _>>()?))
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(decoded)
    }

    fn text(&self, number: u32) -> Result<Text, ConfigError> {
        get(&self.texts, number).cloned()
    }

    fn response(&self, number: u32) -> Result<Option<DenyResponse>, ConfigError> {
        match number.checked_sub(1) {
            None => Ok(None),
            Some(at) => get(&self.responses, at).cloned().map(Some),
        }
    }

    fn policy(&self, policy: &WirePolicy) -> Result<AuthorizationPolicy, ConfigError> {
        let action = match policy.flags & 3 {
            0 => Action::Allow,
            1 => Action::Deny,
            2 => Action::Audit,
            _ => return Err(ConfigError::Damaged("an action that is none")),
        };
        Ok(AuthorizationPolicy {
            name: self.text(policy.name)?,
            action,
            dry_run: policy.flags & 4 != 0,
            rules: self.rules(&policy.rules)?,
            deny_response: self.response(policy.response)?,
        })
    }

    fn rules(&self, rules: &[WireRule]) -> Result<Vec<Rule>, ConfigError> {
        let clauses = |numbers: &[u32]| {
            numbers.iter().map(|at| get(&self.clauses, *at).cloned()).collect::<Result<Vec<_>, _>>()
        };
        rules
            .iter()
            .map(|WireRule(from, to, when)| {
                let when = match when.checked_sub(1) {
                    None => self.nothing.clone(),
                    Some(at) => get(&self.clauses, at)?.clone(),
                };
                Ok(Rule { from: clauses(from)?, to: clauses(to)?, when })
            })
            .collect()
    }

    fn matching(&self, one: &WireMatch) -> Result<Match, ConfigError> {
        let attribute = match one.attribute {
            WireAttribute::Principal => Attribute::Principal,
            WireAttribute::Namespace => Attribute::Namespace,
            WireAttribute::ServiceAccount => Attribute::ServiceAccount,
            WireAttribute::TrustDomain => Attribute::TrustDomain,
            WireAttribute::SourceIp => Attribute::SourceIp,
            WireAttribute::RemoteIp => Attribute::RemoteIp,
            WireAttribute::RequestPrincipal => Attribute::RequestPrincipal,
            WireAttribute::Host => Attribute::Host,
            WireAttribute::DestinationPort => Attribute::DestinationPort,
            WireAttribute::Method => Attribute::Method,
            WireAttribute::Path => Attribute::Path,
            WireAttribute::Header(name, mode) => Attribute::Header { name: self.text(name)?, mode },
            WireAttribute::DestinationIp => Attribute::DestinationIp,
            WireAttribute::Sni => Attribute::Sni,
            WireAttribute::Claim(name) => Attribute::Claim(self.text(name)?),
            WireAttribute::Metadata(name) => Attribute::Metadata(self.text(name)?),
        };
        let patterns = one
            .patterns
            .iter()
            .map(|pattern| {
                Ok(match *pattern {
                    WirePattern::Any => Pattern::Any,
                    WirePattern::Exact(text) => Pattern::Exact(self.text(text)?),
                    WirePattern::Prefix(text) => Pattern::Prefix(self.text(text)?),
                    WirePattern::Suffix(text) => Pattern::Suffix(self.text(text)?),
                    WirePattern::Glob(text) => Pattern::Glob(self.text(text)?),
                    WirePattern::Template(text) => Pattern::Template(self.text(text)?),
                    WirePattern::Segments(text) => Pattern::Segments(self.text(text)?),
                    WirePattern::ServiceAccount(namespace, name) => {
                        Pattern::ServiceAccount { namespace: self.text(namespace)?, name: self.text(name)? }
                    }
                    WirePattern::V4(address, prefix) => {
                        Pattern::Cidr { address: IpAddr::from(address), prefix }
                    }
                    WirePattern::V6(address, prefix) => {
                        Pattern::Cidr { address: IpAddr::from(address), prefix }
                    }
                    WirePattern::Port(port) => Pattern::Port(port),
                })
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(Match { attribute, negated: one.negated, patterns })
    }
}

fn get<T>(table: &[T], number: u32) -> Result<&T, ConfigError> {
    usize::try_from(number).ok().and_then(|at| table.get(at)).ok_or(NO_SUCH_NUMBER)
}

fn unshare(texts: &[SharedText]) -> Result<Vec<Text>, ConfigError> {
    let mut before = String::new();
    let mut total = 0;
    texts
        .iter()
        .map(|SharedText(same, rest)| {
            let same = usize::from(*same);
            if !before.is_char_boundary(same) {
                return Err(ConfigError::Damaged("a text shares more than there is"));
            }
            before.truncate(same);
            before.push_str(rest);
            total += before.len();
            if before.len() > MAX_TEXT || total > MAX_TEXTS {
                return Err(ConfigError::Damaged("its texts are too long"));
            }
            Ok(Text::from(before.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PluginConfig {
        let td = TrustDomain::parse("example.org").unwrap();
        let mut config = PluginConfig::deny_all("web/shop", Role::Inbound, Protocol::Http, td);
        config.accepted_peers = AcceptedPeers::OwnAnd(vec![TrustDomain::parse("partner.example").unwrap()]);
        config.revoked =
            Revoked { serials: vec![vec![1, 2, 3]], ids: vec!["spiffe://example.org/ns/a/sa/b".into()] };
        let is = |attribute, patterns| Match { attribute, negated: false, patterns };
        let readers = Clause::new(vec![is(
            Attribute::Principal,
            vec![
                Pattern::Exact("example.org/ns/a/sa/b".into()),
                Pattern::Any,
                Pattern::Segments("td/ns/*/sa/ü".into()),
            ],
        )]);
        let get = Clause::new(vec![
            is(Attribute::Method, vec![Pattern::Exact("GET".into())]),
            is(Attribute::Path, vec![Pattern::Template("/a/{*}".into()), Pattern::Prefix("/ö".into())]),
            Match { attribute: Attribute::DestinationPort, negated: true, patterns: vec![Pattern::Port(80)] },
        ]);
        let when = Clause::new(vec![
            is(
                Attribute::Header { name: "x-a".into(), mode: HeaderMode::Any },
                vec![Pattern::Suffix("/ü".into()), Pattern::Glob("ä".into())],
            ),
            is(Attribute::SourceIp, vec![Pattern::Cidr { address: IpAddr::from([10, 0, 0, 0]), prefix: 8 }]),
            is(Attribute::RemoteIp, vec![Pattern::Cidr { address: IpAddr::from([1u16; 8]), prefix: 64 }]),
            is(
                Attribute::ServiceAccount,
                vec![Pattern::ServiceAccount { namespace: "a".into(), name: "b".into() }],
            ),
            is(Attribute::Claim("[a][b]".into()), vec![Pattern::Any]),
        ]);
        let rule = Rule { from: vec![readers.clone()], to: vec![get.clone(), Clause::always()], when };
        let response =
            DenyResponse { status: 404, content_type: "application/problem+json".into(), body: "{}".into() };
        config.policies = vec![
            AuthorizationPolicy {
                name: "web/readers".into(),
                action: Action::Allow,
                dry_run: false,
                rules: vec![rule.clone(), Rule::any()],
                deny_response: Some(response.clone()),
            },
            AuthorizationPolicy {
                name: "web/other".into(),
                action: Action::Deny,
                dry_run: true,
                rules: vec![rule],
                deny_response: Some(response),
            },
        ];
        config.selectors =
            vec![Selector { rules: vec![Rule { from: vec![], to: vec![get], when: readers }] }];
        config
    }

    #[test]
    fn round_trip() {
        let config = sample();
        let bytes = config.encode().unwrap();
        assert_eq!(PluginConfig::decode(&bytes), Ok(config));
    }

    #[test]
    fn damage_is_refused() {
        let bytes = sample().encode().unwrap();
        assert_eq!(PluginConfig::decode(b"{}"), Err(ConfigError::NotOurs));
        assert_eq!(PluginConfig::decode(b""), Err(ConfigError::NotOurs));
        let mut other = bytes.clone();
        other[MAGIC.len()] = 99;
        assert_eq!(PluginConfig::decode(&other), Err(ConfigError::Version { found: 99, expected: VERSION }));
        for length in MAGIC.len() + 1..bytes.len() {
            assert!(
                matches!(PluginConfig::decode(&bytes[..length]), Err(ConfigError::Damaged(_))),
                "{length}"
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(PluginConfig::decode(&longer), Err(ConfigError::Damaged(_))));
    }

    #[test]
    fn no_byte_that_is_changed_makes_a_panic() {
        let bytes = sample().encode().unwrap();
        for at in 0..bytes.len() {
            for change in [1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let _ = PluginConfig::decode(&changed);
            }
        }
    }
}

//! Writes policies as a run of numbers, least significant seven bits first, the eighth saying that more follow.
//!
//! Only the builder writes, so this is not in the filter.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::{MAX_TEXT, pattern_kind as kind};
use crate::config::{
    Action, Attribute, AuthorizationPolicy, Clause, ConfigError, DenyResponse, Match, PluginConfig, Rule,
};
use crate::pattern::Pattern;

/// Texts, and all that refers to them.
pub fn policies(config: &PluginConfig) -> Result<(Vec<u8>, Vec<u8>), ConfigError> {
    let numbers = gather(config);
    let texts = texts(&numbers)?;
    let mut body = Body {
        bytes: Vec::new(),
        texts: numbers,
        responses: vec![],
        matches: Seen::new(),
        clauses: Seen::new(),
    };
    body.all(config);
    Ok((texts, body.bytes))
}

/// Every text with its number in the sorted order.
fn gather(config: &PluginConfig) -> BTreeMap<&str, u64> {
    let mut texts = BTreeMap::new();
    let mut note = |text| _ = texts.insert(text, 0);
    config.revoked.ids.iter().for_each(|id| note(&**id));
    config.policies.iter().for_each(|policy| note(&policy.name));
    let rules = config.policies.iter().flat_map(|policy| &policy.rules);
    for rule in rules.chain(config.selectors.iter().flat_map(|selector| &selector.rules)) {
        let clauses = rule.from.iter().chain(&rule.to).chain([&rule.when]);
        for one in clauses.flat_map(|clause| clause.matches()) {
            match &one.attribute {
                Attribute::Header { name, .. } | Attribute::Claim(name) | Attribute::Metadata(name) => {
                    note(name)
                }
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
    texts.values_mut().zip(0..).for_each(|(number, at)| *number = at);
    texts
}

/// Their number, then of each how many bytes it shares with the one before, how many more there are, and these.
fn texts(texts: &BTreeMap<&str, u64>) -> Result<Vec<u8>, ConfigError> {
    let mut bytes = Vec::new();
    push(&mut bytes, texts.len() as u64);
    let mut before = "";
    for text in texts.keys() {
        if text.len() > MAX_TEXT {
            return Err(ConfigError::Other("a value is longer than 16 KiB"));
        }
        let same = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let rest = text.as_bytes().get(same..).unwrap_or(&[]);
        push(&mut bytes, same as u64);
        push_bytes(&mut bytes, rest);
        before = text;
    }
    Ok(bytes)
}

/// Numbers of what has been written, by what it is.
type Seen<'c, T> = BTreeMap<&'c T, u64>;

/// Responses, matches and clauses are written where they are used first, behind a 0; then their number plus one is.
struct Body<'c> {
    bytes: Vec<u8>,
    texts: BTreeMap<&'c str, u64>,
    responses: Vec<&'c DenyResponse>,
    matches: Seen<'c, Match>,
    clauses: Seen<'c, Clause>,
}

impl<'c> Body<'c> {
    fn all(&mut self, config: &'c PluginConfig) {
        self.response(config.deny_response.as_ref());
        self.number(config.revoked.serials.len() as u64);
        config.revoked.serials.iter().for_each(|serial| push_bytes(&mut self.bytes, serial));
        self.number(config.revoked.ids.len() as u64);
        config.revoked.ids.iter().for_each(|id| self.text(id));
        self.number(config.policies.len() as u64);
        config.policies.iter().for_each(|policy| self.policy(policy));
        self.number(config.selectors.len() as u64);
        config.selectors.iter().for_each(|selector| self.rules(&selector.rules));
    }

    fn number(&mut self, number: u64) {
        push(&mut self.bytes, number);
    }

    fn text(&mut self, text: &str) {
        let number = self.texts.get(text).copied().unwrap_or(u64::MAX);
        self.number(number);
    }

    /// The action in two bits, dry-run in the third; then the name, the response, the rules.
    fn policy(&mut self, policy: &'c AuthorizationPolicy) {
        let action = match policy.action {
            Action::Allow => 0,
            Action::Deny => 1,
            Action::Audit => 2,
        };
        self.number(action | u64::from(policy.dry_run) << 2);
        self.text(&policy.name);
        self.response(policy.deny_response.as_ref());
        self.rules(&policy.rules);
    }

    /// 0 for none, 1 for one that follows, else the number of one before plus two.
    fn response(&mut self, response: Option<&'c DenyResponse>) {
        let Some(response) = response else { return self.number(0) };
        if let Some(known) = self.responses.iter().position(|known| *known == response) {
            return self.number(known as u64 + 2);
        }
        self.number(1);
        self.responses.push(response);
        self.number(response.status.into());
        push_bytes(&mut self.bytes, response.content_type.as_bytes());
        push_bytes(&mut self.bytes, response.body.as_bytes());
    }

    /// For each rule whether it has conditions in one bit, and the number of clauses in `from` in three and in `to` in
    /// the rest, seven in `from` standing for a number that follows; then the clauses.
    fn rules(&mut self, rules: &'c [Rule]) {
        self.number(rules.len() as u64);
        for rule in rules {
            let (from, to) = (rule.from.len() as u64, rule.to.len() as u64);
            let has_conditions = !rule.when.matches().is_empty();
            self.number(u64::from(has_conditions) | from.min(7) << 1 | to << 4);
            if from >= 7 {
                self.number(from);
            }
            rule.from.iter().chain(&rule.to).for_each(|clause| self.clause(clause));
            if has_conditions {
                self.clause(&rule.when);
            }
        }
    }

    fn clause(&mut self, clause: &'c Clause) {
        if let Some(number) = self.clauses.get(clause) {
            return self.number(*number);
        }
        self.clauses.insert(clause, self.clauses.len() as u64 + 1);
        self.number(0);
        self.number(clause.matches().len() as u64);
        clause.matches().iter().for_each(|one| self.matching(one));
    }

    /// Whether it is negated in one bit and the kind of attribute in the rest; its name if the kind has one; patterns.
    fn matching(&mut self, one: &'c Match) {
        if let Some(number) = self.matches.get(one) {
            return self.number(*number);
        }
        self.matches.insert(one, self.matches.len() as u64 + 1);
        self.number(0);
        let (kind, name) = one.attribute.key();
        self.number(u64::from(one.negated) | u64::from(kind) << 1);
        if kind >= Attribute::FIRST_NAMED {
            self.text(name);
        }
        self.number(one.patterns.len() as u64);
        one.patterns.iter().for_each(|pattern| self.pattern(pattern));
    }

    fn pattern(&mut self, pattern: &Pattern) {
        let (kind, text) = match pattern {
            Pattern::Exact(text) => (kind::EXACT, text),
            Pattern::Prefix(text) => (kind::PREFIX, text),
            Pattern::Suffix(text) => (kind::SUFFIX, text),
            Pattern::Glob(text) => (kind::GLOB, text),
            Pattern::Template(text) => (kind::TEMPLATE, text),
            Pattern::Segments(text) => (kind::SEGMENTS, text),
            Pattern::Any => return self.head(kind::ANY, 0),
            Pattern::Port(port) => return self.head(kind::OTHER, u64::from(*port) + u64::from(kind::PORT)),
            Pattern::ServiceAccount { namespace, name } => {
                self.head(kind::OTHER, kind::SERVICE_ACCOUNT.into());
                self.text(namespace);
                return self.text(name);
            }
            Pattern::Cidr { address, prefix } => {
                match address {
                    IpAddr::V4(address) => {
                        self.head(kind::OTHER, kind::V4.into());
                        self.bytes.extend(address.octets());
                    }
                    IpAddr::V6(address) => {
                        self.head(kind::OTHER, kind::V6.into());
                        self.bytes.extend(address.octets());
                    }
                }
                return self.bytes.push(*prefix);
            }
        };
        let number = self.texts.get(&**text).copied().unwrap_or(u64::MAX >> kind::BITS);
        self.head(kind, number);
    }

    fn head(&mut self, kind: u32, rest: u64) {
        self.number(u64::from(kind) | rest << kind::BITS);
    }
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn push_bytes(bytes: &mut Vec<u8>, more: &[u8]) {
    push(bytes, more.len() as u64);
    bytes.extend_from_slice(more);
}

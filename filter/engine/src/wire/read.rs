//! Reads what `write.rs` writes. Nothing is taken on trust: every number is checked before it is used.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{MAX_TEXT, MAX_TEXTS, pattern_kind as kind};
use crate::config::{
    Action, Attribute, AuthorizationPolicy, Clause, ConfigError, DenyResponse, Match, Revoked, Rule, Selector,
};
use crate::pattern::{Pattern, Text};

const ENDS_EARLY: ConfigError = ConfigError::Damaged("it ends early");
const NO_SUCH_NUMBER: ConfigError = ConfigError::Damaged("a number points behind its table");
const NO_SUCH_KIND: ConfigError = ConfigError::Damaged("it has something of no known kind");
const TOO_LARGE: ConfigError = ConfigError::Damaged("it has more patterns than fit the memory");
const NO_TEXT: ConfigError = ConfigError::Damaged("a text is too long or is no text");

/// What there is of policies.
pub struct Policies {
    pub deny_response: Option<DenyResponse>,
    pub revoked: Revoked,
    pub policies: Vec<AuthorizationPolicy>,
    pub selectors: Vec<Selector>,
}

/// Reads texts, then all that refers to them.
pub fn policies(texts: &[u8], body: &[u8]) -> Result<Policies, ConfigError> {
    let texts = read_texts(Bytes(texts))?;
    let mut body = Body {
        room: MAX_PATTERNS,
        bytes: Bytes(body),
        texts,
        responses: vec![],
        matches: vec![],
        clauses: vec![],
        always: Clause::always(),
    };
    let deny_response = body.response()?;
    let mut revoked = Revoked::NONE;
    for _ in 0..body.bytes.number()? {
        revoked.serials.push(body.bytes.run()?.to_vec());
    }
    for _ in 0..body.bytes.number()? {
        revoked.ids.push(body.text()?);
    }
    let count = body.bytes.number()?;
    let mut policies = body.bytes.list(count);
    for _ in 0..count {
        policies.push(body.policy()?);
    }
    let mut selectors = Vec::new();
    for _ in 0..body.bytes.number()? {
        selectors.push(Selector { rules: body.rules()? });
    }
    if !body.bytes.0.is_empty() {
        return Err(ConfigError::Damaged("something follows its end"));
    }
    Ok(Policies { deny_response, revoked, policies, selectors })
}

fn read_texts(mut bytes: Bytes) -> Result<Vec<Text>, ConfigError> {
    let count = bytes.number()?;
    let mut texts = bytes.list(count);
    let mut text = Vec::new();
    let mut total = 0;
    for _ in 0..count {
        let same = bytes.number()? as usize;
        if same > text.len() {
            return Err(ConfigError::Damaged("a text shares more than there is"));
        }
        text.truncate(same);
        text.extend_from_slice(bytes.run()?);
        total += text.len();
        if text.len() > MAX_TEXT || total > MAX_TEXTS {
            return Err(NO_TEXT);
        }
        texts.push(Text::from(core::str::from_utf8(&text).map_err(|_| NO_TEXT)?));
    }
    Ok(texts)
}

/// What is left to read.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn number(&mut self) -> Result<u32, ConfigError> {
        let mut number = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self.0.split_first().ok_or(ENDS_EARLY)?;
            self.0 = rest;
            number |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(NO_SUCH_NUMBER)
    }

    /// A list with exactly the room for what is announced: one that grows takes up to four times the memory. Each thing
    /// takes a byte at least, so more of them than there are bytes are not believed.
    fn list<T>(&self, count: u32) -> Vec<T> {
        Vec::with_capacity((count as usize).min(self.0.len()))
    }

    fn run(&mut self) -> Result<&'b [u8], ConfigError> {
        let length = self.number()? as usize;
        let (run, rest) = self.0.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(run)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ConfigError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(*array)
    }

    fn text(&mut self) -> Result<Text, ConfigError> {
        core::str::from_utf8(self.run()?).map(Text::from).map_err(|_| NO_TEXT)
    }
}

/// Most patterns in all clauses together; beyond it the bytes were made to exhaust memory.
const MAX_PATTERNS: usize = 4 * 1024 * 1024;

struct Body<'b> {
    /// Patterns that there is still room for.
    room: usize,
    bytes: Bytes<'b>,
    texts: Vec<Text>,
    responses: Vec<DenyResponse>,
    /// Of each match the clause in which it was read, and its place there.
    matches: Vec<(u32, u32)>,
    clauses: Vec<Clause>,
    /// One for all, since most rules have it.
    always: Clause,
}

impl Body<'_> {
    fn text(&mut self) -> Result<Text, ConfigError> {
        let number = self.bytes.number()?;
        get(&self.texts, number)
    }

    fn policy(&mut self) -> Result<AuthorizationPolicy, ConfigError> {
        let head = self.bytes.number()?;
        let action = match head & 3 {
            0 => Action::Allow,
            1 => Action::Deny,
            2 => Action::Audit,
            _ => return Err(NO_SUCH_KIND),
        };
        let name = self.text()?;
        let deny_response = self.response()?;
        Ok(AuthorizationPolicy { name, action, dry_run: head & 4 != 0, rules: self.rules()?, deny_response })
    }

    fn response(&mut self) -> Result<Option<DenyResponse>, ConfigError> {
        match self.bytes.number()? {
            0 => Ok(None),
            1 => {
                let status = u16::try_from(self.bytes.number()?).map_err(|_| NO_SUCH_NUMBER)?;
                let response =
                    DenyResponse { status, content_type: self.bytes.text()?, body: self.bytes.text()? };
                self.responses.push(response.clone());
                Ok(Some(response))
            }
            known => get(&self.responses, known - 2).map(Some),
        }
    }

    fn rules(&mut self) -> Result<Vec<Rule>, ConfigError> {
        let count = self.bytes.number()?;
        let mut rules = self.bytes.list(count);
        for _ in 0..count {
            let head = self.bytes.number()?;
            let from = match head >> 1 & 7 {
                7 => self.bytes.number()?,
                few => few,
            };
            let from = self.clauses(from)?;
            let to = self.clauses(head >> 4)?;
            let when = if head & 1 == 0 { self.always.clone() } else { self.clause()? };
            rules.push(Rule { from, to, when });
        }
        Ok(rules)
    }

    fn clauses(&mut self, count: u32) -> Result<Vec<Clause>, ConfigError> {
        let mut clauses = self.bytes.list(count);
        for _ in 0..count {
            clauses.push(self.clause()?);
        }
        Ok(clauses)
    }

    fn clause(&mut self) -> Result<Clause, ConfigError> {
        if let Some(known) = self.bytes.number()?.checked_sub(1) {
            return get(&self.clauses, known);
        }
        let count = self.bytes.number()?;
        let mut matches = self.bytes.list(count);
        for _ in 0..count {
            let one = self.matching(&matches)?;
            self.room = self.room.checked_sub(one.patterns.len()).ok_or(TOO_LARGE)?;
            matches.push(one);
        }
        let clause = Clause::new(matches);
        self.clauses.push(clause.clone());
        Ok(clause)
    }

    /// The next match of a clause of which some have been read.
    fn matching(&mut self, clause: &[Match]) -> Result<Match, ConfigError> {
        if let Some(known) = self.bytes.number()?.checked_sub(1) {
            let (of, place) = get(&self.matches, known)?;
            let clause = self.clauses.get(of as usize).map_or(clause, Clause::matches);
            return get(clause, place);
        }
        let head = self.bytes.number()?;
        let kind = u8::try_from(head >> 1).map_err(|_| NO_SUCH_KIND)?;
        let name = if kind >= Attribute::FIRST_NAMED { self.text()? } else { Text::from("") };
        let attribute = Attribute::from_key(kind, name).ok_or(NO_SUCH_KIND)?;
        let count = self.bytes.number()?;
        let mut patterns = self.bytes.list(count);
        for _ in 0..count {
            patterns.push(self.pattern()?);
        }
        let one = Match { attribute, negated: head & 1 != 0, patterns };
        self.matches.push((number(self.clauses.len()), number(clause.len())));
        Ok(one)
    }

    fn pattern(&mut self) -> Result<Pattern, ConfigError> {
        let head = self.bytes.number()?;
        let rest = head >> kind::BITS;
        let make: fn(Text) -> Pattern = match head & ((1 << kind::BITS) - 1) {
            kind::EXACT => Pattern::Exact,
            kind::PREFIX => Pattern::Prefix,
            kind::SUFFIX => Pattern::Suffix,
            kind::GLOB => Pattern::Glob,
            kind::TEMPLATE => Pattern::Template,
            kind::SEGMENTS => Pattern::Segments,
            kind::ANY => return Ok(Pattern::Any),
            _ => return self.other(rest),
        };
        get(&self.texts, rest).map(make)
    }

    fn other(&mut self, kind: u32) -> Result<Pattern, ConfigError> {
        Ok(match kind {
            kind::SERVICE_ACCOUNT => Pattern::ServiceAccount { namespace: self.text()?, name: self.text()? },
            kind::V4 => {
                let address = IpAddr::from(self.bytes.array::<4>()?);
                Pattern::Cidr { address, prefix: self.bytes.array::<1>()?[0] }
            }
            kind::V6 => {
                let address = IpAddr::from(self.bytes.array::<16>()?);
                Pattern::Cidr { address, prefix: self.bytes.array::<1>()?[0] }
            }
            port => Pattern::Port(u16::try_from(port - kind::PORT).map_err(|_| NO_SUCH_NUMBER)?),
        })
    }
}

/// Tables are shorter than the bytes they are read from.
fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn get<T: Clone>(table: &[T], number: u32) -> Result<T, ConfigError> {
    table.get(number as usize).cloned().ok_or(NO_SUCH_NUMBER)
}

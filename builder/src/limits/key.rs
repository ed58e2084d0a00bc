//! What makes a bucket (a counter, a breaker) of its own: `key: [identity, method, {path: ["/books/{*}"]}]`.

use std::ops::Range;

use meshward_engine::config::{Attribute, Text};
use meshward_engine::limits::config::KeyPart;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Selectors;
use super::rules::Reader;
use crate::mesh::document::Spanned;
use crate::policy::authorization::{Clause, Rule};
use crate::policy::condition;

/// One part of a key as it is written. What a request lacks is a value of its own, shared by all requests that lack it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeySpec {
    /// The caller's SPIFFE ID.
    Identity,
    /// The caller's namespace and service account.
    ServiceAccount,
    /// The caller's namespace.
    Namespace,
    /// The address of the original client; an IPv6 address by its /64.
    ClientAddress,
    /// The method of the request.
    Method,
    /// The cluster that the request goes to; on the caller's side.
    Destination,
    /// The first of these paths that fits, `/books/{*}`; all paths that none of them fits are one.
    Path(Spanned<Vec<Spanned<String>>>),
    /// The value of this header. Callers invent them: put the identity beside it.
    Header(Spanned<String>),
}

/// One part of a key, checked.
#[derive(Clone, Debug)]
pub enum Key {
    Part(KeyPart),
    /// A rule for each path.
    Paths(Vec<Rule>),
}

impl Key {
    /// Whether it is known of an HTTP request only.
    pub fn is_http_only(&self) -> bool {
        match self {
            Self::Paths(_) => true,
            Self::Part(part) => {
                matches!(part, KeyPart::Method | KeyPart::Header(_) | KeyPart::Destination)
            }
        }
    }

    /// The engine's part; paths become selectors.
    pub fn compile(&self, selectors: &mut Selectors<'_>) -> KeyPart {
        match self {
            Self::Part(part) => part.clone(),
            Self::Paths(paths) => KeyPart::Template(paths.iter().map(|path| selectors.add(path)).collect()),
        }
    }
}

/// Reads a key. Twice the same part is a mistake, since the second says nothing.
pub fn key(reader: &mut Reader<'_>, written: Option<Spanned<Vec<Spanned<KeySpec>>>>) -> Vec<Key> {
    let mut parts: Vec<Key> = Vec::new();
    for part in written.map(|list| list.value).unwrap_or_default() {
        let Some(found) = key_part(reader, &part) else { continue };
        if let Key::Part(one) = &found
            && parts.iter().any(|other| matches!(other, Key::Part(other) if other == one))
        {
            let help = "take it out";
            reader.error("duplicate-key", "this is in the key already", &part.span, help);
        }
        parts.push(found);
    }
    parts
}

fn key_part(reader: &mut Reader<'_>, written: &Spanned<KeySpec>) -> Option<Key> {
    Some(Key::Part(match &written.value {
        KeySpec::Identity => KeyPart::Identity,
        KeySpec::ServiceAccount => KeyPart::ServiceAccount,
        KeySpec::Namespace => KeyPart::Namespace,
        KeySpec::ClientAddress => KeyPart::ClientAddress,
        KeySpec::Method => KeyPart::Method,
        KeySpec::Destination => KeyPart::Destination,
        KeySpec::Path(paths) => return paths_of(reader, paths),
        KeySpec::Header(name) => {
            if !condition::is_header(name) || name.starts_with(':') {
                let help = "write the header's name, like `x-tenant`";
                let message = format!("`{}` is no header's name", name.value);
                reader.error("invalid-header", message, &name.span, help);
                return None;
            }
            KeyPart::Header(Text::from(name.to_ascii_lowercase()))
        }
    }))
}

fn paths_of(reader: &mut Reader<'_>, paths: &Spanned<Vec<Spanned<String>>>) -> Option<Key> {
    let one = |reader: &mut Reader<'_>, path: &Spanned<String>| {
        let values = Spanned::new(vec![path.clone()], path.span.clone());
        let matches = vec![reader.field("path", &values, Attribute::Path)?];
        let span: Range<usize> = path.span.clone();
        let to = vec![Clause { span: span.clone(), matches }];
        Some(Rule { span, from: Vec::new(), to, when: Vec::new() })
    };
    if paths.is_empty() {
        let help = "list the paths that count apart: `{path: [\"/books\", \"/books/{*}\"]}`";
        reader.error("empty-list", "`path` is there and has no entries", &paths.span, help);
        return None;
    }
    Some(Key::Paths(paths.iter().filter_map(|path| one(reader, path)).collect()))
}

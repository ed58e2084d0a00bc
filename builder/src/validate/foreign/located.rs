//! A configuration as values that know where they were written, so that it can be taken apart and put together again and
//! every part still has its line.

use std::ops::Range;

use granit_parser::ScalarStyle;
use serde_json::{Map, Value};

use crate::patch::tree::{Kind, NodeId, Tree};

/// A span in one of the texts that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub text: usize,
    pub span: Range<usize>,
}

#[derive(Clone, Debug)]
pub struct Located {
    pub content: Content,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub enum Content {
    Scalar(Value),
    List(Vec<Located>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub at: Place,
    pub value: Located,
}

/// Aliases may make a small text large without end.
const MOST_VALUES: usize = 500_000;

impl Located {
    /// Reads a node of a text. None when aliases make it larger than anything that was meant.
    pub fn read(tree: &Tree, node: NodeId, text: usize) -> Option<Self> {
        let mut left = MOST_VALUES;
        read(tree, node, text, &mut left)
    }

    pub fn json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::json).collect(),
            Content::Map(entries) => {
                let fields: Map<String, Value> =
                    entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect();
                Value::Object(fields)
            }
        }
    }

    /// The field of a message, in snake or camel case.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().rfind(|entry| is_field(&entry.key, name))
    }

    pub fn field(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|entry| &entry.value)
    }

    pub fn field_mut(&mut self, name: &str) -> Option<&mut Self> {
        match &mut self.content {
            Content::Map(entries) => {
                entries.iter_mut().rfind(|entry| is_field(&entry.key, name)).map(|entry| &mut entry.value)
            }
            _ => None,
        }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The items of a repeated field: Envoy takes a single mapping for a list of one.
    pub fn items(&self) -> Vec<&Self> {
        match &self.content {
            Content::List(items) => items.iter().collect(),
            Content::Map(_) => vec![self],
            Content::Scalar(_) => Vec::new(),
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, name: &str) -> Option<Entry> {
        let Content::Map(entries) = &mut self.content else { return None };
        let at = entries.iter().rposition(|entry| is_field(&entry.key, name))?;
        Some(entries.remove(at))
    }

    /// Puts a field in that was not written, in the place of something that was.
    pub fn insert(&mut self, name: &str, at: Place, value: Self) {
        if let Content::Map(entries) = &mut self.content {
            entries.push(Entry { key: name.to_owned(), at, value });
        }
    }

    /// Appends to a repeated field, which is made when it is not there.
    pub fn append(&mut self, name: &str, at: &Place, items: Vec<Self>) {
        if let Some(field) = self.field_mut(name) {
            if let Content::Map(_) = field.content {
                let one = field.clone();
                field.content = Content::List(vec![one]);
            }
            if let Content::List(there) = &mut field.content {
                there.extend(items);
                return;
            }
        }
        self.insert(name, at.clone(), Self { content: Content::List(items), place: at.clone() });
    }

    /// Every mapping, the outer before the inner, with the keys above it.
    pub fn each_map(&mut self, visit: &mut dyn FnMut(&mut Self, &[String])) {
        self.each_below(&mut Vec::new(), visit);
    }

    fn each_below(&mut self, above: &mut Vec<String>, visit: &mut dyn FnMut(&mut Self, &[String])) {
        if let Content::Map(_) = self.content {
            visit(self, above);
        }
        match &mut self.content {
            Content::Map(entries) => {
                for entry in entries {
                    above.push(snake(&entry.key));
                    entry.value.each_below(above, visit);
                    above.pop();
                }
            }
            Content::List(items) => items.iter_mut().for_each(|item| item.each_below(above, visit)),
            Content::Scalar(_) => {}
        }
    }
}

fn read(tree: &Tree, node: NodeId, text: usize, left: &mut usize) -> Option<Located> {
    *left = left.checked_sub(1)?;
    let id = tree.resolve(node);
    let node = tree.node(id);
    let place = Place { text, span: node.span.clone() };
    let content = match &node.kind {
        Kind::Scalar { value, style } => {
            let quoted =
                *style != ScalarStyle::Plain || node.tag.as_deref().is_some_and(|tag| tag.ends_with("str"));
            Content::Scalar(if quoted { Value::String(value.clone()) } else { plain(value) })
        }
        Kind::Sequence { items, .. } => {
            Content::List(items.iter().map(|item| read(tree, *item, text, left)).collect::<Option<_>>()?)
        }
        Kind::Mapping { .. } => {
            let mut entries: Vec<Entry> = Vec::new();
            for (key, value) in tree.entries(id) {
                let at = Place { text, span: tree.node(key).span.clone() };
                let key = tree.text(key).unwrap_or_default().to_owned();
                entries.retain(|entry| entry.key != key);
                entries.push(Entry { key, at, value: read(tree, value, text, left)? });
            }
            Content::Map(entries)
        }
        Kind::Alias(_) => Content::Scalar(Value::Null),
    };
    Some(Located { content, place })
}

/// A plain scalar as YAML's core schema reads it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            let whole =
                text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
            match whole {
                Ok(value) if number => value,
                _ if number => text
                    .parse::<f64>()
                    .ok()
                    .and_then(serde_json::Number::from_f64)
                    .map_or_else(|| Value::String(text.to_owned()), Value::Number),
                _ => Value::String(text.to_owned()),
            }
        }
    }
}

fn is_field(key: &str, name: &str) -> bool {
    key == name || (key.bytes().any(|byte| byte.is_ascii_uppercase()) && snake(key) == name)
}

/// `httpFilters` and `HttpFilters` → `http_filters`.
pub fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            if !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}

//! YAML text → documents: a tree in which every key and value knows its place in the text.
//!
//! Reading is in two steps so that a file's mistakes are found all at once: serde-saphyr parses the text into this tree
//! (a syntax error is one mistake), and `super::read` turns a tree into a typed value, going on after each mistake.
//! Deliberately absent: anything that knows what a kind means.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::diagnostic::{Diagnostic, Source};

/// A value and the bytes of the source that hold it. Transparent to serde's data model and to JSON Schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    /// Byte range in the document's source; empty for a value that no text holds.
    pub span: Range<usize>,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span }
    }
}

impl<T: Default> Default for Spanned<T> {
    fn default() -> Self {
        Self { value: T::default(), span: 0..0 }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

/// One YAML value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub span: Range<usize>,
}

/// What a node holds. Keys keep their order and their own places.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(Spanned<String>, Node)>),
}

impl Node {
    /// The value under `key`, when this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Key (with its place) and value, when this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<(&Spanned<String>, &Node)> {
        match &self.value {
            Value::Mapping(entries) => {
                entries.iter().find(|(name, _)| name.value == key).map(|(k, v)| (k, v))
            }
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, span: byte_range(spanned.referenced) })
    }
}

/// A place in the text as bytes; empty where the parser does not know.
fn byte_range(location: serde_saphyr::Location) -> Range<usize> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset().unwrap_or(0)).unwrap_or(0);
    let length = usize::try_from(span.byte_len().unwrap_or(0)).unwrap_or(0);
    start..start.saturating_add(length)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element::<Node>()? {
            nodes.push(node);
        }
        Ok(Value::Sequence(nodes))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut mapping = Vec::new();
        while let Some(key) = entries.next_key::<Node>()? {
            let name = match key.value {
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Null => "null".to_owned(),
                _ => return Err(de::Error::custom("a key must be a plain string")),
            };
            mapping.push((Spanned::new(name, key.span), entries.next_value()?));
        }
        Ok(Value::Mapping(mapping))
    }
}

/// One Kubernetes-style document: which kind it is, and its tree.
#[derive(Clone, Debug)]
pub struct Document {
    pub source: Arc<Source>,
    pub api_version: Spanned<String>,
    pub kind: Spanned<String>,
    pub root: Node,
}

impl Document {
    /// A mistake at a place in this document.
    pub fn error(&self, code: &'static str, message: impl Into<String>, span: &Range<usize>) -> Diagnostic {
        Diagnostic::error(code, message).at(&self.source, span.clone())
    }
}

/// All documents of a text. Empty documents (a stray `---`) are skipped.
///
/// Mistakes are appended: one for a syntax error, or one for each document without a usable `apiVersion` and `kind`.
pub fn parse(source: &Arc<Source>, mistakes: &mut Vec<Diagnostic>) -> Vec<Document> {
    let roots = parse_nodes(source).unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        Vec::new()
    });
    let mut documents = Vec::new();
    for root in roots.into_iter().flat_map(unfold) {
        match (header(source, &root, "apiVersion"), header(source, &root, "kind")) {
            (Ok(api_version), Ok(kind)) => {
                documents.push(Document { source: Arc::clone(source), api_version, kind, root });
            }
            (api_version, kind) => mistakes.extend([api_version.err(), kind.err()].into_iter().flatten()),
        }
    }
    documents
}

/// A List (`kubectl get -o yaml`) stands for its items.
fn unfold(root: Node) -> Vec<Node> {
    let is_list = root.get("kind").and_then(Node::as_str).is_some_and(|kind| kind.ends_with("List"));
    match root.value {
        Value::Mapping(mut entries) if is_list => {
            match entries
                .iter()
                .position(|(key, value)| key.value == "items" && matches!(value.value, Value::Sequence(_)))
            {
                Some(at) => match entries.swap_remove(at).1.value {
                    Value::Sequence(items) => items,
                    _ => Vec::new(),
                },
                None => vec![Node { value: Value::Mapping(entries), span: root.span }],
            }
        }
        value => vec![Node { value, span: root.span }],
    }
}

/// The trees of a text, whatever they hold.
///
/// # Errors
/// The syntax error, a duplicate key, or a text beyond the limits (depth, size, expanded aliases).
pub fn parse_nodes(source: &Arc<Source>) -> Result<Vec<Node>, Diagnostic> {
    // Booleans only as `true` and `false`, and `0755` stays text: what YAML 1.1 would make of `yes` or an octal number
    // surprises people. Limits keep an alias bomb from taking minutes; a mesh of thousands of services fits well.
    let mut aliases = serde_saphyr::options::AliasLimits::default();
    aliases.max_total_replayed_events = 100_000;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 200_000, max_nodes: 4_000_000, max_events: 12_000_000, max_total_scalar_bytes: 256 << 20 },
        alias_limits: aliases,
        emit_comments: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Node>(&source.text, options).map_err(|error| {
        let error = error.without_snippet();
        let text = error.to_string();
        // The place is told by the diagnostic, and the reader's own switches are no remedy for a user.
        let message = [" at line ", ", set "]
            .iter()
            .fold(text.as_str(), |text, end| text.split(end).next().unwrap_or(text));
        let mistake =
            Diagnostic::error("yaml-syntax", format!("this is not the YAML that was meant: {message}"));
        match error.location() {
            Some(location) => mistake.at(source, byte_range(location)),
            None => mistake,
        }
    })
}

fn header(source: &Arc<Source>, root: &Node, field: &str) -> Result<Spanned<String>, Diagnostic> {
    let found = root.get(field);
    match found.map(|node| &node.value) {
        Some(Value::String(text)) => {
            Ok(Spanned::new(text.clone(), found.map_or(0..0, |node| node.span.clone())))
        }
        Some(_) => Err(Diagnostic::error("wrong-type", format!("`{field}` must be a string"))
            .at(source, found.map_or(0..0, |node| node.span.clone()))),
        None => Err(Diagnostic::error("missing-field", format!("a document needs `{field}`"))
            .at(source, root.span.clone())
            .help("every document starts like `apiVersion: meshward.dev/v1alpha1` and `kind: Mesh`")),
    }
}

//! Tree → typed value, through serde, going on after each mistake: so that a user sees all of them at once.
//!
//! serde stops at the first error. So after a mistake the entry that holds it is set aside and the value is read again,
//! until nothing is wrong any more; a field that is missing only because it was set aside is no mistake of its own.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::document::{Document, Node, Spanned, Value};
use crate::diagnostic::{Diagnostic, Source, nearest};

/// Beyond this many mistakes in one document the rest is left unsaid.
const MOST_MISTAKES: usize = 200;

/// The name under which [`Spanned`] asks a reader for places.
const SPANNED: &str = "$meshward::Spanned";

/// A whole document as a typed value. Mistakes are appended; `None` when nothing usable is left.
///
/// What comes back beside mistakes lacks the entries that hold them: good for further checks, never for output.
pub fn document<T: DeserializeOwned>(document: &Document, mistakes: &mut Vec<Diagnostic>) -> Option<T> {
    node(&document.source, &document.root, mistakes)
}

/// The same for any node of a source.
pub fn node<T: DeserializeOwned>(
    source: &Arc<Source>,
    root: &Node,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<T> {
    let aside = RefCell::new(Vec::new());
    for _ in 0..MOST_MISTAKES {
        let error = match T::deserialize(Reader { node: root, aside: &aside }) {
            Ok(value) => return Some(value),
            Err(error) => *error.0,
        };
        if !error.follows {
            let span = error.span.unwrap_or_else(|| root.span.clone());
            let mut mistake = Diagnostic::error(error.code, error.message).at(source, span);
            mistake.help = error.help;
            mistakes.push(mistake);
        }
        aside.borrow_mut().push(error.entry?);
    }
    mistakes.push(Diagnostic::error(
        "too-many-mistakes",
        "too many mistakes in one document: the rest is left unsaid",
    ));
    None
}

/// An entry of a mapping or sequence, by the collection's node and the entry's index.
type Entry = (*const Node, usize);

/// Boxed: serde passes results through many frames.
#[derive(Debug)]
struct Error(Box<Mistake>);

#[derive(Debug)]
struct Mistake {
    code: &'static str,
    message: String,
    help: Vec<String>,
    span: Option<Range<usize>>,
    /// What to set aside before reading on. None: the whole value.
    entry: Option<Entry>,
    /// The field whose absence this error is about.
    missing: Option<&'static str>,
    /// Only a consequence of something set aside before.
    follows: bool,
}

impl Error {
    fn new(code: &'static str, message: String) -> Self {
        Self(Box::new(Mistake {
            code,
            message,
            help: Vec::new(),
            span: None,
            entry: None,
            missing: None,
            follows: false,
        }))
    }

    fn located(mut self, span: &Range<usize>, entry: Option<Entry>) -> Self {
        self.0.span.get_or_insert_with(|| span.clone());
        self.0.entry = self.0.entry.or(entry);
        self
    }

    fn one_of(mut self, written: &str, known: &'static [&'static str]) -> Self {
        match nearest(written, known.iter().copied()) {
            Some(near) => self.0.help.push(format!("did you mean `{near}`?")),
            None if known.is_empty() => {}
            None => self.0.help.push(format!("known here: {}", quoted(known))),
        }
        self
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("invalid-value", message.to_string())
    }
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let mut error =
            Self::new("wrong-type", format!("{} where {} is wanted", shown(unexpected), wanted(expected)));
        let scalar = matches!(
            unexpected,
            de::Unexpected::Bool(_)
                | de::Unexpected::Signed(_)
                | de::Unexpected::Unsigned(_)
                | de::Unexpected::Float(_)
        );
        if scalar && expected.to_string().contains("string") {
            error.0.help.push("put it in quotes".to_owned());
        }
        if let de::Unexpected::Str(text) = unexpected
            && text.parse::<f64>().is_ok()
        {
            error.0.help.push("take the quotes away".to_owned());
        }
        error
    }
    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new("invalid-value", format!("{} where {} is wanted", shown(unexpected), wanted(expected)))
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown-value", format!("`{variant}` is none of {}", quoted(expected)))
            .one_of(variant, expected)
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown-field", format!("there is no field `{field}` here")).one_of(field, expected)
    }
    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::new("missing-field", format!("`{field}` is missing"));
        error.0.missing = Some(field);
        error
    }
}

/// What was written, in the user's words.
fn shown(unexpected: de::Unexpected<'_>) -> String {
    match unexpected {
        de::Unexpected::Str(text) => format!("`{text}`"),
        de::Unexpected::Bool(flag) => format!("`{flag}`"),
        de::Unexpected::Signed(number) => format!("`{number}`"),
        de::Unexpected::Unsigned(number) => format!("`{number}`"),
        de::Unexpected::Float(number) => format!("`{number}`"),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a mapping".to_owned(),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing".to_owned(),
        other => other.to_string(),
    }
}

/// What was expected, without the names of Rust's types.
fn wanted(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    let range = |low: String, high: String| format!("a whole number from {low} to {high}");
    match text.as_str() {
        "u8" => range(u8::MIN.to_string(), u8::MAX.to_string()),
        "u16" => range(u16::MIN.to_string(), u16::MAX.to_string()),
        "u32" => range(u32::MIN.to_string(), u32::MAX.to_string()),
        "u64" | "usize" => "a whole number from 0".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "a nonzero u16" => range("1".to_owned(), u16::MAX.to_string()),
        "a nonzero u32" => range("1".to_owned(), u32::MAX.to_string()),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other if other.starts_with("enum ") => "a name".to_owned(),
        other => other.to_owned(),
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    aside: &'a RefCell<Vec<Entry>>,
}

impl<'a> Reader<'a> {
    fn is_aside(&self, index: usize) -> bool {
        self.aside.borrow().iter().any(|(node, at)| std::ptr::eq(*node, self.node) && *at == index)
    }

    fn entry(&self, index: usize) -> Entry {
        (std::ptr::from_ref(self.node), index)
    }

    fn at(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    /// Where to point for a mistake about the node as a whole: its first key for a mapping, not its whole text.
    fn place(&self) -> Range<usize> {
        match &self.node.value {
            Value::Mapping(entries) => {
                entries.first().map_or(self.node.span.clone(), |(key, _)| key.span.clone())
            }
            _ => self.node.span.clone(),
        }
    }

    fn visit_map<V: Visitor<'a>>(
        self,
        entries: &'a [(Spanned<String>, Node)],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { reader: self, entries, next: 0, current: None }).map_err(|mut error| {
            if error.0.entry.is_none()
                && let Some(field) = error.0.missing.take()
            {
                let named = |(index, (key, _)): (usize, &(Spanned<String>, Node))| {
                    key.value == field && self.is_aside(index)
                };
                error.0.follows = entries.iter().enumerate().any(named);
            }
            error.located(&self.place(), None)
        })
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => visitor.visit_i128(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(items) => visitor.visit_seq(Items { reader: self, items, next: 0 }),
            Value::Mapping(entries) => return self.visit_map(entries, visitor),
        }
        .map_err(|error: Error| error.located(&self.place(), None))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // `field:` with nothing behind it is a slip more often than a wish: the field's own type says what is wanted.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == SPANNED {
            visitor.visit_seq(SpanThenValue { reader: self, next: 0 })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let result = match &self.node.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Mapping(entries) => match entries.as_slice() {
                [(key, value)] => visitor.visit_enum(Variant { key, value: self.at(value) }),
                _ => Err(Error::new("wrong-type", "a mapping with exactly one key is wanted".to_owned())),
            },
            _ => Err(Error::new("wrong-type", "a name is wanted".to_owned())),
        };
        result.map_err(|error: Error| error.located(&self.place(), None))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// How [`Spanned`] is read: first the place, then the value.
struct SpanThenValue<'a> {
    reader: Reader<'a>,
    next: usize,
}

impl<'de> SeqAccess<'de> for SpanThenValue<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.next += 1;
        let span = self.reader.place();
        match self.next {
            1 => seed.deserialize((span.start as u64).into_deserializer()).map(Some),
            2 => seed.deserialize((span.end as u64).into_deserializer()).map(Some),
            3 => seed.deserialize(self.reader).map(Some),
            _ => Ok(None),
        }
    }
}

impl<'de, T: de::Deserialize<'de>> de::Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Places<T>(std::marker::PhantomData<T>);
        impl<'de, T: de::Deserialize<'de>> Visitor<'de> for Places<T> {
            type Value = Spanned<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Spanned<T>, A::Error> {
                let mut offset = || -> Result<usize, A::Error> {
                    Ok(usize::try_from(parts.next_element::<u64>()?.unwrap_or(0)).unwrap_or(0))
                };
                let span = offset()?..offset()?;
                let value = parts.next_element()?.ok_or_else(|| de::Error::custom("a value is wanted"))?;
                Ok(Spanned { value, span })
            }
            // Any other format than ours has no places to give.
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Spanned<T>, D::Error> {
                T::deserialize(deserializer).map(|value| Spanned::new(value, 0..0))
            }
        }
        deserializer.deserialize_newtype_struct(SPANNED, Places(std::marker::PhantomData))
    }
}

struct Entries<'a> {
    reader: Reader<'a>,
    entries: &'a [(Spanned<String>, Node)],
    next: usize,
    current: Option<(usize, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while let Some((key, value)) = self.entries.get(self.next) {
            let index = self.next;
            self.next += 1;
            if self.reader.is_aside(index) {
                continue;
            }
            self.current = Some((index, value));
            return seed
                .deserialize(Key(key))
                .map(Some)
                .map_err(|error| error.located(&key.span, Some(self.reader.entry(index))));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (index, node) =
            self.current.ok_or_else(|| <Error as de::Error>::custom("a value without a key"))?;
        let reader = self.reader.at(node);
        seed.deserialize(reader)
            .map_err(|error| error.located(&reader.place(), Some(self.reader.entry(index))))
    }
}

/// A key: a string, or a [`Spanned`] one.
struct Key<'a>(&'a Spanned<String>);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(&self.0.value)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name != SPANNED {
            return visitor.visit_newtype_struct(self);
        }
        let parts = SpanThenKey { key: self.0, next: 0 };
        visitor.visit_seq(parts)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct SpanThenKey<'a> {
    key: &'a Spanned<String>,
    next: usize,
}

impl<'de> SeqAccess<'de> for SpanThenKey<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.next += 1;
        match self.next {
            1 => seed.deserialize((self.key.span.start as u64).into_deserializer()).map(Some),
            2 => seed.deserialize((self.key.span.end as u64).into_deserializer()).map(Some),
            3 => seed.deserialize(Key(self.key)).map(Some),
            _ => Ok(None),
        }
    }
}

struct Items<'a> {
    reader: Reader<'a>,
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        while let Some(node) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if self.reader.is_aside(index) {
                continue;
            }
            let reader = self.reader.at(node);
            return seed
                .deserialize(reader)
                .map(Some)
                .map_err(|error| error.located(&reader.place(), Some(self.reader.entry(index))));
        }
        Ok(None)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len().saturating_sub(self.next))
    }
}

/// An enum variant with content, written as a mapping with one key.
struct Variant<'a> {
    key: &'a Spanned<String>,
    value: Reader<'a>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let value =
            seed.deserialize(Key(self.key)).map_err(|error: Error| error.located(&self.key.span, None))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(Error::new("wrong-type", format!("`{}` takes no content", self.key.value)))
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.value)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }
}

//! One line of JSON → a request of the engine's, borrowing from the line.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use meshward_engine::policy::Attributes;
use meshward_engine::rate_limit::Nanoseconds;
use meshward_engine::request::{Field, Peer, principal_of_token};
use meshward_engine::spiffe::SpiffeIdRef;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON object, and nothing else: serde also reads a list as a struct, field after field.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// A request as it is written. All but `id` may be left out; a field that is not here is an error, not overlooked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line<'a> {
    /// Comes back in the answer.
    pub id: Id,
    /// When it comes, `1.250s` after some beginning: rate limits are asked, and keep what earlier lines have spent.
    #[serde(default)]
    pub time: Option<Time>,
    /// How it ends, if it is let through: breakers are asked, and hear of it when its latency has passed.
    #[serde(default)]
    pub outcome: Option<Object<Ends>>,
    #[serde(borrow, default)]
    pub source: Option<Object<From<'a>>>,
    #[serde(default)]
    pub destination: Option<Object<To>>,
    #[serde(borrow, default)]
    pub sni: Option<Text<'a>>,
    #[serde(default)]
    pub protocol: Option<Protocol>,
    #[serde(borrow, default)]
    pub method: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub path: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub host: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub headers: Option<Headers<'a>>,
    #[serde(default)]
    pub jwt: Option<Object<Jwt>>,
    /// Other filters' dynamic metadata, `{"envoy.filters.http.x": {"key": "value"}}`, for `experimental.envoy.filters.*`.
    #[serde(default)]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From<'a> {
    /// The SPIFFE ID of the caller's certificate; without one the caller has no certificate.
    #[serde(borrow, default)]
    pub principal: Option<Text<'a>>,
    /// Of the direct peer.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Of the original client; the direct peer's when not said.
    #[serde(default)]
    pub remote_ip: Option<IpAddr>,
}

/// How a request ends.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// Of the answer; without one there was none (a reset, no connection).
    #[serde(default)]
    pub status: Option<u16>,
    /// The `grpc-status`.
    #[serde(default)]
    pub grpc: Option<u32>,
    #[serde(default)]
    pub latency: Option<Time>,
    /// The answer's own `retry-after`.
    #[serde(default)]
    pub retry_after: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct To {
    /// Outbound: the service that is called.
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub ip: Option<IpAddr>,
    #[serde(default)]
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Tcp,
}

/// A validated token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    #[serde(default)]
    pub iss: Option<String>,
    #[serde(default)]
    pub sub: Option<String>,
    #[serde(default)]
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A time since the beginning: a number and its unit.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Nanoseconds);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = text.parse::<jiff::SignedDuration>().ok();
        let nanoseconds = read.and_then(|duration| u64::try_from(duration.as_nanos()).ok());
        nanoseconds.map(Self).ok_or_else(|| de::Error::custom("this is a time like `1.250s` or `2m`"))
    }
}

/// A string or a whole number.
#[derive(Debug)]
pub struct Id(pub serde_json::Value);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match value {
            serde_json::Value::String(_) => Ok(Self(value)),
            serde_json::Value::Number(ref number) if !number.is_f64() => Ok(Self(value)),
            _ => Err(de::Error::custom("`id` is a string or a whole number")),
        }
    }
}

/// Text that is borrowed from the line where JSON has no escapes in it.
#[derive(Debug, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Text<'_> {
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Pseudo-headers that have a field of their own.
const PSEUDO: [(&str, &str); 3] = [(":method", "method"), (":path", "path"), (":authority", "host")];

/// Names (in lower case) and values, in the order of the line.
#[derive(Debug, Default)]
pub struct Headers<'a>(Vec<(String, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Headers<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers: names with a value or a list of values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Headers<'de>, A::Error> {
                let mut headers = Vec::new();
                while let Some(name) = entries.next_key::<Text<'de>>()? {
                    let Values(values) = entries.next_value()?;
                    let name = name.0.to_ascii_lowercase();
                    if let Some(field) = PSEUDO.iter().find(|(pseudo, _)| *pseudo == name) {
                        return Err(de::Error::custom(format!("`{}` is said in `{}`", field.0, field.1)));
                    }
                    headers.extend(values.into_iter().map(|value| (name.clone(), value)));
                }
                Ok(Headers(headers))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// One value or several.
struct Values<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Values<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header's value, or a list of them")
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Values<'de>, E> {
                Ok(Values(vec![Cow::Borrowed(value)]))
            }
            fn visit_str<E>(self, value: &str) -> Result<Values<'de>, E> {
                Ok(Values(vec![Cow::Owned(value.to_owned())]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Values<'de>, A::Error> {
                let mut values = Vec::new();
                while let Some(Text(value)) = items.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

impl Line<'_> {
    /// The caller. A principal that is no SPIFFE ID is what a certificate that is no X509-SVID has.
    pub fn peer(&self) -> Peer<'_> {
        match self.source.as_ref().and_then(|source| source.0.principal.as_ref()) {
            None => Peer::Absent,
            Some(principal) => SpiffeIdRef::parse(principal.bytes()).map_or(Peer::Invalid, Peer::Verified),
        }
    }

    /// `:authority`; a `host` header is nothing else to Envoy.
    pub fn authority(&self) -> Option<&[u8]> {
        let of_header = || {
            let headers = self.headers.iter().flat_map(|headers| &headers.0);
            headers.filter(|(name, _)| name == "host").map(|(_, value)| value.as_bytes()).next()
        };
        self.host.as_ref().map(Text::bytes).or_else(of_header)
    }

    /// The headers that the policies ask for.
    pub fn headers<'b>(&'b self, needs: &Attributes, fields: &mut Vec<Field<'b>>) {
        if needs.headers.is_empty() {
            return;
        }
        for (name, value) in self.headers.iter().flat_map(|headers| &headers.0) {
            if needs.headers.binary_search_by(|needed| (**needed).cmp(name)).is_ok() {
                fields.push(Field { name, value: value.as_bytes() });
            }
        }
    }

    /// Issuer and subject, when the token has both.
    pub fn request_principal(&self) -> Option<Vec<u8>> {
        let jwt = &self.jwt.as_ref()?.0;
        let of_claims = |name: &str| jwt.claims.as_ref().and_then(|claims| claims.get(name)?.as_str());
        let iss = jwt.iss.as_deref().or_else(|| of_claims("iss"))?;
        let sub = jwt.sub.as_deref().or_else(|| of_claims("sub"))?;
        principal_of_token(iss.as_bytes(), sub.as_bytes())
    }

    /// The claims that the policies ask for, `[a][b]`; a list has one entry per element.
    pub fn claims<'b>(&'b self, needs: &'b Attributes, fields: &mut Vec<Field<'b>>) {
        let Some(Object(jwt)) = &self.jwt else { return };
        for path in &needs.claims {
            let mut names = path.trim_start_matches('[').trim_end_matches(']').split("][");
            let Some(first) = names.next() else { continue };
            let in_claims = jwt.claims.as_ref().and_then(|claims| claims.get(first));
            let Some(mut value) = in_claims else {
                let registered = match first {
                    "iss" => &jwt.iss,
                    "sub" => &jwt.sub,
                    _ => &None,
                };
                if let (Some(text), None) = (registered, names.next()) {
                    fields.push(Field { name: path, value: text.as_bytes() });
                }
                continue;
            };
            let spaced = matches!(&**path, "[scope]" | "[permission]");
            for name in names {
                value = value.get(name).unwrap_or(&serde_json::Value::Null);
            }
            strings(value, spaced, &mut |text| fields.push(Field { name: path, value: text.as_bytes() }));
        }
    }

    /// The metadata that the policies ask for, `filter[key]`.
    pub fn metadata<'b>(&'b self, needs: &'b Attributes, fields: &mut Vec<Field<'b>>) {
        let Some(metadata) = &self.metadata else { return };
        for path in &needs.metadata {
            let Some((filter, key)) = path.split_once('[') else { continue };
            let value = metadata.get(filter).and_then(|values| values.get(key.trim_end_matches(']')));
            if let Some(value) = value {
                strings(value, false, &mut |text| fields.push(Field { name: path, value: text.as_bytes() }));
            }
        }
    }
}

/// A string, or the strings of a list. Numbers and booleans match nothing, as in Istio. `spaced`: a string is a list of
/// words, as Istio has jwt_authn split `scope` and `permission`.
fn strings<'a>(value: &'a serde_json::Value, spaced: bool, found: &mut impl FnMut(&'a str)) {
    match value {
        serde_json::Value::String(text) if spaced => text.split(' ').for_each(found),
        serde_json::Value::String(text) => found(text),
        serde_json::Value::Array(items) => items.iter().filter_map(|item| item.as_str()).for_each(found),
        _ => {}
    }
}

/// The `id` of a line that is JSON, whatever else is wrong with it.
pub fn id_of(line: &[u8]) -> serde_json::Value {
    #[derive(Deserialize)]
    struct OnlyId {
        id: Id,
        #[serde(flatten)]
        _rest: std::collections::BTreeMap<String, IgnoredAny>,
    }
    serde_json::from_slice::<Object<OnlyId>>(line).map_or(serde_json::Value::Null, |only| only.0.id.0)
}

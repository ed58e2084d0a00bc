//! The keys of `when`: which attribute each one compares, and what to write instead of those that do not exist.

use meshward_engine::config::{Attribute, HeaderMode, Text};

use crate::diagnostic::nearest;

/// Keys that are a whole name.
const PLAIN: [(&str, Attribute); 10] = [
    ("source.ip", Attribute::SourceIp),
    ("remote.ip", Attribute::RemoteIp),
    ("source.namespace", Attribute::Namespace),
    ("source.serviceAccount", Attribute::ServiceAccount),
    ("source.principal", Attribute::Principal),
    ("source.trustDomain", Attribute::TrustDomain),
    ("request.auth.principal", Attribute::RequestPrincipal),
    ("destination.ip", Attribute::DestinationIp),
    ("destination.port", Attribute::DestinationPort),
    ("connection.sni", Attribute::Sni),
];

/// Keys that are a claim under another name.
const CLAIMS: [(&str, &str); 2] = [("request.auth.audiences", "[aud]"), ("request.auth.presenter", "[azp]")];

/// Keys with something in brackets behind them.
const BRACKETED: [&str; 3] = ["request.headers", "request.auth.claims", "experimental.envoy.filters."];

/// Why a key is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownKey {
    pub message: String,
    pub help: String,
}

/// The attribute that a key compares.
///
/// # Errors
/// A key that Istio does not have (any more), or one whose brackets are wrong.
pub fn attribute(key: &str, headers: HeaderMode) -> Result<Attribute, UnknownKey> {
    if let Some((_, claim)) = CLAIMS.iter().find(|(name, _)| *name == key) {
        return Ok(Attribute::Claim(Text::from(*claim)));
    }
    if let Some((_, attribute)) = PLAIN.iter().find(|(name, _)| *name == key) {
        return Ok(attribute.clone());
    }
    if let Some(rest) = key.strip_prefix("request.headers") {
        return match rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(name) if is_header(name) => {
                let name = name.to_ascii_lowercase();
                // Envoy knows HTTP/1's `host` by its name in HTTP/2 alone, and answers for both.
                let name = if name == "host" { ":authority" } else { &name };
                Ok(Attribute::Header { name: Text::from(name), mode: headers })
            }
            _ => Err(brackets(key, "request.headers[x-role]")),
        };
    }
    if let Some(rest) = key.strip_prefix("request.auth.claims") {
        let names = names_in_brackets(rest).ok_or_else(|| brackets(key, "request.auth.claims[groups]"))?;
        return Ok(Attribute::Claim(Text::from(names)));
    }
    if key.starts_with("experimental.envoy.filters.") {
        let rest = key.strip_prefix("experimental.").unwrap_or(key);
        let example = "experimental.envoy.filters.http.ext_authz[role]";
        let (filter, name) = rest.split_once('[').ok_or_else(|| brackets(key, example))?;
        let name = name.strip_suffix(']').filter(|name| !name.is_empty() && !name.contains(['[', ']']));
        return match name {
            Some(name) => Ok(Attribute::Metadata(Text::from(format!("{filter}[{name}]")))),
            None => Err(brackets(key, example)),
        };
    }
    Err(unknown(key))
}

/// The name of a header as HTTP has it, or a pseudo-header.
pub fn is_header(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    !token.is_empty()
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// `[a][b]`, as the engine names claims.
fn names_in_brackets(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let good = |name: &str| !name.is_empty() && !name.contains(['[', ']']);
    inner.split("][").all(good).then_some(text)
}

fn brackets(key: &str, example: &str) -> UnknownKey {
    UnknownKey {
        message: format!("the key `{key}` does not name what it compares"),
        help: format!("write it like `{example}`"),
    }
}

fn unknown(key: &str) -> UnknownKey {
    let message = format!("there is no key `{key}`");
    let help = match key {
        "destination.name" | "destination.namespace" | "destination.user" => {
            "Istio took it away: choose the workloads with `selector`, in a policy of their namespace"
                .to_owned()
        }
        _ if key.starts_with("destination.labels") => {
            "Istio took it away: choose the workloads with `selector.matchLabels`".to_owned()
        }
        "request.path" | "request.method" | "request.host" => {
            "write it under `to`: `operation` has `paths`, `methods` and `hosts`".to_owned()
        }
        _ => match nearest(key, names().chain(BRACKETED)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let names = names().collect::<Vec<_>>().join("`, `");
                format!(
                    "the keys are `{names}`, `request.headers[name]`, `request.auth.claims[name]` and \
                     `experimental.envoy.filters.<filter>[key]`"
                )
            }
        },
    };
    UnknownKey { message, help }
}

fn names() -> impl Iterator<Item = &'static str> {
    PLAIN.iter().map(|(name, _)| *name).chain(CLAIMS.iter().map(|(name, _)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str) -> Result<Attribute, UnknownKey> {
        attribute(key, HeaderMode::Joined)
    }

    #[test]
    fn every_key_of_istio() {
        assert_eq!(read("source.ip"), Ok(Attribute::SourceIp));
        assert_eq!(read("request.auth.audiences"), Ok(Attribute::Claim("[aud]".into())));
        assert_eq!(read("request.auth.presenter"), Ok(Attribute::Claim("[azp]".into())));
        assert_eq!(read("request.auth.claims[a][b]"), Ok(Attribute::Claim("[a][b]".into())));
        assert_eq!(
            read("request.headers[X-Role]"),
            Ok(Attribute::Header { name: "x-role".into(), mode: HeaderMode::Joined })
        );
        assert_eq!(read("request.headers[Host]"), read("request.headers[:authority]"));
        assert_eq!(
            read("experimental.envoy.filters.a.b[c]"),
            Ok(Attribute::Metadata("envoy.filters.a.b[c]".into()))
        );
    }

    #[test]
    fn other_keys_say_what_to_write() {
        for (key, help) in [
            ("source.ipp", "did you mean `source.ip`?"),
            ("destination.labels[app]", "Istio took it away"),
            ("request.path", "write it under `to`"),
            ("request.headers", "write it like `request.headers[x-role]`"),
            ("request.headers[]", "write it like"),
            ("request.headers[a b]", "write it like"),
            ("request.auth.claims[]", "write it like"),
            ("request.auth.claims[a]b", "write it like"),
            ("experimental.envoy.filters.a", "write it like"),
            ("xyz", "the keys are"),
        ] {
            let refused = read(key).unwrap_err();
            assert!(refused.help.starts_with(help), "{key}: {refused:?}");
        }
    }
}

//! The same policies as Envoy's native RBAC filters, with the matchers that Istio writes and without its needless nesting
//! (which favours the native side): the peer that the filter is held against, for its answers and for its cost.
//!
//! Deliberately absent: what Istio cannot say (our segment patterns, header modes), and other filters' metadata.

use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, DefaultAction, HeaderMode, Match, Pattern, PluginConfig,
    Protocol, Rule,
};
use meshward_engine::request::TOKEN_SEPARATOR;
use serde_json::{Value, json};

/// Why a policy cannot be said in native RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported(pub &'static str);

/// The filters that stand for the configuration's enforced policies: DENY, then ALLOW or the default. For HTTP or for TCP,
/// as the configuration says.
pub fn filters(config: &PluginConfig) -> Result<Vec<Value>, Unsupported> {
    let of = |action| config.policies.iter().filter(move |policy| policy.action == action && !policy.dry_run);
    let mut filters = Vec::new();
    if of(Action::Deny).next().is_some() {
        filters.push(filter("DENY", config.protocol, of(Action::Deny))?);
    }
    if of(Action::Allow).next().is_some() || config.default_action == DefaultAction::Deny {
        filters.push(filter("ALLOW", config.protocol, of(Action::Allow))?);
    }
    Ok(filters)
}

fn filter<'a>(
    action: &str,
    protocol: Protocol,
    policies: impl Iterator<Item = &'a AuthorizationPolicy>,
) -> Result<Value, Unsupported> {
    let mut rules = serde_json::Map::new();
    for policy in policies {
        let (namespace, name) = policy.name.split_once('/').unwrap_or(("", &policy.name));
        for (number, rule) in policy.rules.iter().enumerate() {
            let rule = match protocol {
                Protocol::Http => rule.clone(),
                Protocol::Tcp => match of_tcp(policy.action, rule) {
                    Some(rule) => rule,
                    None => continue,
                },
            };
            rules.insert(format!("ns[{namespace}]-policy[{name}]-rule[{number}]"), native_rule(&rule)?);
        }
    }
    let rules = json!({ "action": action, "policies": rules });
    Ok(match protocol {
        Protocol::Http => json!({
            "name": format!("envoy.filters.http.rbac.{}", action.to_lowercase()),
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": rules,
            },
        }),
        Protocol::Tcp => json!({
            "name": format!("envoy.filters.network.rbac.{}", action.to_lowercase()),
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "native.",
                "rules": rules,
            },
        }),
    })
}

/// What is left of a rule where nothing is known of HTTP: none of an ALLOW rule about it, and of others the rest.
fn of_tcp(action: Action, rule: &Rule) -> Option<Rule> {
    let is_http = |one: &Match| one.attribute.is_http_only();
    let mut clauses = rule.from.iter().chain(&rule.to).chain([&rule.when]);
    if action == Action::Allow && clauses.any(|clause| clause.matches().iter().any(is_http)) {
        return None;
    }
    let rest =
        |clause: &Clause| Clause::new(clause.matches().iter().filter(|one| !is_http(one)).cloned().collect());
    Some(Rule {
        from: rule.from.iter().map(rest).collect(),
        to: rule.to.iter().map(rest).collect(),
        when: rest(&rule.when),
    })
}

fn native_rule(rule: &Rule) -> Result<Value, Unsupported> {
    let principals = [any_of(&rule.from, Side::Principal)?, all_of(&rule.when, Side::Principal)?];
    let permissions = [any_of(&rule.to, Side::Permission)?, all_of(&rule.when, Side::Permission)?];
    Ok(json!({
        "principals": [and(Side::Principal, principals.into_iter().flatten().collect())],
        "permissions": [and(Side::Permission, permissions.into_iter().flatten().collect())],
    }))
}

/// RBAC says the same things in two vocabularies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Principal,
    Permission,
}

impl Side {
    fn of(attribute: &Attribute) -> Self {
        match attribute {
            Attribute::Host
            | Attribute::Method
            | Attribute::Path
            | Attribute::DestinationIp
            | Attribute::DestinationPort
            | Attribute::Sni => Self::Permission,
            _ => Self::Principal,
        }
    }
}

/// All of these; with none, anything.
fn and(side: Side, mut parts: Vec<Value>) -> Value {
    match (parts.len(), side) {
        (0, _) => json!({ "any": true }),
        (1, _) => parts.remove(0),
        (_, Side::Principal) => json!({ "and_ids": { "ids": parts } }),
        (_, Side::Permission) => json!({ "and_rules": { "rules": parts } }),
    }
}

/// One of these. INVARIANT: there is one (no match of the engine is without patterns).
fn or(side: Side, mut parts: Vec<Value>) -> Value {
    match (parts.len(), side) {
        (1, _) => parts.remove(0),
        (_, Side::Principal) => json!({ "or_ids": { "ids": parts } }),
        (_, Side::Permission) => json!({ "or_rules": { "rules": parts } }),
    }
}

fn not(side: Side, part: Value) -> Value {
    match side {
        Side::Principal => json!({ "not_id": part }),
        Side::Permission => json!({ "not_rule": part }),
    }
}

/// One clause of `from` or `to` is enough; without any, anything is.
fn any_of(clauses: &[Clause], side: Side) -> Result<Option<Value>, Unsupported> {
    if clauses.is_empty() {
        return Ok(None);
    }
    let parts: Result<Vec<Value>, Unsupported> =
        clauses.iter().map(|clause| Ok(and(side, all_of(clause, side)?.into_iter().collect()))).collect();
    Ok(Some(or(side, parts?)))
}

/// The matches of a clause that belong to this side, all of which must hold.
fn all_of(clause: &Clause, side: Side) -> Result<Option<Value>, Unsupported> {
    let parts: Result<Vec<Value>, Unsupported> = clause
        .matches()
        .iter()
        .filter(|part| Side::of(&part.attribute) == side)
        .map(|part| native_match(part, side))
        .collect();
    let parts = parts?;
    Ok((!parts.is_empty()).then(|| and(side, parts)))
}

fn native_match(part: &Match, side: Side) -> Result<Value, Unsupported> {
    let values: Result<Vec<Value>, Unsupported> =
        part.patterns.iter().map(|pattern| native_pattern(&part.attribute, pattern)).collect();
    let values = or(side, values?);
    Ok(if part.negated { not(side, values) } else { values })
}

fn native_pattern(attribute: &Attribute, pattern: &Pattern) -> Result<Value, Unsupported> {
    Ok(match attribute {
        Attribute::Principal => peer(match pattern {
            Pattern::Any => regex(".+"),
            Pattern::Exact(text) => json!({ "exact": format!("spiffe://{text}") }),
            Pattern::Prefix(text) => json!({ "prefix": format!("spiffe://{text}") }),
            Pattern::Suffix(text) => regex(&format!("spiffe://.*{}", escape(text))),
            _ => return Err(Unsupported("principals by segment")),
        }),
        Attribute::Namespace => peer(regex(&format!(".*/ns/{}/.*", wildcard(pattern, ".*")?))),
        Attribute::TrustDomain => peer(regex(&format!("spiffe://{}/.*", wildcard(pattern, "[^/]*")?))),
        Attribute::ServiceAccount => match pattern {
            Pattern::ServiceAccount { namespace, name } => {
                peer(regex(&format!("spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?", escape(namespace), escape(name))))
            }
            _ => return Err(Unsupported("a service account that is none")),
        },
        Attribute::SourceIp => json!({ "direct_remote_ip": block(pattern)? }),
        Attribute::RemoteIp => json!({ "remote_ip": block(pattern)? }),
        Attribute::DestinationIp => json!({ "destination_ip": block(pattern)? }),
        Attribute::DestinationPort => match pattern {
            Pattern::Port(port) => json!({ "destination_port": port }),
            _ => return Err(Unsupported("a port that is none")),
        },
        Attribute::Host => header(":authority", pattern, true)?,
        Attribute::Method => header(":method", pattern, false)?,
        Attribute::Header { name, mode: HeaderMode::Any } => header(name, pattern, false)?,
        Attribute::Header { .. } => return Err(Unsupported("header modes")),
        Attribute::Path => match pattern {
            Pattern::Template(text) => json!({ "uri_template": {
                "name": "uri-template",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                    "path_template": text.replace("{**}", "**").replace("{*}", "*"),
                },
            }}),
            other => json!({ "url_path": { "path": string(other)? } }),
        },
        Attribute::Sni => json!({ "requested_server_name": string(pattern)? }),
        Attribute::RequestPrincipal => token_principal(pattern)?,
        Attribute::Claim(path) => {
            let value = json!({ "string_match": string(pattern)? });
            let one_of = json!({ "list_match": { "one_of": value } });
            claim(path, &json!({ "or_match": { "value_matchers": [one_of, value] } }))
        }
        Attribute::Metadata(_) => return Err(Unsupported("other filters' metadata")),
    })
}

/// `[a][b]` of the validated token.
fn claim(path: &str, value: &Value) -> Value {
    let names = path.trim_start_matches('[').trim_end_matches(']').split("][");
    let keys: Vec<Value> = ["payload"].into_iter().chain(names).map(|key| json!({ "key": key })).collect();
    json!({ "metadata": { "filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value } })
}

/// Issuer and subject apart, as Istio writes them.
fn token_principal(pattern: &Pattern) -> Result<Value, Unsupported> {
    let (issuer, subject) = match pattern {
        Pattern::Any => (Pattern::Any, Pattern::Any),
        Pattern::Exact(text) => match text.split_once(TOKEN_SEPARATOR) {
            Some((issuer, subject)) => (Pattern::Exact(issuer.into()), Pattern::Exact(subject.into())),
            None => return Err(Unsupported("an issuer with an empty subject, which Istio lets in")),
        },
        Pattern::Prefix(text) => match text.split_once(TOKEN_SEPARATOR) {
            Some((issuer, "")) => (Pattern::Exact(issuer.into()), Pattern::Any),
            Some((issuer, subject)) => (Pattern::Exact(issuer.into()), Pattern::Prefix(subject.into())),
            None => (pattern.clone(), Pattern::Any),
        },
        Pattern::Suffix(text) => match text.split_once(TOKEN_SEPARATOR) {
            Some(("", subject)) => (Pattern::Any, Pattern::Exact(subject.into())),
            Some((issuer, subject)) => (Pattern::Suffix(issuer.into()), Pattern::Exact(subject.into())),
            None => (Pattern::Any, pattern.clone()),
        },
        _ => return Err(Unsupported("a pattern that is no string")),
    };
    let is = |name, pattern| Ok(claim(name, &json!({ "string_match": string(pattern)? })));
    Ok(json!({ "and_ids": { "ids": [is("[iss]", &issuer)?, is("[sub]", &subject)?] } }))
}

fn peer(name: Value) -> Value {
    json!({ "authenticated": { "principal_name": name } })
}

fn header(name: &str, pattern: &Pattern, ignore_case: bool) -> Result<Value, Unsupported> {
    if *pattern == Pattern::Any {
        return Ok(json!({ "header": { "name": name, "present_match": true } }));
    }
    let mut matcher = string(pattern)?;
    if let (true, Some(object)) = (ignore_case, matcher.as_object_mut()) {
        object.insert("ignore_case".into(), true.into());
    }
    Ok(json!({ "header": { "name": name, "string_match": matcher } }))
}

/// A StringMatcher.
fn string(pattern: &Pattern) -> Result<Value, Unsupported> {
    Ok(match pattern {
        Pattern::Any => regex(".+"),
        Pattern::Exact(text) => json!({ "exact": text }),
        Pattern::Prefix(text) => json!({ "prefix": text }),
        Pattern::Suffix(text) => json!({ "suffix": text }),
        _ => return Err(Unsupported("a pattern that is no string")),
    })
}

fn regex(expression: &str) -> Value {
    json!({ "safe_regex": { "regex": expression } })
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, letter| {
        if !letter.is_ascii_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(letter);
        escaped
    })
}

/// A pattern inside an expression, where `*` is `any`.
fn wildcard(pattern: &Pattern, any: &str) -> Result<String, Unsupported> {
    Ok(match pattern {
        Pattern::Any => any.to_owned(),
        Pattern::Exact(text) => escape(text),
        Pattern::Prefix(text) => format!("{}{any}", escape(text)),
        Pattern::Suffix(text) => format!("{any}{}", escape(text)),
        Pattern::Glob(text) => text.split('*').map(escape).collect::<Vec<_>>().join(any),
        _ => return Err(Unsupported("a pattern that is no glob")),
    })
}

fn block(pattern: &Pattern) -> Result<Value, Unsupported> {
    match pattern {
        Pattern::Cidr { address, prefix } => {
            Ok(json!({ "address_prefix": address.to_string(), "prefix_len": prefix }))
        }
        _ => Err(Unsupported("an address that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshward_engine::config::{Role, TrustDomain};

    #[test]
    fn a_rule_is_written_as_istio_writes_it() {
        let parse = |attribute: Attribute, text| Match {
            patterns: vec![Pattern::parse(&attribute, text, "web").unwrap()],
            attribute,
            negated: false,
        };
        let domain = TrustDomain::parse("td").unwrap();
        let mut config = PluginConfig::deny_all("web/api", Role::Inbound, Protocol::Http, domain);
        config.policies.push(AuthorizationPolicy {
            name: "web/read".into(),
            action: Action::Allow,
            dry_run: false,
            rules: vec![Rule {
                from: vec![Clause::new(vec![parse(Attribute::Principal, "td/ns/web/sa/shop")])],
                to: vec![Clause::new(vec![
                    parse(Attribute::Method, "GET"),
                    parse(Attribute::Path, "/books*"),
                ])],
                when: Clause::always(),
            }],
            deny_response: None,
        });
        let filters = filters(&config).unwrap();
        assert_eq!(filters.len(), 1);
        let rule = filters[0].pointer("/typed_config/rules/policies/ns[web]-policy[read]-rule[0]").unwrap();
        assert_eq!(
            rule.pointer("/principals/0").unwrap(),
            &json!({ "authenticated": { "principal_name": { "exact": "spiffe://td/ns/web/sa/shop" } } })
        );
        let text = rule.pointer("/permissions").unwrap().to_string();
        assert!(text.contains(r#"{"name":":method","string_match":{"exact":"GET"}}"#), "{text}");
        assert!(text.contains(r#"{"url_path":{"path":{"prefix":"/books"}}}"#), "{text}");
    }
}

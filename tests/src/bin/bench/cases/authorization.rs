//! Authorization: native RBAC in both of its forms, and ours, from one policy to ten thousand.

use anyhow::anyhow;
use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, Match, Pattern, PluginConfig, Protocol, Role, Rule,
    TrustDomain,
};
use meshward_tests::native_rbac;
use serde_json::{Value, json};

use super::{CALLER, Case, Modules, guarded, wasm};

/// What the rules of a case compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One policy per caller, one exact principal each.
    Exact,
    /// Three rules per policy: principals exact and by prefix, methods, paths exact, by prefix and by template.
    Mixed,
}

const KINDS: [(Kind, &str); 2] = [(Kind::Exact, "exact"), (Kind::Mixed, "mixed")];
const COUNTS: [usize; 4] = [1, 100, 1_000, 10_000];

/// Every kind and number of policies, native and ours.
pub fn cases(modules: &Modules) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (kind, kind_name) in KINDS {
        for count in COUNTS {
            let config = config(kind, count)?;
            let slow = count > 1_000;
            let native = native_rbac::filters(&config).map_err(|why| anyhow!("{why:?}"))?;
            let native = Case::new(format!("native RBAC `policies`, {count} {kind_name}"), native);
            let matcher = vec![matcher(kind, &config)];
            let matcher = Case::new(format!("native RBAC `matcher`, {count} {kind_name}"), matcher);
            cases.extend([native.slow(slow), matcher.slow(slow)]);
            let bytes = config.encode()?;
            let ours = guarded(&modules.ours, &bytes)?;
            cases.push(Case::new(format!("Meshward with its guard, {count} {kind_name}"), ours));
            if count == 1 {
                let ours = vec![wasm(&modules.ours, "bare", &bytes)?];
                cases.push(Case::new(format!("Meshward without the guard, {count} {kind_name}"), ours));
                for (number, other) in modules.others.iter().enumerate() {
                    let others = vec![wasm(other, &format!("other-{number}"), &bytes)?];
                    let name = format!("{} without the guard, {count} {kind_name}", other.display());
                    cases.push(Case::new(name, others));
                }
            }
        }
    }
    Ok(cases)
}

pub fn config(kind: Kind, count: usize) -> anyhow::Result<PluginConfig> {
    let domain = TrustDomain::parse("mesh.local")?;
    let mut config = PluginConfig::deny_all("shop/server", Role::Inbound, Protocol::Http, domain);
    config.policies =
        (0..count).map(|number| policy(kind, number, number + 1 == count)).collect::<Result<_, _>>()?;
    Ok(config)
}

fn policy(kind: Kind, number: usize, last: bool) -> anyhow::Result<AuthorizationPolicy> {
    let rules = match (kind, last) {
        (Kind::Exact, true) => vec![rule(CALLER, &[], "")?],
        (Kind::Exact, false) => vec![rule(&format!("mesh.local/ns/shop/sa/caller-{number}"), &[], "")?],
        (Kind::Mixed, _) => vec![
            rule(
                &format!("mesh.local/ns/team-{number}/sa/a"),
                &["GET", "HEAD"],
                &format!("/api/{{*}}/resource-{number}/{{**}}"),
            )?,
            rule(
                &format!("mesh.local/ns/team-{number}/*"),
                &["POST", "PUT"],
                &format!("/resource-{number}/*"),
            )?,
            if last {
                rule(CALLER, &["GET"], "/books/{*}")?
            } else {
                rule(&format!("mesh.local/ns/other/sa/b-{number}"), &["GET"], &format!("/one-{number}"))?
            },
        ],
    };
    Ok(AuthorizationPolicy {
        // Envoy asks policies in the order of their names: the caller's is the last.
        name: format!("shop/p{number:05}").as_str().into(),
        action: Action::Allow,
        dry_run: false,
        rules,
        deny_response: None,
    })
}

fn rule(principal: &str, methods: &[&str], path: &str) -> anyhow::Result<Rule> {
    let is = |attribute: Attribute, texts: &[&str]| {
        let patterns: Result<Vec<_>, _> =
            texts.iter().map(|text| Pattern::parse(&attribute, text, "shop")).collect();
        patterns
            .map(|patterns| Match { attribute: attribute.clone(), negated: false, patterns })
            .map_err(|why| anyhow!("{why:?}"))
    };
    let mut to = Vec::new();
    if !methods.is_empty() {
        to.push(is(Attribute::Method, methods)?);
    }
    if !path.is_empty() {
        to.push(is(Attribute::Path, &[path])?);
    }
    let to = if to.is_empty() { Vec::new() } else { vec![Clause::new(to)] };
    Ok(Rule {
        from: vec![Clause::new(vec![is(Attribute::Principal, &[principal])?])],
        to,
        when: Clause::always(),
    })
}

/// The same rules for RBAC's `matcher`: exact principals as a map, the best that it can do; else predicates.
fn matcher(kind: Kind, config: &PluginConfig) -> Value {
    let allow = json!({ "action": {
        "name": "allow",
        "typed_config": { "@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": "allow", "action": "ALLOW" },
    } });
    let rules = config.policies.iter().flat_map(|policy| &policy.rules);
    let mut tree = match kind {
        Kind::Exact => {
            let map: serde_json::Map<String, Value> =
                rules.map(|rule| (format!("spiffe://{}", principal(rule)), allow.clone())).collect();
            json!({ "matcher_tree": { "input": uri_san(), "exact_match_map": { "map": map } } })
        }
        Kind::Mixed => {
            let matchers: Vec<Value> = rules
                .map(|rule| json!({ "predicate": { "and_matcher": { "predicate": predicates(rule) } }, "on_match": allow }))
                .collect();
            json!({ "matcher_list": { "matchers": matchers } })
        }
    };
    if let Some(tree) = tree.as_object_mut() {
        let deny = json!({ "action": {
            "name": "deny",
            "typed_config": { "@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": "deny", "action": "DENY" },
        } });
        tree.insert("on_no_match".into(), deny);
    }
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "matcher": tree },
    })
}

fn uri_san() -> Value {
    json!({
        "name": "uri_san",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput" },
    })
}

fn header(name: &str) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": name,
        },
    })
}

fn matches(rule: &Rule) -> impl Iterator<Item = &Match> {
    rule.from.iter().chain(&rule.to).flat_map(|clause| clause.matches())
}

fn principal(rule: &Rule) -> String {
    let of = matches(rule).find(|one| one.attribute == Attribute::Principal);
    match of.and_then(|one| one.patterns.first()) {
        Some(Pattern::Exact(text) | Pattern::Prefix(text)) => text.to_string(),
        _ => String::new(),
    }
}

fn predicates(rule: &Rule) -> Vec<Value> {
    let string = |input: Value, pattern: &Pattern, scheme: &str| {
        let value = match pattern {
            Pattern::Prefix(text) => json!({ "prefix": format!("{scheme}{text}") }),
            Pattern::Template(text) => {
                let text = text.replace("{**}", ".*").replace("{*}", "[^/]+");
                json!({ "safe_regex": { "google_re2": {}, "regex": format!("^{text}(?:\\?.*)?$") } })
            }
            Pattern::Exact(text) => json!({ "exact": format!("{scheme}{text}") }),
            _ => json!({ "prefix": "" }),
        };
        json!({ "single_predicate": { "input": input, "value_match": value } })
    };
    let one = |one: &Match| {
        let input = match one.attribute {
            Attribute::Principal => uri_san(),
            Attribute::Method => header(":method"),
            _ => header(":path"),
        };
        let scheme = if one.attribute == Attribute::Principal { "spiffe://" } else { "" };
        let mut any: Vec<Value> =
            one.patterns.iter().map(|pattern| string(input.clone(), pattern, scheme)).collect();
        match any.len() {
            1 => any.remove(0),
            _ => json!({ "or_matcher": { "predicate": any } }),
        }
    };
    matches(rule).map(one).collect()
}

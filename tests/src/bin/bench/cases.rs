//! What is measured: the HTTP filters of each listener.

use std::path::Path;

use anyhow::anyhow;
use meshward_builder::envoy::filter::{self, Layer};
use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, Match, Pattern, PluginConfig, Protocol, Role, Rule,
    TrustDomain,
};
use meshward_tests::{native_rbac, tools};
use serde_json::{Value, json};

/// Who calls; the last rule of the last policy lets it, no other does.
pub const CALLER: &str = "mesh.local/ns/shop/sa/web";
/// What it calls.
pub const PATH: &str = "/books/42";

/// One listener.
pub struct Case {
    pub name: String,
    pub filters: Vec<Value>,
    /// Costs milliseconds a request.
    pub slow: bool,
}

/// What the rules of a case compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One policy per caller, one exact principal each.
    Exact,
    /// Three rules per policy: principals exact and by prefix, methods, paths exact, by prefix and by template.
    Mixed,
}

const KINDS: [(Kind, &str); 2] = [(Kind::Exact, "exact"), (Kind::Mixed, "mixed")];
const COUNTS: [usize; 4] = [1, 100, 1_000, 10_000];

/// All cases; the first has no filter.
pub fn all(folder: &Path) -> anyhow::Result<Vec<Case>> {
    let module = tools::filter()?;
    let noop = folder.join("noop.wasm");
    std::fs::write(&noop, wat::parse_str(NOOP)?)?;
    let case = |name: &str, filters| Case { name: name.to_owned(), filters, slow: false };
    let mut cases = vec![case("no filter", vec![]), case("no filter again (noise)", vec![])];
    cases.push(case("wasm that does nothing", vec![wasm(&noop, "noop", b"")?]));
    for (kind, kind_name) in KINDS {
        for count in COUNTS {
            let config = config(kind, count)?;
            let native = native_rbac::filters(&config).map_err(|why| anyhow!("{why:?}"))?;
            let slow = count > 1_000;
            cases.push(Case {
                name: format!("native RBAC `policies`, {count} {kind_name}"),
                filters: native,
                slow,
            });
            let matcher = vec![matcher(kind, &config)];
            cases.push(Case {
                name: format!("native RBAC `matcher`, {count} {kind_name}"),
                filters: matcher,
                slow,
            });
            let bytes = config.encode()?;
            let ours = wasm(&module, filter::NAME, &bytes)?;
            let guarded = vec![ours.clone(), serde_json::to_value(filter::guard(Layer::Http))?];
            cases.push(case(&format!("Meshward with its guard, {count} {kind_name}"), guarded));
            if count == 1 {
                cases.push(case(&format!("Meshward without the guard, {count} {kind_name}"), vec![ours]));
            }
        }
    }
    Ok(cases)
}

/// A wasm filter. Each case has a VM of its own, so that none profits from another's caches.
fn wasm(module: &Path, name: &str, configuration: &[u8]) -> anyhow::Result<Value> {
    let mut config =
        serde_json::to_value(filter::wasm(Layer::Http, &module.to_string_lossy(), configuration))?;
    if let Some(plugin) = config.get_mut("config") {
        let id = format!("{name}-{}", configuration.len());
        if let Some(vm) = plugin.get_mut("vm_config").and_then(Value::as_object_mut) {
            vm.insert("vm_id".into(), id.into());
        }
    }
    Ok(json!({ "name": name, "typed_config": config }))
}

fn config(kind: Kind, count: usize) -> anyhow::Result<PluginConfig> {
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

/// The least that a wasm filter can be: called for the request's headers, it continues.
const NOOP: &str = r#"(module
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (i32.and (i32.add (local.get $size) (i32.const 15)) (i32.const -16)))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))"#;

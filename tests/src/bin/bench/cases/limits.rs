//! Rate limits: Envoy's own local ones and ours, alone and behind authorization, for one bucket and for many.

use anyhow::anyhow;
use meshward_engine::config::{DefaultAction, LimitsConfig, PluginConfig, Protocol, Role, Text, TrustDomain};
use meshward_engine::limits::config::{HeaderMode, KeyPart, RateAnswer, RateLimit, Scope, Stage, Window};
use meshward_tests::native_rbac;
use serde_json::{Value, json};

use super::authorization::{self, Kind};
use super::{CALLER, Case, Modules, guarded};

/// What tells native buckets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The caller's identity, which takes an expression of CEL.
    Identity,
    /// The header `x-key`.
    Header,
}

pub fn cases(modules: &Modules) -> anyhow::Result<Vec<Case>> {
    let identity = vec![KeyPart::Identity];
    let with_key = vec![KeyPart::Identity, KeyPart::Header(Text::from("x-key"))];
    let mut cases = vec![Case::new("native local_ratelimit, 1 bucket", vec![native(&[])])];
    for count in [100, 1_000] {
        let name = format!("native local_ratelimit, {count} descriptors of identities");
        cases.push(Case::new(name, vec![native(&descriptors(By::Identity, count))]));
        let name = format!("native local_ratelimit, {count} descriptors of a header");
        cases.push(Case::new(name, vec![native(&descriptors(By::Header, count))]).keys(count));
    }
    for (name, key, keys) in [
        ("1 bucket", vec![], 1),
        ("a bucket per identity", identity.clone(), 1),
        ("a bucket per identity and header, 10,000 of them", with_key.clone(), 10_000),
    ] {
        let mut config = open()?;
        config.limits = limits(key);
        let filters = guarded(&modules.ours, &config.encode()?)?;
        cases.push(Case::new(format!("Meshward, limit alone: {name}"), filters).keys(keys));
    }
    for count in [1, 100, 1_000] {
        let config = authorization::config(Kind::Exact, count)?;
        let mut filters = native_rbac::filters(&config).map_err(|why| anyhow!("{why:?}"))?;
        let (buckets, name) = match count {
            1 => (vec![], "1 bucket".to_owned()),
            _ => (descriptors(By::Identity, count), format!("{count} descriptors of identities")),
        };
        filters.push(native(&buckets));
        cases.push(Case::new(format!("native RBAC, {count} exact, and local_ratelimit, {name}"), filters));
    }
    for (kind, count, name, key, keys) in [
        (Kind::Exact, 1, "1 bucket", vec![], 1),
        (Kind::Exact, 1, "a bucket per identity", identity.clone(), 1),
        (Kind::Exact, 100, "a bucket per identity", identity.clone(), 1),
        (Kind::Exact, 1_000, "a bucket per identity", identity, 1),
        (Kind::Mixed, 10_000, "10,000 buckets", with_key, 10_000),
    ] {
        let mut config = authorization::config(kind, count)?;
        config.limits = limits(key);
        let kind = if kind == Kind::Exact { "exact" } else { "mixed" };
        let bytes = config.encode()?;
        let name = format!("Meshward, {count} {kind}, and limit: {name}");
        cases.push(Case::new(name.clone(), guarded(&modules.ours, &bytes)?).keys(keys));
        for other in &modules.others {
            let name = format!("{name}: {}", other.display());
            cases.push(Case::new(name, guarded(other, &bytes)?).keys(keys));
        }
    }
    Ok(cases)
}

/// Everybody may call.
fn open() -> anyhow::Result<PluginConfig> {
    let domain = TrustDomain::parse("mesh.local")?;
    let mut config = PluginConfig::deny_all("shop/server", Role::Inbound, Protocol::Http, domain);
    config.default_action = DefaultAction::Allow;
    Ok(config)
}

/// One limit that never refuses here.
pub fn limits(key: Vec<KeyPart>) -> LimitsConfig {
    let window = Window { name: "0".into(), requests: 1_000_000, period: 1_000_000_000, burst: 1_000_000 };
    let limit = RateLimit {
        name: "shop/limit/0".into(),
        selector: None,
        stage: Stage::AfterAuthorization,
        scope: Scope::Sidecar,
        key,
        windows: vec![window],
        overrides: vec![],
        cost: 1,
        shadow: false,
        answer: RateAnswer { status: 429, headers: HeaderMode::Refused, problem: false },
    };
    LimitsConfig { rates: vec![limit], ..LimitsConfig::NONE }
}

/// The bucket of the requests here comes last.
fn descriptors(by: By, count: usize) -> Vec<Value> {
    let value = |number: usize| match by {
        By::Identity if number + 1 == count => format!("spiffe://{CALLER}"),
        By::Identity => format!("spiffe://mesh.local/ns/shop/sa/caller-{number}"),
        By::Header => format!("k{number:05}"),
    };
    let key = key(by);
    let one =
        |number| json!({ "entries": [{ "key": key, "value": value(number) }], "token_bucket": bucket() });
    (0..count).map(one).collect()
}

fn key(by: By) -> &'static str {
    if by == By::Identity { "peer" } else { "key" }
}

fn bucket() -> Value {
    json!({ "max_tokens": 100_000_000, "tokens_per_fill": 100_000_000, "fill_interval": "1s" })
}

/// `envoy.filters.http.local_ratelimit`; without descriptors one bucket for all.
pub fn native(descriptors: &[Value]) -> Value {
    let all = json!({ "default_value": { "numerator": 100 } });
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit",
        "token_bucket": bucket(),
        "filter_enabled": all,
        "filter_enforced": all,
    });
    let first = descriptors.first().and_then(|one| one.pointer("/entries/0/key")?.as_str());
    if let (Some(first), Some(config)) = (first, config.as_object_mut()) {
        let action = if first == key(By::Identity) {
            json!({ "extension": {
                "name": "envoy.rate_limit_descriptors.expr",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor",
                    "descriptor_key": first,
                    "text": "connection.uri_san_peer_certificate",
                },
            } })
        } else {
            json!({ "request_headers": { "header_name": "x-key", "descriptor_key": first } })
        };
        config.insert("rate_limits".into(), json!([{ "actions": [action] }]));
        config.insert("descriptors".into(), descriptors.into());
    }
    json!({ "name": "envoy.filters.http.local_ratelimit", "typed_config": config })
}

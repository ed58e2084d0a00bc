//! One admin interface, asked: statistics, certificates, and the filter's configuration as Envoy has it in force.
//!
//! The configuration is decoded with the engine's own code, so that breakers and limits are listed that no request has
//! touched yet. One of another version is named by its module alone.

use std::collections::BTreeSet;

use base64::Engine as _;
use jiff::Timestamp;
use meshward_engine::config::{PluginConfig, Role};
use meshward_engine::stats as names;
use serde_json::Value;

use super::stats::{Series, Stats};
use super::{Admin, Breaker, Certificate, Filter, Limit, State, Workload};
use crate::envoy::filter::NAME;

/// Which statistics are asked for, as a regular expression.
const WANTED: &str = r"^wasmcustom\.meshward_|inbound_plaintext\.downstream_(rq|cx)_total$|^extension_config_discovery\..*\.meshward\.update_rejected$|^wasm\.meshward\.vm_reload$|rbac\.meshward_guard\.denied$";
/// What is accepted without TLS is counted apart: requests, connections.
const PLAINTEXT: [&str; 2] =
    ["http.inbound_plaintext.downstream_rq_total", "tcp.inbound_plaintext.downstream_cx_total"];

/// Asks an admin interface. `name`: what the workload is called as long as its configuration does not say; `at`: where.
pub fn workload(admin: &dyn Admin, name: &str, at: &str, now: Timestamp) -> Workload {
    let info = admin.get("/server_info").and_then(|text| json(&text));
    let info = match info {
        Ok(info) => info,
        Err(why) => return Workload::down(name, at, why),
    };
    let text = |pointer: &str| info.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let mut found = Workload {
        state: text("/state").map_or_else(|| "unknown".to_owned(), |state| state.to_lowercase()),
        problem: None,
        // `revision/version/state/type/ssl`.
        envoy: text("/version").and_then(|version| version.split('/').nth(1).map(str::to_owned)),
        uptime_seconds: text("/uptime_current_epoch")
            .and_then(|text| text.trim_end_matches('s').parse().ok()),
        ..Workload::down(name, at, String::new())
    };
    let mut problems = Vec::new();
    let mut note = |what: &str, why: String| problems.push(format!("{what}: {why}"));
    match admin.get("/certs").and_then(|text| json(&text)) {
        Ok(answer) => found.certificates = certificates(&answer, now),
        Err(why) => note("certificates", why),
    }
    let mut configurations = Vec::new();
    match in_force(admin) {
        Ok(all) => {
            for (filter, config) in all {
                found.filters.push(filter);
                configurations.extend(config);
            }
            if found.filters.is_empty() {
                note("filter", "no configuration is in force, so everything is refused".to_owned());
            }
        }
        Err(why) => note("filter", why),
    }
    if let Some(config) = configurations.first() {
        found.workload = config.workload.to_string();
    }
    match admin.get(&format!("/stats?filter={}", escaped(WANTED))) {
        Ok(text) => counted(&Stats::parse(&text), &configurations, &mut found),
        Err(why) => note("statistics", why),
    }
    if !problems.is_empty() {
        found.problem = Some(problems.join("; "));
    }
    found
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("the answer is no JSON: {error}"))
}

/// For a query: Envoy decodes it.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The filter's configurations: those that are discovered, else those that stand in the listeners (`meshward patch`).
fn in_force(admin: &dyn Admin) -> Result<Vec<(Filter, Option<PluginConfig>)>, String> {
    let mut found = Vec::new();
    for resource in ["ecds_filters", "static_listeners", "dynamic_listeners"] {
        let dump = json(&admin.get(&format!("/config_dump?resource={resource}"))?)?;
        for part in dump.pointer("/configs").and_then(Value::as_array).into_iter().flatten() {
            let since =
                part.get("last_updated").and_then(Value::as_str).filter(|_| resource == "ecds_filters");
            wasm(part, since, &mut found);
        }
        if !found.is_empty() {
            break;
        }
    }
    // The same filter stands in several chains.
    let mut seen = BTreeSet::new();
    found.retain(|(filter, _): &(Filter, _)| {
        seen.insert((filter.role, filter.revision.clone(), filter.module.clone()))
    });
    found.sort_by_key(|(filter, _)| filter.role);
    Ok(found)
}

/// Looks for our filter anywhere below, but where it is what stands in until there is a configuration.
fn wasm(value: &Value, since: Option<&str>, found: &mut Vec<(Filter, Option<PluginConfig>)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| wasm(item, since, found)),
        Value::Object(fields) => {
            let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
            let is_wasm = text("/@type").is_some_and(|kind| kind.ends_with(".wasm.v3.Wasm"));
            if is_wasm && text("/config/name") == Some(NAME) {
                let module = text("/config/vm_config/code/local/filename").unwrap_or_default();
                let module = module.rsplit('/').next().unwrap_or_default().to_owned();
                let bytes = text("/config/configuration/value")
                    .and_then(|value| base64::engine::general_purpose::STANDARD.decode(value).ok());
                let config = bytes.and_then(|bytes| PluginConfig::decode(&bytes).ok());
                let filter = Filter {
                    role: config.as_ref().map(|config| role(config.role)),
                    revision: config.as_ref().map(|config| config.revision.to_string()),
                    module,
                    since: since.map(str::to_owned),
                };
                found.push((filter, config));
                return;
            }
            fields
                .iter()
                .filter(|(key, _)| *key != "default_config")
                .for_each(|(_, value)| wasm(value, since, found));
        }
        _ => {}
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Inbound => "inbound",
        Role::Outbound => "outbound",
    }
}

/// Each certificate once; those of the workload first.
fn certificates(answer: &Value, now: Timestamp) -> Vec<Certificate> {
    let mut found: Vec<Certificate> = Vec::new();
    for (list, authority) in [("cert_chain", false), ("ca_cert", true)] {
        let all = answer.pointer("/certificates").and_then(Value::as_array).into_iter().flatten();
        let all = all.flat_map(|one| one.get(list).and_then(Value::as_array).into_iter().flatten());
        for one in all {
            let Some(expires) = one.get("expiration_time").and_then(Value::as_str) else { continue };
            let Ok(end) = expires.parse::<Timestamp>() else { continue };
            let names = one.get("subject_alt_names").and_then(Value::as_array).into_iter().flatten();
            let name = |name: &Value| name.as_object()?.values().next()?.as_str().map(str::to_owned);
            let certificate = Certificate {
                names: names.filter_map(name).collect(),
                authority,
                expires: expires.to_owned(),
                seconds_left: end.as_second() - now.as_second(),
            };
            if !found.contains(&certificate) {
                found.push(certificate);
            }
        }
    }
    found
}

/// A name as it is in a statistic.
fn as_label(name: &str) -> String {
    name.replace('.', "_")
}

fn counted(stats: &Stats, configurations: &[PluginConfig], found: &mut Workload) {
    found.updates_refused = stats.sum(".update_rejected").unwrap_or(0);
    found.vm_reloads = stats.get("wasm.meshward.vm_reload").unwrap_or(0);
    found.guard_refused = stats.sum("rbac.meshward_guard.denied").unwrap_or(0);
    let plaintext: Vec<u64> = PLAINTEXT.iter().filter_map(|name| stats.get(name)).collect();
    found.plaintext = (!plaintext.is_empty()).then(|| plaintext.iter().sum());
    let limits = || configurations.iter().map(|config| &config.limits);
    let breakers = limits().flat_map(|limits| &limits.breakers).map(|one| one.name.to_string());
    found.breakers = breakers.map(|name| breaker(stats, name)).collect();
    for limits in limits() {
        for limit in &limits.rates {
            found.limits.push(limit_of(stats, &limit.name, "rate", names::RATE_LIMITS));
        }
        for limit in &limits.concurrency {
            found.limits.push(limit_of(stats, &limit.name, "concurrency", names::CONCURRENCY));
        }
    }
}

fn total(stats: &Stats, base: &str, policy: &str, verdict: Option<&str>) -> u64 {
    let wanted = |one: &Series<'_>| {
        one.is("policy", policy) && verdict.is_none_or(|verdict| one.is("verdict", verdict))
    };
    stats.series(base).iter().filter(|one| wanted(one)).map(|one| one.value).sum()
}

fn limit_of(stats: &Stats, name: &str, kind: &'static str, base: &str) -> Limit {
    let policy = as_label(name);
    let saturation = stats.series(names::SATURATION).into_iter().find(|one| one.is("policy", &policy));
    let count = |verdict| total(stats, base, &policy, Some(verdict));
    Limit {
        limit: name.to_owned(),
        kind,
        saturation_percent: saturation.filter(|_| kind == "rate").map(|one| one.value),
        allowed: count("allow"),
        refused: count("deny"),
        shadow_refused: count("shadow_deny"),
    }
}

fn breaker(stats: &Stats, name: String) -> Breaker {
    let policy = as_label(&name);
    let of_it = |base| stats.series(base).into_iter().filter(|one| one.is("policy", &policy));
    let (gauges, changes): (Vec<_>, Vec<_>) =
        (of_it(names::BREAKER_STATES).collect(), of_it(names::BREAKER_CHANGED).collect());
    let destinations: BTreeSet<Option<&str>> =
        gauges.iter().chain(&changes).map(|one| one.label("destination")).collect();
    let state = |destination: Option<&str>| {
        let here = |one: &&Series<'_>| one.label("destination") == destination;
        let count = |result| {
            gauges.iter().filter(here).filter(|one| one.is("result", result)).map(|one| one.value).sum()
        };
        let (open, half_open): (u64, u64) = (count("open"), count("half_open"));
        let state = match (open, half_open) {
            (0, 0) => "closed",
            (0, _) => "half_open",
            _ => "open",
        };
        // Of several changes in one second the last is the one to the state that it has.
        let last = changes.iter().filter(here).max_by_key(|one| (one.value, one.is("result", state)));
        State {
            destination: destination.map(str::to_owned),
            state,
            open,
            half_open,
            since: last.and_then(|one| when_of(one.value)),
            reason: last.and_then(|one| one.label("reason")).map(str::to_owned),
        }
    };
    let mut states: Vec<State> = destinations.into_iter().map(state).collect();
    if states.is_empty() {
        let closed =
            State { destination: None, state: "closed", open: 0, half_open: 0, since: None, reason: None };
        states.push(closed);
    }
    Breaker {
        states,
        refused: total(stats, names::BREAKERS, &policy, Some("deny")),
        shadow_refused: total(stats, names::BREAKERS, &policy, Some("shadow_deny")),
        untracked: total(stats, names::BREAKER_UNTRACKED, &policy, None),
        breaker: name,
    }
}

fn when_of(seconds: u64) -> Option<String> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(|time| time.to_string())
}

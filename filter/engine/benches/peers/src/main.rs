//! The same policies in Meshward's engine, Cedar, Casbin and Regorus: `cargo run --release` in this folder.
//!
//! What each can say: exact principals, methods and paths all four can. Of the mixed policies Cedar says prefixes,
//! suffixes and templates with `like`, whose `*` also matches `/`; Casbin and Regorus are asked for the exact ones only.
//! Regorus is asked twice: with a list of rules, as policies are written, and with the rules under their principal, as
//! one would lay out the data for speed.

#[path = "../../workload/mod.rs"]
mod workload;

use std::hint::black_box;
use std::time::{Duration, Instant};

use casbin::{CoreApi, MgmtApi};
use cedar_policy::{Authorizer, Context, Entities, EntityUid, PolicySet, Request};
use meshward_engine::policy::Policy;
use serde_json::json;
use workload::{Call, Kind, RULES, calls, config, denies, rule_texts};

/// Longest that one engine is measured with one set of policies.
const BUDGET: Duration = Duration::from_secs(5);

fn main() {
    println!("{:<6} {:>8}  {:<22} {:>12}  {:>8}", "kind", "policies", "engine", "median ns", "allowed");
    for kind in [Kind::Exact, Kind::Mixed] {
        for policies in [1, 100, 1_000, 10_000] {
            let calls = calls(kind, policies, 1_000);
            let report = |engine: &str, decide: &mut dyn FnMut(&Call) -> bool| {
                let (median, allowed) = measure(&calls, decide);
                let kind = format!("{kind:?}").to_lowercase();
                println!("{kind:<6} {policies:>8}  {engine:<22} {median:>12}  {allowed:>7.0}%");
            };
            meshward(kind, policies, &report);
            cedar(kind, policies, &report);
            if kind == Kind::Exact {
                casbin(kind, policies, &report);
                regorus(policies, true, &report);
                regorus(policies, false, &report);
            }
        }
    }
}

type Report<'r> = dyn Fn(&str, &mut dyn FnMut(&Call) -> bool) + 'r;

/// Median nanoseconds of a decision, and how many calls in a hundred were allowed.
fn measure(calls: &[Call], decide: &mut dyn FnMut(&Call) -> bool) -> (u128, f64) {
    let (mut times, mut allowed) = (Vec::new(), 0);
    let start = Instant::now();
    // The first round warms up.
    for round in 0..20 {
        for call in calls {
            let before = Instant::now();
            let answer = black_box(decide(black_box(call)));
            let time = before.elapsed().as_nanos();
            if round > 0 || start.elapsed() > BUDGET / 2 {
                times.push(time);
                allowed += usize::from(answer);
            }
            if start.elapsed() > BUDGET && !times.is_empty() {
                return (median(&mut times), allowed as f64 / times.len() as f64 * 100.0);
            }
        }
    }
    (median(&mut times), allowed as f64 / times.len() as f64 * 100.0)
}

fn median(times: &mut [u128]) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}

fn meshward(kind: Kind, policies: usize, report: &Report) {
    let policy = Policy::compile(&config(kind, policies)).unwrap();
    report("meshward", &mut |call| policy.decide(&call.request()).is_allowed());
}

fn cedar(kind: Kind, policies: usize, report: &Report) {
    let mut text = String::new();
    for policy in 0..policies {
        for rule in 0..RULES {
            let texts = rule_texts(kind, policy, rule);
            let effect = if denies(kind, policy) { "forbid" } else { "permit" };
            let like = |text: &str| text.replace("{**}", "*").replace("{*}", "*").replace("spiffe://", "");
            let methods =
                texts.methods.iter().map(|method| format!("Action::\"{method}\"")).collect::<Vec<_>>();
            let (principal, rest) = if texts.principal.0.contains('*') {
                (
                    "principal".to_owned(),
                    format!("context.principal like \"{}\" && ", like(&texts.principal.0)),
                )
            } else {
                (format!("principal == Service::\"{}\"", texts.principal.0), String::new())
            };
            text.push_str(&format!(
                "{effect}({principal}, action in [{}], resource) when {{ {rest}context.path like \"{}\" }};\n",
                methods.join(", "),
                like(&texts.path.0)
            ));
        }
    }
    let set: PolicySet = text.parse().unwrap();
    let (authorizer, entities) = (Authorizer::new(), Entities::empty());
    let resource: EntityUid = "Workload::\"shop/api\"".parse().unwrap();
    report("cedar-policy", &mut |call| {
        let principal = call.id.trim_start_matches("spiffe://");
        let uid = |kind: &str, name: &str| {
            EntityUid::from_type_name_and_id(kind.parse().unwrap(), name.parse().unwrap())
        };
        let context =
            Context::from_json_value(json!({"principal": principal, "path": call.path}), None).unwrap();
        let request = Request::new(
            uid("Service", principal),
            uid("Action", call.method),
            resource.clone(),
            context,
            None,
        )
        .unwrap();
        authorizer.is_authorized(&request, &set, &entities).decision() == cedar_policy::Decision::Allow
    });
}

fn casbin(kind: Kind, policies: usize, report: &Report) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let model = "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n\
                 [policy_effect]\ne = some(where (p.eft == allow))\n\
                 [matchers]\nm = r.sub == p.sub && r.obj == p.obj && r.act == p.act\n";
    let enforcer = runtime.block_on(async {
        let model = casbin::DefaultModel::from_str(model).await.unwrap();
        let mut enforcer = casbin::Enforcer::new(model, casbin::MemoryAdapter::default()).await.unwrap();
        let mut lines = Vec::new();
        for rule in 0..policies * RULES {
            let texts = rule_texts(kind, rule / RULES, rule % RULES);
            for method in texts.methods {
                lines.push(vec![texts.principal.0.clone(), texts.path.0.clone(), method.to_owned()]);
            }
        }
        enforcer.add_policies(lines).await.unwrap();
        enforcer
    });
    report("casbin", &mut |call| {
        let principal = call.id.trim_start_matches("spiffe://");
        enforcer.enforce((principal, call.path.as_str(), call.method)).unwrap()
    });
}

fn regorus(policies: usize, by_principal: bool, report: &Report) {
    let mut rules = Vec::new();
    for number in 0..policies * RULES {
        let texts = rule_texts(Kind::Exact, number / RULES, number % RULES);
        rules.push(json!({
            "deny": denies(Kind::Exact, number / RULES),
            "principal": texts.principal.0,
            "methods": texts.methods,
            "path": texts.path.0,
        }));
    }
    let same = "r.principal == input.principal\n r.path == input.path";
    let (data, choose) = if by_principal {
        let mut map = serde_json::Map::new();
        for rule in rules {
            let principal = rule["principal"].as_str().unwrap().to_owned();
            map.entry(principal).or_insert_with(|| json!([])).as_array_mut().unwrap().push(rule);
        }
        (json!({ "rules": map }), "some r in data.rules[input.principal]")
    } else {
        (json!({ "rules": rules }), "some r in data.rules")
    };
    let module = format!(
        "package p\nimport rego.v1\ndefault allow := false\nallow if {{\n hit(false)\n not hit(true)\n}}\n\
         hit(deny) if {{\n {choose}\n r.deny == deny\n input.method in r.methods\n {same}\n}}\n"
    );
    let mut engine = regorus::Engine::new();
    engine.add_policy("p.rego".to_owned(), module).unwrap();
    engine.add_data(regorus::Value::from_json_str(&data.to_string()).unwrap()).unwrap();
    let name = if by_principal { "regorus, by principal" } else { "regorus" };
    report(name, &mut |call| {
        let principal = call.id.trim_start_matches("spiffe://");
        let input = json!({"principal": principal, "method": call.method, "path": call.path});
        engine.set_input(regorus::Value::from_json_str(&input.to_string()).unwrap());
        engine.eval_bool_query("data.p.allow".to_owned(), false).unwrap()
    });
}

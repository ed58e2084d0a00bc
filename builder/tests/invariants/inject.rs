//! What always holds of `inject` and `uninject`, whatever text they get: for the property tests here and the fuzz target
//! in `builder/fuzz`.

use std::collections::BTreeMap;

use meshward_builder::inject::{Options, Redirect, inject, uninject};
use meshward_builder::kube::Filter;
use serde_yaml::Value;

/// Whether the text got a sidecar, and rightly; or what does not hold.
pub fn hold(text: &str) -> Result<bool, String> {
    let mut any = false;
    for (native, redirected) in [(false, false), (true, false), (false, true), (true, true)] {
        let redirect =
            Redirect { container: serde_json::json!({"name": "meshward-redirect"}), open: vec![15021] };
        let redirects =
            if redirected { BTreeMap::from([("web".to_owned(), redirect)]) } else { BTreeMap::new() };
        let options = Options {
            image: "envoyproxy/envoy:x".into(),
            filter: Filter { sha256: "0123456789ab".into(), ..Filter::default() },
            native,
            service: redirected.then(|| "web".to_owned()),
            redirects,
            ..Options::default()
        };
        any |= one(text, &options)?;
    }
    Ok(any)
}

fn one(text: &str, options: &Options) -> Result<bool, String> {
    let Ok(outcome) = inject(text, options) else { return Ok(false) };
    let bare = uninject(text).map_err(|error| format!("it was read, and is not: {error}"))?;
    if outcome.failed() {
        return if outcome.text == text { Ok(false) } else { Err("refused and changed".into()) };
    }
    if outcome.done.is_empty() {
        return if outcome.text == bare.text { Ok(false) } else { Err("nothing done and changed".into()) };
    }
    let injected = outcome.text;
    let twice = inject(&injected, options).map_err(|error| format!("it is broken: {error}\n{injected}"))?;
    if twice.text != injected {
        return Err(format!("twice is not once:\n{injected}\n--- and then ---\n{}", twice.text));
    }
    let back = uninject(&injected).map_err(|error| format!("it is broken: {error}"))?;
    if back.text != bare.text {
        return Err(format!("not given back:\n{injected}\n--- comes back as ---\n{}", back.text));
    }
    if let Some(mut before) = read(&bare.text) {
        let Some(mut after) = read(&injected) else {
            return Err(format!("another reader no longer takes it:\n{injected}"));
        };
        before.iter_mut().chain(&mut after).for_each(strip);
        if before != after {
            return Err(format!("it reads otherwise:\n{injected}"));
        }
    }
    Ok(true)
}

/// The documents as another reader reads them; none if it does not take them.
fn read(text: &str) -> Option<Vec<Value>> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| serde::Deserialize::deserialize(document).ok())
        .collect()
}

/// Takes out what an injection adds, whatever is left empty by it.
fn strip(value: &mut Value) {
    match value {
        Value::Mapping(entries) => {
            let had: Vec<Value> = entries.keys().cloned().collect();
            for key in ["meshward.dev/injected", "meshward.dev/checksum"] {
                entries.remove(key);
            }
            entries.values_mut().for_each(strip);
            for key in had {
                let made = key.as_str().is_some_and(|key| {
                    ["volumes", "initContainers", "annotations", "metadata"].contains(&key)
                });
                let empty = |value: &Value| match value {
                    Value::Sequence(items) => items.is_empty(),
                    Value::Mapping(entries) => entries.is_empty(),
                    Value::Null => true,
                    _ => false,
                };
                if made && entries.get(&key).is_some_and(empty) {
                    entries.remove(&key);
                }
            }
        }
        Value::Sequence(items) => {
            let names = ["envoy-config", "mtls-cert", "meshward-filter", "meshward-redirect"];
            let ours = |item: &Value| {
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                names.contains(&name)
                    || (name == "envoy"
                        && item.get("image").and_then(Value::as_str) == Some("envoyproxy/envoy:x"))
            };
            items.retain(|item| !ours(item));
            items.iter_mut().for_each(strip);
        }
        Value::Tagged(tagged) => strip(&mut tagged.value),
        _ => {}
    }
}

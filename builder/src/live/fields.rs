//! Parts of objects, as server-side apply sees them: lists of things with a name are sets of named things.
//!
//! An apply says all that its manager wants of an object: what it said before and leaves out now is taken away. So what we
//! own already ([`owned`]) goes into every apply again, [`merged`] with what is new and [`without`] what is to go.

use serde_json::{Map, Value};

/// What a manager owns of an object, as it would apply it.
pub fn owned(object: &Value, manager: &str) -> Value {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let ours = |entry: &&Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        text("manager") == manager && text("operation") == "Apply" && text("subresource").is_empty()
    };
    let mut all = Value::Object(Map::new());
    for fields in entries.into_iter().flatten().filter(ours).filter_map(|entry| entry.get("fieldsV1")) {
        // No field is not the whole object.
        if fields.as_object().is_some_and(|fields| !fields.is_empty())
            && let Some(part) = extract(object, fields)
        {
            all = merged(&all, &part);
        }
    }
    all
}

/// All other managers that own something under a field of the top level.
pub fn other_managers(object: &Value, manager: &str, field: &str) -> Vec<String> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mut found = Vec::new();
    for entry in entries.into_iter().flatten() {
        let name = entry.get("manager").and_then(Value::as_str).unwrap_or_default();
        let has = entry.get("fieldsV1").is_some_and(|fields| fields.get(format!("f:{field}")).is_some());
        if has && name != manager && !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    }
    found
}

fn extract(value: &Value, fields: &Value) -> Option<Value> {
    let fields = fields.as_object()?;
    let inner: Vec<_> = fields.iter().filter(|(key, _)| *key != ".").collect();
    if inner.is_empty() {
        // A leaf is ours as it is; of a collection only that it is there.
        return Some(if fields.contains_key(".") { empty_like(value) } else { value.clone() });
    }
    match value {
        Value::Object(object) => {
            let mut part = Map::new();
            for (key, below) in inner {
                let Some(name) = key.strip_prefix("f:") else { continue };
                if let Some(value) = object.get(name).and_then(|value| extract(value, below)) {
                    part.insert(name.to_owned(), value);
                }
            }
            Some(Value::Object(part))
        }
        Value::Array(items) => {
            let mut part = Vec::new();
            for (key, below) in inner {
                if let Some(keys) = key.strip_prefix("k:").and_then(|text| serde_json::from_str(text).ok()) {
                    let keys: Map<String, Value> = keys;
                    let same = |item: &&Value| keys.iter().all(|(key, value)| item.get(key) == Some(value));
                    let Some(item) = items.iter().find(same) else { continue };
                    if let Some(Value::Object(mut fields)) = extract(item, below) {
                        for (key, value) in keys {
                            fields.entry(key).or_insert(value);
                        }
                        part.push(Value::Object(fields));
                    }
                } else if let Some(text) = key.strip_prefix("v:") {
                    part.extend(serde_json::from_str::<Value>(text).ok());
                }
            }
            Some(Value::Array(part))
        }
        _ => None,
    }
}

fn empty_like(value: &Value) -> Value {
    match value {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(Map::new()),
        other => other.clone(),
    }
}

/// What tells the items of a list apart, by the name of the list. None: the list is one value.
fn identity(list: &str, item: &Value) -> Option<Vec<(&'static str, Value)>> {
    let keys: &[&str] = match list {
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets" => {
            &["name"]
        }
        "volumeMounts" => &["mountPath"],
        "ports" if item.get("containerPort").is_some() => &["containerPort", "protocol"],
        // A Service's.
        "ports" if item.get("port").is_some() => &["port", "protocol"],
        "hostAliases" => &["ip"],
        _ => return None,
    };
    keys.iter()
        .map(|key| match item.get(*key) {
            Some(value) => Some((*key, value.clone())),
            // The API's default.
            None if *key == "protocol" => Some((*key, "TCP".into())),
            None => None,
        })
        .collect()
}

fn same(list: &str, one: &Value, other: &Value) -> bool {
    identity(list, one).is_some_and(|one| identity(list, other) == Some(one))
}

/// Whether all items can be told apart; an empty list can.
fn keyed(list: &str, items: &[Value]) -> bool {
    items.iter().all(|item| identity(list, item).is_some())
}

/// `base` with all of `over` in it.
pub fn merged(base: &Value, over: &Value) -> Value {
    merged_as("", base, over)
}

fn merged_as(name: &str, base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            let mut all = base.clone();
            for (key, value) in over {
                let value = base.get(key).map_or_else(|| value.clone(), |old| merged_as(key, old, value));
                all.insert(key.clone(), value);
            }
            Value::Object(all)
        }
        (Value::Array(base), Value::Array(over)) if keyed(name, base) && keyed(name, over) => {
            let mut all = base.clone();
            for item in over {
                match all.iter_mut().find(|known| same(name, known, item)) {
                    Some(known) => *known = merged_as("", known, item),
                    None => all.push(item.clone()),
                }
            }
            Value::Array(all)
        }
        (_, over) => over.clone(),
    }
}

/// What `after` has and `before` has not, with the keys that say where. None when there is nothing.
///
/// What is first in a list of `after` and was not there before comes with the keys of those behind it, so that it gets
/// its place.
pub fn added(before: &Value, after: &Value) -> Option<Value> {
    added_as("", before, after)
}

fn added_as(name: &str, before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        _ if before == after => None,
        (Value::Object(before), Value::Object(after)) => {
            let mut part = Map::new();
            for (key, value) in after {
                let new = match before.get(key) {
                    Some(old) => added_as(key, old, value),
                    None => Some(value.clone()),
                };
                if let Some(new) = new {
                    part.insert(key.clone(), new);
                }
            }
            (!part.is_empty()).then_some(Value::Object(part))
        }
        (Value::Array(before), Value::Array(after)) if keyed(name, before) && keyed(name, after) => {
            let mut part = Vec::new();
            let mut in_front = false;
            for item in after {
                match before.iter().find(|known| same(name, known, item)) {
                    None => {
                        in_front = true;
                        part.push(item.clone());
                    }
                    Some(known) => {
                        let key: Map<String, Value> = identity(name, item)
                            .unwrap_or_default()
                            .into_iter()
                            .map(|(key, value)| (key.to_owned(), value))
                            .collect();
                        match added_as("", known, item) {
                            Some(Value::Object(new)) => {
                                part.push(Value::Object(key.into_iter().chain(new).collect()));
                            }
                            _ if in_front => part.push(Value::Object(key)),
                            _ => {}
                        }
                    }
                }
            }
            (!part.is_empty()).then_some(Value::Array(part))
        }
        (_, after) => Some(after.clone()),
    }
}

/// `all` without what is in `part`; items of lists of which only the key is left go, too.
pub fn without(all: &Value, part: &Value) -> Value {
    without_as("", all, part)
}

fn without_as(name: &str, all: &Value, part: &Value) -> Value {
    match (all, part) {
        (Value::Object(all), Value::Object(part)) => {
            let mut left = Map::new();
            for (key, value) in all {
                let value = match (value, part.get(key)) {
                    (_, None) => value.clone(),
                    (Value::Object(_) | Value::Array(_), Some(gone)) => {
                        let value = without_as(key, value, gone);
                        if is_empty(&value) {
                            continue;
                        }
                        value
                    }
                    (_, Some(_)) => continue,
                };
                left.insert(key.clone(), value);
            }
            Value::Object(left)
        }
        (Value::Array(all), Value::Array(part)) if keyed(name, all) && keyed(name, part) => {
            let left = all.iter().filter_map(|item| {
                let key = identity(name, item)?;
                let left = match part.iter().find(|gone| same(name, gone, item)) {
                    Some(gone) => without_as("", item, gone),
                    None => item.clone(),
                };
                let mut fields = left.as_object()?.clone();
                fields.retain(|field, _| !key.iter().any(|(key, _)| key == field));
                if fields.is_empty() {
                    return None;
                }
                fields.extend(key.into_iter().map(|(key, value)| (key.to_owned(), value)));
                Some(Value::Object(fields))
            });
            Value::Array(left.collect())
        }
        _ => empty_like(all),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

/// Whether `object` has all of `part` in it.
pub fn has(object: &Value, part: &Value) -> bool {
    has_as("", object, part)
}

fn has_as(name: &str, object: &Value, part: &Value) -> bool {
    match (object, part) {
        (Value::Object(object), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| object.get(key).map_or(is_empty(value), |have| has_as(key, have, value))),
        (Value::Array(object), Value::Array(part)) if keyed(name, object) && keyed(name, part) => {
            part.iter().all(|item| {
                // What tells the items apart is the same already, said or by default.
                let key = identity(name, item).unwrap_or_default();
                let mut rest = item.as_object().cloned().unwrap_or_default();
                rest.retain(|field, _| !key.iter().any(|(key, _)| key == field));
                let rest = Value::Object(rest);
                object.iter().any(|have| same(name, have, item) && has_as("", have, &rest))
            })
        }
        (Value::Array(object), Value::Array(part)) => {
            object.len() == part.len()
                && object.iter().zip(part).all(|(object, part)| has_as("", object, part))
        }
        _ => object == part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_manager_owns_is_read_off_its_fields() {
        let object = json!({
            "metadata": {"annotations": {"a": "1", "b": "2"}, "managedFields": [
                {"manager": "m", "operation": "Apply", "fieldsV1": {
                    "f:metadata": {"f:annotations": {"f:a": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": {
                            "k:{\"containerPort\":1,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                        "f:args": {}
                    }}},
                {"manager": "m", "operation": "Update", "fieldsV1": {"f:metadata": {"f:annotations": {"f:b": {}}}}},
                {"manager": "m", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}}
            ]},
            "spec": {"args": ["1", "2"], "containers": [
                {"name": "y", "image": "q"},
                {"name": "x", "image": "i", "command": ["c"], "ports": [{"containerPort": 1, "protocol": "TCP"}]}
            ]},
            "status": {}
        });
        assert_eq!(
            owned(&object, "m"),
            json!({
                "metadata": {"annotations": {"a": "1"}},
                "spec": {"args": ["1", "2"], "containers": [
                    {"name": "x", "image": "i", "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}
            })
        );
    }

    #[test]
    fn an_injection_is_told_from_what_was_there_and_taken_out_of_it_again() {
        let before = json!({"spec": {"initContainers": [{"name": "i", "image": "1"}],
            "containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}});
        let after = json!({"spec": {"initContainers": [{"name": "e"}, {"name": "i", "image": "1"}],
            "containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "q"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}, "metadata": {"annotations": {"k": "v"}}});
        let part = added(&before, &after).unwrap();
        let expected = json!({"spec": {"initContainers": [{"name": "e"}, {"name": "i"}],
            "containers": [{"name": "b", "image": "q"}], "volumes": [{"name": "v", "emptyDir": {}}]},
            "metadata": {"annotations": {"k": "v"}}});
        assert_eq!(part, expected);
        assert!(has(&after, &part) && !has(&before, &part));
        assert_eq!(without(&part, &part), json!({}));
        let mount = json!({"spec": {"containers": [{"name": "a", "volumeMounts": [{"mountPath": "/m", "name": "v"}]}]}});
        assert_eq!(without(&merged(&part, &mount), &part), mount);
        assert_eq!(added(&before, &merged(&before, &mount)), Some(mount));
    }

    #[test]
    fn a_port_has_its_protocol_by_default() {
        let said = json!({"ports": [{"containerPort": 1, "protocol": "TCP", "name": "a"}]});
        let short = json!({"ports": [{"containerPort": 1, "name": "a"}]});
        assert!(has(&said, &short) && has(&short, &said));
        assert!(!has(&short, &json!({"ports": [{"containerPort": 1, "protocol": "UDP"}]})));
    }

    #[test]
    fn a_list_of_plain_values_is_one_value() {
        let (one, two) = (json!({"args": ["a", "b"]}), json!({"args": ["a"]}));
        assert_eq!(merged(&one, &two), two);
        assert!(!has(&one, &two));
        assert_eq!(added(&one, &two), Some(two.clone()));
    }
}

//! What always holds of `patch` and `unpatch`, whatever text they get: for the property tests here and the fuzz target
//! in `builder/fuzz`.

use meshward_builder::patch::{Configurations, Outcome, Plugin, Selection, patch, unpatch};
use serde_yaml::Value;

fn plugin() -> Plugin {
    let configurations = Configurations { http: b"h".to_vec(), tcp: b"t".to_vec(), outbound: None };
    Plugin { wasm: "/etc/meshward/m.wasm".into(), configurations, discovery: None }
}

/// Whether the text was patched, and rightly; or what does not hold.
pub fn hold(text: &str) -> Result<bool, String> {
    let everything = Selection { outbound: true, ..Selection::default() };
    let plain = one(text, &Selection::default(), false)?;
    one(text, &everything, false)?;
    one(text, &everything, true)?;
    // Whatever it is, taking out never breaks it.
    if let Ok(out) = unpatch(text, &Selection::default()) {
        if out.failed() && out.text != text {
            return Err("refused and changed".into());
        }
        unpatch(&out.text, &Selection::default()).map_err(|error| format!("unpatch broke it: {error}"))?;
    }
    Ok(plain)
}

fn one(text: &str, selection: &Selection, mend: bool) -> Result<bool, String> {
    let run = |text: &str| patch(text, &plugin(), selection, mend);
    let Ok(Outcome { text: patched, done, findings, .. }) = run(text) else { return Ok(false) };
    let failed =
        findings.iter().any(|finding| finding.severity == meshward_builder::diagnostic::Severity::Error);
    if failed || (done.is_empty() && !mend) {
        return if patched == text {
            Ok(false)
        } else {
            Err(format!("nothing done, and changed:\n{patched}"))
        };
    }
    // What is in base64 is encoded anew, and what is mended is noted in place of what was there.
    let encoded = text.contains("binaryData") || text.contains("Secret");
    let twice = run(&patched).map_err(|error| format!("it is broken: {error}\n{patched}"))?;
    if twice.text != patched {
        return Err(format!("twice is not once:\n{patched}\n--- and then ---\n{}", twice.text));
    }
    let back = unpatch(&patched, selection).map_err(|error| format!("it is broken: {error}"))?;
    // A text that had an older patch in it comes back without that.
    let bare = unpatch(text, selection).map_err(|error| format!("it was broken: {error}"))?;
    if back.text != bare.text {
        return Err(format!("not given back:\n{patched}\n--- comes back as ---\n{}", back.text));
    }
    if !mend && !encoded && !kept(&bare.text, &patched) {
        return Err(format!("a byte was lost:\n{patched}"));
    }
    match (read(text), read(&patched)) {
        (Some(_), None) => Err(format!("another reader no longer takes it:\n{patched}")),
        (Some(before), Some(after)) if !mend && !encoded && before != after => {
            Err(format!("it reads otherwise:\n{patched}"))
        }
        _ => Ok(true),
    }
}

/// Every byte of `before` is in `after`, in order.
fn kept(before: &str, after: &str) -> bool {
    let mut after = after.bytes();
    before.bytes().all(|byte| after.any(|other| other == byte))
}

/// The documents as yaml_serde reads them, the mesh's own filters left out, embedded ones too.
fn read(text: &str) -> Option<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut value = <Value as serde::Deserialize>::deserialize(document).ok()?;
        strip(&mut value);
        documents.push(value);
    }
    Some(documents)
}

fn strip(value: &mut Value) {
    match value {
        Value::Sequence(items) => {
            let before = items.len();
            let ours = |item: &Value| {
                matches!(item.get("name").and_then(Value::as_str), Some("meshward" | "meshward.guard"))
            };
            let single = items
                .iter()
                .any(|item| serde_yaml::to_string(item).is_ok_and(|text| text.contains(".single-mapping")));
            items.retain(|item| !ours(item));
            items.iter_mut().for_each(strip);
            if before != items.len() && single && items.len() == 1 {
                *value = items.remove(0);
            }
        }
        Value::Mapping(entries) => entries.values_mut().for_each(strip),
        Value::String(text) if text.contains("filters") && text.contains('\n') => {
            // What this reader does not take (a key twice) it cannot judge.
            *value = read(text).map_or(Value::Null, Value::Sequence);
        }
        Value::Tagged(tagged) => strip(&mut tagged.value),
        _ => {}
    }
}

//! `patch` over damaged and odd texts: never a panic, never a lost byte, never an invalid document from a valid one.
//!
//! What comes out is judged by another reader than the one inside: yaml_serde (libyaml's rules).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use meshward_builder::patch::{Configurations, Plugin, Selection, patch, unpatch};
use proptest::prelude::*;
use serde_yaml::Value;

/// Configurations with what naive patchers fall over.
const SEEDS: [&str; 6] = [
    "# top\nstatic_resources:\n  listeners:\n  - name: in\n    address: {socket_address: {address: 0.0.0.0, port_value: 1}}\n    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: a\n          http_filters:\n          - name: jwt\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication\n          # the router\n          - name: r\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n  - name: out\n    filter_chains:\n      filters:\n        name: t\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          stat_prefix: t\n",
    "staticResources: {listeners: [{filterChains: [{filters: [{name: h, typedConfig: {'@type': 'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager', httpFilters: {name: r, typedConfig: {'@type': 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router'}}}}]}]}]}\n",
    "{\n\t\"static_resources\": {\n\t\t\"listeners\": [\n\t\t\t{\"filter_chains\": [{\"filters\": [{\n\t\t\t\t\"name\": \"h\",\n\t\t\t\t\"typed_config\": {\n\t\t\t\t\t\"@type\": \"type.googleapis.com/udpa.type.v1.TypedStruct\",\n\t\t\t\t\t\"type_url\": \"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\",\n\t\t\t\t\t\"value\": {\"http_filters\": [\n\t\t\t\t\t\t{\n\t\t\t\t\t\t\t\"name\": \"envoy.filters.http.router\"\n\t\t\t\t\t\t}\n\t\t\t\t\t]}\n\t\t\t\t}\n\t\t\t}]}]}\n\t\t]\n\t}\n}",
    "apiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {name: c}\r\ndata:\r\n  note: |+\r\n    kept\r\n\r\n  envoy.yaml: |-\r\n    static_resources:\r\n      listeners:\r\n      - filter_chains:\r\n        - filters:\r\n          - name: h\r\n            typed_config:\r\n              '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\r\n              http_filters: &f\r\n              - name: envoy.filters.http.router\r\n          - name: g\r\n            typed_config:\r\n              '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\r\n              http_filters: *f",
    "\u{feff}apiVersion: v1\nkind: List\nitems:\n- kind: ConfigMap\n  apiVersion: v1\n  data:\n    e: >\n      static_resources:\n        listeners:\n        - filter_chains:\n          - filters:\n            - name: t\n              typed_config:\n                \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n---\nkind: ConfigMap\napiVersion: v1\ndata:\n  e: \"static_resources:\\n  listeners:\\n  - filter_chains:\\n    - filters:\\n      -\\\n    \\ name: t\\n        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy}\\n\"\n",
    "static_resources:\n  listeners:\n    filter_chains:\n      filters:\n        - name: h\n          typed_config:\n            \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n            http_filters:\n              name: r\n              typed_config:\n                \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n            upgrade_configs:\n            - upgrade_type: websocket\n              filters: [{name: envoy.filters.http.router}]",
];

fn plugin() -> Plugin {
    let configurations = Configurations { http: b"h".to_vec(), tcp: b"t".to_vec(), outbound: None };
    Plugin { wasm: "/etc/meshward/m.wasm".into(), configurations, discovery: None }
}

/// Damage to a text: what people, editors and template engines do to YAML.
#[derive(Clone, Debug)]
enum Damage {
    DeleteLine(prop::sample::Index),
    RepeatLine(prop::sample::Index),
    Indent(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Cut(prop::sample::Index, usize),
    Crlf,
}

fn damage() -> impl Strategy<Value = Damage> {
    let token = prop::sample::select(vec![
        "- ",
        "-",
        ":",
        ": ",
        "# c",
        "\n",
        "\t",
        "  ",
        "&a ",
        "*a",
        "!ignore ",
        "|",
        ">",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        ",",
        "---\n",
        "...\n",
        "null",
        "~",
        "é",
        "\u{2028}",
        "? ",
        "%YAML 1.2\n",
        "\\",
        "<<: *a\n",
        "=",
        "\r",
    ]);
    let any = || any::<prop::sample::Index>();
    prop_oneof![
        any().prop_map(Damage::DeleteLine),
        any().prop_map(Damage::RepeatLine),
        (any(), 0..4usize).prop_map(|(at, by)| Damage::Indent(at, by)),
        (any(), token).prop_map(|(at, token)| Damage::Insert(at, token.to_owned())),
        (any(), "\\PC{0,4}").prop_map(|(at, text)| Damage::Insert(at, text)),
        (any(), 1..6usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        Just(Damage::Crlf),
    ]
}

fn inflict(text: &str, damage: &Damage) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    match damage {
        Damage::DeleteLine(at) if !lines.is_empty() => drop(lines.remove(at.index(lines.len()))),
        Damage::RepeatLine(at) if !lines.is_empty() => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Damage::Indent(at, by) if !lines.is_empty() => {
            let at = at.index(lines.len());
            lines[at] = format!("{}{}", " ".repeat(*by), lines[at]);
        }
        Damage::Crlf => return text.replace("\r\n", "\n").replace('\n', "\r\n"),
        Damage::Insert(at, token) => {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            chars.splice(at..at, token.chars());
            return chars.into_iter().collect();
        }
        Damage::Cut(at, length) => {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            let end = (at + length).min(chars.len());
            chars.drain(at..end);
            return chars.into_iter().collect();
        }
        _ => {}
    }
    lines.concat()
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
        _ => {}
    }
}

fn check(text: &str) -> Result<bool, TestCaseError> {
    let Ok(outcome) = patch(text, &plugin(), &Selection::default(), false) else { return Ok(false) };
    if outcome.failed() || outcome.done.is_empty() {
        prop_assert_eq!(&outcome.text, text);
        return Ok(false);
    }
    prop_assert!(kept(text, &outcome.text), "a byte was lost:\n{}", outcome.text);
    let twice = patch(&outcome.text, &plugin(), &Selection::default(), false).unwrap();
    prop_assert_eq!(&twice.text, &outcome.text);
    let back = unpatch(&outcome.text, &Selection::default()).unwrap();
    prop_assert_eq!(&back.text, text);
    if let Some(before) = read(text) {
        let after = read(&outcome.text);
        prop_assert_eq!(after.as_ref(), Some(&before), "it reads otherwise:\n{}", outcome.text);
    }
    Ok(true)
}

#[test]
fn every_seed_is_patched() {
    for seed in SEEDS {
        assert!(
            check(seed).unwrap(),
            "not patched: {:?}",
            patch(seed, &plugin(), &Selection::default(), false)
        );
    }
}

proptest! {
    #[test]
    fn damaged_texts_are_patched_rightly_or_not_at_all(
        seed in prop::sample::select(SEEDS.to_vec()),
        damages in prop::collection::vec(damage(), 0..5),
    ) {
        let text = damages.iter().fold(seed.to_owned(), |text, damage| inflict(&text, damage));
        check(&text)?;
    }

    #[test]
    fn anything_at_all_is_survived(text in "[-a-z:{}\\[\\]|>&*!'\"#%?,~ \t\r\n]{0,120}") {
        check(&text)?;
    }
}

//! `patch` over what is rare and nevertheless valid for Envoy: each case is patched in as many lists as are said, twice is
//! once, and `unpatch` gives the bytes back, also when somebody edited around what was put in.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use meshward_builder::diagnostic::Severity;
use meshward_builder::patch::{Configurations, Outcome, Plugin, Selection, patch, unpatch};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str =
    "{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

fn plugin(wasm: &str) -> Plugin {
    let configurations = Configurations { http: b"h".to_vec(), tcp: b"t".to_vec(), outbound: None };
    Plugin { wasm: wasm.into(), configurations, discovery: None }
}

fn patched(text: &str) -> Outcome {
    patch(text, &plugin("/m.wasm"), &Selection::default(), false).unwrap()
}

/// A configuration with these listeners.
fn bootstrap(listeners: &[String]) -> String {
    format!("static_resources:\n  listeners:\n{}", listeners.concat())
}

/// A listener whose manager ends in these lines.
fn listener(name: &str, lines: &str) -> String {
    format!(
        "  - name: {name}\n    filter_chains:\n    - filters:\n      - name: h\n        typed_config:\n          '@type': {MANAGER}\n{lines}"
    )
}

/// Patches, checks what always holds, and says how many lists have the filter.
fn check(name: &str, text: &str) -> usize {
    let outcome = patched(text);
    assert!(!outcome.failed(), "{name}: {:?}", outcome.findings);
    let again = patched(&outcome.text);
    assert_eq!(again.text, outcome.text, "{name}: twice is not once");
    let newer = patch(&outcome.text, &plugin("/newer.wasm"), &Selection::default(), false).unwrap();
    assert_eq!(newer.text.matches("/newer.wasm").count(), outcome.text.matches("/m.wasm").count(), "{name}");
    assert!(!newer.text.contains("/m.wasm"), "{name}: the older version is still there");
    for other in [&outcome.text, &newer.text] {
        assert_eq!(unpatch(other, &Selection::default()).unwrap().text, text, "{name}: not given back");
    }
    outcome.done.len()
}

/// The codes of what was found, errors first.
fn codes(outcome: &Outcome) -> Vec<&'static str> {
    let mut found: Vec<(bool, &'static str)> =
        outcome.findings.iter().map(|finding| (finding.severity != Severity::Error, finding.code)).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|(_, code)| code).collect()
}

#[test]
fn both_spellings_of_a_field_are_one_field() {
    let list = format!("          http_filters: [{ROUTER}]\n");
    let other = listener("b", &list).replace("filter_chains", "filterChains");
    let chains = format!("{}{}", listener("a", &list), other.split_once('\n').unwrap().1);
    assert_eq!(check("chains", &bootstrap(&[chains])), 2);
    let text = format!("{}staticResources:\n  listeners:\n{other}", bootstrap(&[listener("a", &list)]));
    assert_eq!(check("resources", &text), 2);
    let upgrades = format!(
        "          upgrade_configs: [{{filters: [{ROUTER}]}}]\n          upgradeConfigs: {{filters: {ROUTER}}}\n{list}"
    );
    assert_eq!(check("upgrades", &bootstrap(&[listener("a", &upgrades)])), 3);
}

#[test]
fn a_dash_may_be_alone_on_its_line() {
    let router = ROUTER;
    for (name, list) in [
        ("same column", format!("          http_filters:\n          -\n            {router}\n")),
        ("deeper", format!("          http_filters:\n            -\n              {router}\n")),
        ("comment", format!("          http_filters:\n          - # the router\n            {router}\n")),
        (
            "two",
            format!(
                "          http_filters:\n          -\n            name: x\n          -\n            {router}\n"
            ),
        ),
    ] {
        assert_eq!(check(name, &bootstrap(&[listener("a", &list)])), 1);
    }
}

#[test]
fn a_shared_router_is_taken_into_each_list_of_its_own() {
    let first = listener("a", &format!("          http_filters: &r {ROUTER}\n"));
    let second = listener("b", "          http_filters: *r\n");
    let text = bootstrap(&[first, second]);
    assert_eq!(check("single mappings", &text), 2);
    assert!(patched(&text).text.contains(", &r {name: r"), "the anchor stays the router's");
}

#[test]
fn a_list_that_goes_two_ways_is_refused() {
    let first = listener("a", &format!("          http_filters: &l [{ROUTER}]\n"));
    for second in ["egress", "b"] {
        let text = bootstrap(&[first.clone(), listener(second, "          http_filters: *l\n")]);
        let outcome = patched(&text);
        if second == "b" {
            assert_eq!(check("one way", &text), 1);
            continue;
        }
        assert_eq!(codes(&outcome)[0], "shared-list");
        assert!(outcome.failed() && outcome.text == text);
        let all = Selection { outbound: true, ..Selection::default() };
        assert!(patch(&text, &plugin("/m.wasm"), &all, false).unwrap().failed());
    }
}

#[test]
fn what_was_patched_outbound_is_taken_out_without_being_asked_for() {
    let text = bootstrap(&[listener("egress", &format!("          http_filters: [{ROUTER}]\n"))]);
    let all = Selection { outbound: true, ..Selection::default() };
    let outcome = patch(&text, &plugin("/m.wasm"), &all, false).unwrap();
    assert_eq!(outcome.done.len(), 1);
    assert_eq!(unpatch(&outcome.text, &Selection::default()).unwrap().text, text);
    let later = patched(&outcome.text);
    assert!(codes(&later).contains(&"patched-before"), "{:?}", later.findings);
    assert_eq!(later.text, outcome.text);
}

#[test]
fn a_manager_that_serves_nothing_is_left_and_the_others_are_patched() {
    for list in
        ["", "          http_filters: []\n", "          http_filters:\n", "          http_filters: ~\n"]
    {
        let good = listener("b", &format!("          http_filters: [{ROUTER}]\n"));
        let text = bootstrap(&[listener("a", &format!("          stat_prefix: a\n{list}")), good]);
        assert_eq!(check(list, &text), 1);
        assert!(codes(&patched(&text)).contains(&"no-router"));
    }
}

#[test]
fn every_filter_that_ends_connections_is_guarded() {
    for kind in
        ["tcp_proxy.v3.TcpProxy", "redis_proxy.v3.RedisProxy", "echo.v3.Echo", "direct_response.v3.Config"]
    {
        let text = format!(
            "static_resources:\n  listeners:\n  - filter_chains:\n    - filters:\n      - name: t\n        typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.{kind}}}\n"
        );
        assert_eq!(check(kind, &text), 1);
    }
}

#[test]
fn base64_comes_back_as_it_was_broken_into_lines() {
    use base64::Engine as _;
    let inner = bootstrap(&[listener("a", &format!("          http_filters: [{ROUTER}]\n"))]);
    let encoded = base64::engine::general_purpose::STANDARD.encode(&inner);
    let lines: Vec<&str> = encoded.as_bytes().chunks(76).map(|line| str::from_utf8(line).unwrap()).collect();
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\nbinaryData:\n  e: ";
    for value in [
        encoded.clone(),
        format!("\"{encoded}\""),
        format!("'{encoded}'"),
        format!("|\n    {}", lines.join("\n    ")),
        format!(">-\n    {}", lines.join("\n    ")),
        format!("\"{}\"", lines.join("\n    ")),
    ] {
        assert_eq!(check(&value, &format!("{head}{value}\n")), 1);
        assert_eq!(check(&value, &format!("{head}{value}\nkind2: x\n")), 1);
    }
}

#[test]
fn lists_of_every_kind_are_opened() {
    let inner = bootstrap(&[listener("a", &format!("          http_filters: [{ROUTER}]\n"))]);
    let data = serde_json::to_string(&inner).unwrap();
    let map = format!("{{apiVersion: v1, kind: ConfigMap, data: {{e: {data}}}}}");
    let bare = format!("{{data: {{e: {data}}}}}");
    for (text, lists) in [
        (format!("kind: List\napiVersion: v1\nitems: [{map}, {map}]\n"), 2),
        (format!("kind: ConfigMapList\napiVersion: v1\nitems: [{bare}]\n"), 1),
        (format!("kind: Template\napiVersion: v1\nobjects: [{map}]\n"), 1),
        (format!("kind: List\nitems:\n- &c {map}\n- *c\n"), 1),
        (format!("kind: ConfigMap\ndata:\n  a: &a {data}\n  b: *a\n"), 1),
    ] {
        assert_eq!(check(&text, &text), lists);
    }
}

#[test]
fn edits_around_what_was_put_in_stay() {
    let list = format!("          http_filters:\n          # last\n          - {ROUTER}\n");
    let text = bootstrap(&[listener("a", &list)]);
    let outcome = patched(&text).text;
    let guard = "          - name: meshward.guard\n";
    let cors = "          - name: cors\n";
    for (name, from, to, left) in [
        ("a filter between", guard, format!("{cors}{guard}"), format!("{cors}          # last\n")),
        (
            "a filter before",
            "          - name: meshward\n",
            format!("{cors}          - name: meshward\n"),
            format!("{cors}          # last\n"),
        ),
        (
            "a filter behind",
            "          # last\n",
            format!("{cors}          # last\n"),
            format!("{cors}          # last\n"),
        ),
        (
            "a comment behind",
            "          # last\n",
            "          # mine\n          # last\n".to_owned(),
            "          # mine\n          # last\n".to_owned(),
        ),
    ] {
        let edited = outcome.replacen(from, &to, 1);
        assert_ne!(edited, outcome, "{name}");
        let back = unpatch(&edited, &Selection::default()).unwrap();
        assert_eq!(back.text, text.replace("          # last\n", &left), "{name}");
        let again = patched(&edited);
        assert!(!again.failed(), "{name}: {:?}", again.findings);
        assert_eq!(again.text.matches("/m.wasm").count(), 1, "{name}");
        assert_eq!(again.text.matches("- name: meshward.guard\n").count(), 1, "{name}");
    }
}

#[test]
fn a_list_that_somebody_formatted_anew_can_be_patched_and_unpatched() {
    let list = bootstrap(&[listener("a", &format!("          http_filters: [{ROUTER}]\n"))]);
    // A single mapping may come back as a list of one: for Envoy that is the same.
    for text in [list.clone(), list.replace(&format!("[{ROUTER}]"), ROUTER)] {
        let before: serde_yaml::Value = serde_yaml::from_str(&list).unwrap();
        let value: serde_yaml::Value = serde_yaml::from_str(&patched(&text).text).unwrap();
        for formatted in
            [serde_yaml::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()]
        {
            let back = unpatch(&formatted, &Selection::default()).unwrap();
            assert!(!back.failed(), "{:?}", back.findings);
            let single = serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap();
            let after = serde_yaml::from_str::<serde_yaml::Value>(&back.text).unwrap();
            assert!(after == before || after == single, "{}", back.text);
            assert_eq!(patched(&formatted).text.matches("/m.wasm").count(), 1);
        }
    }
}

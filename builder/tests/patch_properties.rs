//! `patch` over damaged and odd texts: never a panic, never a lost byte, never an invalid document from a valid one.
//!
//! What comes out is judged by another reader than the one inside: yaml_serde (libyaml's rules).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use proptest::prelude::*;

mod damage;
#[path = "invariants/patch.rs"]
mod invariants;

use damage::{damage, inflict};

/// Configurations with what naive patchers fall over.
const SEEDS: [&str; 6] = [
    "# top\nstatic_resources:\n  listeners:\n  - name: in\n    address: {socket_address: {address: 0.0.0.0, port_value: 1}}\n    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: a\n          http_filters:\n          - name: jwt\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication\n          # the router\n          - name: r\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n  - name: out\n    filter_chains:\n      filters:\n        name: t\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          stat_prefix: t\n",
    "staticResources: {listeners: [{filterChains: [{filters: [{name: h, typedConfig: {'@type': 'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager', httpFilters: {name: r, typedConfig: {'@type': 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router'}}}}]}]}]}\n",
    "{\n\t\"static_resources\": {\n\t\t\"listeners\": [\n\t\t\t{\"filter_chains\": [{\"filters\": [{\n\t\t\t\t\"name\": \"h\",\n\t\t\t\t\"typed_config\": {\n\t\t\t\t\t\"@type\": \"type.googleapis.com/udpa.type.v1.TypedStruct\",\n\t\t\t\t\t\"type_url\": \"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\",\n\t\t\t\t\t\"value\": {\"http_filters\": [\n\t\t\t\t\t\t{\n\t\t\t\t\t\t\t\"name\": \"envoy.filters.http.router\"\n\t\t\t\t\t\t}\n\t\t\t\t\t]}\n\t\t\t\t}\n\t\t\t}]}]}\n\t\t]\n\t}\n}",
    "apiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {name: c}\r\ndata:\r\n  note: |+\r\n    kept\r\n\r\n  envoy.yaml: |-\r\n    static_resources:\r\n      listeners:\r\n      - filter_chains:\r\n        - filters:\r\n          - name: h\r\n            typed_config:\r\n              '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\r\n              http_filters: &f\r\n              - name: envoy.filters.http.router\r\n          - name: g\r\n            typed_config:\r\n              '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\r\n              http_filters: *f",
    "\u{feff}apiVersion: v1\nkind: List\nitems:\n- kind: ConfigMap\n  apiVersion: v1\n  data:\n    e: >\n      static_resources:\n        listeners:\n        - filter_chains:\n          - filters:\n            - name: t\n              typed_config:\n                \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n---\nkind: ConfigMap\napiVersion: v1\ndata:\n  e: \"static_resources:\\n  listeners:\\n  - filter_chains:\\n    - filters:\\n      -\\\n    \\ name: t\\n        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy}\\n\"\n",
    "static_resources:\n  listeners:\n    filter_chains:\n      filters:\n        - name: h\n          typed_config:\n            \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n            http_filters:\n              name: r\n              typed_config:\n                \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n            upgrade_configs:\n            - upgrade_type: websocket\n              filters: [{name: envoy.filters.http.router}]",
];

fn check(text: &str) -> Result<bool, TestCaseError> {
    invariants::hold(text).map_err(TestCaseError::fail)
}

#[test]
fn every_seed_is_patched() {
    for seed in SEEDS {
        assert!(check(seed).unwrap(), "not patched: {seed}");
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

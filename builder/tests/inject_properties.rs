//! `inject` over damaged and odd texts: never a panic, never a lost byte, never an invalid document from a valid one.
//!
//! What comes out is judged by another reader than the one inside: yaml_serde (libyaml's rules).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use proptest::prelude::*;

mod damage;
#[path = "invariants/inject.rs"]
mod invariants;

use damage::{damage, inflict};

/// Workloads with what naive injectors fall over.
const SEEDS: [&str; 6] = [
    "# mine\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a # the name\nspec:\n  template:\n    metadata:\n      labels: {app: a}\n      annotations:\n        x: \"y\" # why\n    spec:\n      initContainers:\n      - name: first\n        image: b\n      containers:\n      # the application\n      - name: a\n        image: a\n      volumes:\n      - name: v\n        emptyDir: {}\n",
    "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"containers\": [{\"name\": \"a\", \"image\": \"a\"}], \"volumes\": []}}",
    "apiVersion: v1\r\nkind: List\r\nitems:\r\n- apiVersion: batch/v1\r\n  kind: CronJob\r\n  metadata: {name: c}\r\n  spec:\r\n    jobTemplate:\r\n      spec:\r\n        template:\r\n          spec:\r\n            restartPolicy: Never\r\n            containers:\r\n            -\r\n              name: c\r\n              image: c\r\n            volumes:\r\n",
    "---\n# nothing\n---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s}\nspec:\n  template:\n    metadata:\n      annotations:\n    spec: &spec\n      containers: [{name: s, image: s}]\n---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {generateName: d-}\nspec: {template: {metadata: {}, spec: {containers: [{name: d, image: d}]}}}",
    "\u{feff}apiVersion: v1\nkind: Pod\nmetadata:\n  name: \"n\"\nspec:\n  containers:\n  - name: n\n    image: i\n    command: [sh, -c, 'a: b']\n    args:\n    - |\n      containers:\n      - name: x\n  volumes: ~\n",
    "apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: p\n  annotations: {\"a\":\"b\"}\nspec:\n    containers:\n        - image: i\n          name: p\n    hostNetwork: false",
];

fn check(text: &str) -> Result<bool, TestCaseError> {
    invariants::hold(text).map_err(TestCaseError::fail)
}

#[test]
fn every_seed_gets_a_sidecar() {
    for seed in SEEDS {
        assert!(seed.contains("volumes: ~") || check(seed).unwrap(), "left alone: {seed}");
    }
}

proptest! {
    #[test]
    fn damaged_texts_are_injected_rightly_or_not_at_all(
        seed in prop::sample::select(SEEDS.to_vec()),
        damages in prop::collection::vec(damage(), 0..5),
    ) {
        let text = damages.iter().fold(seed.to_owned(), |text, damage| inflict(&text, damage));
        check(&text)?;
    }
}

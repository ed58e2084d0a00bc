//! What a user sees for policies, good and bad.

use std::collections::BTreeMap;

use super::*;
use crate::diagnostic::{Diagnostic, Source};
use crate::mesh::document;

fn read(text: &str) -> (Policies, Vec<Diagnostic>) {
    let source = Source::new("policy.yaml", text);
    let mut mistakes = Vec::new();
    let documents = document::parse(&source, &mut mistakes);
    let policies = load(&documents, "default", &mut mistakes);
    (policies, mistakes)
}

#[test]
fn all_mistakes_come_at_once_each_with_its_place_and_its_mend() {
    let (policies, mistakes) = read(
        r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: Bad_Name
  annotations: {istio.io/dry-run: "yes", meshward.dev/deny-staus: "404", meshward.dev/deny-status: "200"}
spec:
  selector: {matchLabels: {app: "book*"}}
  action: DENY
  rules:
  - from: []
    to:
    - operation: {paths: ["/a/{*}x", ""], hosts: []}
    - {}
  - from:
    - source: {serviceAccounts: [a/b/c], namespaces: [shop]}
    - source: {ipBlocks: ["10.0.0.0/33"], principals: ["spiffe://td/ns/a*/sa/b"]}
    - source: {}
    when:
    - {key: request.path, values: ["/"]}
    - {key: source.ip}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: outside}
spec:
  action: CUSTOM
  provider: {name: x}
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: types}
spec:
  action: DNY
  rules:
  - to: [{operation: {method: [GET], ports: [80]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gateway}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec:
  mtls: {mode: strict}
  portLevelMtls: {0: {mode: STRICT}}
"#,
    );
    // What is for a gateway is good, and no sidecar's.
    let named: Vec<&str> = policies.authorization.iter().map(|policy| policy.name.as_str()).collect();
    assert!(named == ["gateway"] && policies.peer.is_empty(), "{policies:?}");
    let text: String = mistakes.iter().map(|mistake| mistake.render(false) + "\n").collect();
    insta::assert_snapshot!(text);
}

#[test]
fn two_policies_with_one_name() {
    let one = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}\n";
    let (_, mistakes) = read(&format!("{one}---\n{one}"));
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].message, "there is already an AuthorizationPolicy `default/a`");
    assert_eq!(mistakes[0].help, ["the first is at policy.yaml:3; give this one another name"]);
}

#[test]
fn what_a_cluster_gives_back_is_read() {
    let (policies, mistakes) = read(
        "apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: security.istio.io/v1beta1
  kind: AuthorizationPolicy
  metadata:
    name: a
    namespace: shop
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
    creationTimestamp: '2026-01-01T00:00:00Z'
    generation: 1
    resourceVersion: '1'
    uid: x
    managedFields: [{manager: kubectl}]
  spec: {rules: [{}]}
  status: {conditions: []}
",
    );
    assert_eq!(mistakes, []);
    assert_eq!(policies.authorization[0].full_name(), "shop/a");
}

#[test]
fn peer_authentication_from_the_mesh_to_the_port() {
    let policy = |name: &str, namespace: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
        )
    };
    let labels = BTreeMap::from([("app".to_owned(), "api".to_owned())]);
    let mode = |text: &str, port| {
        let (policies, mistakes) = read(text);
        assert_eq!(mistakes, []);
        let workload = Workload { service: Some("api"), namespace: "shop", labels: &labels };
        peer_authentication_for(&policies, &workload, "istio-system", Some(port))
    };
    let mesh = policy("mesh", "istio-system", "{mtls: {mode: PERMISSIVE}}");
    let namespace = policy("namespace", "shop", "{mtls: {mode: STRICT}}");
    let unset = policy("unset", "shop", "{mtls: {mode: UNSET}}");
    let own = policy(
        "own",
        "shop",
        "{selector: {matchLabels: {app: api}}, mtls: {mode: DISABLE}, portLevelMtls: {8080: {mode: PERMISSIVE}, 9090: {mode: UNSET}}}",
    );
    let other = policy("other", "shop", "{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}");
    assert_eq!(mode("", 80), Mode::Strict);
    assert_eq!(mode(&mesh, 80), Mode::Permissive);
    assert_eq!(mode(&[mesh.as_str(), &unset, &other].concat(), 80), Mode::Permissive);
    assert_eq!(mode(&[mesh.as_str(), &namespace].concat(), 80), Mode::Strict);
    let all = [mesh, namespace, own].concat();
    assert_eq!(mode(&all, 80), Mode::Disable);
    assert_eq!(mode(&all, 8080), Mode::Permissive);
    assert_eq!(mode(&all, 9090), Mode::Disable);
}

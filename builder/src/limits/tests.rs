//! What a user sees for limits, good and bad, and what the engine gets.

use std::collections::BTreeMap;

use meshward_engine::limits::Limits as EngineLimits;
use meshward_engine::limits::config::{HeaderMode, KeyPart, OnFailure, Scope, Stage};

use super::*;
use crate::diagnostic::Source;
use crate::mesh::document;
use crate::policy::PortMap;

fn read(text: &str) -> (Limits, Vec<Diagnostic>) {
    let source = Source::new("limits.yaml", text);
    let mut mistakes = Vec::new();
    let documents = document::parse(&source, &mut mistakes);
    let limits = load(&documents, "default", &mut mistakes);
    (limits, mistakes)
}

fn good(text: &str) -> Limits {
    let (limits, mistakes) = read(text);
    assert_eq!(mistakes, []);
    limits
}

fn compiled(limits: &Limits, app: &str, replicas: u32) -> Compiled {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let workload = Workload { service: Some(app), namespace: "default", labels: &labels };
    let names = Names {
        root_namespace: "istio-system",
        trust_domain: "td",
        trust_domain_aliases: &[],
        port: Some(PortMap { application: 8000, listener: 15001 }),
    };
    inbound(limits, &workload, &names, replicas, None)
}

const WHOLE: &str = r#"apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: books}
spec:
  selector: {matchLabels: {app: api}}
  limits:
  - name: reads
    from: [{source: {namespaces: [shop]}}]
    to: [{operation: {methods: [GET]}}]
    key: [identity, method, {path: ["/books", "/books/{*}"]}, {header: X-Tenant}]
    rates:
    - {requests: 100, per: 1s, burst: 200}
    - {requests: 1000, per: 1m}
    cost: 2
    scope: service
    overrides:
    - from: [{source: {serviceAccounts: [batch]}}]
      unlimited: true
    - from: [{source: {namespaces: [shop]}}]
      rates: [{requests: 5, per: 1s}, {requests: 50, per: 1m}]
    response: {status: 503, headers: always, problem: true}
  - name: floods
    stage: beforeAuthorization
    mode: shadow
    key: [clientAddress]
    rates: [{requests: 10, per: 250ms}]
  - name: open
    key: [serviceAccount]
    concurrency: 20
"#;

#[test]
fn a_whole_policy_becomes_the_engines_limits() {
    let Compiled { selectors, limits, source_ip, remote_ip } = compiled(&good(WHOLE), "api", 3);
    assert!(!source_ip && remote_ip, "counting by `clientAddress` needs the original client");
    assert_eq!(limits.replicas, 3);
    let [reads, floods] = limits.rates.as_slice() else { panic!("{limits:?}") };
    assert_eq!(&*reads.name, "default/books/reads");
    assert_eq!(
        (reads.cost, reads.scope, reads.stage, reads.shadow),
        (2, Scope::Service, Stage::AfterAuthorization, false)
    );
    assert_eq!(reads.answer.status, 503);
    assert_eq!((reads.answer.headers, reads.answer.problem), (HeaderMode::Always, true));
    let windows: Vec<_> = reads
        .windows
        .iter()
        .map(|window| (&*window.name, window.requests, window.period, window.burst))
        .collect();
    assert_eq!(windows, [("1s", 100, 1_000_000_000, 200), ("1m", 1000, 60_000_000_000, 1000)]);
    assert_eq!(
        reads.key,
        [
            KeyPart::Identity,
            KeyPart::Method,
            KeyPart::Template(vec![1, 2]),
            KeyPart::Header("x-tenant".into())
        ]
    );
    assert_eq!(reads.selector, Some(0));
    assert_eq!(reads.overrides.len(), 2);
    assert!(reads.overrides[0].windows.is_empty());
    assert_eq!(floods.stage, Stage::BeforeAuthorization);
    assert_eq!((floods.selector, floods.shadow, floods.windows[0].period), (None, true, 250_000_000));
    assert_eq!(
        (limits.concurrency[0].limit, &limits.concurrency[0].key),
        (20, &vec![KeyPart::ServiceAccount])
    );
    // Four rules of the file, of which two are the same text in another place: each is one selector.
    assert_eq!(selectors.len(), 5);
    EngineLimits::compile(limits, selectors.len()).unwrap();
}

#[test]
fn it_is_for_the_workloads_that_an_authorization_policy_would_be_for() {
    let none = |text: &str, app| compiled(&good(text), app, 1).limits.rates.is_empty();
    assert!(!none(WHOLE, "api"));
    assert!(none(WHOLE, "web"));
    let other = WHOLE.replace("{name: books}", "{name: books, namespace: shop}");
    assert!(none(&other, "api"));
    let root = WHOLE.replace("{name: books}", "{name: books, namespace: istio-system}");
    assert!(!none(&root, "api"));
    let by_name =
        WHOLE.replace("selector: {matchLabels: {app: api}}", "targetRefs: [{kind: Service, name: api}]");
    assert!(!none(&by_name, "api") && none(&by_name, "web"));
}

#[test]
fn all_mistakes_come_at_once_each_with_its_place_and_its_mend() {
    let (limits, mistakes) = read(
        r#"apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata:
  name: bad
  annotations: {istio.io/dry-run: "true"}
spec:
  limits:
  - name: Reads
    key: [identity, identity, {header: ":path"}, {path: []}, {path: ["/a/*/b"]}]
    rates:
    - {requests: 0, per: 1s}
    - {requests: 1, per: 1}
    - {requests: 1, per: 1 fortnight}
    - {requests: 4000000000, per: 1ms}
    - {requests: 2, per: 1s}
    cost: 3
    response: {status: 200}
  - name: nothing
    scope: service
  - name: nothing
    to: [{operation: {methods: []}}]
    rates: [{requests: 1, per: 1s}]
    overrides:
    - {unlimited: true}
    - from: [{source: {namespaces: [a]}}]
      rates: [{requests: 1, per: 1s}, {requests: 1, per: 1m}]
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: names}
spec:
  limits:
  - name: a
    key: [identty]
    rates: [{request: 1, per: 1s}]
    scope: servce
    brust: 3
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: nothing}
spec:
  limits:
  - name: nothing
    scope: service
  - name: all
    rates: [{requests: 1, per: 1s}]
    overrides:
    - {unlimited: true}
    - from: [{source: {namespaces: [a]}}]
"#,
    );
    assert!(limits.rates.is_empty(), "{limits:?}");
    let text: String = mistakes.iter().map(|mistake| mistake.render(false) + "\n").collect();
    insta::assert_snapshot!(text);
}

#[test]
fn a_global_limit_has_what_a_service_can_count() {
    let policy = |rest: &str| {
        format!(
            "apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: books}}
spec:
  limits:
  - name: all
    scope: global
{rest}"
        )
    };
    let limits = good(&policy("    rates: [{requests: 100, per: 60s}]\n    onFailure: failClosed\n"));
    assert_eq!(limits.rates[0].limits[0].scope, Scope::Global(OnFailure::Closed));
    let (_, mistakes) = read(&policy(
        "    stage: beforeAuthorization
    rates: [{requests: 100, per: 10s, burst: 10}, {requests: 100, per: 1m}]
  - {name: mine, onFailure: local, rates: [{requests: 1, per: 1s}]}
",
    ));
    let text: String = mistakes.iter().map(|mistake| mistake.render(false) + "\n").collect();
    insta::assert_snapshot!(text);
}

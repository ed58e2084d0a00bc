use super::*;
use crate::diagnostic::Source;
use crate::mesh;

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  services:
    - {name: api, port: 8000}
    - {name: db, protocol: tcp, port: 5432}
    - {name: web, port: 8001, calls: [api, db]}
    - {name: batch, port: 8002}
";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn api(action: &str, rules: &str) -> String {
    format!("{{selector: {{matchLabels: {{app: api}}}}, action: {action}, rules: [{rules}]}}")
}

fn load(text: &str) -> Resolved {
    mesh::load_sources(&[Source::new("mesh.yaml", text)]).unwrap_or_else(|failure| {
        panic!("{}", failure.diagnostics.iter().map(|one| one.render(false)).collect::<String>())
    })
}

fn compared(old: &str, new: &str) -> Report {
    compare(&load(&format!("{MESH}{old}")), &load(&format!("{MESH}{new}")), &Ask::Generated(20_000)).unwrap()
}

const READERS: &str = "{from: [{source: {principals: [shop.example/ns/default/sa/web]}}], to: [{operation: {methods: [GET], paths: [/books*]}}]}";

#[test]
fn the_same_answers_the_same() {
    let old = policy("readers", &api("ALLOW", READERS));
    let report = compared(&old, &old);
    assert!(report.changes.is_empty(), "{:?}", report.changes);
    assert!(report.asked > 50 && report.both == 4, "{report:?}");
}

#[test]
fn what_widens_and_what_narrows_is_told_with_the_policies() {
    let old = policy("readers", &api("ALLOW", READERS))
        + &policy("closed", &api("DENY", "{to: [{operation: {paths: [/books/secret]}}]}"));
    let wider = READERS
        .replace("[GET]", "[GET, PUT]")
        .replace("sa/web]", "sa/web, shop.example/ns/default/sa/batch]");
    let new = policy("readers", &api("ALLOW", &wider))
        + &policy("closed", &api("DENY", "{to: [{operation: {paths: [/books/hidden]}}]}"));
    insta::assert_snapshot!(report::as_text(&compared(&old, &new), true));
    insta::assert_snapshot!(report::as_text(&compared(&new, &old), false));
}

/// Every kind of condition is found when it is taken away, and when its value changes.
#[test]
fn no_kind_of_condition_is_overlooked() {
    let conditions = [
        ("from: [{source: {namespaces: [a]}}]", "from: [{source: {namespaces: [b]}}]"),
        ("from: [{source: {namespaces: [\"a*\"]}}]", "from: [{source: {namespaces: [\"b*\"]}}]"),
        ("from: [{source: {serviceAccounts: [a/x]}}]", "from: [{source: {serviceAccounts: [a/y]}}]"),
        (
            "from: [{source: {trustDomains: [shop.example], namespaces: [a]}}]",
            "from: [{source: {trustDomains: [other.example], namespaces: [a]}}]",
        ),
        ("from: [{source: {principals: [\"*/sa/x\"]}}]", "from: [{source: {principals: [\"*/sa/y\"]}}]"),
        (
            "from: [{source: {principals: [\"spiffe://shop.example/ns/*/sa/x\"]}}]",
            "from: [{source: {principals: [\"spiffe://shop.example/ns/*/sa/y\"]}}]",
        ),
        (
            "from: [{source: {notPrincipals: [shop.example/ns/default/sa/web]}}]",
            "from: [{source: {notPrincipals: [shop.example/ns/default/sa/batch]}}]",
        ),
        ("from: [{source: {ipBlocks: [10.0.0.0/8]}}]", "from: [{source: {ipBlocks: [10.0.0.0/16]}}]"),
        (
            "from: [{source: {notRemoteIpBlocks: [10.0.0.0/8]}}]",
            "from: [{source: {notRemoteIpBlocks: [11.0.0.0/8]}}]",
        ),
        (
            "from: [{source: {requestPrincipals: [\"https://a/b\"]}}]",
            "from: [{source: {requestPrincipals: [\"https://a/c\"]}}]",
        ),
        ("to: [{operation: {hosts: [a.example]}}]", "to: [{operation: {hosts: [b.example]}}]"),
        ("to: [{operation: {hosts: [\"*.a.example\"]}}]", "to: [{operation: {hosts: [\"*.b.example\"]}}]"),
        ("to: [{operation: {notMethods: [GET]}}]", "to: [{operation: {notMethods: [PUT]}}]"),
        ("to: [{operation: {paths: [\"/a/{*}/b\"]}}]", "to: [{operation: {paths: [\"/a/{**}/b\"]}}]"),
        ("to: [{operation: {paths: [\"*.html\"]}}]", "to: [{operation: {paths: [\"*.htm\"]}}]"),
        ("to: [{operation: {notPaths: [\"/a*\"]}}]", "to: [{operation: {notPaths: [\"/ab*\"]}}]"),
        (
            "when: [{key: \"request.headers[x-role]\", values: [admin]}]",
            "when: [{key: \"request.headers[x-role]\", values: [user]}]",
        ),
        (
            "when: [{key: \"request.headers[x-role]\", notValues: [admin]}]",
            "when: [{key: \"request.headers[x-role]\", values: [\"*\"]}]",
        ),
        (
            "when: [{key: \"request.auth.claims[a][b]\", values: [x]}]",
            "when: [{key: \"request.auth.claims[a][b]\", values: [y]}]",
        ),
        (
            "when: [{key: request.auth.audiences, values: [x]}]",
            "when: [{key: request.auth.presenter, values: [x]}]",
        ),
        (
            "when: [{key: connection.sni, values: [a.example]}]",
            "when: [{key: connection.sni, values: [b.example]}]",
        ),
        (
            "when: [{key: destination.ip, values: [10.0.0.1]}]",
            "when: [{key: destination.ip, values: [10.0.0.2]}]",
        ),
        (
            "when: [{key: \"experimental.envoy.filters.http.x[role]\", values: [a]}]",
            "when: [{key: \"experimental.envoy.filters.http.x[role]\", values: [b]}]",
        ),
    ];
    for action in ["ALLOW", "DENY"] {
        // A DENY policy is seen only where something else allows.
        let all = policy("all", &api("ALLOW", "{}"));
        for (one, other) in conditions {
            let with = |rule: &str| {
                let own = policy("own", &api(action, &format!("{{{rule}}}")));
                if action == "DENY" { own + &all } else { own }
            };
            for (old, new) in [(one, other), (other, one)] {
                let report = compared(&with(old), &with(new));
                let changed = report.count(Way::Widened) + report.count(Way::Narrowed);
                assert!(changed > 0, "{action} {old} -> {new}: {} asked", report.asked);
            }
        }
    }
}

#[test]
fn a_workload_that_is_new_or_gone_and_a_mode_are_changes() {
    let without = load(
        &MESH.replace("    - {name: batch, port: 8002}\n", "").replace("calls: [api, db]", "calls: [api]"),
    );
    let with = load(MESH);
    let report = compare(&without, &with, &Ask::Generated(20_000)).unwrap();
    assert_eq!(
        (report.new.as_slice(), report.gone.len(), report.both),
        (["default/batch".to_owned()].as_slice(), 0, 3)
    );
    // `calls` is a permission, also to a database.
    let text = report::as_text(&report, false);
    assert!(text.contains("+ default/db: a connection by spiffe://shop.example/ns/default/sa/web"), "{text}");
    let report = compare(&with, &without, &Ask::Generated(20_000)).unwrap();
    assert_eq!(
        (report.gone.as_slice(), report.count(Way::Widened)),
        (["default/batch".to_owned()].as_slice(), 0)
    );
    assert!(report.count(Way::Narrowed) > 0);

    let anybody = policy("anybody", &api("ALLOW", "{}"));
    let permissive = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: open}\nspec: {mtls: {mode: PERMISSIVE}}\n";
    let text = report::as_text(&compared(&anybody, &format!("{anybody}{permissive}")), false);
    assert!(
        text.contains("by nobody (no certificate)")
            && text.contains("deny no_identity  ->  allow default/anybody/0"),
        "{text}"
    );
}

#[test]
fn given_requests_are_asked_of_every_workload() {
    let old = load(&format!("{MESH}{}", policy("readers", &api("ALLOW", READERS))));
    let new = load(MESH);
    let request = serde_json::json!({
        "id": 1, "method": "POST", "path": "/x", "source": {"principal": "spiffe://shop.example/ns/default/sa/web"},
    });
    let report = compare(&old, &new, &Ask::Given(vec![request.clone()])).unwrap();
    assert_eq!((report.asked, report.count(Way::Widened)), (4, 1));
    let change = &report.changes[0];
    assert_eq!((&*change.workload, change.now.decided()), ("default/api", "allow mesh/calls/0".to_owned()));
    assert_eq!(change.example, request);
    let wrong = Ask::Given(vec![serde_json::json!({"id": 1, "methd": "GET"})]);
    assert_eq!(compare(&old, &new, &wrong).unwrap_err().diagnostics[0].code, "unreadable-request");
}

/// With a thousand policies not everything is combined with everything, and still no rule is left out.
#[test]
fn a_thousand_policies_are_asked_in_bounds_and_each_of_them() {
    let mut rules = String::new();
    for number in 0..1_000 {
        rules += &format!(
            "{{from: [{{source: {{namespaces: [n{number}]}}}}], to: [{{operation: {{paths: [/p{number}/*]}}}}]}}, "
        );
    }
    let old = policy("many", &api("ALLOW", &rules));
    let new = policy("many", &api("ALLOW", &rules.replace("/p777/*", "/p777/x/*")));
    let ask = Ask::Generated(5_000);
    let report = compare(&load(&format!("{MESH}{old}")), &load(&format!("{MESH}{new}")), &ask).unwrap();
    assert!(
        (2_000..10_000).contains(&report.asked) && report.possible > 1_000_000,
        "{} {}",
        report.asked,
        report.possible
    );
    assert!(report.count(Way::Narrowed) > 0, "{}", report::as_text(&report, false));
}

//! Lines of JSON in, lines of JSON out.

use std::path::PathBuf;

use super::*;

fn eval_with(options: Options, policies: &str, requests: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("policies.yaml");
    std::fs::write(&file, policies).unwrap();
    let options = Options { mesh: vec![file], ..options };
    let evaluator = Evaluator::new(&options, &mut Vec::new())
        .unwrap_or_else(|failure| panic!("{:#?}", failure.diagnostics));
    let mut output = Vec::new();
    run(&evaluator, requests.as_bytes(), &mut output).unwrap();
    String::from_utf8(output).unwrap().lines().map(str::to_owned).collect()
}

fn eval(policies: &str, requests: &str) -> Vec<String> {
    eval_with(Options::default(), policies, requests)
}

const HEAD: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";

#[test]
fn the_contract() {
    let policies = format!(
        "{HEAD}metadata: {{name: p}}\nspec:\n  rules:\n  - to: [{{operation: {{methods: [GET]}}}}]\n"
    );
    let answers = eval(
        &policies,
        "{\"id\":\"r1\",\"source\":{\"principal\":\"spiffe://cluster.local/ns/a/sa/b\",\"ip\":\"10.0.0.1\",\"remote_ip\":\"1.2.3.4\"},\
         \"destination\":{\"ip\":\"10.0.0.2\",\"port\":8080},\"sni\":\"x\",\"protocol\":\"http\",\"method\":\"GET\",\"path\":\"/x?y=1\",\
         \"host\":\"h\",\"headers\":{\"k\":[\"v1\",\"v2\"]},\"jwt\":{\"iss\":\"i\",\"sub\":\"s\",\"claims\":{}}}\n\
         {\"id\":\"r2\",\"method\":\"PUT\"}\n\
         \n\
         {\"id\":\"r3\",\"metod\":\"PUT\"}\n\
         nonsense\n\
         {\"id\":\"r4\",\"protocol\":\"tcp\"}",
    );
    assert_eq!(
        answers,
        [
            r#"{"id":"r1","decision":"allow","status":200,"policy":"default/p","rule":0,"reason":"allow_rule","shadow":[]}"#,
            r#"{"id":"r2","decision":"deny","status":403,"policy":null,"rule":null,"reason":"no_allow_rule","shadow":[]}"#,
            r#"{"id":"r3","error":"line 4: unknown field `metod`, expected one of `id`, `source`, `destination`, `sni`, `protocol`, `method`, `path`, `host`, `headers`, `jwt`, `metadata` (column 18)"}"#,
            r#"{"id":null,"error":"line 5: expected ident (column 2)"}"#,
            r#"{"id":"r4","decision":"deny","status":403,"policy":null,"rule":null,"reason":"no_allow_rule","shadow":[]}"#,
        ]
    );
}

#[test]
fn without_policies_istio_allows() {
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    assert!(
        eval(other, "{\"id\":1}")[0].starts_with(r#"{"id":1,"decision":"allow","status":200,"policy":null"#)
    );
}

#[test]
fn dry_run_and_audit_are_told() {
    let policies = format!(
        "{HEAD}metadata: {{name: d, annotations: {{istio.io/dry-run: \"true\"}}}}\nspec: {{action: DENY, rules: [{{}}]}}\n---\n\
         {HEAD}metadata: {{name: a, annotations: {{istio.io/dry-run: \"true\"}}}}\nspec: {{}}\n---\n\
         {HEAD}metadata: {{name: l}}\nspec: {{action: AUDIT, rules: [{{}}]}}\n"
    );
    assert_eq!(
        eval(&policies, "{\"id\":\"r\"}"),
        [concat!(
            r#"{"id":"r","decision":"allow","status":200,"policy":null,"rule":null,"reason":"default_allow","#,
            r#""shadow":[{"decision":"deny","policy":"default/d","rule":0},{"decision":"deny","policy":null,"rule":null}],"#,
            r#""audit":{"policy":"default/l","rule":0}}"#
        )]
    );
}

#[test]
fn selection_by_namespace_labels_and_root_namespace() {
    let policy = |name: &str, namespace: &str, labels: &str| {
        format!(
            "{HEAD}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{action: DENY, selector: {{matchLabels: {labels}}}, rules: [{{to: [{{operation: {{paths: [/{name}]}}}}]}}]}}\n---\n"
        )
    };
    let policies = [
        policy("root", "istio-system", "{}"),
        policy("own", "shop", "{app: web}"),
        policy("version", "shop", "{app: web, version: v2}"),
        policy("other", "elsewhere", "{}"),
    ]
    .concat();
    let requests = ["root", "own", "version", "other"]
        .map(|path| format!("{{\"id\":\"{path}\",\"path\":\"/{path}\"}}\n"))
        .concat();
    let denied = |options: Options| -> Vec<String> {
        eval_with(options, &policies, &requests)
            .iter()
            .filter(|answer| answer.contains("\"deny\""))
            .map(|answer| answer.split('"').nth(3).unwrap().to_owned())
            .collect()
    };
    let workload = Some(("shop".to_owned(), "web".to_owned()));
    assert_eq!(denied(Options { workload, ..Options::default() }), ["root", "own"]);
    let namespace = Some("shop".to_owned());
    assert_eq!(denied(Options { namespace: namespace.clone(), ..Options::default() }), ["root"]);
    let labels = BTreeMap::from([("app".into(), "web".into()), ("version".into(), "v2".into())]);
    assert_eq!(denied(Options { namespace, labels, ..Options::default() }), ["root", "own", "version"]);
}

#[test]
fn ambiguous_paths_are_refused_and_plain_ones_decoded() {
    let policies = format!(
        "{HEAD}metadata: {{name: p}}\nspec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [/admin]}}}}]}}]}}\n"
    );
    let requests = ["/admin", "/%61dmin", "/%41dmin", "//admin", "/x/../admin", "/a%2fb", "/admin;x"]
        .map(|path| format!("{{\"id\":0,\"path\":\"{path}\"}}\n"))
        .concat();
    let statuses = |paths| -> Vec<String> {
        eval_with(Options { paths, ..Options::default() }, &policies, &requests)
            .iter()
            .map(|answer| answer.split("\"status\":").nth(1).unwrap()[..3].to_owned())
            .collect()
    };
    assert_eq!(statuses(None), ["403", "403", "200", "400", "400", "400", "403"]);
    assert_eq!(statuses(Some(Paths::Sent)), ["403", "403", "200", "403", "403", "400", "403"]);
}

#[test]
fn tokens_and_headers() {
    let policies = format!(
        "{HEAD}metadata: {{name: p, annotations: {{meshward.dev/repeated-headers: any}}}}\nspec:\n  rules:\n\
         \x20 - {{from: [{{source: {{requestPrincipals: [\"i/s\"]}}}}]}}\n\
         \x20 - {{when: [{{key: \"request.auth.claims[groups]\", values: [admins]}}]}}\n\
         \x20 - {{when: [{{key: \"request.auth.claims[a][b]\", values: [c]}}]}}\n\
         \x20 - {{when: [{{key: \"request.auth.claims[scope]\", values: [write]}}]}}\n\
         \x20 - {{when: [{{key: request.auth.audiences, values: [aud]}}]}}\n\
         \x20 - {{when: [{{key: \"request.headers[X-Role]\", values: [admin]}}]}}\n\
         \x20 - {{when: [{{key: \"experimental.envoy.filters.http.x[k]\", values: [\"[v]\"]}}]}}\n"
    );
    let requests = [
        r#""jwt":{"iss":"i","sub":"s"}"#,
        r#""jwt":{"claims":{"groups":["users","admins"]}}"#,
        r#""jwt":{"claims":{"a":{"b":"c"}}}"#,
        r#""jwt":{"claims":{"scope":"read write"}}"#,
        r#""jwt":{"claims":{"aud":"aud"}}"#,
        r#""headers":{"x-role":["user","admin"]}"#,
        r#""metadata":{"envoy.filters.http.x":{"k":["u","v"]}}"#,
        r#""jwt":{"iss":"i"}"#,
    ]
    .map(|rest| format!("{{\"id\":0,{rest}}}\n"))
    .concat();
    let rules: Vec<String> = eval(&policies, &requests)
        .iter()
        .map(|answer| answer.split("\"rule\":").nth(1).unwrap().split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(rules, ["0", "1", "2", "3", "4", "5", "6", "null"]);
}

#[test]
fn a_mesh_answers_as_its_sidecar() {
    let mesh = "apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec:\n  trustDomain: shop.example\n  services:\n\
                \x20 - {name: web, port: 80, calls: [api]}\n  - {name: api, port: 81}\n";
    let requests = r#"{"id":"caller","source":{"principal":"spiffe://shop.example/ns/default/sa/web"},"path":"/a/../b"}
{"id":"stranger","source":{"principal":"spiffe://shop.example/ns/default/sa/other"},"path":"/"}
{"id":"foreign","source":{"principal":"spiffe://evil.example/ns/default/sa/web"},"path":"/"}
{"id":"nobody","path":"/"}
{"id":"port","source":{"principal":"spiffe://shop.example/ns/default/sa/web"},"destination":{"port":81},"path":"/"}"#;
    let options = || Options { workload: Some(("default".into(), "api".into())), ..Options::default() };
    let brief = |answers: Vec<String>| -> Vec<(String, String)> {
        let part = |answer: &str, key: &str| {
            answer.split(&format!("\"{key}\":\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        answers.iter().map(|answer| (part(answer, "id"), part(answer, "reason"))).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(id, reason)| ((*id).to_owned(), (*reason).to_owned())).collect()
    };
    assert_eq!(
        brief(eval_with(options(), mesh, requests)),
        pairs(&[
            ("caller", "allow_rule"),
            ("stranger", "no_allow_rule"),
            ("foreign", "foreign_trust_domain"),
            ("nobody", "no_identity"),
            ("port", "allow_rule"),
        ])
    );
    let policy = format!(
        "{mesh}---\n{HEAD}metadata: {{name: p}}\nspec: {{selector: {{matchLabels: {{app: api}}}}, rules: [{{to: [{{operation: {{ports: [\"81\"]}}}}]}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: q}}\nspec: {{mtls: {{mode: PERMISSIVE}}}}\n"
    );
    assert_eq!(
        brief(eval_with(options(), &policy, requests)),
        pairs(&[
            ("caller", "allow_rule"),
            ("stranger", "allow_rule"),
            ("foreign", "foreign_trust_domain"),
            ("nobody", "allow_rule"),
            ("port", "allow_rule"),
        ])
    );
}

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
            r#"{"id":"r2","decision":"deny","status":403,"policy":null,"rule":null,"reason":"no_allow_rule: policy `default/p` rule 0 failed methods: PUT is not in [GET]","shadow":[]}"#,
            r#"{"id":"r3","error":"line 4: unknown field `metod`, expected one of `id`, `time`, `outcome`, `source`, `destination`, `sni`, `protocol`, `method`, `path`, `host`, `headers`, `jwt`, `metadata` (column 18)"}"#,
            r#"{"id":null,"error":"line 5: this is not JSON (column 2)"}"#,
            r#"{"id":"r4","decision":"deny","status":403,"policy":null,"rule":null,"reason":"no_allow_rule","shadow":[]}"#,
        ]
    );
}

#[test]
fn a_denial_names_what_came_nearest() {
    let policies = format!(
        "{HEAD}metadata: {{name: readers}}\nspec:\n  rules:\n\
         \x20 - {{from: [{{source: {{namespaces: [x]}}}}]}}\n\
         \x20 - {{from: [{{source: {{namespaces: [a]}}}}], to: [{{operation: {{methods: [GET], paths: [/b*]}}}}]}}\n"
    );
    let request =
        r#"{"id":1,"source":{"principal":"spiffe://td/ns/a/sa/b"},"method":"DELETE","path":"/books"}"#;
    let said = "no_allow_rule: policy `default/readers` rule 1 matched namespaces, paths and failed methods: DELETE is not in [GET]";
    assert!(eval(&policies, request)[0].contains(&format!("\"reason\":\"{said}\"")));
    let terse = Options { terse: true, ..Options::default() };
    assert!(eval_with(terse, &policies, request)[0].contains("\"reason\":\"no_allow_rule\""));
}

#[test]
fn a_port_has_its_own_mode_without_a_mesh_too() {
    let policies = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\n\
         spec:\n  selector: {matchLabels: {app: web}}\n  mtls: {mode: STRICT}\n\
         \x20 portLevelMtls: {8080: {mode: PERMISSIVE}, 9090: {mode: UNSET}}\n\
         ---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: q}\n\
         spec:\n  selector: {matchLabels: {app: other}}\n  portLevelMtls: {7070: {mode: STRICT}}\n";
    let requests = r#"{"id":1,"destination":{"port":8080}}
        {"id":2,"destination":{"port":9090}}
        {"id":3,"destination":{"port":80}}
        {"id":4}
        {"id":5,"destination":{"port":80},"source":{"principal":"spiffe://td/ns/a/sa/b"}}
        {"id":6,"destination":{"port":7070}}"#;
    let reasons = |name: &str| {
        let workload = Some(("default".to_owned(), name.to_owned()));
        let answers = eval_with(Options { workload, ..Options::default() }, policies, requests);
        let reason = |answer: &String| answer.split("\"reason\":\"").nth(1).unwrap()[..5].to_owned();
        answers.iter().map(reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons("web"), ["defau", "no_id", "no_id", "no_id", "defau", "no_id"]);
    assert_eq!(reasons("other"), ["defau", "defau", "defau", "defau", "defau", "no_id"]);
}

#[test]
fn a_list_is_no_object() {
    let lists = [
        r#"[0]"#,
        r#"{"id":0,"source":["spiffe://td/ns/a/sa/b"]}"#,
        r#"{"id":0,"destination":["10.0.0.1",80]}"#,
        r#"{"id":0,"jwt":["i","s",{}]}"#,
        r#"{"id":0,"headers":["a"]}"#,
    ];
    for answer in eval("", &lists.join("\n")) {
        assert!(answer.contains("invalid type: sequence"), "{answer}");
    }
}

#[test]
fn a_line_that_is_too_long_is_one_line() {
    let hidden = format!("{{\"id\":\"{}{{\"id\":2}}\n{{\"id\":3}}", "x".repeat(16 << 20));
    let answers = eval("", &hidden);
    assert_eq!(answers[0], r#"{"id":null,"error":"line 1: longer than 16777216 bytes"}"#);
    assert!(answers.len() == 2 && answers[1].starts_with(r#"{"id":3,"decision":"allow""#), "{answers:?}");
}

/// To Envoy `host` is a name of `:authority`; the others have fields of their own, and are not overlooked as headers.
#[test]
fn the_host_header_is_the_authority() {
    let policies = format!(
        "{HEAD}metadata: {{name: p}}\nspec:\n  rules:\n  - when: [{{key: \"request.headers[Host]\", values: [h]}}]\n"
    );
    let requests = r#"{"id":0,"host":"h"}
{"id":0,"headers":{"Host":"h"}}
{"id":0,"host":"x","headers":{"host":["h"]}}
{"id":0,"headers":{":authority":"h"}}"#;
    let answers = eval(&policies, requests);
    for (answer, part) in answers.iter().zip(["allow", "allow", "deny", "`:authority` is said in `host`"]) {
        assert!(answer.contains(part), "{answer}");
    }
}

/// As Istio reads them: the issuer is what stands before the last `/` of the policy's value.
#[test]
fn request_principals_are_split_at_the_last_slash() {
    let policy = |value: &str| {
        format!(
            "{HEAD}metadata: {{name: p}}\nspec: {{rules: [{{from: [{{source: {{requestPrincipals: [\"{value}\"]}}}}]}}]}}\n"
        )
    };
    for (value, iss, sub, allowed) in [
        ("https://a/b", "https://a", "b", true),
        ("https://a/b/c", "https://a", "b/c", false),
        ("https://a/b/c", "https://a/b", "c", true),
        ("https://a/*", "https://a", "b/c", true),
        ("https://a/*", "https://a/b", "c", false),
        ("*/c", "https://a/b", "c", true),
        ("*/c", "a", "b/c", false),
        ("*b/c", "https://a/b", "c", true),
        ("*c", "a", "bc", true),
        ("htt*", "https://a", "b", true),
        ("*", "a", "b", true),
        ("*", "a", "", false),
        ("a", "a", "", false),
        ("*/c", "a\\u0000c", "c", false),
    ] {
        let request = format!(r#"{{"id":0,"jwt":{{"iss":"{iss}","sub":"{sub}"}}}}"#).replace("\\\\", "\\");
        let answer = &eval(&policy(value), &request)[0];
        assert_eq!(answer.contains("\"allow\""), allowed, "{value} {request}: {answer}");
    }
}

/// What is for a gateway no sidecar of Istio's enforces, and none of ours; what is for a service as well stays.
#[test]
fn targets_that_are_no_sidecars() {
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: g}";
    let policy = |targets: &str| {
        format!(
            "{HEAD}metadata: {{name: p}}\nspec: {{action: DENY, targetRefs: [{targets}], rules: [{{}}]}}\n"
        )
    };
    let of = || Options { workload: Some(("default".into(), "api".into())), ..Options::default() };
    assert!(eval_with(of(), &policy(gateway), "{\"id\":0}")[0].contains("default_allow"));
    let both = policy(&format!("{gateway}, {{kind: Service, name: api}}"));
    assert!(eval_with(of(), &both, "{\"id\":0}")[0].contains("deny_rule"));
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
        let word = |reason: String| reason.split(": ").next().unwrap().to_owned();
        answers.iter().map(|answer| (part(answer, "id"), word(part(answer, "reason")))).collect()
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

const LIMITS: &str = "apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: books}
spec:
  limits:
  - name: floods
    stage: beforeAuthorization
    key: [clientAddress]
    rates: [{requests: 4, per: 1m}]
    response: {headers: never}
  - name: callers
    key: [identity]
    rates: [{requests: 2, per: 1s, burst: 1}]
    response: {headers: always}
  - name: soon
    mode: shadow
    rates: [{requests: 1, per: 1h}]
";

#[test]
fn rate_limits_are_asked_at_the_time_that_a_line_says() {
    let policies = format!(
        "{HEAD}metadata: {{name: no, annotations: {{}}}}\nspec: {{action: DENY, rules: [{{to: [{{operation: {{methods: [PUT]}}}}]}}]}}\n---\n{LIMITS}"
    );
    let line = |id: u32, time: &str, caller: &str, method: &str| {
        format!(
            "{{\"id\":{id},\"time\":\"{time}\",\"method\":\"{method}\",\"source\":{{\"principal\":\"spiffe://td/ns/a/sa/{caller}\",\"ip\":\"10.0.0.1\"}}}}\n"
        )
    };
    let requests = [
        line(1, "1s", "x", "GET"),
        line(2, "1.250s", "x", "GET"),
        line(3, "1250ms", "y", "GET"),
        line(4, "1.5s", "x", "PUT"),
        line(5, "1.5s", "x", "GET"),
        "{\"id\":6,\"method\":\"GET\"}\n".to_owned(),
        "{\"id\":7,\"time\":\"soon\"}\n".to_owned(),
    ]
    .concat();
    let answers = eval(&policies, &requests);
    assert_eq!(eval(&policies, &requests), answers, "the same every time");
    insta::assert_snapshot!(answers.join("\n"));
}

#[test]
fn a_global_limit_is_one_counter_in_windows_of_the_clock() {
    let policies = "apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: books}
spec:
  limits:
  - name: all
    scope: global
    rates: [{requests: 3, per: 1m}]
    cost: 1
    response: {headers: always}
  - name: tenants
    key: [{header: x-tenant}]
    rates: [{requests: 1, per: 1h}]
  - name: open
    concurrency: 5
";
    let line = |id: u32, time: &str, tenant: &str| {
        format!(
            "{{\"id\":{id},\"time\":\"{time}\",\"method\":\"GET\",\"headers\":{{\"x-tenant\":\"{tenant}\"}}}}\n"
        )
    };
    let lines = [
        (1, "10s", "a"),
        // Refused by the other limit: costs nothing of the budget.
        (2, "11s", "a"),
        (3, "20s", "b"),
        (4, "59s", "c"),
        (5, "59.5s", "d"),
        (6, "60s", "e"),
    ];
    let requests: String = lines.iter().map(|(id, time, tenant)| line(*id, time, tenant)).collect();
    let answers: Vec<serde_json::Value> =
        eval(policies, &requests).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let brief: Vec<_> = answers
        .iter()
        .map(|answer| {
            (answer["status"].as_u64().unwrap(), answer["limit"].as_str(), answer["retry_after"].as_u64())
        })
        .collect();
    assert_eq!(
        brief,
        [
            (200, None, None),
            (429, Some("tenants"), Some(3599)),
            (200, None, None),
            (200, None, None),
            (429, Some("all"), Some(1)),
            (200, None, None),
        ]
    );
    assert_eq!(answers[3]["headers"]["x-ratelimit-remaining"], "0");
    assert_eq!(answers[0]["undecided"], serde_json::json!(["default/books/open"]));
    assert_eq!(answers[4]["undecided"], serde_json::Value::Null);
}

#[test]
fn breakers_go_through_their_states_as_the_outcomes_say() {
    const MESH: &str = "apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: td
  services:
  - {name: web, port: 8000, calls: [api, other]}
  - {name: api, port: 8001}
  - {name: other, port: 8002}
---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {name: calls}
spec:
  selector: {matchLabels: {app: web}}
  breakers: [{name: each, consecutiveFailures: 2, slowCalls: {threshold: 1s, ratio: 0.9}, honourRetryAfter: true, backoff: {min: 2s, max: 10s}}]
";
    let line = |id: u32, time: &str, to: &str, outcome: &str| {
        format!(
            "{{\"id\":{id},\"time\":\"{time}\",\"destination\":{{\"service\":\"{to}\"}},\"outcome\":{outcome}}}\n"
        )
    };
    let requests = [
        line(1, "1s", "api", r#"{"status":503,"latency":"20ms"}"#),
        line(2, "1.1s", "api", r#"{"latency":"500ms"}"#),
        // Asked before the second failure is known.
        line(3, "1.2s", "api", r#"{"status":200,"latency":"2s"}"#),
        line(4, "1.7s", "api", r#"{"status":200}"#),
        line(5, "1.7s", "other", r#"{"status":200}"#),
        line(6, "3.6s", "api", r#"{"status":500,"retry_after":"7s"}"#),
        line(7, "9s", "api", r#"{"status":200}"#),
        line(8, "11s", "api", r#"{"status":200,"latency":"10ms"}"#),
        line(9, "11.5s", "api", r#"{"status":200}"#),
    ]
    .concat();
    let ask = || {
        let workload = Some(("default".to_owned(), "web".to_owned()));
        eval_with(Options { workload, side: Side::Outbound, ..Options::default() }, MESH, &requests)
    };
    let answers = ask();
    assert_eq!(ask(), answers, "the same every time");
    insta::assert_snapshot!(answers.join("\n"));
}

#[test]
fn a_line_with_an_outcome_that_cannot_be_replayed_says_why() {
    const MESH: &str = "apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: td
  services:
  - {name: web, port: 8000, calls: [api, other]}
  - {name: job, port: 8003, calls: [api]}
  - {name: api, port: 8001}
  - {name: other, port: 8002}
";
    let ask = |workload: &str, side: Side, line: &str| {
        let workload = Some(("default".to_owned(), workload.to_owned()));
        eval_with(Options { workload, side, ..Options::default() }, MESH, line).pop().unwrap()
    };
    let problem = |line: &str| {
        let answer: serde_json::Value = serde_json::from_str(&ask("web", Side::Outbound, line)).unwrap();
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        error.rsplit_once(" (column").map_or(error, |(error, _)| error).to_owned()
    };
    let to = r#""destination":{"service":"api"}"#;
    for (line, error) in [
        (format!(r#"{{"id":1,{to},"outcome":{{"status":200}}}}"#), "line 1: an `outcome` needs a `time`"),
        (
            format!(r#"{{"id":1,"time":"1s",{to},"outcome":{{"state":200}}}}"#),
            "line 1: unknown field `state`, expected one of `status`, `grpc`, `latency`, `retry_after`",
        ),
        (
            format!(r#"{{"id":1,"time":"1s",{to},"outcome":[200]}}"#),
            "line 1: invalid type: sequence, expected an object",
        ),
        (
            format!(r#"{{"id":1,"time":"1s",{to},"outcome":{{"latency":"-1s"}}}}"#),
            "line 1: this is a time like `1.250s` or `2m`",
        ),
        (
            format!(
                "{{\"id\":1,\"time\":\"2s\",{to},\"outcome\":{{}}}}\n{{\"id\":2,\"time\":\"1s\",{to},\"outcome\":{{}}}}"
            ),
            "line 2: its `time` is before that of an earlier line: outcomes come in the order of their times",
        ),
        (
            r#"{"id":1,"time":"1s","destination":{"service":"web"},"outcome":{}}"#.to_owned(),
            "line 1: the workload does not call `web`; it calls: api, other",
        ),
        (
            r#"{"id":1,"time":"1s","outcome":{}}"#.to_owned(),
            "line 1: `destination.service` must say which it goes to: api, other",
        ),
    ] {
        assert_eq!(problem(&line), error, "{line}");
    }
    let one = r#"{"id":1,"time":"1s","outcome":{}}"#;
    assert!(ask("job", Side::Outbound, one).contains("allow"), "with one callee it is that one");
    let inbound = ask("api", Side::Inbound, &format!(r#"{{"id":1,{to}}}"#));
    assert!(inbound.contains("`destination.service` is of `--side outbound`"), "{inbound}");
}

#[test]
fn what_a_workload_sends_needs_a_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("policies.yaml");
    std::fs::write(&file, LIMITS).unwrap();
    let options = Options { mesh: vec![file], side: Side::Outbound, ..Options::default() };
    let failure = Evaluator::new(&options, &mut Vec::new()).unwrap_err();
    assert_eq!(failure.diagnostics[0].code, "no-mesh");
}

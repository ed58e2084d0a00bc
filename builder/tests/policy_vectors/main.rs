//! Istio's and Envoy's own cases, asked of `policy eval`.
//!
//! What of the vectors is not ours is listed here, each with its reason; the test fails when an exception is no longer
//! one. Not asked here: `rbac-pairs/*-out*` (Envoy's RBAC that Istio generates; only that the policies are read, and how
//! aliases are written out, is checked), `envoy_rbac_oracle`, `envoy_matcher_vectors` and `envoy_engine_vectors` (RBAC
//! configurations, which `policy eval` does not read), `envoy_path_utility_vectors` (single steps of what the path oracle
//! measures as a whole).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use meshward_builder::diagnostic::{Severity, Source};
use meshward_builder::mesh::document;
use meshward_builder::policy::eval::{Options, Paths};
use meshward_builder::policy::{self, listener};
use serde_json::{Value, json};

mod support;

use support::{ask, compact, evaluator};

/// Where we answer differently from Istio, on purpose.
const ISTIO_EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "path-templating",
    "/store//cart",
    "`//` is read in two ways by different servers: the path guard refuses it where rules speak of paths (SEMANTICS 4.4)",
)];

#[test]
fn istios_authorization_cases() {
    let Some(sets) = support::json("authz/authz_vectors.json") else { return };
    let (mut passed, mut excepted, mut wrong) = (0, 0, Vec::new());
    for set in sets.as_array().unwrap() {
        let texts: Vec<&str> =
            set["policies"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let options = Options {
            namespace: Some(set["target"]["namespace"].as_str().unwrap().to_owned()),
            labels: support::labels(&set["target"]["labels"]),
            ..Options::default()
        };
        let evaluator = evaluator(&texts, options).unwrap();
        let cases = set["cases"].as_array().unwrap();
        let requests: Vec<Value> = cases.iter().map(|case| request(&case["request"])).collect();
        for (case, answer) in cases.iter().zip(ask(&evaluator, &requests)) {
            let same = case["expect"] == answer["decision"];
            let is_exception = ISTIO_EXCEPTIONS
                .iter()
                .any(|(name, path, _)| set["name"] == *name && case["request"]["path"] == *path);
            match (same, is_exception) {
                (true, false) => passed += 1,
                (false, true) => excepted += 1,
                _ => wrong.push(format!("{}: {} => {answer}", set["name"], case["request"])),
            }
        }
    }
    println!("istio: {passed} passed, {excepted} differ on purpose");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(passed > 200, "only {passed} cases were there");
}

/// A request of the vectors as `policy eval` reads it.
fn request(case: &Value) -> Value {
    let tcp = case["method"].is_null();
    compact(json!({
        "id": 0,
        "source": { "principal": case["principal"], "ip": case["source_ip"], "remote_ip": case["remote_ip"] },
        "destination": { "ip": case["destination_ip"], "port": case["port"] },
        "sni": case["sni"],
        "protocol": if tcp { "tcp" } else { "http" },
        "method": case["method"],
        "path": case["path"],
        "host": case["host"],
        "headers": case["headers"],
    }))
}

#[test]
fn istios_validation_cases() {
    let Some(cases) = support::json("authz/policy_validation_vectors.json") else { return };
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let source = Source::new("policy.yaml", case["policy"].as_str().unwrap());
        let mut mistakes = Vec::new();
        let documents = document::parse(&source, &mut mistakes);
        policy::load(&documents, "default", &mut mistakes);
        let valid = mistakes.iter().all(|mistake| mistake.severity != Severity::Error);
        if valid != case["valid"].as_bool().unwrap() {
            wrong.push(format!("{}: {mistakes:#?}", case["name"]));
        }
        for mistake in &mistakes {
            assert!(mistake.location.is_some(), "{}: {mistake:?}", case["name"]);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Advisory cases that are not ours, by the request's host or path.
const BYPASS_EXCEPTIONS: [(&str, &str); 3] = [
    ("/admin;a=b/x", "without its parameters it is `/admin/x`, which a rule about `/admin` does not name"),
    ("secret.com:80", "a host is compared with its port, as in Istio: list `secret.com:*` too"),
    ("secret.com.", "a host is compared as it is, as in Istio"),
];

#[test]
fn known_bypasses() {
    let Some(cases) = support::json("authz/bypass_vectors.json") else { return };
    for case in cases.as_array().unwrap() {
        let spec = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p"}, "spec": case["policy"],
        });
        let mut text = spec.to_string();
        if case["policy"].to_string().contains("*admin*") {
            let refused = evaluator(&[&text], Options::default()).unwrap_err();
            assert!(refused.iter().all(|mistake| mistake.starts_with("MW003")), "{refused:?}");
            // What the error says to write instead.
            text = text.replace(",\"*admin*\"", "");
        }
        let mut headers = serde_json::Map::new();
        for header in case["request"]["headers"].as_array().into_iter().flatten() {
            let name = header[0].as_str().unwrap();
            let values = headers.entry(name).or_insert_with(|| json!([]));
            values.as_array_mut().unwrap().push(header[1].clone());
        }
        let asked = compact(json!({
            "id": 0, "method": "GET", "path": case["request"]["path"], "host": case["request"]["host"], "headers": headers,
        }));
        let about = [&case["request"]["host"], &case["request"]["path"]];
        let expected = case["expect_secure"].as_str().unwrap().split(' ').next().unwrap();
        for paths in [Paths::Seen, Paths::Sent] {
            let evaluator =
                evaluator(&[&text], Options { paths: Some(paths), ..Options::default() }).unwrap();
            let answer = ask(&evaluator, std::slice::from_ref(&asked)).remove(0);
            let is_exception =
                BYPASS_EXCEPTIONS.iter().any(|(excepted, _)| about.iter().any(|one| *one == excepted));
            assert_eq!(answer["decision"] == expected, !is_exception, "{paths:?} {case} => {answer}");
        }
    }
}

/// What a server sees that decodes a path once, takes `\` for `/` and resolves dots.
fn as_a_server_sees(path: &[u8]) -> Vec<u8> {
    let path = path.split(|byte| *byte == b'?').next().unwrap();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let hex = path.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (path[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                decoded.push(value);
                at += 2;
            }
            (b'\\', _) => decoded.push(b'/'),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|byte| *byte == b'/' || *byte == b'\\') {
        let segment = segment.split(|byte| *byte == b';').next().unwrap();
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    [b"/".as_slice(), &segments.join(&b'/')].concat()
}

#[test]
fn no_traversal_reaches_what_is_denied() {
    let Some(words) = support::read("authz/traversal_wordlist.txt") else { return };
    let policy = |action: &str, path: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\n\
             spec: {{action: {action}, rules: [{{to: [{{operation: {{paths: [\"{path}\"]}}}}]}}]}}\n"
        )
    };
    let mut paths = Vec::new();
    for line in words.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        for before in ["/", "/public/", "/public/a/b/"] {
            paths.push([before.as_bytes(), line].concat());
        }
    }
    let requests: Vec<Value> = paths
        .iter()
        .map(|path| json!({"id": 0, "method": "GET", "path": String::from_utf8_lossy(path)}))
        .collect();
    let mut dangerous = 0;
    for (action, path) in [("DENY", "/private/*"), ("ALLOW", "/public/*")] {
        for seen in [Paths::Seen, Paths::Sent] {
            let evaluator =
                evaluator(&[&policy(action, path)], Options { paths: Some(seen), ..Options::default() })
                    .unwrap();
            for (path, answer) in paths.iter().zip(ask(&evaluator, &requests)) {
                let forwarded = match seen {
                    Paths::Seen => Ok(path.as_slice().into()),
                    Paths::Sent => listener::normalize(path),
                };
                let reaches = forwarded.is_ok_and(|path| as_a_server_sees(&path) == b"/private/secret.html");
                dangerous += u32::from(reaches);
                assert!(
                    !reaches || answer["decision"] == "deny",
                    "{action} {seen:?}: {} => {answer}",
                    String::from_utf8_lossy(path)
                );
            }
        }
    }
    assert!(dangerous > 300, "only {dangerous} requests would have reached it");
}

#[test]
fn the_listeners_normalization_is_envoys() {
    let Some(oracle) = support::json("authz/envoy_path_oracle.json") else { return };
    let mut wrong = Vec::new();
    let vectors = oracle["vectors"].as_array().unwrap();
    for vector in vectors {
        let path = vector["path"].as_str().unwrap();
        let measured = &vector["results"]["normalize_merge_reject_escaped"];
        let ours = match listener::normalize(path.as_bytes()) {
            Ok(path) => json!({"status": 200, "path": String::from_utf8_lossy(&path)}),
            Err(_) => json!({"status": 400}),
        };
        let same = measured["status"] == ours["status"]
            && (ours["status"] == 400 || measured["path"] == ours["path"]);
        if !same {
            wrong.push(format!("{path}: Envoy {measured}, we {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

/// Istio's cases for what our listeners do: MERGE_SLASHES with escaped slashes refused.
#[test]
fn istios_normalization_cases() {
    let Some(rows) = support::json("authz/path_normalization_vectors.json") else { return };
    let (mut compared, mut others) = (0, 0);
    for row in rows.as_array().unwrap() {
        let input = row["input"].as_str().unwrap();
        let mode = row["normalization"].as_str().unwrap();
        let lower = input.to_ascii_lowercase();
        let refused = lower.contains("%2f") || lower.contains("%5c") || input.contains('#');
        if refused {
            assert!(listener::normalize(input.as_bytes()).is_err(), "{row}");
            compared += 1;
        } else if mode == "NONE"
            || (mode == "BASE" && (input.contains("//") || input.contains('\\')))
            || input == "/..;/admin"
        {
            // NONE: our listeners always normalize. BASE: they merge slashes as well. `..;`: Envoy 1.40 reads it as `..`,
            // as the vectors' own README says.
            others += 1;
        } else {
            let ours = listener::normalize(input.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&ours), row["expect"].as_str().unwrap(), "{row}");
            compared += 1;
        }
    }
    println!("normalization: {compared} compared, {others} of modes that our listeners never have");
    assert!(compared > 200, "only {compared} rows were comparable");
}

/// Policies of Istio's generator: all are read, but those whose action is CUSTOM, which say what to use instead.
#[test]
fn istios_generator_policies_are_read() {
    let Some(folder) = support::folder() else { return };
    let mut read = 0;
    for kind in ["http", "tcp"] {
        for entry in std::fs::read_dir(folder.join("authz/rbac-pairs").join(kind)).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if !name.ends_with("-in.yaml") {
                continue;
            }
            let source = Source::new(name.as_str(), std::fs::read_to_string(&file).unwrap());
            let mut mistakes = Vec::new();
            let documents = document::parse(&source, &mut mistakes);
            policy::load(&documents, "foo", &mut mistakes);
            let codes: Vec<&str> = mistakes.iter().map(|mistake| mistake.code).collect();
            if name.starts_with("custom-") {
                assert!(codes.contains(&"custom-action"), "{name}: {codes:?}");
            } else {
                assert!(codes.is_empty(), "{name}: {mistakes:#?}");
            }
            read += 1;
        }
    }
    assert!(read > 20, "only {read} files were there");
}

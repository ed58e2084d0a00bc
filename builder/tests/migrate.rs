//! `meshward migrate` as a user runs it, on manifests like those of the hand-made mesh's services before it had one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const API: &str = r#"# The book API. Comments stay.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: bookapi
spec:
  replicas: 2   # two
  selector: {matchLabels: {app: bookapi}}
  template:
    metadata:
      labels: {app: bookapi}
    spec:
      containers:
        - name: bookapi
          image: "registry/bookapi:1.0"
          ports:
            - containerPort: 5288
          env:
            - name: ConnectionStrings__Books
              value: "Host=timescaledb;Port=5432;Database=books"
---
apiVersion: v1
kind: Service
metadata: {name: bookapi}
spec:
  selector: {app: bookapi}
  ports:
    - port: 5288
"#;

const MCP: &str = r#"apiVersion: v1
kind: ConfigMap
metadata:
  name: mcp-settings
data:
  # Where the books are.
  BookApi__BaseUrl: http://bookapi:5288
  Other: "http://bookapi-mcp-server:5289/self"
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: bookapi-mcp-server}
spec:
  selector: {matchLabels: {app: bookapi-mcp-server}}
  template:
    metadata: {labels: {app: bookapi-mcp-server}}
    spec:
      serviceAccountName: mcp
      containers:
        - name: server
          image: registry/mcp:1.0
          ports: [{name: web, containerPort: 5289}]
          envFrom:
            - configMapRef: {name: mcp-settings}
---
apiVersion: v1
kind: Service
metadata: {name: bookapi-mcp-server}
spec:
  selector: {app: bookapi-mcp-server}
  ports:
    - name: http
      port: 80
      targetPort: web
"#;

const DATABASE: &str = r#"apiVersion: apps/v1
kind: StatefulSet
metadata: {name: timescaledb}
spec:
  serviceName: timescaledb
  selector: {matchLabels: {app: timescaledb}}
  template:
    metadata: {labels: {app: timescaledb}}
    spec:
      containers:
        - name: postgres
          image: timescale/timescaledb:latest-pg16
          ports: [{containerPort: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: timescaledb}
spec:
  selector: {app: timescaledb}
  ports: [{port: 5432, targetPort: 5432}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("k8s")).unwrap();
    for (name, text) in [("api.yaml", API), ("mcp.yaml", MCP), ("database.yaml", DATABASE)] {
        fs::write(folder.path().join("k8s").join(name), text).unwrap();
    }
    fs::write(folder.path().join("meshward.wasm"), b"\0asm-a-module").unwrap();
    folder
}

fn migrate(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshward"))
        .arg("migrate")
        .args(args)
        .current_dir(folder)
        .env_remove("MESHWARD_FILE")
        .output()
        .unwrap()
}

fn fine(folder: &Path, args: &[&str]) -> (String, String) {
    let output = migrate(folder, args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{args:?}: {err}");
    (out, err)
}

fn refused(folder: &Path, args: &[&str], word: &str) {
    let output = migrate(folder, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(text(&output.stderr).contains(word), "`{word}` is not in: {}", text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Every file below a folder but the state.
fn files(folder: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() {
                walk(root, &path, found);
            } else if !name.starts_with(".meshward/migrate/state.json") && !name.contains("/before/") {
                found.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

fn steps(folder: &Path) -> Vec<String> {
    let (out, _) = fine(folder, &["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    status["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap().to_owned()).collect()
}

const PLAN: [&str; 7] = ["plan", "-f", "k8s", "--wasm", "meshward.wasm", "--name", "bookstore"];

#[test]
fn a_plan_says_every_step_and_changes_nothing() {
    let folder = folder();
    let before = files(folder.path());
    let (out, err) = fine(folder.path(), &PLAN);
    assert_eq!(files(folder.path()), before);
    assert!(out.contains("setting:mcp-settings/BookApi__BaseUrl"), "{out}");
    assert!(out.contains("from http://bookapi:5288 to http://127.0.0.1:15006"), "{out}");
    assert!(out.contains("from timescaledb to 127.0.0.1"), "{out}");
    assert!(!err.contains("Job"), "what cannot have a Service is not missed: {err}");
    assert_eq!(
        steps(folder.path()),
        [
            "backup",
            "mesh",
            "config",
            "certificates",
            "inject:timescaledb",
            "expose:timescaledb",
            "inject:bookapi",
            "expose:bookapi",
            "inject:bookapi-mcp-server",
            "expose:bookapi-mcp-server",
            "setting:bookapi/ConnectionStrings__Books",
            "setting:mcp-settings/BookApi__BaseUrl",
            "watch",
            "strict",
            "enforce",
        ]
    );
    refused(folder.path(), &["apply", "inject:bookapi"], "comes after config, certificates");
    refused(folder.path(), &["apply", "inject:bookapy"], "did you mean `inject:bookapi`?");
    refused(folder.path(), &["apply", "watch", "--admin", "x"], "comes after");
}

#[test]
fn every_step_is_taken_back_to_the_byte() {
    let folder = folder();
    let root = folder.path();
    fine(root, &PLAN);
    // What there was before each step, to be compared on the way back.
    let mut before = Vec::new();
    for step in steps(root).iter().filter(|step| !["watch", "strict", "enforce"].contains(&step.as_str())) {
        let now = files(root);
        let (out, _) = fine(root, &["apply", step, "--diff"]);
        assert_eq!(files(root), now, "{step}: --diff changes nothing");
        fine(root, &["apply", step]);
        assert_eq!(files(root) != now, step != "certificates", "{step}: {out}");
        let (_, err) = fine(root, &["apply", step]);
        assert!(err.contains("done already"), "{err}");
        before.push((step.clone(), now));
    }
    let now = files(root);
    // The settings, and no byte beside them.
    let mcp =
        MCP.replace("BookApi__BaseUrl: http://bookapi:5288", "BookApi__BaseUrl: http://127.0.0.1:15006");
    assert!(now["k8s/mcp.yaml"].starts_with(mcp.split("---").next().unwrap()), "{}", now["k8s/mcp.yaml"]);
    assert!(now["k8s/mcp.yaml"].contains("Other: \"http://bookapi-mcp-server:5289/self\""));
    assert!(now["k8s/api.yaml"].contains("value: \"Host=127.0.0.1;Port=5432;Database=books\""));
    assert!(now["k8s/api.yaml"].starts_with("# The book API. Comments stay.\n"));
    // The Service: a name for the port that had none, plain text to the sidecar, and mTLS.
    let service = now["k8s/api.yaml"].split("---\n").nth(1).unwrap();
    assert!(
        service.ends_with(
            "  ports:\n    - port: 5288\n      name: app\n      targetPort: 15001\n    - name: mtls\n      port: 15001\n      targetPort: 15001\n"
        ),
        "{service}"
    );
    // The mesh that was proposed is one that renders.
    assert!(now["mesh.yaml"].contains("    - name: bookapi\n      port: 5288\n      calls: [timescaledb]\n"));
    assert!(now["mesh.yaml"].contains("serviceAccount: mcp\n      calls: [bookapi]\n"));
    assert!(now["meshward/bookapi-envoy-config.yaml"].contains("plain-text"));
    for (name, copy) in [("api.yaml", API), ("mcp.yaml", MCP), ("database.yaml", DATABASE)] {
        assert_eq!(now[&format!(".meshward/migrate/backup/k8s/{name}")], copy);
    }
    refused(root, &["undo", "config"], "undo-later-first");
    refused(root, &PLAN, "under-way");
    for (step, was) in before.into_iter().rev() {
        fine(root, &["undo", &step]);
        assert_eq!(files(root), was, "after undo of {step}");
    }
    let (_, err) = fine(root, &["undo"]);
    assert!(err.contains("no step is done"), "{err}");
}

#[test]
fn what_was_changed_since_is_not_overwritten() {
    let folder = folder();
    let root = folder.path();
    fine(root, &PLAN);
    for _ in 0..5 {
        fine(root, &["apply"]);
    }
    let file = root.join("k8s/database.yaml");
    let mine = fs::read_to_string(&file).unwrap().replace("latest-pg16", "latest-pg17");
    fs::write(&file, &mine).unwrap();
    refused(root, &["undo", "inject:timescaledb"], "was changed since");
    assert_eq!(fs::read_to_string(&file).unwrap(), mine);
    // The next step takes the file as it is.
    fine(root, &["apply", "expose:timescaledb"]);
    assert!(fs::read_to_string(&file).unwrap().contains("latest-pg17"));
    fine(root, &["undo", "expose:timescaledb"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), mine);
}

#[test]
fn several_callees_are_told_apart_by_their_names() {
    let folder = folder();
    let root = folder.path();
    let second = API
        .replace("bookapi", "authors")
        .replace("5288", "5300")
        .replace("value: \"Host=timescaledb;Port=5432;Database=books\"", "value: none");
    fs::write(root.join("k8s/authors.yaml"), second).unwrap();
    let settings =
        MCP.replace("  Other:", "  AuthorApi__BaseUrl: 'http://authors.default.svc:5300/v1'\n  Other:");
    fs::write(root.join("k8s/mcp.yaml"), &settings).unwrap();
    fine(root, &PLAN);
    for step in steps(root).iter().take_while(|step| *step != "watch") {
        fine(root, &["apply", step]);
    }
    let text = fs::read_to_string(root.join("k8s/mcp.yaml")).unwrap();
    assert!(text.contains("AuthorApi__BaseUrl: 'http://authors:15006/v1'"), "{text}");
    assert!(text.contains("BookApi__BaseUrl: http://bookapi:15006\n"), "{text}");
    let aliases = text.split("hostAliases:").nth(1).unwrap();
    assert!(
        aliases.contains("authors") && aliases.contains("bookapi") && aliases.contains("127.0.0.1"),
        "{text}"
    );
    for step in steps(root).iter().take_while(|step| *step != "watch").collect::<Vec<_>>().into_iter().rev() {
        fine(root, &["undo", step]);
    }
    assert_eq!(fs::read_to_string(root.join("k8s/mcp.yaml")).unwrap(), settings);
}

/// An admin interface that counts one more caller without a certificate at every look, for a while.
fn admin(callers: usize) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (look, stream) in listener.incoming().flatten().enumerate() {
            let (mut stream, mut buffer) = (stream, [0; 1024]);
            let _ = stream.read(&mut buffer);
            let body =
                format!("tls_inspector.tls_found: 9\ntls_inspector.tls_not_found: {}\n", look.min(callers));
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
    address
}

#[test]
fn strict_comes_when_nobody_comes_without_a_certificate() {
    let folder = folder();
    let root = folder.path();
    fine(root, &PLAN);
    for step in steps(root).iter().take_while(|step| *step != "watch") {
        fine(root, &["apply", step]);
    }
    let permissive = files(root);
    refused(root, &["apply", "watch"], "port-forward");
    let (busy, quiet) = (format!("bookapi={}", admin(3)), format!("bookapi={}", admin(0)));
    let output = migrate(root, &["apply", "watch", "--admin", &busy, "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("bookapi: 1 came without a certificate"),
        "{}",
        text(&output.stderr)
    );
    refused(root, &["apply", "strict"], "comes after watch");
    fine(root, &["apply", "watch", "--admin", &quiet, "--seconds", "0"]);
    fine(root, &["apply", "strict"]);
    let strict = files(root);
    assert!(strict["mesh.yaml"].contains("    mode: STRICT\n"), "{}", strict["mesh.yaml"]);
    assert!(!strict["meshward/bookapi-envoy-config.yaml"].contains("plain-text"));
    let checksum = |all: &BTreeMap<String, String>| {
        let line = all["k8s/api.yaml"].lines().find(|line| line.contains("meshward.dev/checksum")).unwrap();
        line.to_owned()
    };
    assert_ne!(checksum(&strict), checksum(&permissive), "the pods are replaced");
    fine(root, &["apply", "enforce"]);
    assert!(files(root)["mesh.yaml"].contains("  defaultAction: DENY\n"));
    let (_, err) = fine(root, &["apply"]);
    assert!(err.contains("every step is done"), "{err}");
    for step in steps(root).into_iter().rev() {
        fine(root, &["undo", &step]);
    }
    for (name, was) in [("api.yaml", API), ("mcp.yaml", MCP), ("database.yaml", DATABASE)] {
        assert_eq!(fs::read_to_string(root.join("k8s").join(name)).unwrap(), was);
    }
    assert!(!root.join("mesh.yaml").exists());
}

//! Renewal on Secrets: real kubectl, against an API server of ours that knows Secrets, `resourceVersion`, and the Role that
//! the CronJob gets.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::support::{fine, folder, said};

/// What the API server holds.
#[derive(Default)]
struct Cluster {
    secrets: BTreeMap<(String, String), Value>,
    version: u64,
    /// Of the Role: namespace and names; `get` and `update` only. None: everything is allowed.
    role: Option<BTreeMap<String, Vec<String>>>,
    refused: Vec<String>,
    writes: usize,
}

struct Server {
    cluster: Arc<Mutex<Cluster>>,
    kubeconfig: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = Arc::new(Mutex::new(Cluster::default()));
        let shared = Arc::clone(&cluster);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        let kubeconfig = tempfile::tempdir().unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "users": [{ "name": "test", "user": {} }],
        });
        std::fs::write(kubeconfig.path().join("config"), text.to_string()).unwrap();
        Self { cluster, kubeconfig }
    }

    fn with(&self, mut command: Command) -> Command {
        command.env("KUBECONFIG", self.kubeconfig.path().join("config")).env("HOME", self.kubeconfig.path());
        command
    }

    fn certs(&self, folder: &Path, args: &[&str]) -> std::process::Output {
        let args = [args, &["--secrets-in", "default"]].concat();
        self.with(super::support::command(folder, &args)).output().unwrap()
    }

    fn fine(&self, folder: &Path, args: &[&str]) -> String {
        let output = self.certs(folder, args);
        assert!(output.status.success(), "certs {args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn apply(&self, text: &str) {
        let mut cluster = self.cluster.lock().unwrap();
        for document in serde_yaml::Deserializer::from_str(text) {
            let object: Value = serde::Deserialize::deserialize(document).unwrap();
            let key = |name: &str| object["metadata"][name].as_str().unwrap().to_owned();
            let key = (key("namespace"), key("name"));
            cluster.put(key, object.clone());
        }
    }

    fn secret(&self, namespace: &str, name: &str) -> Value {
        self.cluster.lock().unwrap().secrets[&(namespace.to_owned(), name.to_owned())].clone()
    }
}

impl Cluster {
    fn put(&mut self, key: (String, String), mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.secrets.insert(key, object.clone());
        object
    }

    fn allowed(&self, verb: &str, namespace: &str, name: &str) -> bool {
        let Some(role) = &self.role else { return true };
        let named = role.get(namespace).is_some_and(|names| names.iter().any(|allowed| allowed == name));
        named && (verb == "get" || verb == "update")
    }

    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let status = |code: u16, reason: &str, message: String| {
            (
                code,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message }),
            )
        };
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["api"]) => (200, json!({ "kind": "APIVersions", "versions": ["v1"] })),
            ("GET", ["apis"]) => (200, json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })),
            ("GET", ["api", "v1"]) => (
                200,
                json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [{
                    "name": "secrets", "singularName": "secret", "namespaced": true, "kind": "Secret",
                    "verbs": ["get", "update", "create"] }] }),
            ),
            (_, ["api", "v1", "namespaces", namespace, "secrets", rest @ ..]) => {
                let object: Value = serde_json::from_slice(body).unwrap_or_default();
                let name = rest
                    .first()
                    .copied()
                    .or(object["metadata"]["name"].as_str())
                    .unwrap_or_default()
                    .to_owned();
                let verb = match method {
                    "GET" => "get",
                    "PUT" => "update",
                    "POST" => "create",
                    _ => "other",
                };
                if !self.allowed(verb, namespace, &name) {
                    self.refused.push(format!("{verb} {namespace}/{name}"));
                    return status(
                        403,
                        "Forbidden",
                        format!("secrets \"{name}\" is forbidden: cannot {verb}"),
                    );
                }
                let key = ((*namespace).to_owned(), name.clone());
                let found = self.secrets.get(&key).cloned();
                match (verb, found) {
                    ("get", Some(object)) => (200, object),
                    ("get" | "update", None) => {
                        status(404, "NotFound", format!("secrets \"{name}\" not found"))
                    }
                    ("update", Some(before)) => {
                        let sent = &object["metadata"]["resourceVersion"];
                        if !sent.is_null() && *sent != before["metadata"]["resourceVersion"] {
                            return status(409, "Conflict", "the object has been modified".into());
                        }
                        self.writes += 1;
                        (200, self.put(key, object))
                    }
                    ("create", None) => {
                        self.writes += 1;
                        (201, self.put(key, object))
                    }
                    ("create", Some(_)) => {
                        status(409, "AlreadyExists", format!("secrets \"{name}\" already exists"))
                    }
                    _ => status(405, "MethodNotAllowed", verb.into()),
                }
            }
            _ => status(404, "NotFound", path.into()),
        }
    }
}

/// HTTP/1.1, as much of it as kubectl needs.
fn serve(stream: TcpStream, cluster: &Mutex<Cluster>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace();
        let (method, path) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, answer) = cluster.lock().unwrap().answer(&method, &path, &body);
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        if writer.write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

/// A cluster with the Secrets of a mesh whose leaves are due, and the Role of the CronJob.
fn cluster(hours: i64) -> Option<(Server, tempfile::TempDir)> {
    if let Err(cause) = Command::new("kubectl").args(["version", "--client"]).output() {
        drop(writeln!(std::io::stderr(), "SKIPPED: renewal on Secrets: kubectl: {cause}"));
        return None;
    }
    let folder = folder();
    fine(folder.path(), &["init-ca"]);
    fine(folder.path(), &["issue"]);
    super::crash::age(folder.path(), hours);
    let server = Server::start();
    server.apply(&fine(folder.path(), &["export", "-o", "kubernetes", "--with-ca-key"]));
    let manifests = fine(folder.path(), &["export", "-o", "cron-job", "--image", "meshward:test"]);
    let mut role = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(&manifests) {
        let object: Value = serde::Deserialize::deserialize(document).unwrap();
        if object["kind"] == "Role" {
            let rule = &object["rules"][0];
            assert_eq!(rule["verbs"], json!(["get", "update"]), "no more than that");
            let names = rule["resourceNames"].as_array().unwrap();
            let names = names.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
            role.insert(object["metadata"]["namespace"].as_str().unwrap().to_owned(), names);
        }
    }
    server.cluster.lock().unwrap().role = Some(role);
    // What follows works on the Secrets alone.
    std::fs::remove_dir_all(folder.path().join("certs")).unwrap();
    Some((server, folder))
}

#[test]
fn secrets_are_renewed_and_rotated_with_the_rights_of_the_cron_job() {
    let Some((server, folder)) = cluster(20) else { return };
    let before = server.secret("default", "bookapi-mtls-cert");
    let text = server.fine(folder.path(), &["renew"]);
    assert_eq!(text.matches("since it was due").count(), 2, "{text}");
    let after = server.secret("default", "bookapi-mtls-cert");
    assert_ne!(before["data"]["tls.crt"], after["data"]["tls.crt"]);
    assert_eq!(before["metadata"]["labels"], after["metadata"]["labels"], "what others wrote stays");
    server.fine(folder.path(), &["verify"]);
    let writes = server.cluster.lock().unwrap().writes;
    server.fine(folder.path(), &["renew"]);
    assert_eq!(server.cluster.lock().unwrap().writes, writes, "what is valid is kept, nothing is written");
    for phase in ["adding", "switched", "stable"] {
        server.fine(folder.path(), &["rotate-ca", "--settle", "0s"]);
        server.fine(folder.path(), &["verify"]);
        let status = server.fine(folder.path(), &["rotate-ca", "--status"]);
        assert!(status.starts_with(phase), "{status}");
    }
    assert_eq!(server.cluster.lock().unwrap().refused, [""; 0], "the Role is enough");
    assert!(!folder.path().join("certs").exists(), "no key touches the disk");
}

#[test]
fn of_two_at_once_one_changes_and_the_other_says_so() {
    let Some((server, folder)) = cluster(20) else { return };
    let spawn = || {
        let mut command =
            server.with(super::support::command(folder.path(), &["renew", "--secrets-in", "default"]));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| spawn()).collect();
    let mut issued = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = said(&output);
        if output.status.success() {
            issued += said.matches("since it was due").count();
        } else {
            assert!(said.contains("certs-busy"), "{said}");
        }
    }
    assert_eq!(issued, 2, "each leaf once");
    server.fine(folder.path(), &["verify"]);
}

#[test]
fn a_kill_after_every_secret_loses_nothing_in_any_verb() {
    let Some((server, folder)) = cluster(20) else { return };
    let rotate: &[&str] = &["rotate-ca", "--settle", "0s"];
    let verbs: [&[&str]; 4] = [&["renew"], rotate, rotate, rotate];
    for verb in verbs {
        let mut step = 1;
        loop {
            let saved = server.cluster.lock().unwrap().secrets.clone();
            let args = [verb, &["--secrets-in", "default"]].concat();
            let mut command = server.with(super::support::command(folder.path(), &args));
            let output = command.env("MESHWARD_TEST_ABORT_AT", step.to_string()).output().unwrap();
            if output.status.success() {
                break;
            }
            assert!(said(&output).contains("aborted after"), "step {step} of {verb:?}: {}", said(&output));
            // Chains, keys that fit, and that every bundle trusts every leaf, old and new.
            server.fine(folder.path(), &["verify"]);
            server.fine(folder.path(), verb);
            server.fine(folder.path(), &["verify"]);
            let writes = server.cluster.lock().unwrap().writes;
            server.fine(folder.path(), &["renew"]);
            assert_eq!(server.cluster.lock().unwrap().writes, writes, "after step {step} of {verb:?}");
            server.cluster.lock().unwrap().secrets = saved;
            step += 1;
        }
        assert!(step > 3, "only {step} Secrets were written by {verb:?}; is the hook still in place?");
    }
    let status = server.fine(folder.path(), &["rotate-ca", "--status"]);
    assert!(status.starts_with("stable"), "{status}");
    assert_eq!(server.cluster.lock().unwrap().refused, [""; 0], "the Role is enough");
}

#[test]
fn a_missing_right_is_named() {
    let Some((server, folder)) = cluster(20) else { return };
    server.cluster.lock().unwrap().role =
        Some(BTreeMap::from([("default".into(), vec!["service-mesh-ca".into()])]));
    let output = server.certs(folder.path(), &["renew"]);
    let said = said(&output);
    assert!(
        !output.status.success() && said.contains("error[kubectl]") && said.contains("the Role must allow"),
        "{said}"
    );
}

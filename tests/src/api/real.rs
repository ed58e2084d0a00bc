//! A real kube-apiserver on a real etcd, built from the Go modules that `tests/cluster` pins.
//!
//! Optional: `MESHWARD_TEST_CLUSTER=1` asks for it, and the first time builds both (some ten minutes of one core; it needs
//! `go`). They are kept in the cache folder of the user, under the hash of what they were built from. Without the
//! variable, or without `go`, [`ApiServer::start`] says `SKIPPED` and why, and gives none.
//!
//! It listens on loopback; users have tokens (`token-of-<user>`); `RBAC` decides. There are no controllers and no kubelet:
//! a Deployment makes no pods.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use kube::client::Body;
use serde_json::{Value, json};

use super::{ADMIN, Api, SOMEONE, path, write_kubeconfig};
use crate::go;
use crate::tools::{free_port, skipped};

/// How long the server may take to be ready on a machine that does much else.
const START: Duration = Duration::from_secs(180);

/// The programs.
struct Binaries {
    etcd: PathBuf,
    apiserver: PathBuf,
}

/// What runs. Dropping it stops it and removes its files.
pub struct ApiServer {
    binaries: Binaries,
    folder: tempfile::TempDir,
    etcd: Child,
    etcd_url: String,
    port: u16,
    server: Mutex<Option<Child>>,
    runtime: tokio::runtime::Runtime,
}

impl ApiServer {
    /// Starts both; None when it was not asked for or cannot be had here, which is said.
    ///
    /// # Errors
    /// It was asked for and does not build or start, with the end of its log.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let what = "the tests on a real kube-apiserver";
        if std::env::var_os("MESHWARD_TEST_CLUSTER").is_none_or(|value| value.is_empty() || value == "0") {
            skipped(what, "MESHWARD_TEST_CLUSTER=1 asks for them (the first time builds it, which is long)");
            return Ok(None);
        }
        let binaries = match binaries() {
            Ok(Some(binaries)) => binaries,
            Ok(None) => {
                skipped(what, "there is no `go` here to build it with");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let folder = tempfile::tempdir()?;
        let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let log = File::create(folder.path().join("etcd.log"))?;
        let etcd = Command::new(&binaries.etcd)
            .args(["--name", "default", "--unsafe-no-fsync", "--log-level", "warn"])
            .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("etcd")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // From here on a failure stops what runs.
        let api = Self { binaries, folder, etcd, etcd_url, port, server: Mutex::new(None), runtime };
        api.certificates()?;
        let tokens = format!("token-of-{ADMIN},{ADMIN},1,system:masters\ntoken-of-{SOMEONE},{SOMEONE},2\n");
        fs::write(api.folder.path().join("tokens.csv"), tokens)?;
        api.launch()?;
        Ok(Some(api))
    }

    /// The server's certificate under a CA of its own, and the key for service accounts.
    fn certificates(&self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        let key = rcgen::KeyPair::generate()?;
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new())?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = parameters.self_signed(&key)?;
        fs::write(folder.join("ca.crt"), ca.pem())?;
        let issuer = rcgen::Issuer::from_params(&parameters, &key);
        let server_key = rcgen::KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let server = rcgen::CertificateParams::new(names)?.signed_by(&server_key, &issuer)?;
        fs::write(folder.join("server.crt"), server.pem())?;
        fs::write(folder.join("server.key"), server_key.serialize_pem())?;
        let accounts = rcgen::KeyPair::generate()?;
        fs::write(folder.join("accounts.key"), accounts.serialize_pem())?;
        fs::write(folder.join("accounts.pub"), accounts.public_key_pem())?;
        Ok(())
    }

    fn launch(&self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("apiserver.log"))?;
        let mut command = Command::new(&self.binaries.apiserver);
        let file = |name: &str| folder.join(name).display().to_string();
        command
            .args(["--etcd-servers", &self.etcd_url, "--bind-address", "127.0.0.1"])
            .args(["--advertise-address", "127.0.0.1", "--secure-port", &self.port.to_string()])
            .args(["--tls-cert-file", &file("server.crt"), "--tls-private-key-file", &file("server.key")])
            .args(["--cert-dir", &file("certs"), "--token-auth-file", &file("tokens.csv")])
            .args(["--service-account-key-file", &file("accounts.pub")])
            .args(["--service-account-signing-key-file", &file("accounts.key")])
            .args(["--service-account-issuer", "https://meshward.test", "--authorization-mode", "RBAC"])
            .args([
                "--service-cluster-ip-range",
                "10.0.0.0/24",
                "--disable-admission-plugins",
                "ServiceAccount",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *self.server() = Some(command.spawn().context("kube-apiserver")?);
        let deadline = Instant::now() + START;
        while self.request("GET", "/readyz", None).is_err() {
            let ended = self.server().as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(folder.join("apiserver.log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                bail!(
                    "kube-apiserver is not ready: {}",
                    end.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request as the administrator.
    ///
    /// # Errors
    /// What the server says against it.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        use kube::config::{KubeConfigOptions, Kubeconfig};
        let file = self.kubeconfig(ADMIN);
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.runtime.block_on(async {
            let config = Kubeconfig::read_from(&file)?;
            let mut config =
                kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            config.connect_timeout = Some(Duration::from_secs(5));
            let client = kube::Client::try_from(config)?;
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", "application/json")
                .body(Body::from(body))?;
            let response = client.send(request).await?;
            let status = response.status();
            let bytes = response.into_body().collect_bytes().await?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if status.is_success() {
                Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
            } else {
                Err(anyhow!("{method} {path}: {status}: {text}"))
            }
        })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(server) = self.server().as_mut() {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

impl Api for ApiServer {
    fn name(&self) -> &'static str {
        "real"
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        let server = format!("https://127.0.0.1:{}", self.port);
        write_kubeconfig(self.folder.path(), user, &server, Some(&self.folder.path().join("ca.crt")))
    }

    fn write(&self, manager: &str, object: &Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let all = path(text("/kind"), text("/metadata/namespace"));
        let one = format!("{all}/{}", text("/metadata/name"));
        let done = if self.request("GET", &one, None).is_ok() {
            self.request("PUT", &format!("{one}?fieldManager={manager}"), Some(object))
        } else {
            self.request("POST", &format!("{all}?fieldManager={manager}"), Some(object))
        };
        assert!(done.is_ok(), "{done:?}");
    }

    fn read(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.request("GET", &format!("{}/{name}", path(kind, namespace)), None).ok()
    }

    fn allow(&self, namespace: &str, group: &str, resource: &str, verbs: &[&str]) {
        let api = "rbac.authorization.k8s.io/v1";
        let name = format!("{resource}-{:x}", RandomState::new().build_hasher().finish());
        let metadata = json!({"name": name, "namespace": namespace});
        self.write(
            "test",
            &json!({"apiVersion": api, "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [group], "resources": [resource], "verbs": verbs}]}),
        );
        self.write(
            "test",
            &json!({"apiVersion": api, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": SOMEONE}]}),
        );
    }

    fn die(&self) {
        if let Some(mut server) = self.server().take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    fn revive(&self) {
        let back = self.launch();
        assert!(back.is_ok(), "{back:?}");
    }
}

/// Both programs, out of the cache or built into it; None without `go`.
fn binaries() -> anyhow::Result<Option<Binaries>> {
    let folder = go::programs("cluster", &["etcd", "apiserver"])?;
    Ok(folder.map(|folder| Binaries { etcd: folder.join("etcd"), apiserver: folder.join("apiserver") }))
}

//! The CronJob's objects on a real kube-apiserver: what they may do is what `certs renew --rotate-ca` needs, and no more.
//!
//! `MESHWARD_TEST_CLUSTER=1` asks for it; `builder/tests/certs/cluster.rs` has the rest, on an API of the tests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use meshward_builder::Cli;
use meshward_builder::console::{Console, Exit};
use meshward_builder::pki::authority::KeyPlace;
use meshward_builder::pki::ledger::Ledger;
use meshward_builder::pki::store::FolderStore;
use meshward_builder::pki::{Authority, CaOptions, renewal, svid};
use meshward_tests::api::{ADMIN, Api as _, ApiServer};
use meshward_tests::tools;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: callee, port: 8000}
    - {name: elsewhere, port: 8000, namespace: other}
    - {name: caller, port: 8001, calls: [callee]}
";
const ACCOUNT: &str = "meshward-renewal";

/// Runs `certs` in this process: standard output, when it succeeds.
fn certs(words: &[&str]) -> Result<String, String> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::new(&mut out, &mut err, false);
    let cli = Cli::try_parse_from([&["meshward", "certs"], words].concat()).unwrap();
    let code = cli.command.run(&mut console).unwrap_or_else(|failure| {
        failure.diagnostics.iter().for_each(|one| console.report(one));
        Exit::Failure
    });
    let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
    if code == Exit::Success { Ok(out) } else { Err(out + &err) }
}

fn objects(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect()
}

/// A folder of certificates that are due, of a CA that is as old.
fn aged(folder: &Path) {
    let past = OffsetDateTime::now_utc() - Duration::hours(20);
    let mut store = FolderStore::open(folder, &mut |_| ()).unwrap();
    let trust_domain = svid::trust_domain("test.example").unwrap();
    let authority =
        Authority::create(&trust_domain, &CaOptions::default(), &KeyPlace::default(), past).unwrap();
    authority.save(&mut store).unwrap();
    let mut ledger = Ledger::load(&store).unwrap();
    let wanted = renewal::managed(&ledger).unwrap();
    let mut open = || authority.ca(None);
    renewal::reconcile(&mut store, &authority, &mut ledger, &wanted, &mut open, true, past).unwrap();
}

/// kubectl with a service account's token, as in its pod.
fn kubectl_as(account: &str, api: &ApiServer, folder: &Path) -> PathBuf {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = api.request("POST", &path, Some(&request)).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    let config = std::fs::read_to_string(api.kubeconfig(ADMIN)).unwrap();
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(&kubeconfig, config.replace(&format!("token-of-{ADMIN}"), token)).unwrap();
    let script = folder.join("kubectl");
    let text = format!("#!/bin/sh\nexec kubectl --kubeconfig '{}' \"$@\"\n", kubeconfig.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[test]
fn the_cron_job_renews_and_rotates_with_its_own_rights() {
    let Some(api) = ApiServer::start().unwrap() else { return };
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return tools::skipped("renewal on a real kube-apiserver", "there is no `kubectl` on PATH");
    }
    let folder = tempfile::tempdir().unwrap();
    let mesh = folder.path().join("mesh.yaml");
    std::fs::write(&mesh, MESH).unwrap();
    let mesh = mesh.to_str().unwrap();
    let dir = folder.path().join("certs");
    let dir = dir.to_str().unwrap();
    certs(&["init-ca", "--dir", dir, "--trust-domain", "test.example"]).unwrap();
    certs(&["issue", "--dir", dir, "-f", mesh]).unwrap();
    aged(Path::new(dir));
    api.write("test", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
    let secrets = certs(&["export", "--dir", dir, "-o", "kubernetes", "--with-ca-key"]).unwrap();
    // The API server's own judgement of the CronJob is part of the test.
    let job = certs(&["export", "--dir", dir, "-o", "cron-job", "--image", "test:1", "-f", mesh]).unwrap();
    for object in objects(&secrets).iter().chain(&objects(&job)) {
        api.write("test", object);
    }
    std::fs::remove_dir_all(dir).unwrap();
    let kubectl = kubectl_as(ACCOUNT, &api, folder.path());
    let kubectl = kubectl.to_str().unwrap();
    let with = |words: &[&str]| certs(&[words, &["--secrets-in", "default", "--kubectl", kubectl]].concat());
    let versions = || {
        [("default", "callee"), ("default", "caller"), ("other", "elsewhere")].map(|(namespace, service)| {
            let secret = api.read("Secret", namespace, &format!("{service}-mtls-cert")).unwrap();
            secret["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
        })
    };
    let before = versions();
    let said = with(&["renew", "--rotate-ca"]).unwrap();
    assert_eq!(said.matches("since it was due").count(), 3, "{said}");
    let renewed = versions();
    assert!(before.iter().zip(&renewed).all(|(before, after)| before != after));
    // What is valid is kept.
    with(&["renew", "--rotate-ca"]).unwrap();
    assert_eq!(versions(), renewed);
    for phase in ["adding", "switched", "stable"] {
        with(&["rotate-ca", "--settle", "0s"]).unwrap();
        with(&["verify"]).unwrap();
        let status = with(&["rotate-ca", "--status"]).unwrap();
        assert!(status.starts_with(phase), "{status}");
    }
    assert!(!Path::new(dir).exists(), "no key touches the disk");
    // And nothing else.
    for (words, may) in [
        ("get secret/service-mesh-ca", true),
        ("update secret/callee-mtls-cert", true),
        ("get secret/somebody-elses", false),
        ("list secrets", false),
        ("create secrets", false),
        ("delete secret/callee-mtls-cert", false),
        ("get configmaps", false),
        ("create pods", false),
        ("get secret/elsewhere-mtls-cert --namespace other", true),
        ("get secret/callee-mtls-cert --namespace other", false),
    ] {
        let output = Command::new(kubectl).args(["auth", "can-i"]).args(words.split(' ')).output().unwrap();
        assert_eq!(output.status.success(), may, "{words}: {output:?}");
    }
}

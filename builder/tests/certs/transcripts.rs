//! What a user reads, whole.

use super::support::{command, fine, folder, run, said, scrub};
use std::io::Write as _;

fn transcript(folder: &std::path::Path, args: &[&str]) -> String {
    let said = said(&run(folder, args)).replace(folder.to_str().unwrap(), "[folder]");
    scrub(&format!("$ meshward certs {}\n{said}", args.join(" ")))
}

#[test]
fn from_nothing_to_a_rotated_ca() {
    let folder = folder();
    let mut text = String::new();
    for args in [
        &["verify"][..],
        &["issue"],
        &["init-ca"],
        &["init-ca"],
        &["issue", "bookap"],
        &["issue"],
        &["issue"],
        &["verify"],
        &["needs-renewal"],
        &["needs-renewal", "bookapi"],
        &["needs-renewal", "nobody"],
        &["rotate-ca", "--status"],
        &["rotate-ca"],
        &["rotate-ca"],
        &["rotate-ca", "--settle", "0s"],
        &["rotate-ca", "--settle", "0s"],
        &["revoke", "nobody"],
        &["renew"],
    ] {
        text += &transcript(folder.path(), args);
        text += "\n";
    }
    insta::assert_snapshot!(text);
}

#[test]
fn wrong_material_is_named_with_its_remedy() {
    let folder = folder();
    fine(folder.path(), &["init-ca"]);
    fine(folder.path(), &["issue"]);
    let bookapi = folder.path().join("certs/bookapi-mtls-cert");
    let mut text = String::new();
    let good = std::fs::read(bookapi.join("tls.crt")).unwrap();
    std::fs::write(bookapi.join("tls.crt"), &good[..good.len() / 2]).unwrap();
    text += &transcript(folder.path(), &["verify"]);
    text += &transcript(folder.path(), &["renew"]);
    std::fs::write(bookapi.join("tls.crt"), &good).unwrap();
    let key = std::fs::read(folder.path().join("certs/pgadmin-mtls-cert/tls.key")).unwrap();
    std::fs::write(bookapi.join("tls.key"), key).unwrap();
    text += &transcript(folder.path(), &["verify"]);
    text += &transcript(folder.path(), &["renew"]);
    fine(folder.path(), &["init-ca", "--force"]);
    text += &transcript(folder.path(), &["issue"]);
    text += &transcript(folder.path(), &["verify"]);
    fine(folder.path(), &["issue", "--force"]);
    text += &transcript(folder.path(), &["verify", "--at", "2050-01-01T00:00:00Z"]);
    for args in [
        &["issue", "--id", "spiffe://elsewhere.test/ns/a/sa/b"][..],
        &["issue", "--id", "spiffe://cluster.local/ns/a/sa/b/"],
        &["issue", "--id", "spiffe://cluster.local/ns/a/sa/b", "--dns", "Not_A_Name"],
        &["issue", "--id", "spiffe://cluster.local/ns/a/sa/b", "--lifetime", "10y"],
        &["issue", "--lifetime", "soon"],
        &["inspect", "nothing-here"],
    ] {
        text += &transcript(folder.path(), args);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_key_can_be_sealed_and_kept_elsewhere() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    std::fs::write(folder.path().join("pass"), "correct horse\n").unwrap();
    std::fs::write(folder.path().join("wrong"), "horse").unwrap();
    let with = ["--passphrase-file", "pass"];
    fine(
        folder.path(),
        &[&["init-ca", "--keys", "vault", "--intermediate", "--root-key", "safe/root.key"][..], &with]
            .concat(),
    );
    let keys: Vec<_> =
        std::fs::read_dir(folder.path().join("vault")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(keys.len(), 1, "the issuing key; the root's is in the safe");
    for path in [&keys[0], &folder.path().join("safe/root.key")] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(path).unwrap().contains("BEGIN ENCRYPTED PRIVATE KEY"));
    }
    let mut text = transcript(folder.path(), &["issue"]);
    text += &transcript(folder.path(), &["issue", "--passphrase-file", "wrong"]);
    text += &transcript(folder.path(), &["issue", "--passphrase-file", "pass"]);
    text += &transcript(folder.path(), &["issue"]);
    text += &transcript(folder.path(), &["rotate-ca"]);
    let certificates =
        std::fs::read_to_string(folder.path().join("certs/bookapi-mtls-cert/tls.crt")).unwrap();
    assert_eq!(certificates.matches("BEGIN CERTIFICATE").count(), 2, "leaf and intermediate");
    insta::assert_snapshot!(text);
    // OpenSSL opens it with the same passphrase.
    let output = std::process::Command::new("openssl")
        .current_dir(folder.path())
        .args(["pkey", "-noout", "-passin", "file:pass", "-in", "safe/root.key"])
        .output();
    match output {
        Ok(output) => assert!(output.status.success(), "{}", said(&output)),
        Err(cause) => drop(writeln!(std::io::stderr(), "SKIPPED: openssl pkey: {cause}")),
    }
}

#[test]
fn a_signing_request_is_signed_and_counted() {
    let folder = folder();
    fine(folder.path(), &["init-ca"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    std::fs::write(folder.path().join("pod.csr"), csr).unwrap();
    std::fs::write(folder.path().join("pod.key"), key.serialize_pem()).unwrap();
    let chain = fine(folder.path(), &["issue", "bookapi", "--csr", "pod.csr"]);
    std::fs::write(folder.path().join("pod.crt"), chain).unwrap();
    let id = "spiffe://cluster.local/ns/default/sa/bookapi";
    fine(
        folder.path(),
        &["verify", "pod.crt", "--bundle", "certs/service-mesh-ca/ca.crt", "--key", "pod.key", "--id", id],
    );
    let text = transcript(folder.path(), &["issue", "--csr", "pod.csr"])
        + &transcript(folder.path(), &["issue", "bookapi", "--csr", "pod.key"])
        + &transcript(folder.path(), &["inspect", "--issued"]);
    insta::assert_snapshot!(text);
}

#[test]
fn secrets_go_to_standard_output_and_nothing_else() {
    let folder = folder();
    fine(folder.path(), &["init-ca"]);
    let secrets = fine(folder.path(), &["issue", "-o", "kubernetes"]);
    // An independent reader.
    let documents: Vec<serde_yaml::Value> = serde_yaml::Deserializer::from_str(&secrets)
        .map(|d| serde::Deserialize::deserialize(d).unwrap())
        .collect();
    assert_eq!(documents.len(), 2);
    for (document, name) in documents.iter().zip(["bookapi-mtls-cert", "pgadmin-mtls-cert"]) {
        assert_eq!(document["metadata"]["name"], name);
        assert_eq!(document["metadata"]["namespace"], "default");
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            use base64::Engine as _;
            let encoded = document["data"][file].as_str().unwrap();
            let content = base64::prelude::BASE64_STANDARD.decode(encoded).unwrap();
            assert_eq!(content, std::fs::read(folder.path().join("certs").join(name).join(file)).unwrap());
        }
    }
    assert_eq!(fine(folder.path(), &["renew", "-o", "kubernetes"]), "", "nothing changed, nothing to apply");
    let all = fine(folder.path(), &["export", "-o", "kubernetes"]);
    assert!(!all.contains("ca.key"), "the CA's key is not exported unless asked for");
    assert!(fine(folder.path(), &["export", "-o", "kubernetes", "--with-ca-key"]).contains("ca.key"));
    match std::process::Command::new("kubectl").arg("version").arg("--client").output() {
        Err(cause) => drop(writeln!(std::io::stderr(), "SKIPPED: kubectl reads the Secrets: {cause}")),
        Ok(_) => {
            std::fs::write(folder.path().join("all.yaml"), &all).unwrap();
            let output = std::process::Command::new("kubectl")
                .current_dir(folder.path())
                .args(["label", "--local", "-f", "all.yaml", "a=b", "-o", "name"])
                .output()
                .unwrap();
            let names = String::from_utf8(output.stdout).unwrap();
            assert_eq!(names, "secret/bookapi-mtls-cert\nsecret/pgadmin-mtls-cert\nsecret/service-mesh-ca\n");
        }
    }
}

#[test]
fn watch_renews_and_runs_the_command() {
    let folder = folder();
    fine(folder.path(), &["init-ca"]);
    fine(folder.path(), &["issue"]);
    // One is gone when the watch begins; the other is due up to eleven seconds later.
    super::crash::short_lived(folder.path(), "pgadmin");
    std::fs::remove_dir_all(folder.path().join("certs/bookapi-mtls-cert")).unwrap();
    let exec = "printf '%s\\n' $MESHWARD_CHANGED >> changed";
    let mut child = command(folder.path(), &["renew", "--watch", "--exec", exec]).spawn().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(40);
    let changed = loop {
        let changed = std::fs::read_to_string(folder.path().join("changed")).unwrap_or_default();
        if changed.lines().count() == 2 || std::time::Instant::now() > end {
            break changed;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(changed, "certs/bookapi-mtls-cert\ncerts/pgadmin-mtls-cert\n");
    fine(folder.path(), &["verify"]);
}

#[test]
fn trust_domains_are_federated_without_crossing() {
    let (folder, partner) = (folder(), folder());
    fine(folder.path(), &["init-ca"]);
    fine(folder.path(), &["issue"]);
    let mesh = std::fs::read_to_string(partner.path().join("mesh.yaml")).unwrap();
    std::fs::write(partner.path().join("mesh.yaml"), mesh.replace("cluster.local", "partner.example"))
        .unwrap();
    fine(partner.path(), &["init-ca"]);
    let bundle = fine(partner.path(), &["export", "-o", "spiffe-bundle"]);
    std::fs::write(folder.path().join("partner.json"), &bundle).unwrap();
    let root = std::fs::read(partner.path().join("certs/service-mesh-ca/ca.crt")).unwrap();
    std::fs::write(folder.path().join("partner.pem"), root).unwrap();
    std::fs::write(folder.path().join("broken.json"), "{\"keys\": []}").unwrap();
    let mut text = String::new();
    for args in [
        &["federate", "partner.example=partner.json"][..],
        &["federate", "partner.example=partner.json"],
        &["federate"],
        &["federate", "cluster.local=partner.json"],
        &["federate", "other.example=partner.pem"],
        &["federate", "other.example=broken.json"],
        &["federate", "partner.example"],
        &["verify"],
        &["needs-renewal"],
    ] {
        text += &transcript(folder.path(), args);
    }
    let map = std::fs::read(folder.path().join("certs/bookapi-mtls-cert/trust-bundles.json")).unwrap();
    let map: serde_json::Value = serde_json::from_slice(&map).unwrap();
    let theirs: serde_json::Value = serde_json::from_str(&bundle).unwrap();
    assert_eq!(map["trust_domains"]["partner.example"]["keys"], theirs["keys"]);
    assert_eq!(map["trust_domains"].as_object().unwrap().len(), 2);
    text += &transcript(folder.path(), &["federate", "--remove", "partner.example"]);
    assert!(!folder.path().join("certs/bookapi-mtls-cert/trust-bundles.json").exists());
    insta::assert_snapshot!(text);
}

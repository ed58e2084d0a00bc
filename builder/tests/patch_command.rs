//! `meshward patch` and its kin as a user runs them: what is written where, and how they end.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const ENVOY: &str = "# mine\nstatic_resources:\n  listeners:\n  - name: in\n    filter_chains:\n    - filters:\n      - name: h\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          http_filters: # last\n          - name: envoy.filters.http.router\n";

fn meshward(folder: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshward"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plugin"), b"configuration").unwrap();
    folder
}

fn patch<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["patch", "--wasm-path", "/etc/meshward/m.wasm", "--configuration", "plugin"];
    args.extend(more);
    args
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_file_is_patched_in_place_and_given_back() {
    let folder = folder();
    let file = folder.path().join("envoy.yaml");
    fs::write(&file, ENVOY).unwrap();
    let output = meshward(folder.path(), &patch(&["envoy.yaml", "--check"]), "");
    assert_eq!(output.status.code(), Some(1), "it would be patched");
    assert_eq!(fs::read_to_string(&file).unwrap(), ENVOY);
    let output = meshward(folder.path(), &patch(&["envoy.yaml", "-i", "--harden"]), "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("envoy.yaml: patched: listener `in`, HTTP"),
        "{}",
        text(&output.stderr)
    );
    let patched = fs::read_to_string(&file).unwrap();
    assert!(
        patched.contains("- name: meshward\n") && patched.contains("normalize_path: true  # meshward: added")
    );
    let output = meshward(folder.path(), &patch(&["envoy.yaml", "--check", "--harden"]), "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(meshward(folder.path(), &["unpatch", "-i", "envoy.yaml"], "").status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), ENVOY);
}

#[test]
fn standard_input_goes_to_standard_output() {
    let folder = folder();
    let output = meshward(folder.path(), &patch(&["-"]), ENVOY);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let back = meshward(folder.path(), &["unpatch", "-"], &text(&output.stdout));
    assert_eq!(text(&back.stdout), ENVOY);
    let output = meshward(folder.path(), &patch(&["-", "--diff"]), ENVOY);
    let diff = text(&output.stdout);
    assert!(diff.starts_with("--- <stdin>\n+++ <stdin>\n"), "{diff}");
    assert!(!diff.lines().any(|line| line.starts_with('-') && !line.starts_with("---")), "{diff}");
}

#[test]
fn all_files_are_written_or_none() {
    let folder = folder();
    fs::create_dir(folder.path().join("k8s")).unwrap();
    let good = folder.path().join("k8s/a.yaml");
    let bad = folder.path().join("k8s/b.yaml");
    fs::write(&good, ENVOY).unwrap();
    fs::write(&bad, ENVOY.replace("envoy.filters.http.router", "something.else")).unwrap();
    fs::write(folder.path().join("k8s/template.yaml"), "a: {{ b }}: {{\n").unwrap();
    let output = meshward(folder.path(), &patch(&["k8s", "-i"]), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("error[no-router]") && text(&output.stderr).contains("k8s/b.yaml:")
    );
    assert_eq!(fs::read_to_string(&good).unwrap(), ENVOY, "one file has a mistake: none is written");
    fs::remove_file(&bad).unwrap();
    assert!(meshward(folder.path(), &patch(&["k8s", "-i"]), "").status.success());
    assert!(fs::read_to_string(&good).unwrap().contains("meshward.guard"));
}

#[test]
fn a_kustomization_leads_to_the_files_of_its_config_maps() {
    let folder = folder();
    let kustomization = "configMapGenerator:\n- name: c\n  files:\n  - envoy.yaml=conf/envoy.conf\n";
    fs::write(folder.path().join("kustomization.yaml"), kustomization).unwrap();
    fs::create_dir(folder.path().join("conf")).unwrap();
    let file = folder.path().join("conf/envoy.conf");
    fs::write(&file, ENVOY).unwrap();
    let output = meshward(folder.path(), &patch(&["kustomization.yaml", "-i"]), "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::read_to_string(&file).unwrap().contains("meshward.guard"));
    assert_eq!(fs::read_to_string(folder.path().join("kustomization.yaml")).unwrap(), kustomization);
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let folder = folder();
    for (input, code) in [("a: [", "not-yaml"), ("a: 1\n", "nothing-to-do"), ("", "nothing-to-do")] {
        let output = meshward(folder.path(), &patch(&["-"]), input);
        assert_eq!(output.status.code(), Some(1), "{input}");
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains(&format!("error[{code}]")), "{}", text(&output.stderr));
    }
    let output = meshward(folder.path(), &patch(&["missing.yaml"]), "");
    assert!(text(&output.stderr).contains("`missing.yaml` cannot be read"), "{}", text(&output.stderr));
}

#[test]
fn a_workload_gets_a_sidecar_and_loses_it() {
    let folder = folder();
    let deployment = "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n      containers:\n      - name: web # the application\n        image: web";
    let args = ["inject", "-", "--filter-sha256", "0123456789ab"];
    let output = meshward(folder.path(), &args, deployment);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let injected = text(&output.stdout);
    assert!(
        injected.contains("meshward-filter-0123456789ab") && injected.contains("web-mtls-cert"),
        "{injected}"
    );
    assert_eq!(text(&meshward(folder.path(), &["uninject", "-"], &injected).stdout), deployment);
    let host = deployment.replace("      containers:", "      hostNetwork: true\n      containers:");
    let output = meshward(folder.path(), &args, &host);
    assert_eq!(text(&output.stdout), host);
    assert!(
        text(&output.stderr).contains("gets no sidecar: `hostNetwork: true`"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_module_is_taken_only_with_the_signature_of_the_key_that_is_set() {
    let folder = folder();
    let run = |args: &[&str]| {
        let output = meshward(folder.path(), args, ENVOY);
        (output.status.code(), text(&output.stderr))
    };
    fs::write(folder.path().join("m.wasm"), b"module").unwrap();
    assert_eq!(run(&["filter", "keygen", "k"]).0, Some(0));
    assert_eq!(run(&["filter", "keygen", "k"]).0, Some(1), "a key is never written over");
    let key = ["--filter-public-key", "k.pub"];
    let with = |args: &[&'static str]| [args, &key].concat();
    let inject = with(&["inject", "-", "--wasm", "m.wasm"]);
    let patch = with(&["patch", "-", "--wasm", "m.wasm", "--configuration", "plugin"]);
    let unknown = with(&["patch", "-", "--wasm-path", "/m.wasm", "--configuration", "plugin"]);
    for (args, why) in [(&inject, "m.wasm.sig"), (&patch, "m.wasm.sig"), (&unknown, "is not here")] {
        let (code, error) = run(args);
        assert!(code == Some(1) && error.contains(why), "{error}");
    }
    assert_eq!(run(&["filter", "sign", "m.wasm", "--key", "k"]).0, Some(0));
    assert_eq!(run(&with(&["filter", "verify", "m.wasm"])).0, Some(0));
    assert_eq!(run(&patch).0, Some(0));
    fs::write(folder.path().join("m.wasm"), b"another").unwrap();
    for args in [&patch, &inject, &with(&["filter", "verify", "m.wasm"])] {
        let (code, error) = run(args);
        assert!(code == Some(1) && error.contains("error[not-signed]"), "{error}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(folder.path().join("k")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn an_image_of_the_filter_is_pinned() {
    let folder = folder();
    let deployment =
        "kind: Pod\napiVersion: v1\nmetadata: {name: web}\nspec:\n  containers: [{name: web, image: web}]\n";
    let sha256 = "0123456789abcdef".repeat(4);
    let image = format!("registry.example/filter@sha256:{sha256}");
    let run = |sha256: &str, from: &str, image: &str| {
        let args = ["inject", "-", "--filter-sha256", sha256, "--filter-from", from, "--filter-image", image];
        meshward(folder.path(), &args, deployment)
    };
    assert!(text(&run(&sha256, "init-container", &image).stdout).contains(&format!("echo '{sha256}")));
    assert!(text(&run(&sha256, "image", &image).stdout).contains("pullPolicy"));
    for (sha256, from, image, why) in [
        (&sha256[..12], "init-container", image.as_str(), "all 64 digits"),
        (&sha256, "image", "filter:1", "pin it by its digest"),
        (&sha256, "configmap", &image, "holds the module itself"),
    ] {
        let output = run(sha256, from, image);
        assert!(
            output.status.code() == Some(1) && text(&output.stderr).contains(why),
            "{}",
            text(&output.stderr)
        );
    }
}

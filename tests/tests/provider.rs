//! What the sidecars read when others than `meshward certs` issue, asked of a real Envoy and of kustomize.
#![allow(
    clippy::unwrap_used,
    clippy::unreachable,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::path::Path;

use clap::Parser as _;
use meshward_builder::Cli;
use meshward_builder::console::Console;
use meshward_builder::diagnostic::Source;
use meshward_builder::kube::{Distribution, Filter};
use meshward_builder::mesh;
use meshward_builder::validate::{self, Outcome, Tools};
use meshward_builder::wasm;
use meshward_tests::tools;

fn mesh(spec: &str) -> String {
    format!(
        "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {{name: test}}
spec:
  trustDomain: test.example
{spec}
  services:
    - {{name: callee, port: 8000, container: {{image: \"example/callee:1\"}}}}
    - {{name: db, protocol: tcp, port: 5432, container: {{image: \"example/db:1\"}}}}
    - {{name: caller, port: 8001, calls: [callee, db]}}
    - {{name: way-in, edge: {{routes: [{{prefix: /, service: callee}}]}}}}
"
    )
}

/// All checks but the schemas', which `.ci/run` has for the bookstore; what was good, by kind and subject.
fn good(spec: &str) -> Vec<String> {
    let mesh = mesh::load_sources(&[Source::new("mesh.yaml", mesh(spec))]).unwrap();
    let module = tools::filter().unwrap();
    let filter = Filter {
        sha256: wasm::inspect(&std::fs::read(&module).unwrap()).sha256,
        distribution: Distribution::ConfigMap,
    };
    let tools = Tools {
        envoy: Ok(tools::envoy().unwrap()),
        kubectl: validate::on_path("kubectl"),
        python: Err("not asked here".to_owned()),
    };
    if tools.kubectl.is_none() {
        meshward_tests::tools::skipped("kustomize of the overlays", "there is no `kubectl` on PATH");
    }
    let mut good = Vec::new();
    for check in validate::validate(&mesh, &filter, Path::new(&module), &tools).unwrap() {
        match check.outcome {
            Outcome::Good => good.push(format!("{} {}", check.kind, check.subject)),
            Outcome::Skipped { .. } => {}
            Outcome::Bad { diagnostics } => {
                let said: String = diagnostics.iter().map(|diagnostic| diagnostic.render(false)).collect();
                unreachable!("{spec}: {}: {said}", check.subject);
            }
        }
    }
    good
}

#[test]
fn envoy_and_kustomize_take_what_is_rendered_for_each_provider() {
    for provider in ["embedded", "cert-manager", "csi-driver-spiffe", "spire"] {
        let good = good(&format!("  certificates: {{provider: {provider}}}"));
        let has = |what: &str| good.iter().any(|check| check == what);
        for service in ["callee", "db", "caller", "way-in"] {
            assert!(has(&format!("envoy {service}")), "{provider}: {good:?}");
        }
        if validate::on_path("kubectl").is_some() {
            for overlay in ["dev", "prod", "cert-manager", "csi-driver-spiffe", "spire"] {
                assert!(has(&format!("kustomize overlays/{overlay}")), "{provider}: {good:?}");
            }
        }
    }
}

#[test]
fn a_mesh_with_federation_has_the_overlays_of_those_who_can_federate() {
    let good = good("  certificates: {provider: spire}\n  federatesWith: [partner.example]");
    assert!(good.iter().any(|check| check == "envoy callee"), "{good:?}");
    if validate::on_path("kubectl").is_some() {
        assert!(good.iter().any(|check| check == "kustomize overlays/spire"), "{good:?}");
        assert!(good.iter().any(|check| check == "kustomize overlays/prod"), "{good:?}");
        assert!(!good.iter().any(|check| check.contains("cert-manager")), "{good:?}");
    }
}

#[test]
fn inject_says_that_its_sidecars_need_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (file, workload) = (folder.path().join("mesh.yaml"), folder.path().join("callee.yaml"));
    let text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: callee}, \
                spec: {template: {spec: {containers: [{name: a, image: b}]}}}}";
    std::fs::write(&workload, text).unwrap();
    let inject = |provider: &str| {
        std::fs::write(&file, mesh(&format!("  certificates: {{provider: {provider}}}"))).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let line = ["meshward", "inject", workload.to_str().unwrap(), "--filter-sha256", "0123456789ab"];
        let line = [&line[..], &["--mesh", file.to_str().unwrap()]].concat();
        let command = Cli::try_parse_from(line).unwrap().command;
        command
            .run(&mut Console::new(&mut out, &mut err, false))
            .map_err(|failure| failure.diagnostics[0].code)
    };
    assert_eq!(inject("spire").unwrap_err(), "certificates");
    assert_eq!(inject("csi-driver-spiffe").unwrap_err(), "certificates");
    inject("cert-manager").unwrap();
}

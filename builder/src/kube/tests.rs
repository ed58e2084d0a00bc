//! What every manifest must be, whatever the mesh.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Distribution, Filter, render, warnings};
use crate::diagnostic::Source;
use crate::mesh;

const MESH: &str = include_str!("../../../deploy/mesh.yaml");

fn rendered(text: &str) -> (BTreeMap<String, String>, Filter) {
    let mesh = mesh::load_sources(&[Source::new("mesh.yaml", text)]).unwrap();
    let filter =
        Filter { sha256: "0123456789ab".to_owned() + &"0".repeat(52), distribution: Distribution::ConfigMap };
    (render(&mesh, &filter).unwrap(), filter)
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple::<Value>(text).unwrap()
}

fn all_objects(files: &BTreeMap<String, String>) -> Vec<Value> {
    files.iter().filter(|(path, _)| path.ends_with(".yaml")).flat_map(|(_, text)| documents(text)).collect()
}

#[test]
fn the_same_mesh_gives_the_same_bytes() {
    assert_eq!(rendered(MESH).0, rendered(MESH).0);
}

/// Two readers with nothing in common take the same from it: quoting is right.
#[test]
fn another_yaml_reader_reads_the_same() {
    for (path, text) in rendered(MESH).0 {
        if path.ends_with(".yaml") {
            let other: Vec<Value> = serde_yaml::Deserializer::from_str(&text)
                .map(|document| Value::deserialize(document).unwrap())
                .filter(|value| !value.is_null())
                .collect();
            assert_eq!(documents(&text), other, "{path}");
        }
    }
}

#[test]
fn every_name_with_the_modules_hash_agrees() {
    let (files, filter) = rendered(MESH);
    for (path, text) in &files {
        for (at, _) in text.match_indices("meshward-filter-") {
            assert!(text[at..].starts_with(&filter.config_map()), "{path}");
        }
        for (at, _) in text.match_indices("/meshward-") {
            assert!(text[at + 1..].starts_with(&filter.file_name()), "{path}: {}", &text[at..at + 40]);
        }
    }
    assert!(files["base/kustomization.yaml"].contains(&filter.config_map()));
    assert!(files["base/filter.lock"].contains(&filter.sha256));
}

#[test]
fn no_key_is_ever_written() {
    for (path, text) in rendered(MESH).0 {
        assert!(!text.contains("PRIVATE KEY") && !text.contains("kind: Secret"), "{path}");
    }
}

#[test]
fn every_container_is_restricted() {
    let objects = all_objects(&rendered(MESH).0);
    let deployments: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment" && object["spec"]["selector"].is_object())
        .collect();
    assert_eq!(deployments.len(), 5);
    for deployment in deployments {
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let containers = pod["containers"].as_array().unwrap();
        let edge = deployment["metadata"]["name"] == "envoy";
        assert_eq!(containers.len(), if edge { 1 } else { 2 });
        for container in containers {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                assert!(mount.get("subPath").is_none(), "a subPath is never updated: {mount}");
            }
        }
    }
}

#[test]
fn networks_let_in_on_one_port_alone() {
    let objects = all_objects(&rendered(MESH).0);
    let policies: Vec<&Value> = objects
        .iter()
        .filter(|object| {
            object["kind"] == "NetworkPolicy" && object["metadata"]["name"] != "bookstore-metrics"
        })
        .collect();
    assert_eq!(policies.len(), 5);
    for policy in policies {
        let port = if policy["metadata"]["name"] == "envoy" { 8080 } else { 15001 };
        assert_eq!(
            policy["spec"]["ingress"],
            serde_json::json!([{"ports": [{"protocol": "TCP", "port": port}]}])
        );
    }
}

/// kubelet has no client certificate: no HTTP probe may go to 15001 or to a port that the NetworkPolicy shuts.
#[test]
fn http_probes_go_to_the_health_listener_on_paths_that_it_has() {
    let (files, _) = rendered(MESH);
    for object in all_objects(&files).iter().filter(|object| object["kind"] == "Deployment") {
        let Some(containers) = object["spec"]["template"]["spec"]["containers"].as_array() else { continue };
        for container in containers {
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(get) = container[probe].get("httpGet") {
                    assert_eq!(get["port"], 15021);
                    let service = object["metadata"]["name"].as_str().unwrap();
                    let path = get["path"].as_str().unwrap();
                    assert!(
                        files[&format!("base/{service}.yaml")].contains(&format!("path: {path}\n")),
                        "{service} {path}"
                    );
                }
            }
        }
    }
}

#[test]
fn each_certificate_has_its_services_identity_and_nothing_else() {
    let objects = documents(&rendered(MESH).0["overlays/cert-manager/certificates.yaml"]);
    let leaf = objects.iter().find(|object| object["metadata"]["name"] == "bookapi-mtls-cert").unwrap();
    let spec = &leaf["spec"];
    assert_eq!(spec["uris"], serde_json::json!(["spiffe://bookstore.example/ns/default/sa/bookapi"]));
    assert_eq!(spec["secretName"], "bookapi-mtls-cert");
    assert_eq!(spec["issuerRef"]["kind"], "Issuer");
    assert!(spec.get("isCA").is_none());
}

#[test]
fn the_provider_of_mesh_yaml_carries_dev_and_prod() {
    let with = |spec: &str| {
        let (files, _) = rendered(&MESH.replacen("spec:\n", &format!("spec:\n{spec}"), 1));
        let resources = |overlay: &str| {
            let path = format!("overlays/{overlay}/kustomization.yaml");
            documents(&files[&path])[0]["resources"][0].as_str().unwrap().to_owned()
        };
        let overlays: Vec<_> = ["cert-manager", "csi-driver-spiffe", "spire"]
            .into_iter()
            .filter(|name| files.contains_key(&format!("overlays/{name}/kustomization.yaml")))
            .collect();
        (resources("dev"), resources("prod"), overlays.join(" "))
    };
    let all = "cert-manager csi-driver-spiffe spire".to_owned();
    let is = |dev: &str, prod: &str, overlays: &String| (dev.to_owned(), prod.to_owned(), overlays.clone());
    assert_eq!(with(""), is("../../base", "../cert-manager", &all));
    assert_eq!(with("  certificates: {provider: embedded}\n"), is("../../base", "../../base", &all));
    assert_eq!(with("  certificates: {provider: spire}\n"), is("../spire", "../spire", &all));
    // What cert-manager cannot give is not taken from it.
    assert_eq!(with("  revocation: {crl: true}\n"), is("../../base", "../../base", &String::new()));
    assert_eq!(with("  federatesWith: [other]\n"), is("../../base", "../../base", &"spire".to_owned()));
}

#[test]
fn services_in_several_namespaces_share_one_issuer() {
    let mesh = "apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec:\n  trustDomain: t\n  services:\n\
                \x20 - {name: a, port: 80}\n  - {name: b, port: 80, namespace: other}\n";
    let (files, filter) = rendered(mesh);
    let objects = documents(&files["overlays/cert-manager/certificates.yaml"]);
    assert!(objects.iter().all(|object| object["kind"] != "Issuer"), "an Issuer is for one namespace");
    assert_eq!(
        files["base/kustomization.yaml"].matches(&filter.config_map()).count(),
        2,
        "a ConfigMap for each"
    );
}

/// A mesh whose one service admits so many callers, of names that the wire format cannot shorten.
fn with_callers(number: u32) -> mesh::Resolved {
    let mut text = "apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec:\n  trustDomain: t\n  services:\n\
                    \x20 - {name: a, port: 80}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n\
                    spec:\n  rules:\n  - from:\n    - source:\n        principals:\n"
        .to_owned();
    for number in 0..number {
        let name: String =
            Sha256::digest(number.to_be_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("        - t/ns/default/sa/{name}\n"));
    }
    mesh::load_sources(&[Source::new("mesh.yaml", text)]).unwrap()
}

#[test]
fn a_configuration_that_no_config_map_holds_is_refused_with_its_service() {
    let filter = Filter { sha256: "0".repeat(64), ..Filter::default() };
    let failure = render(&with_callers(13_000), &filter).err().unwrap();
    assert_eq!(failure.diagnostics[0].code, "config-too-big");
    assert_eq!(failure.diagnostics[0].place().as_deref(), Some("mesh.yaml:7:12"));
    // And one that only `kubectl apply --server-side` takes is told.
    let mesh = with_callers(4_000);
    let told = warnings(&mesh, &render(&mesh, &filter).unwrap());
    assert_eq!(told.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["server-side-apply"]);
    let mesh = with_callers(100);
    assert!(warnings(&mesh, &render(&mesh, &filter).unwrap()).is_empty());
}

#[test]
fn a_module_out_of_an_image_needs_no_config_map() {
    let mesh = mesh::load_sources(&[Source::new("mesh.yaml", MESH)]).unwrap();
    let image = format!("registry.example/filter@sha256:{}", "ab".repeat(32));
    for distribution in [Distribution::Image(image.clone()), Distribution::InitContainer(image.clone())] {
        let filter = Filter { sha256: "cd".repeat(32), distribution: distribution.clone() };
        let files = render(&mesh, &filter).unwrap();
        assert!(!files["base/kustomization.yaml"].contains("meshward-filter"));
        assert!(!files.contains_key("base/filter/.gitignore"));
        let deployments = all_objects(&files);
        let deployments = deployments
            .iter()
            .filter(|object| object["kind"] == "Deployment" && object["spec"]["selector"].is_object());
        for deployment in deployments {
            let pod = &deployment["spec"]["template"]["spec"];
            let volume = pod["volumes"]
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["name"] == "meshward-filter")
                .unwrap();
            assert_eq!(
                volume["image"]["reference"].is_string(),
                matches!(distribution, Distribution::Image(_))
            );
            assert_eq!(
                pod["initContainers"][0]["image"].is_string(),
                !matches!(distribution, Distribution::Image(_))
            );
        }
        // Rendering again, and --check, find it in the lock file.
        let folder = tempfile::tempdir().unwrap();
        super::tree::replace(folder.path(), &files, None).unwrap();
        assert_eq!(super::tree::locked_filter(folder.path()).unwrap(), Some(filter));
    }
}

//! `inject` into workloads that are out of the ordinary: who is left alone and why, and where the module comes from.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use meshward_builder::diagnostic::Source;
use meshward_builder::inject::{Options, inject, redirects, uninject};
use meshward_builder::kube::{Distribution, Filter};
use meshward_builder::mesh::load_sources;
use serde_json::{Value, json};

fn options(distribution: Distribution) -> Options {
    let filter = Filter { sha256: "0123456789abcdef".repeat(4), distribution };
    Options { image: "envoyproxy/envoy:x".into(), filter, ..Options::default() }
}

/// A Deployment with this in its pods' spec, and a container with `container` in it.
fn deployment(spec: &str, container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n{spec}      containers:\n      - name: web # mine\n        image: web\n{container}"
    )
}

/// Injects, checks what always holds, and gives the pods' spec.
fn injected(text: &str, options: &Options) -> Value {
    let outcome = inject(text, options).unwrap();
    assert!(!outcome.failed() && outcome.done.len() == 1, "{:?}", outcome.findings);
    assert_eq!(inject(&outcome.text, options).unwrap().text, outcome.text);
    assert_eq!(uninject(&outcome.text).unwrap().text, text);
    // From one way of distribution to another and back.
    let other = self::options(Distribution::ConfigMap);
    let moved = inject(&outcome.text, &other).unwrap().text;
    assert_eq!(inject(&moved, options).unwrap().text, outcome.text);
    let value: Value = serde_yaml::from_str(&outcome.text).unwrap();
    value["spec"]["template"]["spec"].clone()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap()
}

#[test]
fn what_must_be_left_alone_is_and_says_why() {
    for (spec, container, why) in [
        ("      hostNetwork: true\n", "", "hostNetwork"),
        ("      os: {name: windows}\n", "", "Windows"),
        ("      nodeSelector: {beta.kubernetes.io/os: windows}\n", "", "Windows"),
        ("", "        ports: [{containerPort: 15001}]\n", "has port 15001, which is the sidecar's"),
        (
            "",
            "        ports: [{containerPort: 80}, {name: admin, containerPort: 9901, protocol: TCP}]\n",
            "has port 9901",
        ),
        (
            "      initContainers: [{name: s, image: s, restartPolicy: Always, ports: [{containerPort: 15021}]}]\n",
            "",
            "has port 15021",
        ),
        ("      volumes: [{name: mtls-cert, emptyDir: {}}]\n", "", "volume `mtls-cert`"),
        ("", "      - {name: envoy, image: e}\n", "container `envoy`"),
        ("      initContainers: [{name: meshward-filter, image: e}]\n", "", "container `meshward-filter`"),
        ("", "      - {name: istio-proxy, image: e}\n", "another mesh"),
    ] {
        let text = deployment(spec, container);
        let outcome = inject(&text, &options(Distribution::ConfigMap)).unwrap();
        assert_eq!(outcome.text, text);
        assert!(outcome.findings[0].message.contains(why), "{why}: {:?}", outcome.findings);
    }
    let udp = deployment("", "        ports: [{containerPort: 15001, protocol: UDP}]\n");
    injected(&udp, &options(Distribution::ConfigMap));
    for word in ["false", "\"false\"", "\"False\"", "disabled", "\"off\""] {
        let text = deployment("", "")
            .replace("{labels: {app: web}}", &format!("{{annotations: {{meshward.dev/inject: {word}}}}}"));
        assert_eq!(inject(&text, &options(Distribution::ConfigMap)).unwrap().text, text, "{word}");
    }
}

#[test]
fn pods_of_every_make_get_a_sidecar() {
    for (spec, remark) in [
        ("      shareProcessNamespace: true\n", Some("shared-processes")),
        ("      securityContext: {runAsUser: 0, fsGroup: 0}\n", None),
        ("      initContainers: []\n", None),
        ("      initContainers:\n      - {name: first, image: i}\n      volumes: # none\n", None),
        ("      hostPID: true\n      dnsPolicy: None\n      automountServiceAccountToken: false\n", None),
    ] {
        for native in [false, true] {
            let options = Options { native, ..options(Distribution::ConfigMap) };
            let text = deployment(spec, "        ports: [{name: mtls, containerPort: 80}]\n");
            injected(&text, &options);
            let findings = inject(&text, &options).unwrap().findings;
            assert_eq!(findings.first().map(|finding| finding.code), remark, "{spec}");
        }
    }
}

#[test]
fn a_block_scalar_at_the_end_keeps_its_value() {
    // Found by the fuzz target: a line break behind the text would become the scalar's.
    for last in
        ["- |\n          last line", "- >\n          last line ", "- |+\n          last line\n          "]
    {
        let text = deployment("", &format!("        args:\n        {last}"));
        let outcome = inject(&text, &options(Distribution::ConfigMap)).unwrap();
        assert!(
            outcome.text == text && outcome.findings[0].code == "no-line-break",
            "{:?}",
            outcome.findings
        );
        injected(&(text + "\n"), &options(Distribution::ConfigMap));
    }
}

#[test]
fn typed_lists_are_opened() {
    let item = deployment("", "").replace("apiVersion: apps/v1\nkind: Deployment\n", "");
    let value: Value = serde_yaml::from_str(&item).unwrap();
    for (kind, key, item) in [
        ("DeploymentList", "items", value.clone()),
        ("Template", "objects", serde_yaml::from_str(&deployment("", "")).unwrap()),
    ] {
        let list = json!({"apiVersion": "v1", "kind": kind, key: [item]});
        let text = serde_json::to_string_pretty(&list).unwrap();
        let outcome = inject(&text, &options(Distribution::ConfigMap)).unwrap();
        assert_eq!(outcome.done.len(), 1, "{kind}: {:?}", outcome.findings);
        assert_eq!(uninject(&outcome.text).unwrap().text, text);
    }
}

#[test]
fn the_module_comes_from_where_it_is_said_to() {
    let image = format!("registry.example/filter@sha256:{}", "ab".repeat(32));
    for native in [false, true] {
        for spec in ["", "      initContainers:\n      - {name: first, image: i}\n"] {
            let text = deployment(spec, "");
            let make = |distribution| Options { native, ..options(distribution) };
            let pod = injected(&text, &make(Distribution::ConfigMap));
            assert_eq!(
                named(&pod["volumes"], "meshward-filter")["configMap"]["name"],
                "meshward-filter-0123456789ab"
            );

            let pod = injected(&text, &make(Distribution::Image(image.clone())));
            assert_eq!(named(&pod["volumes"], "meshward-filter")["image"]["reference"], image.as_str());

            let pod = injected(&text, &make(Distribution::InitContainer(image.clone())));
            assert_eq!(named(&pod["volumes"], "meshward-filter")["emptyDir"], json!({}));
            let copy = &pod["initContainers"][0];
            assert_eq!((&copy["name"], &copy["image"]), (&json!("meshward-filter"), &json!(image)));
            let script = copy["command"][2].as_str().unwrap();
            assert!(
                script.contains(&"0123456789abcdef".repeat(4)) && script.contains("sha256sum -c"),
                "{script}"
            );
            assert_eq!(pod["containers"].as_array().unwrap().len(), if native { 1 } else { 2 });
            assert!(native == (pod["initContainers"][1]["name"] == "envoy"), "it comes before the sidecar");
        }
    }
}

/// A mesh that leads the traffic of `web` to its sidecar, as `meshward inject --mesh` takes it.
fn redirecting() -> Options {
    let text = format!(
        "apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec:\n  trustDomain: t.example\n  \
         interception: {{image: 'i@sha256:{}', outside: pass, exclude: {{inboundPorts: [9090]}}}}\n  \
         services: [{{name: web, port: 8000}}]\n",
        "ab".repeat(32)
    );
    let mesh = load_sources(&[Source::new("mesh.yaml", text)]).unwrap();
    Options { redirects: redirects(&mesh), ..options(Distribution::ConfigMap) }
}

#[test]
fn traffic_is_led_to_the_sidecar_where_the_mesh_says_so() {
    let first = "      initContainers:\n      - {name: first, image: i}\n";
    for spec in ["", first, "      initContainers: # none\n", "      initContainers: []\n"] {
        for native in [false, true] {
            let copies = Distribution::InitContainer(format!("f@sha256:{}", "cd".repeat(32)));
            for distribution in [Distribution::ConfigMap, copies] {
                let copied = distribution != Distribution::ConfigMap;
                let filter = options(distribution).filter;
                let pod = injected(&deployment(spec, ""), &Options { native, filter, ..redirecting() });
                let names: Vec<&str> = pod["initContainers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|container| container["name"].as_str().unwrap())
                    .collect();
                // Those of others keep their network where there is no sidecar yet.
                let mut expected = if copied { vec!["meshward-filter"] } else { Vec::new() };
                let others: &[&str] = if spec == first { &["first"] } else { &[] };
                if native {
                    expected.extend(["meshward-redirect", "envoy"]);
                    expected.extend(others);
                } else {
                    expected.extend(others);
                    expected.push("meshward-redirect");
                }
                assert_eq!(names, expected, "{spec}");
                let list = if native { "initContainers" } else { "containers" };
                assert_eq!(named(&pod[list], "envoy")["securityContext"]["runAsUser"], 15001);
                let rules =
                    named(&pod["initContainers"], "meshward-redirect")["env"][0]["value"].as_str().unwrap();
                assert!(rules.contains("--dport 8000 -j REDIRECT --to-ports 15001\n"), "{rules}");
                assert!(rules.contains("--uid-owner 15001 -j RETURN\n"), "{rules}");
            }
        }
    }
    // With it and without it are two sidecars: the pods are replaced.
    let (with, without) = (redirecting(), options(Distribution::ConfigMap));
    assert_ne!(with.checksum("web"), without.checksum("web"));
}

#[test]
fn what_cannot_be_led_to_a_sidecar_is_refused() {
    let probe = |action: &str| format!("        readinessProbe: {{{action}}}\n");
    for (spec, container, code) in [
        ("", probe("httpGet: {path: /, port: 8000}"), Some("captured-probe")),
        (
            "",
            probe("httpGet: {path: /, port: web}") + "        ports: [{name: web, containerPort: 8000}]\n",
            Some("captured-probe"),
        ),
        ("", probe("tcpSocket: {port: 7000}"), Some("captured-probe")),
        ("", probe("grpc: {port: 8000}"), Some("captured-probe")),
        ("", probe("exec: {command: [a]}"), None),
        ("", probe("httpGet: {path: /, port: 9090}"), None),
        (
            "",
            probe("httpGet: {path: /, port: metrics}")
                + "        ports: [{name: metrics, containerPort: 9090}]\n",
            None,
        ),
        ("", "        securityContext: {runAsUser: 15001}\n".to_owned(), Some("sidecar-user")),
        ("      securityContext: {runAsUser: 15001}\n", String::new(), Some("sidecar-user")),
        ("      securityContext: {runAsUser: 101}\n", String::new(), None),
    ] {
        let text = deployment(spec, &container);
        let outcome = inject(&text, &redirecting()).unwrap();
        let found = outcome.findings.first().map(|finding| finding.code);
        assert_eq!((found, outcome.text == text), (code, code.is_some()), "{text}: {:?}", outcome.findings);
        // Without interception all of it is as ever.
        assert!(!inject(&text, &options(Distribution::ConfigMap)).unwrap().failed());
    }
    let text = deployment("      initContainers: [{name: meshward-redirect, image: e}]\n", "");
    let outcome = inject(&text, &redirecting()).unwrap();
    assert!(outcome.text == text && outcome.findings[0].message.contains("container `meshward-redirect`"));
}

#[test]
fn what_is_in_two_places_is_not_changed() {
    // By hand, before this: volumes came into a workload that asked to be left alone.
    let two = |first: &str, second: &str, left_alone: &str| {
        let item = |name: &str, template: &str, own: &str| {
            format!(
                "- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {{name: {name}{own}}}\n  spec:\n    template:\n{template}"
            )
        };
        format!(
            "apiVersion: v1\nkind: List\nitems:\n{}{}",
            item("a", first, ""),
            item("b", second, left_alone)
        )
    };
    let containers = "        containers: [{name: c, image: c}]\n";
    let none = ", annotations: {meshward.dev/inject: \"false\"}";
    for (first, second, left_alone) in [
        (
            format!("      spec:\n        volumes: &v\n        - {{name: x, emptyDir: {{}}}}\n{containers}"),
            format!("      spec:\n        volumes: *v\n{containers}"),
            none,
        ),
        (
            format!("      spec:\n        volumes: &v\n        - {{name: x, emptyDir: {{}}}}\n{containers}"),
            format!("      spec:\n        volumes: *v\n{containers}"),
            "",
        ),
        (
            "      spec: &s\n        containers:\n        - {name: c, image: c}\n".to_owned(),
            "      metadata: {labels: {b: b}}\n      spec: *s\n".to_owned(),
            none,
        ),
        (
            format!("      metadata:\n        annotations: &n {{x: y}}\n      spec:\n{containers}"),
            format!("      metadata:\n        annotations: *n\n      spec:\n{containers}"),
            none,
        ),
    ] {
        let text = two(&first, &second, left_alone);
        let outcome = inject(&text, &options(Distribution::ConfigMap)).unwrap();
        assert_eq!(outcome.text, text);
        let codes: Vec<&str> = outcome.findings.iter().map(|finding| finding.code).collect();
        assert!(codes.contains(&"shared"), "{text}: {codes:?}");
    }
    // An alias of what is only read, or an anchor that nobody uses, changes nothing.
    let text = deployment("      volumes: &unused []\n", "        env: &e [{name: A, value: b}]\n")
        + "      - {name: second, image: i, env: *e}\n";
    injected(&text, &options(Distribution::ConfigMap));
}

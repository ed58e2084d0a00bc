//! `patch`, `unpatch`, `inject` and `uninject` on a cluster: every scenario on the API server of the tests, and on a real
//! kube-apiserver and etcd where `MESHWARD_TEST_CLUSTER=1` asks for them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Parser as _;
use meshward_builder::Cli;
use meshward_builder::console::{Console, Exit};
use meshward_builder::live::client::{Cluster, Target};
use meshward_builder::live::module::Module;
use meshward_builder::live::patch::{self as live, Direction};
use meshward_builder::live::select::Wanted;
use meshward_builder::patch::{self, Configurations, Plugin, Selection};
use meshward_tests::api::{ADMIN, Api, ApiServer, FakeApi, SOMEONE};
use serde_json::{Value, json};

/// Comments, odd indentation and no line break at its end: all of it must come back.
const ENVOY: &str = "# mine\nstatic_resources:\n  listeners:\n  - name: in   # the way in\n    filter_chains:\n    - filters:\n      - name: h\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          http_filters: # last\n          - name: envoy.filters.http.router\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}\n# end";

#[test]
fn on_the_api_server_of_the_tests() {
    let api = FakeApi::start().unwrap();
    everything(&api);
    assert!(api.writes() > 0);
}

/// The server goes away between two objects of one step: what was written of it is noted, and taken back or done to its end.
#[test]
fn a_half_step_of_a_migration_is_not_lost() {
    let api = FakeApi::start().unwrap();
    let scene = Scene { api: &api, namespace: "half", folder: tempfile::tempdir().unwrap() };
    std::fs::write(scene.file("module.wasm"), b"\0asm-a-module").unwrap();
    for (name, port) in [("books", 5288), ("authors", 5300), ("web", 5289)] {
        let settings =
            if name == "web" { json!([{"configMapRef": {"name": "settings"}}]) } else { json!([]) };
        let container = json!({"name": "app", "image": "app:1", "envFrom": settings,
            "ports": [{"containerPort": port, "protocol": "TCP"}]});
        scene.deployment(name, &json!({"containers": [container]}));
        api.write(
            "kubectl-create",
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "half"},
                "spec": {"selector": {"app": name}, "ports": [{"port": port, "protocol": "TCP", "targetPort": port}]}}),
        );
        api.write("kubectl-create", &json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": format!("{name}-mtls-cert"), "namespace": "half"}, "data": {"tls.crt": "AAEC"}}));
    }
    scene.config_map(
        "settings",
        &json!({"data": {"Books": "http://books:5288", "Authors": "http://authors:5300"}}),
    );
    let (module, mesh) = (scene.file("module.wasm"), scene.file("mesh.yaml"));
    let said = scene.migrate("plan", &["--wasm", module.to_str().unwrap(), "--mesh", mesh.to_str().unwrap()]);
    assert_eq!(said.code, Exit::Success, "{}", said.err);
    let status = || -> Vec<(String, String)> {
        let status: Value = serde_json::from_str(&scene.migrate("status", &["-o", "json"]).out).unwrap();
        let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
        let steps = status["steps"].as_array().unwrap();
        steps.iter().map(|step| (text(step, "step"), text(step, "state"))).collect()
    };
    let half = "setting:settings/Books";
    for (step, _) in status().into_iter().take_while(|(step, _)| step != half) {
        let said = scene.migrate("apply", &[&step, "--yes", "--force-conflicts"]);
        assert_eq!(said.code, Exit::Success, "{step}: {}", said.err);
    }
    let seen = || {
        let pod = scene.there("Deployment", "web")["spec"]["template"]["spec"].clone();
        (scene.there("ConfigMap", "settings")["data"].clone(), pod)
    };
    let before = seen();
    let cut_off = || {
        api.die_after(1);
        let said = scene.migrate("apply", &[half, "--yes", "--force-conflicts"]);
        assert!(said.code == Exit::Failure && said.err.contains("no-answer"), "{}", said.err);
        api.revive();
        assert_ne!(seen(), before, "one of the two objects was written");
        assert!(status().contains(&(half.to_owned(), "half".to_owned())), "{:?}", status());
    };
    cut_off();
    let said = scene.migrate("undo", &["--yes", "--force-conflicts"]);
    assert_eq!(said.code, Exit::Success, "{}", said.err);
    assert_eq!(seen(), before, "the half is taken back");
    cut_off();
    let said = scene.migrate("apply", &["--yes", "--force-conflicts"]);
    assert_eq!(said.code, Exit::Success, "{}", said.err);
    let (data, pod) = seen();
    let names = json!([{"ip": "127.0.0.1", "hostnames": ["authors", "books"]}]);
    assert!(data["Books"] == "http://books:15006" && pod["hostAliases"] == names, "{data} {pod}");
    assert!(status().contains(&(half.to_owned(), "done".to_owned())));
    let said = scene.migrate("undo", &[half, "--yes", "--force-conflicts"]);
    assert_eq!(said.code, Exit::Success, "{}", said.err);
    assert_eq!(seen(), before, "and so is the whole");
}

#[test]
fn on_a_real_api_server() {
    if let Some(api) = ApiServer::start().unwrap() {
        everything(&api);
    }
}

type Scenario = fn(&Scene<'_>);

fn everything(api: &dyn Api) {
    let scenarios: &[(&str, Scenario)] = &[
        ("patched", patched_and_given_back),
        ("dry-run", a_dry_run_keeps_nothing),
        ("two", of_two_at_once_one_is_told),
        ("rights", a_missing_right_is_named_and_nothing_is_written),
        ("gone", a_server_that_goes_away_in_the_middle),
        ("immutable", what_is_immutable_is_left),
        ("secret", secrets_and_binary_data),
        ("changed", what_somebody_changed_after_the_patch_stays),
        ("injected", injected_and_given_back),
        ("native", a_native_sidecar_comes_first),
        ("big", a_module_as_big_as_ours_fits),
        ("migrated", migrated_and_given_back),
    ];
    for (namespace, scenario) in scenarios {
        let scene = Scene { api, namespace, folder: tempfile::tempdir().unwrap() };
        api.write("test", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        std::fs::write(scene.file("module.wasm"), b"\0asm-a-module").unwrap();
        std::fs::write(scene.file("plugin"), b"configuration").unwrap();
        eprintln!("{}: {namespace}", api.name());
        scenario(&scene);
    }
}

struct Scene<'a> {
    api: &'a dyn Api,
    namespace: &'a str,
    folder: tempfile::TempDir,
}

struct Said {
    code: Exit,
    out: String,
    err: String,
}

impl Scene<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run_as(&self, user: &str, verb: &str, args: &[&str]) -> Said {
        let kubeconfig = self.api.kubeconfig(user);
        let backups = self.file("backup");
        let mut line =
            vec!["meshward", verb, "--kubeconfig", kubeconfig.to_str().unwrap(), "-n", self.namespace];
        line.extend(["--backup-dir", backups.to_str().unwrap()]);
        let (module, plugin) = (self.file("module.wasm"), self.file("plugin"));
        if verb == "patch" {
            line.extend(["--wasm", module.to_str().unwrap(), "--configuration", plugin.to_str().unwrap()]);
        }
        line.extend(args);
        self.said(&line)
    }

    fn migrate(&self, verb: &str, args: &[&str]) -> Said {
        let kubeconfig = self.api.kubeconfig(ADMIN);
        let (state, backups) = (self.file("state"), self.file("backup"));
        let mut line = vec!["meshward", "migrate", verb, "--state-dir", state.to_str().unwrap()];
        line.extend(args);
        if verb != "status" {
            line.extend(["--kubeconfig", kubeconfig.to_str().unwrap(), "-n", self.namespace]);
            line.extend(["--backup-dir", backups.to_str().unwrap()]);
        }
        self.said(&line)
    }

    fn said(&self, line: &[&str]) -> Said {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::new(&mut out, &mut err, false);
        let code = match Cli::try_parse_from(line).unwrap().command.run(&mut console) {
            Ok(code) => code,
            Err(failure) => {
                failure.diagnostics.iter().for_each(|one| console.report(one));
                Exit::Failure
            }
        };
        Said { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
    }

    fn run(&self, verb: &str, args: &[&str]) -> Said {
        self.run_as(ADMIN, verb, args)
    }

    fn fine(&self, verb: &str, args: &[&str]) -> Said {
        let said = self.run(verb, args);
        assert_eq!(said.code, Exit::Success, "{verb} {args:?}: {}", said.err);
        said
    }

    fn refused(&self, verb: &str, args: &[&str], words: &[&str]) {
        refused(&self.run(verb, args), words);
    }

    fn read(&self, kind: &str, name: &str) -> Option<Value> {
        self.api.read(kind, self.namespace, name)
    }

    fn there(&self, kind: &str, name: &str) -> Value {
        self.read(kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    fn config_map(&self, name: &str, more: &Value) {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": {"mine": "yes"}},
            "data": {"envoy.yaml": ENVOY, "notes.txt": "untouched\n"}});
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        self.api.write("kubectl-create", &object);
    }

    fn deployment(&self, name: &str, pod: &Value) {
        let labels = json!({"app": name});
        self.api.write(
            "kubectl-create",
            &json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
                "spec": {"replicas": 1, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod}}}),
        );
    }

    /// A ConfigMap, and a Deployment whose container `proxy` mounts it.
    fn sidecar(&self, name: &str) {
        self.config_map(&format!("{name}-envoy-config"), &json!({}));
        self.deployment(
            name,
            &json!({"containers": [{"name": "app", "image": "app:1"},
                {"name": "proxy", "image": "envoy:1", "volumeMounts": [{"name": "config", "mountPath": "/etc/envoy"}]}],
                "volumes": [{"name": "config", "configMap": {"name": format!("{name}-envoy-config")}}]}),
        );
    }

    fn text(&self, name: &str) -> String {
        self.there("ConfigMap", name)["data"]["envoy.yaml"].as_str().unwrap().to_owned()
    }

    fn module(&self) -> Module {
        Module::new(std::fs::read(self.file("module.wasm")).unwrap())
    }
}

fn refused(said: &Said, words: &[&str]) {
    assert_eq!(said.code, Exit::Failure, "{}", said.err);
    for word in words {
        assert!(said.err.contains(word), "`{word}` is not in: {}", said.err);
    }
}

fn by_hand(module: &Module) -> String {
    let bytes = b"configuration".to_vec();
    let configurations = Configurations { http: bytes.clone(), tcp: bytes, outbound: None };
    let wasm = format!("/etc/meshward/meshward-{}.wasm", &module.sha256[..12]);
    let plugin = Plugin { wasm, configurations, discovery: None };
    patch::patch(ENVOY, &plugin, &Selection::default(), false).unwrap().text
}

fn container<'a>(deployment: &'a Value, list: &str, name: &str) -> &'a Value {
    let all = deployment["spec"]["template"]["spec"][list].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

fn patched_and_given_back(scene: &Scene<'_>) {
    scene.sidecar("shop");
    let before = (scene.there("ConfigMap", "shop-envoy-config"), scene.there("Deployment", "shop"));
    let filter = scene.module().config_map();
    // Nobody confirms it, and then it belongs to somebody else: in both cases nothing at all is written.
    scene.refused("patch", &["cm/shop-envoy-config"], &["owned-by-others"]);
    scene.refused("patch", &["cm/shop-envoy-config", "--force-conflicts"], &["not-confirmed", "--yes"]);
    scene.refused(
        "patch",
        &["cm/shop-envoy-config", "--yes"],
        &["`data.envoy.yaml` belongs to `kubectl-create`", "--force-conflicts"],
    );
    assert_eq!(scene.there("ConfigMap", "shop-envoy-config"), before.0);
    assert_eq!(scene.there("Deployment", "shop"), before.1);
    assert_eq!(scene.read("ConfigMap", &filter), None);

    let said = scene.fine("patch", &["cm/shop-envoy-config", "--yes", "--force-conflicts"]);
    assert!(said.out.contains("+ ") && said.out.contains("meshward"), "the diff is shown: {}", said.out);
    assert!(said.err.contains("what was there before: "), "{}", said.err);
    assert_eq!(scene.text("shop-envoy-config"), by_hand(&scene.module()));
    let after = scene.there("ConfigMap", "shop-envoy-config");
    assert_eq!(after["data"]["notes.txt"], "untouched\n");
    assert_eq!(after["metadata"]["annotations"]["mine"], "yes");
    let module = scene.there("ConfigMap", &filter);
    let file = format!("meshward-{}.wasm", &scene.module().sha256[..12]);
    assert_eq!(module["binaryData"][file], BASE64_STANDARD.encode(b"\0asm-a-module"));
    assert_eq!(module["immutable"], true);
    let deployment = scene.there("Deployment", "shop");
    let mounts = &container(&deployment, "containers", "proxy")["volumeMounts"];
    let ours = json!({"name": "meshward-filter", "mountPath": "/etc/meshward", "readOnly": true});
    assert!(mounts.as_array().unwrap().contains(&ours), "{mounts}");
    assert_eq!(container(&deployment, "containers", "app")["volumeMounts"], Value::Null);
    let checksum = &deployment["spec"]["template"]["metadata"]["annotations"]["meshward.dev/config-checksum"];
    assert_eq!(checksum.as_str().map(str::len), Some(12));

    // Twice is once.
    let said = scene.fine("patch", &["cm/shop-envoy-config", "--yes"]);
    assert!(said.err.contains("nothing is to be changed"), "{}", said.err);
    assert_eq!(
        scene.there("Deployment", "shop")["metadata"]["generation"],
        deployment["metadata"]["generation"]
    );
    // A newer module replaces the older one, everywhere; all of it is ours now.
    std::fs::write(scene.file("module.wasm"), b"\0asm-newer").unwrap();
    scene.fine("patch", &["--yes"]);
    assert_eq!(scene.text("shop-envoy-config"), by_hand(&scene.module()));
    let newer = scene.there("Deployment", "shop");
    let volumes = newer["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|one| one["name"] == "meshward-filter").unwrap();
    assert_eq!(volume["configMap"]["name"].as_str(), Some(scene.module().config_map().as_str()));

    let said = scene.fine("unpatch", &["cm/shop-envoy-config", "--yes"]);
    assert!(!said.err.contains("changed-since"), "{}", said.err);
    assert_eq!(scene.text("shop-envoy-config"), ENVOY);
    let back = scene.there("ConfigMap", "shop-envoy-config");
    assert_eq!(back["metadata"]["annotations"], before.0["metadata"]["annotations"]);
    assert_eq!(back["data"], before.0["data"]);
    assert_eq!(scene.there("Deployment", "shop")["spec"], before.1["spec"]);
    let said = scene.fine("unpatch", &["cm/shop-envoy-config", "--yes"]);
    assert!(said.err.contains("nothing is to be changed"), "{}", said.err);
}

fn a_dry_run_keeps_nothing(scene: &Scene<'_>) {
    scene.sidecar("shop");
    let before = (scene.there("ConfigMap", "shop-envoy-config"), scene.there("Deployment", "shop"));
    let said = scene.fine("patch", &["--dry-run=server", "--force-conflicts"]);
    assert!(said.err.contains("the server would take: "), "{}", said.err);
    scene.refused("patch", &["--dry-run=server"], &["owned-by-others"]);
    scene.fine("patch", &["--dry-run=client"]);
    let said = scene.fine("patch", &["--diff"]);
    assert!(said.out.contains("+++ dry-run/ConfigMap/shop-envoy-config: envoy.yaml"), "{}", said.out);
    assert_eq!(scene.run("patch", &["--check"]).code, Exit::Failure);
    let said = scene.fine("patch", &["--diff", "-o", "json"]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["state"], "planned");
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(4), "{report:#}");
    assert_eq!(scene.there("ConfigMap", "shop-envoy-config"), before.0);
    assert_eq!(scene.there("Deployment", "shop"), before.1);
    assert_eq!(scene.read("ConfigMap", &scene.module().config_map()), None);
    assert!(!scene.file("backup").exists(), "nothing was written, nothing is to be kept");
}

/// A plan as `meshward patch` makes it, and the cluster it is for.
fn planned(scene: &Scene<'_>) -> (Cluster, meshward_builder::live::plan::Plan) {
    let target = Target {
        kubeconfig: Some(scene.api.kubeconfig(ADMIN)),
        context: None,
        namespace: Some(scene.namespace.to_owned()),
    };
    let cluster = Cluster::connect(&target).unwrap();
    let module = scene.module();
    let bytes = b"configuration".to_vec();
    let configurations = Configurations { http: bytes.clone(), tcp: bytes, outbound: None };
    let wasm = format!("/etc/meshward/meshward-{}.wasm", &module.sha256[..12]);
    let plugin = Plugin { wasm, configurations, discovery: None };
    let edit = |text: &str| patch::patch(text, &plugin, &Selection::default(), false);
    let direction = Direction::Patch { edit: &edit, module: Some(&module) };
    let plan = live::plan(&cluster, &Wanted::default(), &direction, true).unwrap();
    (cluster, plan)
}

fn of_two_at_once_one_is_told(scene: &Scene<'_>) {
    scene.sidecar("shop");
    let ((one, first), (other, second)) = (planned(scene), planned(scene));
    first.write(&one, true, &scene.file("backup"), &mut |_| ()).unwrap();
    let failure = second.write(&other, true, &scene.file("backup"), &mut |_| ()).unwrap_err();
    let said: String = failure.diagnostics.iter().map(|one| one.render(false)).collect();
    assert!(said.contains("changed-meanwhile"), "{said}");
    assert_eq!(scene.text("shop-envoy-config"), by_hand(&scene.module()));
    // The one who was told runs it again, and there is nothing left to do.
    let said = scene.fine("patch", &["--yes"]);
    assert!(said.err.contains("nothing is to be changed"), "{}", said.err);
}

fn a_missing_right_is_named_and_nothing_is_written(scene: &Scene<'_>) {
    scene.sidecar("shop");
    let before = (scene.there("ConfigMap", "shop-envoy-config"), scene.there("Deployment", "shop"));
    let args = ["--yes", "--force-conflicts"];
    refused(
        &scene.run_as(SOMEONE, "patch", &args),
        &["forbidden", r#"resources: ["configmaps"], verbs: ["list"]"#],
    );
    scene.api.allow(scene.namespace, "", "configmaps", &["get", "list"]);
    refused(&scene.run_as(SOMEONE, "patch", &args), &[r#"resources: ["deployments"]"#, "--no-rollout"]);
    for (group, resource) in
        [("apps", "deployments"), ("apps", "statefulsets"), ("apps", "daemonsets"), ("batch", "cronjobs")]
    {
        scene.api.allow(scene.namespace, group, resource, &["get", "list"]);
    }
    // All at once, and before the first write: the module's ConfigMap, the other one, the Deployment.
    let said = scene.run_as(SOMEONE, "patch", &args);
    refused(
        &said,
        &[
            r#"resources: ["configmaps"], verbs: ["get", "create", "patch"]"#,
            r#"resources: ["configmaps"], verbs: ["get", "patch"]"#,
            r#"apiGroups: ["apps"], resources: ["deployments"], verbs: ["get", "patch"]"#,
        ],
    );
    assert_eq!(scene.there("ConfigMap", "shop-envoy-config"), before.0);
    assert_eq!(scene.there("Deployment", "shop"), before.1);
    scene.api.allow(scene.namespace, "", "configmaps", &["create", "patch"]);
    scene.api.allow(scene.namespace, "apps", "deployments", &["patch"]);
    assert_eq!(scene.run_as(SOMEONE, "patch", &args).code, Exit::Success);
    assert_eq!(scene.text("shop-envoy-config"), by_hand(&scene.module()));
}

fn a_server_that_goes_away_in_the_middle(scene: &Scene<'_>) {
    scene.sidecar("shop");
    for alive in 1..4 {
        scene.api.write(
            "test",
            &json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("marker-{alive}"), "namespace": scene.namespace}}),
        );
        let (cluster, plan) = planned(scene);
        let steps = plan.steps.len();
        let mut written = 0;
        let failure = plan
            .write(&cluster, true, &scene.file("backup"), &mut |_| {
                written += 1;
                scene.api.die();
            })
            .unwrap_err();
        assert_eq!(written, 1);
        let said: String = failure.diagnostics.iter().map(|one| one.render(false)).collect();
        for word in ["no-answer", "is not known", "written before, and good as it is: ", "not written: "] {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
        scene.api.revive();
        assert_eq!(planned(scene).1.steps.len(), steps - 1, "what was written stays written");
        // At every moment a pod that starts finds the module that its configuration names.
        let patched = scene.text("shop-envoy-config") != ENVOY;
        let deployment = scene.there("Deployment", "shop");
        let mounted =
            container(&deployment, "containers", "proxy")["volumeMounts"].as_array().unwrap().len() == 2;
        assert!(!patched || (mounted && scene.read("ConfigMap", &scene.module().config_map()).is_some()));
    }
    scene.fine("patch", &["--yes"]);
    let said = scene.fine("patch", &["--yes"]);
    assert!(said.err.contains("nothing is to be changed"), "{}", said.err);
    assert_eq!(scene.text("shop-envoy-config"), by_hand(&scene.module()));
}

fn what_is_immutable_is_left(scene: &Scene<'_>) {
    scene.config_map("fixed", &json!({"immutable": true}));
    let before = scene.there("ConfigMap", "fixed");
    scene.refused("patch", &["fixed", "--yes", "--force-conflicts"], &["immutable", "under a new name"]);
    assert_eq!(scene.there("ConfigMap", "fixed"), before);
    scene.refused("patch", &["nobody", "--yes"], &["there is no ConfigMap immutable/nobody"]);
    scene.refused("patch", &["pod/x", "--yes"], &["unknown-kind"]);
}

fn secrets_and_binary_data(scene: &Scene<'_>) {
    let encoded = BASE64_STANDARD.encode(ENVOY);
    scene.api.write(
        "kubectl-create",
        &json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "hidden", "namespace": scene.namespace},
            "data": {"envoy.yaml": encoded, "other": "AAEC"}}),
    );
    scene.config_map(
        "binary",
        &json!({"data": {"x": "y"}, "binaryData": {"envoy.yaml": encoded, "junk": "/wAB"}}),
    );
    let args = ["--yes", "--force-conflicts"];
    scene.fine("patch", &[&args[..], &["--secrets"]].concat());
    let expected = BASE64_STANDARD.encode(by_hand(&scene.module()));
    assert_eq!(scene.there("Secret", "hidden")["data"]["envoy.yaml"], expected);
    assert_eq!(scene.there("Secret", "hidden")["data"]["other"], "AAEC");
    assert_eq!(scene.there("ConfigMap", "binary")["binaryData"]["envoy.yaml"], expected);
    scene.fine("unpatch", &["secret/hidden", "cm/binary", "--yes"]);
    assert_eq!(scene.there("Secret", "hidden")["data"]["envoy.yaml"], encoded);
    assert_eq!(scene.there("ConfigMap", "binary")["binaryData"]["envoy.yaml"], encoded);
    assert_eq!(scene.there("ConfigMap", "binary")["binaryData"]["junk"], "/wAB");
}

fn what_somebody_changed_after_the_patch_stays(scene: &Scene<'_>) {
    scene.sidecar("shop");
    scene.config_map("second", &json!({"data": {"a.yaml": ENVOY, "b.yaml": ENVOY}}));
    scene.fine("patch", &["--yes", "--force-conflicts"]);
    let mut edited = scene.there("ConfigMap", "shop-envoy-config");
    let text = scene.text("shop-envoy-config").replace("# mine", "# mine, and changed");
    edited["data"]["envoy.yaml"] = text.into();
    scene.api.write("kubectl-edit", &edited);
    // It is theirs now.
    scene.refused("unpatch", &["shop-envoy-config", "--yes"], &["belongs to `kubectl-edit`"]);
    let said = scene.fine("unpatch", &["shop-envoy-config", "--yes", "--force-conflicts"]);
    assert!(said.err.contains("changed-since"), "{}", said.err);
    assert_eq!(scene.text("shop-envoy-config"), ENVOY.replace("# mine", "# mine, and changed"));
    // Of two configurations in one object each stays what it is while the other is taken back.
    scene.fine("unpatch", &["second", "--yes"]);
    let second = scene.there("ConfigMap", "second");
    assert_eq!((&second["data"]["a.yaml"], &second["data"]["b.yaml"]), (&json!(ENVOY), &json!(ENVOY)));
}

fn injected_and_given_back(scene: &Scene<'_>) {
    scene.deployment("shop", &json!({"containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 8000, "protocol": "TCP"}]}]}));
    scene
        .deployment("left", &json!({"hostNetwork": true, "containers": [{"name": "app", "image": "app:1"}]}));
    let before = scene.there("Deployment", "shop");
    let module = scene.file("module.wasm");
    let args = ["deploy/shop", "--wasm", module.to_str().unwrap(), "--yes"];
    scene.refused(
        "inject",
        &args,
        &["needed-first", "ConfigMap injected/shop-envoy-config", "Secret injected/shop-mtls-cert"],
    );
    scene.config_map("shop-envoy-config", &json!({}));
    scene.api.write(
        "kubectl-create",
        &json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "shop-mtls-cert", "namespace": scene.namespace}, "data": {"tls.crt": "AAEC"}}),
    );
    let said = scene.fine("inject", &args);
    assert!(said.err.contains("sidecar put in (Deployment shop, as service `shop`)"), "{}", said.err);
    let after = scene.there("Deployment", "shop");
    assert_eq!(container(&after, "containers", "envoy")["volumeMounts"].as_array().map(Vec::len), Some(3));
    assert!(scene.read("ConfigMap", &scene.module().config_map()).is_some());
    let said = scene.fine("inject", &args);
    assert!(said.err.contains("nothing is to be changed"), "{}{}", said.err, said.out);
    // A newer one replaces it in place.
    std::fs::write(&module, b"\0asm-newer").unwrap();
    scene.fine("inject", &args);
    assert_ne!(scene.there("Deployment", "shop")["spec"]["template"], after["spec"]["template"]);
    let said = scene.fine("inject", &["left", "--wasm", module.to_str().unwrap(), "--yes"]);
    assert!(said.err.contains("hostNetwork"), "{}", said.err);
    scene.fine("uninject", &["deploy/shop", "--yes"]);
    assert_eq!(scene.there("Deployment", "shop")["spec"], before["spec"]);
    let said = scene.fine("uninject", &["deploy/shop", "--yes"]);
    assert!(said.err.contains("nothing is to be changed"), "{}", said.err);
}

fn a_native_sidecar_comes_first(scene: &Scene<'_>) {
    scene.deployment(
        "shop",
        &json!({"initContainers": [{"name": "migrate", "image": "app:1"}],
        "containers": [{"name": "app", "image": "app:1"}]}),
    );
    scene.config_map("shop-envoy-config", &json!({}));
    scene.api.write(
        "kubectl-create",
        &json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "shop-mtls-cert", "namespace": scene.namespace}, "data": {"tls.crt": "AAEC"}}),
    );
    let before = scene.there("Deployment", "shop");
    let module = scene.file("module.wasm");
    scene.fine("inject", &["deploy/shop", "--native", "--wasm", module.to_str().unwrap(), "--yes"]);
    let after = scene.there("Deployment", "shop");
    assert_eq!(container(&after, "initContainers", "envoy")["restartPolicy"], "Always");
    if scene.api.name() == "real" {
        assert_eq!(after["spec"]["template"]["spec"]["initContainers"][0]["name"], "envoy");
    }
    assert_eq!(container(&after, "initContainers", "migrate")["image"], "app:1");
    scene.fine("uninject", &["deploy/shop", "--yes"]);
    assert_eq!(scene.there("Deployment", "shop")["spec"], before["spec"]);
}

fn a_module_as_big_as_ours_fits(scene: &Scene<'_>) {
    scene.sidecar("shop");
    // The most that `meshward build` lets a module have; bytes that do not compress.
    let mut word = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word.to_be_bytes()[0]
    })
    .take(190_000)
    .collect();
    std::fs::write(scene.file("module.wasm"), &bytes).unwrap();
    scene.fine("patch", &["--yes", "--force-conflicts"]);
    let module = scene.there("ConfigMap", &scene.module().config_map());
    let data = module["binaryData"].as_object().unwrap().values().next().unwrap().as_str().unwrap();
    assert_eq!(BASE64_STANDARD.decode(data).unwrap(), bytes);
}

/// The services of the hand-made mesh before it had one: the plan, every step of it that needs no traffic, and all the way
/// back.
fn migrated_and_given_back(scene: &Scene<'_>) {
    for (name, port) in [("bookapi", 5288), ("bookapi-mcp-server", 5289)] {
        let settings =
            if name == "bookapi" { json!([]) } else { json!([{"configMapRef": {"name": "settings"}}]) };
        let container = json!({"name": "app", "image": "app:1", "envFrom": settings,
            "ports": [{"containerPort": port, "protocol": "TCP"}]});
        scene.deployment(name, &json!({"containers": [container]}));
        scene.api.write(
            "kubectl-create",
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": scene.namespace},
                "spec": {"selector": {"app": name}, "ports": [{"port": port, "protocol": "TCP", "targetPort": port}]}}),
        );
        scene.api.write("kubectl-create", &json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": format!("{name}-mtls-cert"), "namespace": scene.namespace}, "data": {"tls.crt": "AAEC"}}));
    }
    let settings = json!({"data": {"BookApi__BaseUrl": "http://bookapi:5288", "Other": "x"}});
    scene.config_map("settings", &settings);
    let objects = [
        ("Deployment", "bookapi"),
        ("Deployment", "bookapi-mcp-server"),
        ("Service", "bookapi"),
        ("Service", "bookapi-mcp-server"),
        ("ConfigMap", "settings"),
    ];
    let seen = || -> Vec<Value> {
        let look = |(kind, name): &(&str, &str)| {
            let object = scene.there(kind, name);
            json!({"spec": object["spec"], "data": object["data"]})
        };
        objects.iter().map(look).collect()
    };
    let before = seen();
    let (module, mesh) = (scene.file("module.wasm"), scene.file("mesh.yaml"));
    let said = scene.migrate("plan", &["--wasm", module.to_str().unwrap(), "--mesh", mesh.to_str().unwrap()]);
    assert_eq!(said.code, Exit::Success, "{}", said.err);
    assert!(said.out.contains("setting:settings/BookApi__BaseUrl"), "{}", said.out);
    let status: Value = serde_json::from_str(&scene.migrate("status", &["-o", "json"]).out).unwrap();
    let steps: Vec<&str> =
        status["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let steps: Vec<&&str> = steps.iter().take_while(|step| **step != "watch").collect();
    assert_eq!(steps.len(), 9, "{steps:?}");
    let mut states = Vec::new();
    for step in &steps {
        states.push(seen());
        let said = scene.migrate("apply", &[step, "--diff"]);
        assert_eq!(said.code, Exit::Success, "{step}: {}", said.err);
        assert_eq!(Some(&seen()), states.last(), "{step}: --diff changes nothing");
        let said = scene.migrate("apply", &[step, "--yes", "--force-conflicts"]);
        assert_eq!(said.code, Exit::Success, "{step}: {}", said.err);
    }
    assert_eq!(
        scene.there("ConfigMap", "settings")["data"],
        json!({"BookApi__BaseUrl": "http://127.0.0.1:15006", "Other": "x"})
    );
    let service = scene.there("Service", "bookapi");
    let ports: Vec<(i64, i64)> = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (port["port"].as_i64().unwrap(), port["targetPort"].as_i64().unwrap()))
        .collect();
    assert!(ports.contains(&(5288, 15001)) && ports.contains(&(15001, 15001)), "{ports:?}");
    assert!(!container(&scene.there("Deployment", "bookapi"), "containers", "envoy").is_null());
    let config = scene.there("ConfigMap", "bookapi-envoy-config");
    assert!(config["data"]["envoy.yaml"].as_str().unwrap().contains("plain-text"), "PERMISSIVE");
    assert!(scene.read("ConfigMap", &scene.module().config_map()).is_some());
    for (step, was) in steps.iter().zip(&states).rev() {
        let said = scene.migrate("undo", &[step, "--yes", "--force-conflicts"]);
        assert_eq!(said.code, Exit::Success, "{step}: {}", said.err);
        assert_eq!(&seen(), was, "after undo of {step}");
    }
    assert_eq!(seen(), before);
}

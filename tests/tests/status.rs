//! `meshward status` of sidecars that run: on this machine, and in a cluster whose pods stand for them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::net::SocketAddr;

use clap::Parser as _;
use jiff::Timestamp;
use meshward_builder::Cli;
use meshward_builder::console::{Console, Exit};
use meshward_builder::mesh::ports;
use meshward_tests::api::{ADMIN, Api as _, FakeApi, SOMEONE};
use meshward_tests::{TestMesh, tools, until};
use serde_json::{Value, json};

const MESH: &str = "
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trustDomain: test.example
  services:
    - {name: web, port: 8000, calls: [api, other]}
    - {name: api, port: 8001}
    - {name: other, port: 8002}
---
apiVersion: meshward.dev/v1alpha1
kind: CircuitBreakerPolicy
metadata: {name: callers}
spec:
  selector: {matchLabels: {app: web}}
  breakers:
    - {name: never, to: [{operation: {methods: [DELETE]}}], consecutiveFailures: 2}
    - {name: each, consecutiveFailures: 2, backoff: {min: 1h, max: 1h, jitter: 0}}
  concurrency: [{name: out, side: outbound, limit: 5}]
---
apiVersion: meshward.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: api}
spec:
  selector: {matchLabels: {app: api}}
  limits: [{name: all, rates: [{requests: 4, per: 1h}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: api}
spec: {selector: {matchLabels: {app: api}}, mtls: {mode: PERMISSIVE}}
";

struct Said {
    code: Exit,
    out: String,
    err: String,
}

impl Said {
    fn workload(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.out).unwrap();
        let all = all["workloads"].as_array().unwrap();
        all.iter().find(|one| one["workload"] == name).unwrap_or_else(|| unreachable!("{}", self.out)).clone()
    }
}

fn status(args: &[&str]) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::new(&mut out, &mut err, false);
    let line = ["meshward", "status"].iter().chain(args);
    let code = match Cli::try_parse_from(line).unwrap().command.run(&mut console) {
        Ok(code) => code,
        Err(failure) => {
            failure.diagnostics.iter().for_each(|one| console.report(one));
            Exit::Failure
        }
    };
    Said { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn start() -> TestMesh {
    TestMesh::start_with(MESH, &tools::filter().unwrap(), 2, &|_, _, text| text).unwrap()
}

/// Opens the breaker of web for api, and has it refuse once.
fn open(running: &TestMesh) {
    for _ in 0..2 {
        assert_eq!(running.get_by_sidecar("web", "api", "/do/status/500").unwrap().status, 500);
    }
    assert_eq!(running.get_by_sidecar("web", "api", "/").unwrap().status, 503);
}

#[test]
fn what_is_open_and_refused_and_in_force_is_shown_and_checked() {
    let running = start();
    let state = running.state.folder().to_str().unwrap();
    let well = status(&["--state", state, "-o", "json", "--check"]);
    assert_eq!(well.code, Exit::Success, "{}{}", well.out, well.err);
    let web = well.workload("default/web");
    assert_eq!(
        (&web["state"], &web["envoy"], &web["plaintext"]),
        (&json!("live"), &json!("1.40.0"), &Value::Null)
    );
    let roles: Vec<_> = web["filters"].as_array().unwrap().iter().map(|one| &one["role"]).collect();
    assert_eq!(roles, ["inbound", "outbound"]);
    let module = tools::filter().unwrap();
    assert_eq!(web["filters"][1]["module"], module.file_name().unwrap().to_str().unwrap());
    assert!(
        running.log("web").contains(web["filters"][1]["revision"].as_str().unwrap()),
        "as it is in the log"
    );
    let names = web["certificates"][0]["names"].as_array().unwrap();
    assert!(names.contains(&json!("spiffe://test.example/ns/default/sa/web")), "{names:?}");
    assert!(web["certificates"][0]["seconds_left"].as_i64().unwrap() > 3600);
    for (at, name) in ["default/callers/never", "default/callers/each"].iter().enumerate() {
        let breaker = &web["breakers"][at];
        assert_eq!((&breaker["breaker"], &breaker["states"][0]["state"]), (&json!(name), &json!("closed")));
    }

    let before = Timestamp::now().as_second();
    open(&running);
    let mut plain = running.plain("api", ports::INBOUND).unwrap();
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
    // Four an hour: two were answered with 500.
    for _ in 0..4 {
        running.get("web", "api", "/").unwrap();
    }
    let mut open = status(&[]);
    until("all of it in the statistics", || {
        open = status(&["--state", state, "-o", "json", "--check"]);
        let (api, web) = (open.workload("default/api"), open.workload("default/web"));
        api["limits"][0]["refused"].as_u64() > Some(0)
            && api["plaintext"] == 1
            && web["breakers"][1]["refused"] == 1
    })
    .unwrap_or_else(|error| unreachable!("{error}: {}", open.out));
    assert_eq!(open.code, Exit::Failure);
    assert!(open.err.contains("not well: default/web"), "{}", open.err);
    let web = open.workload("default/web");
    let each = &web["breakers"][1]["states"][0];
    assert_eq!(
        (&each["destination"], &each["state"], &each["open"], &each["reason"]),
        (&json!("api"), &json!("open"), &json!(1), &json!("consecutive_failures"))
    );
    let since: Timestamp = each["since"].as_str().unwrap().parse().unwrap();
    assert!((before..=Timestamp::now().as_second()).contains(&since.as_second()), "{since}");
    let limit = &open.workload("default/api")["limits"][0];
    assert_eq!((&limit["limit"], &limit["saturation_percent"]), (&json!("default/api/all"), &json!(100)));
    assert_eq!(web["limits"][0]["kind"], "concurrency");

    let text = status(&["--state", state]);
    assert_eq!(text.code, Exit::Success, "without --check it only shows");
    for part in [
        "default/web  127.",
        ":9901  live for ",
        "default/callers/each to api: OPEN since ",
        "Z, consecutive_failures; 1 refused",
        "default/callers/never: closed; 0 refused",
        "default/api/all (rate): 100 % of the burst used; 4 allowed, ",
        "plaintext    1 let in without TLS",
        "plaintext    refused (STRICT)",
        "certificate  spiffe://test.example/ns/default/sa/web, until ",
    ] {
        assert!(text.out.contains(part), "{part}\n{}", text.out);
    }
}

#[test]
fn an_envoy_that_has_gone_is_down() {
    let running = start();
    let pid = running.process("other").unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let state = running.state.folder().to_str().unwrap();
    let mut said = status(&["--state", state, "-o", "json", "--check"]);
    until("its end", || {
        said = status(&["--state", state, "-o", "json", "--check"]);
        said.code == Exit::Failure
    })
    .unwrap();
    let gone = said.workload("other");
    assert_eq!(gone["state"], "down");
    assert!(gone["problem"].as_str().unwrap().contains("no admin interface answers at 127."), "{gone}");
    assert_eq!(said.workload("default/web")["state"], "live");
    let one = SocketAddr::new(running.plan.address("web"), ports::ADMIN).to_string();
    let alone = status(&["--admin", &one, "-o", "json", "--check"]);
    assert_eq!((alone.code, &alone.workload("default/web")["at"]), (Exit::Success, &json!(one)));
}

#[test]
fn nothing_to_show_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let said = status(&["--state", folder.path().to_str().unwrap()]);
    assert_eq!(said.code, Exit::Failure);
    assert!(said.err.contains("error[nothing-runs]") && said.err.contains("--admin"), "{}", said.err);
}

#[test]
fn pods_are_asked_by_port_forward_and_with_no_other_right() {
    let running = start();
    open(&running);
    let api = FakeApi::start().unwrap();
    let pod = |name: &str, state: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"containers": [{"name": "app"}, {"name": "envoy",
                "volumeMounts": [{"name": "f", "mountPath": "/etc/meshward", "readOnly": true}]}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "envoy", "state": state}]}})
    };
    let at = |service: &str| SocketAddr::new(running.plan.address(service), ports::ADMIN);
    let runs = || json!({"running": {}});
    api.pod("shop", "web-1", pod("web-1", runs()), at("web"));
    api.pod("shop", "api-1", pod("api-1", runs()), at("api"));
    api.pod("shop", "new-1", pod("new-1", json!({"waiting": {"reason": "ImagePullBackOff"}})), at("api"));
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    api.pod("shop", "mute-1", pod("mute-1", runs()), nobody);
    api.pod(
        "shop",
        "job-1",
        json!({"metadata": {"name": "job-1"}, "spec": {"containers": [{"name": "app"}]}}),
        nobody,
    );
    let ask = |user: &str| {
        let kubeconfig = api.kubeconfig(user);
        status(&["--kubeconfig", kubeconfig.to_str().unwrap(), "-n", "shop", "-o", "json", "--check"])
    };

    let refused = ask(SOMEONE);
    assert!(refused.err.contains("resources: [\"pods\"], verbs: [\"list\"]"), "{}", refused.err);
    api.allow("shop", "", "pods", &["list"]);
    let half = ask(SOMEONE).workload("shop/web-1");
    assert_eq!(half["state"], "unreachable");
    assert!(
        half["problem"].as_str().unwrap().contains("cannot create resource \"pods/portforward\""),
        "{half}"
    );
    api.allow("shop", "", "pods/portforward", &["create"]);

    for user in [SOMEONE, ADMIN] {
        let said = ask(user);
        assert_eq!(said.code, Exit::Failure);
        assert_eq!(said.out.matches("\"workload\":").count(), 4, "one pod has no sidecar: {}", said.out);
        let web = said.workload("default/web");
        assert_eq!(
            (&web["at"], &web["state"], &web["problem"]),
            (&json!("pod/web-1"), &json!("live"), &Value::Null)
        );
        assert_eq!(web["breakers"][1]["states"][0]["state"], "open");
        assert_eq!(web["certificates"][0]["authority"], false);
        assert_eq!(said.workload("default/api")["at"], "pod/api-1");
        let new = said.workload("shop/new-1");
        assert_eq!(
            (&new["state"], &new["problem"]),
            (&json!("down"), &json!("the container `envoy` does not run: ImagePullBackOff"))
        );
        let mute = said.workload("shop/mute-1");
        assert_eq!(mute["state"], "unreachable");
        assert!(mute["problem"].as_str().unwrap().contains("connection refused"), "{mute}");
    }
}

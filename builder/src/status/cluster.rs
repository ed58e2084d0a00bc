//! The sidecars of a cluster's namespace, by port-forward.
//!
//! A sidecar's admin interface listens on its pod's loopback and nowhere else. So the API server's `proxy` does not reach
//! it (that one goes to the pod's address), and `exec` would need a program in the container and is a right to run anything
//! there. A port-forward starts inside the pod, as kubectl's does; it needs `list` on pods and `create` (and, for API servers
//! before 1.35, `get`) on `pods/portforward`, and nothing is left behind.

use serde_json::Value;

use super::local::request;
use super::{Admin, Workload, read};
use crate::diagnostic::Diagnostic;
use crate::envoy::pod;
use crate::live::client::Cluster;
use crate::live::kind::POD;

/// A pod's port.
struct Forwarded<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    pod: &'a str,
    port: u16,
}

impl Admin for Forwarded<'_> {
    fn get(&self, path: &str) -> Result<String, String> {
        let answer = self.cluster.exchange(self.namespace, self.pod, self.port, &request(path))?;
        if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{path}: HTTP {}", answer.status)) }
    }
}

/// All sidecars of the namespace: the pods of which a container has the filter mounted.
///
/// # Errors
/// The pods cannot be listed. A sidecar that cannot be asked is down, and says why.
pub fn workloads(
    cluster: &Cluster,
    selector: Option<&str>,
    port: u16,
    now: jiff::Timestamp,
) -> Result<Vec<Workload>, Diagnostic> {
    let namespace = cluster.namespace.as_str();
    let pods = cluster
        .list(&POD, Some(namespace), selector)
        .map_err(|error| error.diagnostic(&POD, Some(namespace), "", &["list"]))?;
    let mut found = Vec::new();
    for pod in pods.iter().filter(|pod| sidecar(pod).is_some()) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = text("/metadata/name");
        let (workload, at) = (format!("{namespace}/{name}"), format!("pod/{name}"));
        found.push(match not_running(pod) {
            Some(why) => Workload::down(&workload, &at, why),
            None => {
                let admin = Forwarded { cluster, namespace, pod: name, port };
                let mut found = read::workload(&admin, &workload, &at, now);
                if found.state == "down" {
                    // Its container runs, so that it may well be the way to it.
                    "unreachable".clone_into(&mut found.state);
                }
                found
            }
        });
    }
    Ok(found)
}

/// Name of the container that has the filter mounted.
fn sidecar(pod: &Value) -> Option<&str> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let mut containers = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let mounts_it = |container: &&Value| {
        let mounts = container.get("volumeMounts").and_then(Value::as_array);
        let at = |mount: &Value| mount.get("mountPath").and_then(Value::as_str) == Some(pod::FILTER);
        // An init container that only fetches the module writes to it.
        mounts.is_some_and(|mounts| {
            mounts.iter().any(|mount| at(mount) && mount.get("readOnly") == Some(&Value::Bool(true)))
        })
    };
    containers.find(mounts_it)?.get("name")?.as_str()
}

/// Why the sidecar's container does not run, if it does not.
fn not_running(pod: &Value) -> Option<String> {
    let name = sidecar(pod)?;
    let lists = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let mut statuses = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let status = statuses.find(|status| status.get("name").and_then(Value::as_str) == Some(name));
    let Some(state) = status.and_then(|status| status.get("state")) else {
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("of an unknown phase");
        return Some(format!("the pod is {phase}"));
    };
    if state.get("running").is_some() {
        return None;
    }
    let reason = |kind: &str| state.pointer(&format!("/{kind}/reason")).and_then(Value::as_str);
    let why = reason("waiting").or_else(|| reason("terminated")).unwrap_or("it does not say why");
    Some(format!("the container `{name}` does not run: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_that_does_not_run_says_why() {
        let pod = |state: Value| {
            json!({"spec": {"containers": [
                {"name": "app"},
                {"name": "envoy", "volumeMounts": [{"mountPath": "/etc/meshward", "readOnly": true}]}]},
                "status": {"phase": "Pending", "containerStatuses": state}})
        };
        assert_eq!(not_running(&pod(json!([{"name": "envoy", "state": {"running": {}}}]))), None);
        let waiting = pod(json!([{"name": "envoy", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]));
        assert_eq!(not_running(&waiting).unwrap(), "the container `envoy` does not run: CrashLoopBackOff");
        assert_eq!(not_running(&pod(json!([]))).unwrap(), "the pod is Pending");
        assert_eq!(sidecar(&json!({"spec": {"containers": [{"name": "app"}]}})), None);
    }
}

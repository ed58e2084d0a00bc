//! A Kubernetes API to test with: [`fake`] always, [`real`] where it is asked for. Scenarios are written once, for both.

pub mod fake;
pub mod pods;
pub mod real;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use fake::FakeApi;
pub use real::ApiServer;

/// Whose rights are tried: the first may do everything.
pub const ADMIN: &str = "admin";
/// May do what [`Api::allow`] says, and nothing else.
pub const SOMEONE: &str = "someone";

/// What a scenario does to a cluster besides the product. All of it panics when it fails: it is a test's.
pub trait Api {
    /// `real` or `fake`, for what only one can show.
    fn name(&self) -> &'static str;

    /// A kubeconfig of a user, in a file.
    fn kubeconfig(&self, user: &str) -> PathBuf;

    /// An object, written as kubectl's `create` or `edit` would: by that manager, not by server-side apply.
    fn write(&self, manager: &str, object: &Value);

    /// An object as it is.
    fn read(&self, kind: &str, namespace: &str, name: &str) -> Option<Value>;

    /// Lets [`SOMEONE`] do these things to a resource of a namespace.
    fn allow(&self, namespace: &str, group: &str, resource: &str, verbs: &[&str]);

    /// From now on nobody answers, as after a crash.
    fn die(&self);

    /// It is back, with all that it had.
    fn revive(&self);
}

/// Group, plural.
pub(crate) fn resource(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "Namespace" => ("", "namespaces"),
        "ConfigMap" => ("", "configmaps"),
        "Secret" => ("", "secrets"),
        "Service" => ("", "services"),
        "ServiceAccount" => ("", "serviceaccounts"),
        "Deployment" => ("apps", "deployments"),
        "StatefulSet" => ("apps", "statefulsets"),
        "DaemonSet" => ("apps", "daemonsets"),
        "CronJob" => ("batch", "cronjobs"),
        "Role" => ("rbac.authorization.k8s.io", "roles"),
        "RoleBinding" => ("rbac.authorization.k8s.io", "rolebindings"),
        other => unreachable!("a scenario with a {other}"),
    }
}

/// The path of the objects of a kind.
pub(crate) fn path(kind: &str, namespace: &str) -> String {
    let (group, plural) = resource(kind);
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
    if kind == "Namespace" {
        format!("{root}/{plural}")
    } else {
        format!("{root}/namespaces/{namespace}/{plural}")
    }
}

/// Writes a kubeconfig and says where.
pub(crate) fn write_kubeconfig(folder: &Path, user: &str, server: &str, ca: Option<&Path>) -> PathBuf {
    let cluster = match ca {
        Some(ca) => json!({"server": server, "certificate-authority": ca}),
        None => json!({"server": server}),
    };
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": "default"}}],
        "users": [{"name": user, "user": {"token": format!("token-of-{user}")}}],
    });
    let path = folder.join(format!("kubeconfig-{user}"));
    let _ = std::fs::write(&path, text.to_string());
    path
}

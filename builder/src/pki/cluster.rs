//! Renewal inside the cluster: a CronJob that runs `meshward certs renew --rotate-ca` on the Secrets themselves, and a
//! service account that may do that and nothing else.
//!
//! A CronJob and no controller: leaves are renewed hours before they end, so a run that is late or lost costs nothing, and
//! between runs nothing holds the CA's key. The Role names every Secret and allows `get` and `update` only; `create` and
//! `list` cannot be bound to names, so the Secrets are made by whoever sets the mesh up
//! (`meshward certs export -o kubernetes --with-ca-key | kubectl apply --server-side -f -`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::store::leaf_set;
use super::{authority, ledger};
use crate::mesh::Resolved;

/// The name of all objects.
const NAME: &str = "meshward-renewal";

/// What cannot be told from the mesh.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// An image with `meshward` and `kubectl` on its PATH.
    pub image: String,
    /// When to look, in cron's form; at least six times in the lifetime of a leaf.
    pub schedule: String,
}

/// ServiceAccount, a Role and RoleBinding for each namespace of the mesh, CronJob.
pub fn objects(mesh: &Resolved, renewal: &Renewal) -> Vec<Value> {
    let labels =
        json!({ "app.kubernetes.io/managed-by": "meshward", "app.kubernetes.io/part-of": mesh.name });
    let mut secrets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    secrets.entry(&mesh.namespace).or_default().extend([authority::SET.to_owned(), ledger::SET.to_owned()]);
    for service in &mesh.services {
        secrets.entry(&service.namespace).or_default().insert(leaf_set(&service.name));
    }
    let metadata = |namespace: &str| json!({ "name": NAME, "namespace": namespace, "labels": labels });
    let mut objects = vec![json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(&mesh.namespace),
        // The pod below asks for the token itself; nobody else gets it by naming the account.
        "automountServiceAccountToken": false,
    })];
    for (namespace, names) in &secrets {
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata(namespace),
            "rules": [{
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": names,
                "verbs": ["get", "update"],
            }],
        }));
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata(namespace),
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME },
            "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": mesh.namespace }],
        }));
    }
    objects.push(json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(&mesh.namespace),
        "spec": {
            "schedule": renewal.schedule,
            // Two at once would be safe, and one of them in vain.
            "concurrencyPolicy": "Forbid",
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": { "spec": {
                "backoffLimit": 3,
                "activeDeadlineSeconds": 600,
                "template": { "metadata": { "labels": labels }, "spec": pod(&mesh.namespace, &renewal.image) },
            } },
        },
    }));
    objects
}

fn pod(namespace: &str, image: &str) -> Value {
    json!({
        "serviceAccountName": NAME,
        "automountServiceAccountToken": true,
        "restartPolicy": "OnFailure",
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [{
            "name": "renew",
            "image": image,
            "command": ["meshward", "certs", "renew", "--rotate-ca", "--secrets-in", namespace],
            // kubectl keeps what it learns of the API in its home.
            "env": [{ "name": "HOME", "value": "/tmp" }],
            "resources": {
                "requests": { "cpu": "10m", "memory": "64Mi" },
                "limits": { "memory": "256Mi" },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
        }],
        "volumes": [{ "name": "tmp", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }],
    })
}

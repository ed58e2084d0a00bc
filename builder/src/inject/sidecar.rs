//! What is added to a pod: the container, its volumes, the annotations. The same names, ports and mounts as in a
//! rendered mesh, so that `meshward render` and `meshward certs issue` provide what they mount.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::envoy::{READY_PATH, pod};
use crate::kube::{Filter, distribution, redirect};
use crate::mesh::{Resolved, Service, ports};

/// The container's name.
pub const CONTAINER: &str = "envoy";
/// The volumes' names.
pub const VOLUMES: [&str; 3] = ["envoy-config", "mtls-cert", distribution::VOLUME];
/// The init container's name, where there is one.
pub const COPY: &str = distribution::COPY;

/// The init container that leads traffic to the sidecar, where there is one.
pub const REDIRECT: &str = redirect::CONTAINER;

/// The user `envoy` of the image.
const USER: u32 = 101;
/// 0444: the Secret is mounted into the sidecar alone, and a foreign pod's `fsGroup` is not ours to change.
const KEY_MODE: u32 = 0o444;

/// How workloads get their sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub image: String,
    /// The module, and how it gets into the pod. At least the first twelve digits of its sha256; all 64 for an init
    /// container, which checks them.
    pub filter: Filter,
    /// A native sidecar (an init container with `restartPolicy: Always`; Kubernetes 1.29 and later). Jobs always get
    /// one.
    pub native: bool,
    /// The service that the workloads are, where it is not their own name.
    pub service: Option<String>,
    /// The services of the mesh, each with the hash of what its Envoy reads only when it starts. None: any workload is
    /// a service.
    pub services: Option<BTreeMap<String, String>>,
    /// By service, the init container that leads the traffic to the sidecar; none where the application calls it itself.
    pub redirects: BTreeMap<String, Redirect>,
}

/// What leads a service's traffic to its sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    pub container: Value,
    /// The ports of the pod that only mTLS reaches, or nobody, are all but these.
    pub open: Vec<u16>,
}

/// The redirects of all services of a mesh.
pub fn redirects(mesh: &Resolved) -> BTreeMap<String, Redirect> {
    let one = |service: &Service| {
        let container = serde_json::to_value(redirect::container(mesh, service)?).ok()?;
        let excluded = mesh.interception.iter().flat_map(|interception| &interception.inbound_ports);
        let open = excluded.copied().chain([ports::HEALTH]).collect();
        Some((service.name.clone(), Redirect { container, open }))
    };
    mesh.services.iter().filter_map(one).collect()
}

impl Options {
    pub fn container(&self, service: &str, native: bool) -> Value {
        let user = if self.redirects.contains_key(service) { redirect::USER } else { USER };
        let probe = |period: u32, failures: u32| {
            json!({
                "httpGet": {"path": READY_PATH, "port": ports::HEALTH},
                "periodSeconds": period,
                "failureThreshold": failures,
            })
        };
        let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
        let [config, certificates, filter] = VOLUMES;
        let mut container = json!({
            "name": CONTAINER,
            "image": self.image,
            // The image's own entry point would want to change users; hot restart would want shared memory.
            "command": ["envoy"],
            "args": [
                "--config-path", format!("{}/{}", pod::CONFIG, crate::envoy::BOOTSTRAP_FILE),
                "--concurrency", "2",
                "--log-level", "warning",
                "--drain-time-s", "20",
                "--disable-hot-restart",
            ],
            "ports": [
                {"name": "mtls", "containerPort": ports::INBOUND},
                {"name": "envoy-health", "containerPort": ports::HEALTH},
            ],
            "startupProbe": probe(1, 60),
            "readinessProbe": probe(5, 3),
            // Not `ready`: a sidecar that drains is not to be killed.
            "livenessProbe": {"tcpSocket": {"port": ports::HEALTH}, "periodSeconds": 10, "timeoutSeconds": 3},
            "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "768Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "runAsUser": user,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [
                mount(config, pod::CONFIG),
                mount(certificates, pod::CERTIFICATES),
                mount(filter, pod::FILTER),
            ],
        });
        if native && let Some(container) = container.as_object_mut() {
            container.insert("restartPolicy".to_owned(), "Always".into());
        }
        container
    }

    /// What brings the module before all others start, when that is a container's work.
    pub fn init_container(&self) -> Option<Value> {
        let container = distribution::init_container(&self.filter, USER)?;
        serde_json::to_value(container).ok()
    }

    pub fn volumes(&self, service: &str) -> Vec<Value> {
        let [config, certificates, _] = VOLUMES;
        vec![
            json!({"name": config, "configMap": {"name": format!("{service}-envoy-config")}}),
            json!({
                "name": certificates,
                "secret": {"secretName": format!("{service}-mtls-cert"), "defaultMode": KEY_MODE},
            }),
            serde_json::to_value(distribution::volume(&self.filter)).unwrap_or_default(),
        ]
    }

    /// Twelve digits that change when running pods no longer have what they should: the module, the image, or what
    /// Envoy reads only at its start. A new policy or certificate does not change them: Envoy watches those files.
    pub fn checksum(&self, service: &str) -> String {
        let bootstrap = self.services.as_ref().and_then(|services| services.get(service));
        let mut all =
            format!("{}\n{}\n{}", self.image, self.filter.sha12(), bootstrap.map_or("", String::as_str));
        if let (_, Some(image)) = self.filter.distribution.parts() {
            all.push_str(image);
        }
        if let Some(redirect) = self.redirects.get(service) {
            all.push_str(&redirect.container.to_string());
        }
        Sha256::digest(all).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

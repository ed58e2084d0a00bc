//! Deployments: the application and its sidecar in a pod that needs no privilege.
//!
//! HTTP probes of the application go to the sidecar's health listener (15021), on an exact path of its own: so they work
//! while 15001 demands a client certificate, with the application bound to loopback, and with the NetworkPolicy in force
//! (kubelet reaches its own node's pods in any case).

use std::collections::BTreeMap;

use super::types::{
    Capabilities, ClaimSpec, Container, ContainerPort, Deployment, EnvVar, EnvVarSource, LabelSelector,
    Labels, Lifecycle, Object, ObjectMeta, PodSecurityContext, PodSpec, PodTemplate, PreStop, Probe,
    ProbeAction, RollingUpdate, SeccompProfile, SecretKeySelector, SecurityContext, Sleep, Spec, Strategy,
    Volume, VolumeMount, VolumeSource,
};
use super::{Filter, distribution, labels_of_pods, named, object, redirect, selector};
use crate::envoy::{METRICS_PATH, READY_PATH, pod, probe_path};
use crate::mesh::model::{ContainerSpec, EnvSpec, ProbeSpec, Protocol, ResourcesSpec};
use crate::mesh::{Resolved, Service, ports};

/// The user `envoy` of the image. Also the pod's `fsGroup`, by which it may read the key (mode 0440).
pub const ENVOY_USER: u32 = 101;
/// The volume of certificates, and where it stands among the sidecar's mounts, for patches.
pub const CERTIFICATES_VOLUME: &str = "mtls-cert";
pub const CERTIFICATES_MOUNT: usize = 1;
/// 0440
const KEY_MODE: u32 = 288;
/// The sidecar outlives the pod's removal from DNS by this, so that nobody calls one that is gone.
const STOP_DELAY_SECONDS: u32 = 5;

/// The workload, for a service that has a container, and for the edge, which is the sidecar alone.
pub fn deployment(mesh: &Resolved, service: &Service, filter: &Filter) -> Option<Object<Spec<Deployment>>> {
    if service.container.is_none() && !service.is_edge() {
        return None;
    }
    let mut containers: Vec<Container> =
        service.container.iter().map(|container| application(service, container)).collect();
    containers.push(sidecar(mesh, service));
    // Two pods cannot have one volume at a time.
    let strategy = if claims(mesh, service).is_empty() {
        let rolling_update = Some(RollingUpdate { max_unavailable: 0, max_surge: 1 });
        Strategy { kind: "RollingUpdate", rolling_update }
    } else {
        Strategy { kind: "Recreate", rolling_update: None }
    };
    let spec = Deployment {
        replicas: service.replicas,
        revision_history_limit: 3,
        strategy,
        selector: LabelSelector { match_labels: selector(service) },
        template: PodTemplate {
            metadata: ObjectMeta {
                labels: service.labels.clone().into_iter().chain(labels_of_pods(mesh)).collect(),
                annotations: annotations(),
                ..ObjectMeta::default()
            },
            spec: PodSpec {
                service_account_name: service.service_account.clone(),
                automount_service_account_token: false,
                enable_service_links: false,
                termination_grace_period_seconds: 30,
                security_context: PodSecurityContext {
                    run_as_non_root: true,
                    fs_group: ENVOY_USER,
                    seccomp_profile: SeccompProfile { kind: "RuntimeDefault" },
                },
                init_containers: distribution::init_container(filter, ENVOY_USER)
                    .into_iter()
                    .chain(redirect::container(mesh, service))
                    .collect(),
                containers,
                volumes: volumes(service, filter),
            },
        },
    };
    Some(object(mesh, service, "apps/v1", "Deployment", Spec { spec }))
}

fn annotations() -> Labels {
    [
        ("kubectl.kubernetes.io/default-logs-container", "envoy".to_owned()),
        ("prometheus.io/path", METRICS_PATH.to_owned()),
        ("prometheus.io/port", ports::HEALTH.to_string()),
        ("prometheus.io/scrape", "true".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn application(service: &Service, spec: &ContainerSpec) -> Container {
    let env = |(name, value): (&String, &EnvSpec)| match value {
        EnvSpec::Value(value) => EnvVar { name: name.clone(), value: Some(value.clone()), value_from: None },
        EnvSpec::Secret(secret) => EnvVar {
            name: name.clone(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: SecretKeySelector { name: secret.secret.clone(), key: secret.key.clone() },
            }),
        },
    };
    let name = match service.protocol {
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
    };
    let probe = |kind: &str| {
        let (_, probe) = spec.probes.named().find(|(name, _)| *name == kind)?;
        Some(application_probe(kind, probe))
    };
    Container {
        name: service.name.clone(),
        image: spec.image.value.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: spec.env.iter().map(env).collect(),
        ports: service
            .port
            .map(|container_port| ContainerPort { name, container_port })
            .into_iter()
            .collect(),
        startup_probe: probe("startup"),
        readiness_probe: probe("readiness"),
        liveness_probe: probe("liveness"),
        lifecycle: None,
        resources: spec.resources.clone(),
        security_context: unprivileged(spec.run_as_user.as_ref().map(|user| user.value)),
        volume_mounts: writable(spec)
            .map(|(name, path, _)| VolumeMount { name, mount_path: path.to_owned(), read_only: false })
            .collect(),
    }
}

fn application_probe(kind: &str, probe: &ProbeSpec) -> Probe {
    let action = match (&probe.path, &probe.exec) {
        (_, Some(command)) => ProbeAction::Exec { command: command.clone() },
        _ => ProbeAction::HttpGet { path: probe_path(kind), port: ports::HEALTH },
    };
    Probe {
        action,
        period_seconds: 10,
        timeout_seconds: 3,
        failure_threshold: if kind == "startup" { 30 } else { 3 },
    }
}

fn sidecar(mesh: &Resolved, service: &Service) -> Container {
    let port = |name, container_port| ContainerPort { name, container_port };
    let ready = |period_seconds, failure_threshold| Probe {
        action: ProbeAction::HttpGet { path: READY_PATH.to_owned(), port: ports::HEALTH },
        period_seconds,
        timeout_seconds: 1,
        failure_threshold,
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: true,
    };
    let quantities = |of: &[(&str, &str)]| -> BTreeMap<String, String> {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Container {
        name: "envoy".to_owned(),
        image: mesh.envoy_image.clone(),
        // The image's own entry point would want to change users; hot restart would want shared memory.
        command: vec!["envoy".to_owned()],
        args: [
            "--config-path",
            "/etc/envoy/envoy.yaml",
            "--concurrency",
            "2",
            "--log-level",
            "warning",
            "--drain-time-s",
            "20",
            "--disable-hot-restart",
        ]
        .map(str::to_owned)
        .to_vec(),
        ports: match &service.edge {
            Some(edge) => vec![port("edge", edge.port), port("health", ports::HEALTH)],
            None => vec![port("mtls", ports::INBOUND), port("health", ports::HEALTH)],
        },
        startup_probe: Some(ready(1, 60)),
        readiness_probe: Some(ready(5, 3)),
        // Not `ready`: a sidecar that drains is not to be killed.
        liveness_probe: Some(Probe {
            action: ProbeAction::TcpSocket { port: ports::HEALTH },
            period_seconds: 10,
            timeout_seconds: 3,
            failure_threshold: 3,
        }),
        lifecycle: Some(Lifecycle { pre_stop: PreStop { sleep: Sleep { seconds: STOP_DELAY_SECONDS } } }),
        resources: Some(ResourcesSpec {
            requests: quantities(&[("cpu", "50m"), ("memory", "96Mi")]),
            limits: quantities(&[("memory", "768Mi")]),
        }),
        security_context: unprivileged(Some(if redirect::container(mesh, service).is_some() {
            redirect::USER
        } else {
            ENVOY_USER
        })),
        volume_mounts: vec![
            mount("envoy-config", pod::CONFIG),
            mount(CERTIFICATES_VOLUME, pod::CERTIFICATES),
            mount(distribution::VOLUME, pod::FILTER),
        ],
        ..Container::default()
    }
}

fn unprivileged(run_as_user: Option<u32>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: false,
        read_only_root_filesystem: true,
        run_as_non_root: true,
        run_as_user,
        capabilities: Capabilities { drop: vec!["ALL"], ..Capabilities::default() },
        // The pod's.
        seccomp_profile: None,
    }
}

/// Volume name, path and size of each writable directory.
fn writable(spec: &ContainerSpec) -> impl Iterator<Item = (String, &str, Option<&str>)> {
    spec.writable
        .iter()
        .enumerate()
        .map(|(index, writable)| (format!("data-{index}"), writable.path.as_str(), writable.claim.as_deref()))
}

fn claim_name(service: &Service, volume: &str) -> String {
    format!("{}-{volume}", service.name)
}

fn volumes(service: &Service, filter: &Filter) -> Vec<Volume> {
    let volume = |name: &str, source| Volume { name: name.to_owned(), source };
    let mut volumes = vec![
        volume("envoy-config", VolumeSource::ConfigMap { name: format!("{}-envoy-config", service.name) }),
        volume(
            CERTIFICATES_VOLUME,
            VolumeSource::Secret {
                secret_name: format!("{}-mtls-cert", service.name),
                default_mode: KEY_MODE,
            },
        ),
        distribution::volume(filter),
    ];
    for (name, _, claim) in service.container.iter().flat_map(writable) {
        let source = match claim {
            Some(_) => VolumeSource::PersistentVolumeClaim { claim_name: claim_name(service, &name) },
            None => VolumeSource::EmptyDir {},
        };
        volumes.push(Volume { name, source });
    }
    volumes
}

/// The claims of the service's writable directories that are to be kept.
pub fn claims(mesh: &Resolved, service: &Service) -> Vec<Object<Spec<ClaimSpec>>> {
    service
        .container
        .iter()
        .flat_map(writable)
        .filter_map(|(name, _, size)| {
            let requests = BTreeMap::from([("storage".to_owned(), size?.to_owned())]);
            let resources = ResourcesSpec { requests, limits: BTreeMap::new() };
            let spec = ClaimSpec { access_modes: vec!["ReadWriteOnce"], resources };
            let name = claim_name(service, &name);
            Some(named(mesh, service, "v1", "PersistentVolumeClaim", name, Spec { spec }))
        })
        .collect()
}

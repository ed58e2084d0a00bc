//! The kustomizations of `base` and of the overlays. An overlay of your own starts with `resources: [../prod]`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::kustomization::{deployed, kustomization, sidecars, yaml};
use super::types::{
    ConfigMapGenerator, DisruptionBudgetSpec, GeneratorOptions, IngressRule, Kustomization, LabelSelector,
    Labels, NetworkPeer, NetworkPolicySpec, NetworkPort, Object, ObjectMeta, Operation, Patch, PatchTarget,
    Spec,
};
use super::{
    Distribution, Documents, Filter, header, labels_of_mesh, labels_of_pods, object, providers, selector,
};
use crate::diagnostic::Failure;
use crate::mesh::{Resolved, ports};

/// The namespace from which metrics may be read in `prod`.
const MONITORING: &str = "monitoring";

pub fn add(mesh: &Resolved, filter: &Filter, files: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let mut write = |path: &str, kustomization: &Kustomization| -> Result<(), Failure> {
        files.insert(path.to_owned(), header(mesh) + &yaml(kustomization)?);
        Ok(())
    };
    write("base/kustomization.yaml", &base(mesh, filter))?;
    write("overlays/dev/kustomization.yaml", &dev(mesh)?)?;
    write("overlays/prod/kustomization.yaml", &prod(mesh)?)?;
    if let Some(budgets) = availability(mesh)? {
        files.insert("overlays/prod/availability.yaml".to_owned(), budgets);
    }
    files.insert("overlays/prod/monitoring.yaml".to_owned(), monitoring(mesh)?);
    providers::add(mesh, filter, files)
}

fn namespaces(mesh: &Resolved) -> BTreeSet<&str> {
    mesh.services.iter().map(|service| service.namespace.as_str()).collect()
}

fn base(mesh: &Resolved, filter: &Filter) -> Kustomization {
    let mut base = kustomization(&[]);
    base.resources = mesh.services.iter().map(|service| format!("{}.yaml", service.name)).collect();
    base.config_map_generator = namespaces(mesh)
        .into_iter()
        .filter(|_| filter.distribution == Distribution::ConfigMap)
        .map(|namespace| ConfigMapGenerator {
            name: filter.config_map(),
            namespace: namespace.to_owned(),
            files: vec![format!("filter/{}", filter.file_name())],
            // The name has the content's hash already, which kustomize's own would not tell the Envoy configuration.
            options: GeneratorOptions {
                disable_name_suffix_hash: true,
                immutable: true,
                labels: labels_of_mesh(mesh),
            },
        })
        .collect();
    base
}

/// One pod of each, certificates from `meshward certs` when mesh.yaml names nobody else, and what the filter says at level debug.
fn dev(mesh: &Resolved) -> Result<Kustomization, Failure> {
    let mut dev = kustomization(&[&providers::overlay(providers::of_development(mesh))]);
    let one = Operation::new("replace", "/spec/replicas".to_owned(), 1);
    dev.patches.push(Patch::inline(PatchTarget::of_mesh(mesh, ""), yaml(&[one])?));
    for (target, sidecar) in sidecars(mesh) {
        let path = format!("/spec/template/spec/containers/{sidecar}/args/-");
        let append = |value| Operation::new("add", path.clone(), value);
        let patch = yaml(&[append("--component-log-level"), append("wasm:debug")])?;
        dev.patches.push(Patch::inline(target, patch));
    }
    Ok(dev)
}

/// cert-manager's certificates when mesh.yaml names nobody else, pods spread over nodes, budgets for disruption, a way in from outside the cluster, and
/// metrics for the monitoring namespace.
fn prod(mesh: &Resolved) -> Result<Kustomization, Failure> {
    let certificates = providers::overlay(providers::of_production(mesh));
    let mut prod = kustomization(&[&certificates, "monitoring.yaml"]);
    if availability(mesh)?.is_some() {
        prod.resources.push("availability.yaml".to_owned());
    }
    for service in deployed(mesh).filter(|service| service.replicas > 1) {
        let patch = object(mesh, service, "apps/v1", "Deployment", Spec { spec: Spread::of(&service.name) });
        prod.patches.push(Patch::inline(PatchTarget::named("Deployment", &service.name), yaml(&patch)?));
    }
    if let Some(edge) = mesh.services.iter().find(|service| service.is_edge()) {
        #[derive(Serialize)]
        struct Type {
            r#type: &'static str,
        }
        let patch = object(mesh, edge, "v1", "Service", Spec { spec: Type { r#type: "LoadBalancer" } });
        prod.patches.push(Patch::inline(PatchTarget::named("Service", &edge.name), yaml(&patch)?));
    }
    Ok(prod)
}

/// The part of a Deployment that spreads its pods over nodes.
#[derive(Serialize)]
struct Spread {
    template: SpreadTemplate,
}

#[derive(Serialize)]
struct SpreadTemplate {
    spec: SpreadSpec,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpreadSpec {
    topology_spread_constraints: Vec<Constraint>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Constraint {
    max_skew: u32,
    topology_key: &'static str,
    when_unsatisfiable: &'static str,
    label_selector: LabelSelector,
}

impl Spread {
    fn of(name: &str) -> Self {
        let constraint = Constraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname",
            when_unsatisfiable: "ScheduleAnyway",
            label_selector: LabelSelector {
                match_labels: Labels::from([("app".to_owned(), name.to_owned())]),
            },
        };
        Self {
            template: SpreadTemplate { spec: SpreadSpec { topology_spread_constraints: vec![constraint] } },
        }
    }
}

/// One pod at a time may go, of a service that has several. None when there is no such service.
fn availability(mesh: &Resolved) -> Result<Option<String>, Failure> {
    let mut any = false;
    let mut file = Documents::new(mesh);
    for service in deployed(mesh).filter(|service| service.replicas > 1) {
        let spec = DisruptionBudgetSpec {
            max_unavailable: 1,
            selector: LabelSelector { match_labels: selector(service) },
        };
        file.push(&object(mesh, service, "policy/v1", "PodDisruptionBudget", Spec { spec }))?;
        any = true;
    }
    Ok(any.then_some(file.text))
}

/// Metrics, for the monitoring namespace alone.
fn monitoring(mesh: &Resolved) -> Result<String, Failure> {
    let mut file = Documents::new(mesh);
    for namespace in namespaces(mesh) {
        let name = Labels::from([("kubernetes.io/metadata.name".to_owned(), MONITORING.to_owned())]);
        let spec = NetworkPolicySpec {
            pod_selector: LabelSelector { match_labels: labels_of_pods(mesh) },
            policy_types: vec!["Ingress"],
            ingress: vec![IngressRule {
                from: vec![NetworkPeer { namespace_selector: LabelSelector { match_labels: name } }],
                ports: vec![NetworkPort { protocol: "TCP", port: ports::HEALTH }],
            }],
        };
        let metadata = ObjectMeta {
            name: format!("{}-metrics", mesh.name),
            namespace: namespace.to_owned(),
            labels: labels_of_mesh(mesh),
            annotations: Labels::new(),
        };
        let body = Spec { spec };
        file.push(&Object { api_version: "networking.k8s.io/v1", kind: "NetworkPolicy", metadata, body })?;
    }
    Ok(file.text)
}

//! What every kustomization is made of: an empty one, whom its patches are for, and its text.

use serde::Serialize;

use super::types::{Kustomization, PatchTarget};
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::{Resolved, Service};

/// One that takes up these resources.
pub(super) fn kustomization(resources: &[&str]) -> Kustomization {
    Kustomization {
        api_version: "kustomize.config.k8s.io/v1beta1",
        kind: "Kustomization",
        resources: resources.iter().map(|&path| path.to_owned()).collect(),
        ..Kustomization::default()
    }
}

/// The services that `render` writes a Deployment for.
pub(super) fn deployed(mesh: &Resolved) -> impl Iterator<Item = &Service> {
    mesh.services.iter().filter(|service| service.container.is_some() || service.is_edge())
}

/// All Deployments of the mesh in as few targets as there are places for the sidecar among the containers, and that place.
pub(super) fn sidecars(mesh: &Resolved) -> Vec<(PatchTarget, usize)> {
    // An edge's pod has the sidecar alone.
    let edge = deployed(mesh).find(|service| service.container.is_none());
    let others = edge.map(|edge| format!(",app!={}", edge.name)).unwrap_or_default();
    let mut targets = vec![(PatchTarget::of_mesh(mesh, &others), 1)];
    targets.extend(edge.map(|edge| (PatchTarget::named("Deployment", &edge.name), 0)));
    targets
}

/// As text.
pub(super) fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    crate::yaml::to_string(value).map_err(|error| {
        Diagnostic::error("unwritable", format!("an object cannot be written as YAML: {error}")).into()
    })
}

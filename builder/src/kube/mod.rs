//! The mesh → a folder of manifests for kustomize: `base`, the overlays `dev` and `prod`, and one for each who can issue
//! certificates in place of `meshward certs`.
//!
//! No key and no certificate is ever in them. And no module: its bytes are not text and not for git. The filter's
//! ConfigMap is put together by kustomize's `configMapGenerator`, at the time of `kubectl apply -k`, from
//! `base/filter/meshward-<sha12>.wasm`, which `render` copies there and git ignores. `base/filter.lock` says which
//! module that is; every name and path with the hash in it comes from that one file, so that they agree, and so that
//! `render --check` gives the same answer on a machine that has not built the filter, or built it with another compiler.
//! A module of another hash has another file name, so that a mismatch is kustomize's "no such file", never a pod that
//! waits for a path that nobody mounts.

mod certificates;
pub mod distribution;
mod kustomization;
mod kustomize;
mod network;
mod providers;
pub mod redirect;
#[cfg(test)]
mod tests;
pub mod tree;
mod types;
mod workload;

use std::collections::BTreeMap;

pub use distribution::Distribution;
use types::{ConfigMap, Labels, Object, ObjectMeta, ServiceAccount};

use crate::diagnostic::{Diagnostic, Failure};
use crate::envoy::{self, Placement};
use crate::mesh::{Resolved, Service};

/// The module that the manifests are made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    pub distribution: Distribution,
}

impl Filter {
    /// The part of the hash that is in names.
    pub fn sha12(&self) -> &str {
        self.sha256.get(..12).unwrap_or(&self.sha256)
    }

    pub fn file_name(&self) -> String {
        envoy::filter_file_name(self.sha12())
    }

    pub fn config_map(&self) -> String {
        format!("meshward-filter-{}", self.sha12())
    }
}

/// The text files of `deploy/`, by path below it. The same input gives the same bytes.
///
/// # Errors
/// Policies that cannot be compiled, or a ConfigMap that Kubernetes would refuse for its size.
pub fn render(mesh: &Resolved, filter: &Filter) -> Result<BTreeMap<String, String>, Failure> {
    let placement = Placement::Kubernetes { filter_sha12: filter.sha12().to_owned() };
    let mut files = BTreeMap::new();
    for service in &mesh.services {
        files.insert(format!("base/{}.yaml", service.name), manifests(mesh, service, filter, &placement)?);
    }
    files.insert(format!("base/{}", tree::LOCK), tree::lock(filter)?);
    if filter.distribution == Distribution::ConfigMap {
        files.insert("base/filter/.gitignore".to_owned(), "*.wasm\n".to_owned());
    }
    kustomize::add(mesh, filter, &mut files)?;
    Ok(files)
}

/// What is rendered and can be applied in one way only.
pub fn warnings(mesh: &Resolved, files: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    /// Without `--server-side`, `kubectl apply` keeps an object once more in an annotation, and all annotations together may
    /// have 262,144 bytes (`TotalAnnotationSizeLimitB`); the rest is for the JSON around it.
    const MOST_BYTES: usize = 240_000;
    let size = |service: &Service| files.get(&format!("base/{}.yaml", service.name)).map_or(0, String::len);
    let large =
        mesh.services.iter().map(|service| (service, size(service))).filter(|(_, size)| *size > MOST_BYTES);
    large
        .map(|(service, size)| {
            let message = format!(
                "the manifests of `{}` have {size} bytes, too many for `kubectl apply` without `--server-side`",
                service.name
            );
            Diagnostic::warning("server-side-apply", message)
                .at(&mesh.document.source, service.name_span.span.clone())
                .help("apply with `kubectl apply --server-side`; in Argo CD set the sync option `ServerSideApply=true`")
        })
        .collect()
}

/// All objects of one service, as one file.
fn manifests(
    mesh: &Resolved,
    service: &Service,
    filter: &Filter,
    placement: &Placement,
) -> Result<String, Failure> {
    let mut file = Documents::new(mesh);
    file.push(&object(
        mesh,
        service,
        "v1",
        "ServiceAccount",
        ServiceAccount { automount_service_account_token: false },
    ))?;
    let config = config_map(mesh, service, placement)?;
    file.push(&config)?;
    for claim in workload::claims(mesh, service) {
        file.push(&claim)?;
    }
    if let Some(deployment) = workload::deployment(mesh, service, filter) {
        file.push(&deployment)?;
    }
    file.push(&network::service(mesh, service))?;
    file.push(&network::policy(mesh, service))?;
    Ok(file.text)
}

/// `<service>-envoy-config`. Its name stays while its content changes: that is how a policy reaches a running pod.
fn config_map(
    mesh: &Resolved,
    service: &Service,
    placement: &Placement,
) -> Result<Object<ConfigMap>, Failure> {
    /// Kubernetes takes at most 1,048,576 bytes of data in a ConfigMap; what is left over is for the name of the keys.
    const MOST_BYTES: usize = 1_048_000;
    let files = envoy::render(mesh, service, placement)?;
    let bytes: usize = files.iter().map(|file| file.text.len()).sum();
    if bytes > MOST_BYTES {
        let message = format!(
            "the Envoy configuration of `{}` has {bytes} bytes, and a ConfigMap holds {MOST_BYTES}",
            service.name
        );
        return Err(Diagnostic::error("config-too-big", message)
            .at(&mesh.document.source, service.name_span.span.clone())
            .help("say more with one rule: a prefix, a template or a namespace instead of a list of values")
            .help("or split the service: only the policies that select it are in its configuration")
            .into());
    }
    let data = files.into_iter().map(|file| (file.name.to_owned(), file.text)).collect();
    Ok(named(mesh, service, "v1", "ConfigMap", format!("{}-envoy-config", service.name), ConfigMap { data }))
}

fn object<T>(
    mesh: &Resolved,
    service: &Service,
    api_version: &'static str,
    kind: &'static str,
    body: T,
) -> Object<T> {
    let name = if kind == "ServiceAccount" { &service.service_account } else { &service.name };
    named(mesh, service, api_version, kind, name.clone(), body)
}

fn named<T>(
    mesh: &Resolved,
    service: &Service,
    api_version: &'static str,
    kind: &'static str,
    name: String,
    body: T,
) -> Object<T> {
    let mut labels = labels_of_mesh(mesh);
    labels.insert("app".to_owned(), service.name.clone());
    let metadata =
        ObjectMeta { name, namespace: service.namespace.clone(), labels, annotations: Labels::new() };
    Object { api_version, kind, metadata, body }
}

fn labels_of_mesh(mesh: &Resolved) -> Labels {
    Labels::from([
        ("app.kubernetes.io/managed-by".to_owned(), "meshward".to_owned()),
        ("app.kubernetes.io/part-of".to_owned(), mesh.name.clone()),
    ])
}

/// What every pod of the mesh has, and no other.
fn labels_of_pods(mesh: &Resolved) -> Labels {
    Labels::from([("meshward.dev/mesh".to_owned(), mesh.name.clone())])
}

/// What selects a service's pods.
fn selector(service: &Service) -> Labels {
    Labels::from([("app".to_owned(), service.name.clone())])
}

/// A file of YAML documents, with the line that says where it comes from.
struct Documents {
    text: String,
}

impl Documents {
    fn new(mesh: &Resolved) -> Self {
        Self { text: header(mesh) }
    }

    fn push<T: serde::Serialize>(&mut self, object: &T) -> Result<(), Failure> {
        let yaml = crate::yaml::to_string(object).map_err(|error| {
            Diagnostic::error("unwritable", format!("an object cannot be written as YAML: {error}"))
        })?;
        self.text.push_str("---\n");
        self.text.push_str(&yaml);
        Ok(())
    }
}

fn header(mesh: &Resolved) -> String {
    format!("# Written by `meshward render` from the mesh `{}`. Change the mesh, not this file.\n", mesh.name)
}

//! The overlays of those who can issue certificates in place of `meshward certs`: cert-manager, its csi-driver-spiffe, SPIRE.
//!
//! The SPIFFE IDs are the same everywhere, so that policies stay as they are. What a provider cannot give (a revocation
//! list, bundles of other trust domains) it has no overlay for, in a mesh that asks for it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::kustomization::{deployed, kustomization, sidecars, yaml};
use super::types::{Kustomization, Operation, Patch, PatchTarget};
use super::{Documents, Filter, certificates, header, labels_of_mesh, workload};
use crate::diagnostic::Failure;
use crate::envoy::{self, CERTIFICATE_FILE, Placement, TRUST_FILE};
use crate::mesh::model::CertificateProvider;
use crate::mesh::{Resolved, Service};

/// The folder of a provider's overlay, below `overlays`; `base` has the Secrets of `meshward certs`.
pub fn overlay(provider: CertificateProvider) -> String {
    match provider {
        CertificateProvider::Embedded => "../../base".to_owned(),
        other => format!("../{}", other.name()),
    }
}

/// On what `prod` stands when mesh.yaml does not say.
pub fn of_production(mesh: &Resolved) -> CertificateProvider {
    let usual = CertificateProvider::CertManager;
    let fits = if mesh.can_use(usual) { usual } else { CertificateProvider::Embedded };
    mesh.certificates.provider.unwrap_or(fits)
}

/// On what `dev` stands.
pub fn of_development(mesh: &Resolved) -> CertificateProvider {
    mesh.certificates.provider.unwrap_or(CertificateProvider::Embedded)
}

/// The overlays of all providers that can give what the mesh asks for.
pub fn add(mesh: &Resolved, filter: &Filter, files: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    for provider in
        [CertificateProvider::CertManager, CertificateProvider::CsiDriverSpiffe, CertificateProvider::Spire]
    {
        if !mesh.can_use(provider) {
            continue;
        }
        let overlay = match provider {
            CertificateProvider::Embedded => continue,
            CertificateProvider::CertManager => cert_manager(mesh)?,
            CertificateProvider::CsiDriverSpiffe => csi_driver_spiffe(mesh)?,
            CertificateProvider::Spire => spire(mesh, filter)?,
        };
        for (name, text) in overlay {
            files.insert(format!("overlays/{}/{name}", provider.name()), text);
        }
    }
    Ok(())
}

type Files = Vec<(String, String)>;

fn with_kustomization(mesh: &Resolved, overlay: &Kustomization, mut files: Files) -> Result<Files, Failure> {
    files.push(("kustomization.yaml".to_owned(), header(mesh) + &yaml(overlay)?));
    Ok(files)
}

fn cert_manager(mesh: &Resolved) -> Result<Files, Failure> {
    let overlay = kustomization(&["../../base", "certificates.yaml"]);
    let files = vec![("certificates.yaml".to_owned(), certificates::documents(mesh)?)];
    with_kustomization(mesh, &overlay, files)
}

/// csi-driver-spiffe's volume in place of the Secret: the same file names (`app.driver.volumeFileName` of its chart, by
/// default), renewed at two thirds of their lifetime, the key in the memory of its node alone. `ca.crt` is there when the
/// driver was installed with `app.driver.sourceCABundle`; the trust domain is the one of its chart's `app.trustDomain`.
fn csi_driver_spiffe(mesh: &Resolved) -> Result<Files, Failure> {
    let mut overlay = kustomization(&["../../base", "rbac.yaml"]);
    let group = workload::ENVOY_USER.to_string();
    let source = json!({
        "driver": "spiffe.csi.cert-manager.io",
        "readOnly": true,
        // The files belong to this group, or the sidecar could not read its key.
        "volumeAttributes": { "spiffe.csi.cert-manager.io/fs-group": group },
    });
    overlay.patches.push(volume_patch(mesh, &source)?);
    let mut rbac = Documents::new(mesh);
    for object in certificate_requests(mesh) {
        rbac.push(&object)?;
    }
    with_kustomization(mesh, &overlay, vec![("rbac.yaml".to_owned(), rbac.text)])
}

/// What a service account needs for csi-driver-spiffe: its token makes the CertificateRequest.
fn certificate_requests(mesh: &Resolved) -> Vec<Value> {
    let accounts: BTreeSet<(&str, &str)> = deployed(mesh)
        .map(|service| (service.namespace.as_str(), service.service_account.as_str()))
        .collect();
    let mut objects = Vec::new();
    for (namespace, account) in accounts {
        let name = format!("{account}-certificate-requests");
        let metadata = json!({ "name": name, "namespace": namespace, "labels": labels_of_mesh(mesh) });
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{
                "apiGroups": ["cert-manager.io"],
                "resources": ["certificaterequests"],
                "verbs": ["create"],
            }],
        }));
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
        }));
    }
    objects
}

/// The agent's socket in place of the Secret, a bootstrap that asks it, and the identities for SPIRE's controller manager.
fn spire(mesh: &Resolved, filter: &Filter) -> Result<Files, Failure> {
    let socket = mesh.certificates.agent_socket.as_str();
    let folder = socket.rsplit_once('/').map_or(socket, |(folder, _)| folder);
    let source = json!({ "driver": "csi.spiffe.io", "readOnly": true });
    let placement = Placement::Kubernetes { filter_sha12: filter.sha12().to_owned() };
    let mut overlay = kustomization(&["../../base", "identities.yaml"]);
    let (mut files, mut identities) = (Vec::new(), Documents::new(mesh));
    for service in &mesh.services {
        let mut sidecar = Documents::new(mesh);
        sidecar.push(&bootstrap_patch(mesh, service, &placement, socket)?)?;
        let name = format!("{}.yaml", service.name);
        overlay.patches.push(Patch::file(&name));
        files.push((name, sidecar.text));
        identities.push(&cluster_id(mesh, service))?;
    }
    overlay.patches.push(volume_patch(mesh, &source)?);
    overlay.patches.extend(mount_patches(mesh, folder)?);
    files.push(("identities.yaml".to_owned(), identities.text));
    with_kustomization(mesh, &overlay, files)
}

/// The whole bootstrap anew, since it is one string of the ConfigMap; the files of secrets go.
fn bootstrap_patch(
    mesh: &Resolved,
    service: &Service,
    placement: &Placement,
    socket: &str,
) -> Result<Value, Failure> {
    let files = envoy::render_with_agent(mesh, service, placement, socket)?;
    let text = files.into_iter().find(|file| file.name == envoy::BOOTSTRAP_FILE).map(|file| file.text);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": format!("{}-envoy-config", service.name), "namespace": service.namespace },
        "data": { envoy::BOOTSTRAP_FILE: text, CERTIFICATE_FILE: null, TRUST_FILE: null },
    }))
}

/// What to tell the SPIRE server of a workload: the same ID as ours, and the DNS names.
fn cluster_id(mesh: &Resolved, service: &Service) -> Value {
    let mut spec = json!({
        "spiffeIDTemplate": format!(
            "spiffe://{}/ns/{{{{ .PodMeta.Namespace }}}}/sa/{{{{ .PodSpec.ServiceAccountName }}}}",
            mesh.trust_domain
        ),
        "podSelector": { "matchLabels": { "app": service.name } },
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": service.namespace } },
        "dnsNameTemplates": [service.name, service.fqdn()],
    });
    if let (Some(spec), false) = (spec.as_object_mut(), mesh.federates_with.is_empty()) {
        spec.insert("federatesWith".to_owned(), json!(mesh.federates_with));
    }
    json!({
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": "ClusterSPIFFEID",
        "metadata": { "name": format!("{}-{}", service.namespace, service.name), "labels": labels_of_mesh(mesh) },
        "spec": spec,
    })
}

/// Another volume in the place of the Secret, in every pod of the mesh. A strategic merge: it is named, not counted.
fn volume_patch(mesh: &Resolved, source: &Value) -> Result<Patch, Failure> {
    let volume = json!({ "name": workload::CERTIFICATES_VOLUME, "secret": null, "csi": source });
    let patch = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        // The target says which; kustomize wants a name all the same.
        "metadata": { "name": "any" },
        "spec": { "template": { "spec": { "volumes": [volume] } } },
    });
    Ok(Patch::inline(PatchTarget::of_mesh(mesh, ""), yaml(&patch)?))
}

/// The volume of certificates mounted elsewhere. A strategic merge would change the order of the containers, by which
/// other patches find them.
fn mount_patches(mesh: &Resolved, folder: &str) -> Result<Vec<Patch>, Failure> {
    let mut patches = Vec::new();
    for (target, sidecar) in sidecars(mesh) {
        let mount =
            format!("/spec/template/spec/containers/{sidecar}/volumeMounts/{}", workload::CERTIFICATES_MOUNT);
        // Should it ever stand elsewhere, kustomize says so.
        let operations = [
            Operation::new("test", format!("{mount}/name"), workload::CERTIFICATES_VOLUME),
            Operation::new("replace", format!("{mount}/mountPath"), folder),
        ];
        patches.push(Patch::inline(target, yaml(&operations)?));
    }
    Ok(patches)
}

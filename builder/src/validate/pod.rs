//! A pod's files in a folder: the rendered configuration with `/etc/…` moved below it, throw-away certificates, the module.

use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;

use super::unwritable;
use crate::diagnostic::{Diagnostic, Failure};
use crate::envoy::filter::content_of;
use crate::envoy::{self, File, Placement, pod};
use crate::kube::Filter;
use crate::mesh::model::CertificateProvider;
use crate::mesh::{Resolved, Service};
use crate::pki::{self, Ca, CaOptions, SvidRequest};

/// Files of one pod, below a folder that stands for `/`.
pub struct Pod {
    pub root: PathBuf,
    /// What the ConfigMap holds, as it would be in the pod but for the root.
    pub files: Vec<(&'static str, Value)>,
}

/// Makes pods' folders: one CA and one module for all.
pub struct Pods {
    root: PathBuf,
    ca: Ca,
    trust_domain: spiffe::TrustDomain,
    placement: Placement,
    module: PathBuf,
}

impl Pods {
    pub fn new(mesh: &Resolved, filter: &Filter, module: &Path, root: &Path) -> Result<Self, Failure> {
        let trust_domain = spiffe::TrustDomain::new(&mesh.trust_domain).map_err(|error| {
            Diagnostic::error("invalid-trust-domain", format!("`{}`: {error}", mesh.trust_domain))
        })?;
        let ca = Ca::create(&trust_domain, &CaOptions::default(), OffsetDateTime::now_utc())?;
        let shared = root.join(filter.file_name());
        std::fs::copy(module, &shared).map_err(|error| unwritable(&shared, &error))?;
        Ok(Self {
            root: root.to_owned(),
            ca,
            trust_domain,
            placement: Placement::Kubernetes { filter_sha12: filter.sha12().to_owned() },
            module: shared,
        })
    }

    /// The folder of the pod of `service`.
    pub fn lay_out(&self, mesh: &Resolved, service: &Service) -> Result<Pod, Failure> {
        let root = self.root.join(&service.name);
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let write = |path: PathBuf, bytes: &[u8]| -> Result<(), Failure> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
            }
            std::fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))
        };
        let request = SvidRequest::for_service(
            &self.trust_domain,
            &service.namespace,
            &service.service_account,
            &service.name,
        )?;
        let issued = pki::issue(&self.ca, &request, OffsetDateTime::now_utc())?;
        let certificates = below(pod::CERTIFICATES);
        let key = issued.key_pem.as_ref().map_or(&[][..], |key| key.as_bytes());
        write(certificates.join("tls.crt"), issued.chain_pem.as_bytes())?;
        write(certificates.join("tls.key"), key)?;
        write(certificates.join("ca.crt"), issued.bundle_pem.as_bytes())?;
        let filter = below(pod::FILTER);
        std::fs::create_dir_all(&filter).map_err(|error| unwritable(&filter, &error))?;
        if let Some(name) = self.module.file_name() {
            let link = filter.join(name);
            std::fs::hard_link(&self.module, &link).map_err(|error| unwritable(&link, &error))?;
        }
        let replicas = service.replicas_file.as_ref().map(|file| (file, below(file)));
        if let Some((_, below)) = &replicas {
            write(below.clone(), service.replicas.to_string().as_bytes())?;
        }
        let mut files = Vec::new();
        let rendered = if mesh.certificates.provider == Some(CertificateProvider::Spire) {
            envoy::render_with_agent(mesh, service, &self.placement, &mesh.certificates.agent_socket)?
        } else {
            envoy::render(mesh, service, &self.placement)?
        };
        for File { name, mut text } in rendered {
            if let Some((file, below)) = &replicas {
                let below = content_of(&below.display().to_string());
                text = text.replace(&content_of(file), &below);
            }
            let mut value = parse(name, &text)?;
            move_below(&mut value, &root);
            let json = serde_json::to_vec(&value).unwrap_or_default();
            write(below(pod::CONFIG).join(name), &json)?;
            files.push((name, value));
        }
        Ok(Pod { root, files })
    }
}

/// Our own YAML, read back. JSON is YAML to Envoy: it reads both by the same name.
fn parse(name: &str, text: &str) -> Result<Value, Failure> {
    serde_saphyr::from_str::<Value>(text).map_err(|error| {
        Diagnostic::error("unreadable", format!("`{name}`, as rendered, cannot be read back: {error}")).into()
    })
}

/// Every path of the pod, moved below the folder that stands for its root.
fn move_below(value: &mut Value, root: &Path) {
    match value {
        Value::String(text) => {
            let of_the_pod = [pod::CONFIG, pod::CERTIFICATES, pod::FILTER].iter().any(|mount| {
                text.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            if of_the_pod {
                text.insert_str(0, &root.display().to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_below(item, root)),
        Value::Object(fields) => fields.values_mut().for_each(|field| move_below(field, root)),
        _ => {}
    }
}

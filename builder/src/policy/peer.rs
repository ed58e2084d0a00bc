//! PeerAuthentication: whether a workload's port takes connections without a certificate.
//!
//! As Istio resolves it: the port's mode, else the workload's, else the namespace's, else the mesh's (a policy without a
//! selector in the root namespace), `UNSET` meaning the next one. With nothing said it is STRICT, not Istio's
//! PERMISSIVE. Where two policies select one workload Istio takes the older one; files have no age, so it is the stricter.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::authorization::Target;
use super::check::{Policies, identity, labels};
use super::model;
use super::select::{self, Workload};
use crate::diagnostic::{Diagnostic, Source};
use crate::mesh::document::{Document, Spanned};

/// What a port accepts. Ordered by strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Plain text only.
    Disable,
    /// TLS with a certificate of the mesh, and plain text.
    Permissive,
    /// TLS with a certificate of the mesh.
    Strict,
}

impl Mode {
    /// As it is written in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

/// One PeerAuthentication, checked. `None` as a mode is `UNSET`.
#[derive(Clone, Debug)]
pub struct PeerAuthentication {
    pub source: Arc<Source>,
    pub name: Spanned<String>,
    pub namespace: String,
    pub target: Target,
    pub mode: Option<Mode>,
    pub ports: BTreeMap<u16, Option<Mode>>,
}

impl PeerAuthentication {
    fn is_for_all(&self) -> bool {
        matches!(&self.target, Target::Labels { labels, .. } if labels.is_empty())
    }
}

/// The mode of a workload's port. `port` is the application's.
pub fn peer_authentication_for(
    policies: &Policies,
    workload: &Workload<'_>,
    root_namespace: &str,
    port: Option<u16>,
) -> Mode {
    said(policies, workload, root_namespace, port).unwrap_or(Mode::Strict)
}

/// The same where the policies say something.
pub(super) fn said(
    policies: &Policies,
    workload: &Workload<'_>,
    root_namespace: &str,
    port: Option<u16>,
) -> Option<Mode> {
    let own: Vec<&PeerAuthentication> = policies
        .peer
        .iter()
        .filter(|policy| !policy.is_for_all() && policy.namespace == workload.namespace)
        .filter(|policy| select::target_fits(&policy.target, workload))
        .collect();
    let strictest = |modes: &mut dyn Iterator<Item = Mode>| modes.max();
    let of_port = port.and_then(|port| {
        strictest(&mut own.iter().filter_map(|policy| policy.ports.get(&port).copied().flatten()))
    });
    let of_all = |namespace: &str| {
        let mut modes = policies
            .peer
            .iter()
            .filter(|policy| policy.is_for_all() && policy.namespace == namespace)
            .filter_map(|policy| policy.mode);
        strictest(&mut modes)
    };
    of_port
        .or_else(|| strictest(&mut own.iter().filter_map(|policy| policy.mode)))
        .or_else(|| of_all(workload.namespace))
        .or_else(|| of_all(root_namespace))
}

pub(super) fn check(
    document: &Document,
    written: model::PeerAuthentication,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<PeerAuthentication> {
    let before = mistakes.len();
    let spec = written.spec.unwrap_or_default();
    let namespace = identity(document, &written.metadata, namespace, mistakes);
    let target = labels(document, spec.selector.as_ref(), mistakes);
    let for_all = matches!(&target, Target::Labels { labels, .. } if labels.is_empty());
    let mut ports = BTreeMap::new();
    if let Some(levels) = &spec.port_level_mtls {
        if levels.is_empty() || for_all {
            mistakes.push(
                document
                    .error(
                        "port-level-mtls",
                        if for_all {
                            "`portLevelMtls` belongs to single workloads: this policy has no selector"
                        } else {
                            "`portLevelMtls` is there and names no port"
                        },
                        &levels.span,
                    )
                    .help("add `selector.matchLabels`, or set `mtls.mode` alone"),
            );
        }
        for (port, mtls) in &levels.value {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => {
                    ports.insert(port, mode(Some(mtls)));
                }
                _ => mistakes.push(
                    document
                        .error("port-level-mtls", format!("`{port}` is no port"), &mtls.span)
                        .help("a port is a number from 1 to 65535: the application's, not the sidecar's"),
                ),
            }
        }
    }
    (mistakes.len() == before).then(|| PeerAuthentication {
        source: Arc::clone(&document.source),
        name: written.metadata.name,
        namespace,
        target,
        mode: mode(spec.mtls.as_ref()),
        ports,
    })
}

fn mode(mtls: Option<&Spanned<model::Mtls>>) -> Option<Mode> {
    match mtls?.mode.as_ref()?.value {
        model::Mode::Unset => None,
        model::Mode::Disable => Some(Mode::Disable),
        model::Mode::Permissive => Some(Mode::Permissive),
        model::Mode::Strict => Some(Mode::Strict),
    }
}

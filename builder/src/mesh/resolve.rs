//! The mesh with every name checked and every default filled in: what all other modules work on.
//!
//! INVARIANT: a [`Resolved`] that [`super::load`] returns is whole: every callee exists, ports do not collide, names are
//! good for Kubernetes, SPIFFE and Envoy. Nothing behind it checks again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::document::{Document, Spanned};
use super::model::{
    CertificateProvider, ContainerSpec, DefaultAction, Mesh, Outside, PathParams, ProbesSpec, Protocol,
};
use crate::diagnostic::Diagnostic;
use crate::limits::Limits;
use crate::native;
use crate::policy::{self, Mode, Policies};

mod certificates;
mod check;
mod interception;
mod rate_limit_service;
mod revocation;
mod service;

pub use check::is_pinned;

/// The ports of every sidecar; an application cannot have them.
pub mod ports {
    /// Inbound, mTLS.
    pub const INBOUND: u16 = 15001;
    /// Outbound HTTP, on the application's loopback.
    pub const OUTBOUND: u16 = 15006;
    /// Health checks and metrics, plain HTTP, exact paths only.
    pub const HEALTH: u16 = 15021;
    /// Envoy's admin interface, loopback only.
    pub const ADMIN: u16 = 9901;
    /// The edge's listener when mesh.yaml says nothing.
    pub const EDGE: u16 = 8080;
    pub const RESERVED: [u16; 4] = [INBOUND, OUTBOUND, HEALTH, ADMIN];
}

/// The namespace of a mesh that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Istio's own root namespace, so that policies written for it mean the same here.
const ROOT_NAMESPACE: &str = "istio-system";

/// The Envoy that everything was tried with.
pub const ENVOY_IMAGE: &str = "envoyproxy/envoy:distroless-v1.40.0";

/// A mesh that holds together.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub name: String,
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    /// Other trust domains whose workloads may call.
    pub federates_with: Vec<String>,
    pub revocation: Revocation,
    pub certificates: Certificates,
    /// The namespace of the services that name none.
    pub namespace: String,
    /// The namespace whose policies apply in all namespaces.
    pub root_namespace: String,
    pub default_action: DefaultAction,
    pub path_params: PathParams,
    pub interception: Option<Interception>,
    pub rate_limit_service: Option<RateLimitService>,
    pub envoy_image: String,
    /// In the file's order.
    pub services: Vec<Service>,
    /// AuthorizationPolicy and PeerAuthentication as they are written.
    pub policy_documents: Vec<Document>,
    /// The same, checked.
    pub policies: Policies,
    /// RateLimitPolicy, CircuitBreakerPolicy and DestinationRule as they are written.
    pub limit_documents: Vec<Document>,
    /// The same, checked.
    pub limits: Limits,
    /// Envoy's own protections of calls.
    pub native: Vec<native::Settings>,
    /// What is no mistake, but a surprise.
    pub warnings: Vec<Diagnostic>,
    /// The document of kind `Mesh`, for further diagnostics.
    pub document: Document,
}

/// Who counts the limits of the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitService {
    /// A name to resolve, or an address.
    pub host: String,
    pub port: u16,
    /// Its SPIFFE ID. `None`: it is spoken to in plain text.
    pub identity: Option<String>,
    pub domain: String,
    /// How long to wait for an answer, in milliseconds.
    pub timeout: u32,
}

/// What is refused whatever the policies say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocation {
    /// Big-endian, without leading zeros.
    pub serials: Vec<Vec<u8>>,
    /// SPIFFE IDs.
    pub ids: Vec<String>,
    /// Whether sidecars check `ca.crl`. Never together with other trust domains.
    pub crl: bool,
}

/// Who issues the certificates in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// None when mesh.yaml does not say.
    pub provider: Option<CertificateProvider>,
    /// SPIRE's, as the pod sees it.
    pub agent_socket: String,
    /// How long anything may stay open that was opened with one.
    pub max_connection_duration: Option<native::Period>,
}

/// Traffic that is led to the sidecars without the applications' doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// With `iptables-restore`; pinned.
    pub image: String,
    pub outside: Outside,
    /// Left alone: no service's application port is among the inbound ones.
    pub outbound_ports: Vec<u16>,
    /// IPv4.
    pub outbound_cidrs: Vec<String>,
    pub inbound_ports: Vec<u16>,
}

/// The sidecars' user where traffic is intercepted, by whom the rules know it. Not the image's 101, which is nginx's, too.
pub const INTERCEPTING_USER: u32 = 15001;

/// Where SPIRE's agent listens, on its node and by its CSI driver in the pod.
const DEFAULT_AGENT_SOCKET: &str = "/run/spire/sockets/agent.sock";

/// One workload and its sidecar.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub protocol: Protocol,
    /// The application's port. `None` exactly for an edge, which has no application.
    pub port: Option<u16>,
    /// Always with `app`.
    pub labels: BTreeMap<String, String>,
    /// The callees, an edge's routes among them, without duplicates, in the file's order.
    pub calls: Vec<Call>,
    pub edge: Option<Edge>,
    pub replicas: u32,
    /// A file that says another number while the sidecar runs; absolute.
    pub replicas_file: Option<String>,
    pub container: Option<ContainerSpec>,
    /// The container's, or those of a pod that is not ours; a path or a command each.
    pub probes: ProbesSpec,
    pub local: Option<Local>,
    /// The place of the name in the mesh's document.
    pub name_span: Spanned<()>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The name of a service of the mesh.
    pub service: String,
    /// The port on the caller's loopback: some exactly for a TCP callee.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub port: u16,
    /// In the file's order, in which they are tried.
    pub routes: Vec<EdgeRoute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeRoute {
    /// Starts with `/`; ends with one only when it is all.
    pub prefix: String,
    pub host: Option<String>,
    pub service: String,
    pub rewrite: Option<String>,
}

/// How the application is started on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Program and arguments; not empty. With `{address}` and `{port}` still in them.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
}

impl Resolved {
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`
    pub fn spiffe_id(&self, service: &Service) -> String {
        format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, service.namespace, service.service_account)
    }

    /// Whether sidecars get from `provider` all that the mesh asks for.
    pub fn can_use(&self, provider: CertificateProvider) -> bool {
        (!self.revocation.crl || provider.has_lists())
            && (self.federates_with.is_empty() || provider.federates())
    }

    /// How the policies see a service.
    pub fn workload<'a>(&self, service: &'a Service) -> policy::Workload<'a> {
        policy::Workload {
            service: Some(&service.name),
            namespace: &service.namespace,
            labels: &service.labels,
        }
    }

    /// Whether the service takes mTLS, plain text or both, as PeerAuthentication has it.
    pub fn mode(&self, service: &Service) -> Mode {
        policy::peer_authentication_for(
            &self.policies,
            &self.workload(service),
            &self.root_namespace,
            service.port,
        )
    }

    /// The services that call `callee`, in the file's order.
    pub fn callers_of<'a>(&'a self, callee: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services.iter().filter(move |service| service.calls.iter().any(|call| call.service == callee))
    }
}

impl Service {
    pub fn is_edge(&self) -> bool {
        self.edge.is_some()
    }

    /// `<service>.<namespace>.svc.cluster.local`
    pub fn fqdn(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}

impl Local {
    /// Command and environment with the placeholders filled in.
    pub fn at(&self, address: IpAddr, port: u16) -> Self {
        let fill = |text: &String| {
            text.replace("{address}", &address.to_string()).replace("{port}", &port.to_string())
        };
        Self {
            command: self.command.iter().map(fill).collect(),
            env: self.env.iter().map(|(name, value)| (name.clone(), fill(value))).collect(),
        }
    }
}

/// Checks all names and fills in all defaults. What comes back beside an error is only good for finding more of them.
pub(super) fn resolve(document: &Document, mesh: Mesh, mistakes: &mut Vec<Diagnostic>) -> Resolved {
    let spec = mesh.spec;
    let mut check = check::Check { document, mistakes };
    check.dns_label("the mesh's name", &mesh.metadata.name);
    check.trust_domain(&spec.trust_domain);
    for alias in &spec.trust_domain_aliases {
        check.trust_domain(alias);
    }
    for other in &spec.federates_with {
        check.trust_domain(other);
    }
    check.federation(&spec);
    let revocation = check.revocation(&spec.revocation);
    let rate_limit_service =
        spec.rate_limit_service.as_ref().and_then(|service| check.rate_limit_service(service));
    let certificates = check.certificates(&spec);
    for namespace in spec.namespace.iter().chain(&spec.root_namespace) {
        check.dns_label("a namespace", namespace);
    }
    if let Some(image) = &spec.envoy_image {
        check.image(image);
    }
    let namespace = spec.namespace.map_or_else(|| DEFAULT_NAMESPACE.to_owned(), |namespace| namespace.value);
    let services = service::resolve(&mut check, &namespace, spec.services);
    let interception =
        spec.interception.map(|written| interception::resolve(&mut check, &written, &services));
    Resolved {
        name: mesh.metadata.name.value,
        trust_domain: spec.trust_domain.value,
        trust_domain_aliases: spec.trust_domain_aliases.into_iter().map(|alias| alias.value).collect(),
        federates_with: spec.federates_with.into_iter().map(|other| other.value).collect(),
        revocation,
        rate_limit_service,
        certificates,
        root_namespace: spec
            .root_namespace
            .map_or_else(|| ROOT_NAMESPACE.to_owned(), |namespace| namespace.value),
        default_action: spec.default_action.unwrap_or_default(),
        path_params: spec.path_params.unwrap_or_default(),
        envoy_image: spec.envoy_image.map_or_else(|| ENVOY_IMAGE.to_owned(), |image| image.value),
        services,
        interception,
        namespace,
        policy_documents: Vec::new(),
        policies: Policies::default(),
        limit_documents: Vec::new(),
        limits: Limits::default(),
        native: Vec::new(),
        warnings: Vec::new(),
        document: document.clone(),
    }
}

//! The kind `Mesh` as it is written: field for field, every value with its place. Names are checked in `super::resolve`.
//!
//! The doc comments are the descriptions in the JSON Schema that editors show.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::document::Spanned;
use crate::native::Period;

/// The value of `apiVersion` for the kinds of Meshward's own.
pub const API_VERSION: &str = "meshward.dev/v1alpha1";

/// A mesh: its trust domain, its defaults, its services and who calls whom.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mesh {
    /// Always `meshward.dev/v1alpha1`.
    pub api_version: Spanned<String>,
    /// Always `Mesh`.
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    pub spec: MeshSpec,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The mesh's name: a DNS label.
    pub name: Spanned<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshSpec {
    /// The SPIFFE trust domain: lower case, like `bookstore.example`. An identity is
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub trust_domain: Spanned<String>,
    /// Further trust domains that count as the own one, for moving from one to another.
    #[serde(default)]
    pub trust_domain_aliases: Vec<Spanned<String>>,
    /// Other trust domains whose workloads may call, with roots of their own: policies name them as
    /// `<trust domain>/ns/<namespace>/sa/<service account>`. `meshward certs federate` brings their trust bundles.
    #[serde(default)]
    pub federates_with: Vec<Spanned<String>>,
    /// Certificates and identities that are refused at once, whatever policies say.
    #[serde(default)]
    pub revocation: RevocationSpec,
    /// Who issues the sidecars' certificates in the cluster.
    #[serde(default)]
    pub certificates: CertificatesSpec,
    /// The Kubernetes namespace of all services that name none.
    #[serde(default)]
    pub namespace: Option<Spanned<String>>,
    /// The namespace whose policies apply in all namespaces, as Istio's root namespace. `istio-system` when not said.
    #[serde(default)]
    pub root_namespace: Option<Spanned<String>>,
    /// What happens to a request to a workload that no ALLOW policy selects and no `calls` permits. DENY when not said.
    #[serde(default)]
    pub default_action: Option<DefaultAction>,
    /// What the filter does with `;parameters` in a path: match the path without them (strip), refuse the request
    /// (reject), or match the path as it is (keep). strip when not said.
    #[serde(default)]
    pub path_params: Option<PathParams>,
    /// Leads traffic to the sidecars without the applications' doing, by iptables in each pod. When not said, applications call
    /// their sidecar themselves.
    #[serde(default)]
    pub interception: Option<Spanned<InterceptionSpec>>,
    /// The service that counts limits of `scope: global`: any that speaks Envoy's rate limit protocol
    /// (`envoy.service.ratelimit.v3`), like envoyproxy/ratelimit or Limitador.
    #[serde(default)]
    pub rate_limit_service: Option<RateLimitServiceSpec>,
    /// The Envoy image of every sidecar. The pinned release when not said.
    #[serde(default)]
    pub envoy_image: Option<Spanned<String>>,
    /// Services by name. The order is the order of everything that is printed.
    pub services: Vec<ServiceSpec>,
}

/// Who counts the limits of `scope: global`. envoyproxy/ratelimit needs no more than the domain: what is allowed is said in the
/// policies, and goes with every question.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitServiceSpec {
    /// Name or address of the service, and the port of its gRPC: `ratelimit.infra:8081`.
    pub address: Spanned<String>,
    /// Its SPIFFE ID: then it is spoken to by mutual TLS, with the sidecar's certificate. Plain HTTP/2 when not said: keep it
    /// where only sidecars reach it.
    #[serde(default)]
    pub identity: Option<Spanned<String>>,
    /// Its name for the limits of this mesh. `meshward` when not said.
    #[serde(default)]
    pub domain: Option<Spanned<String>>,
    /// How long a request waits for it at most, from `1ms` to `10s`. `50ms` when not said.
    #[serde(default)]
    pub timeout: Option<Spanned<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RevocationSpec {
    /// Serial numbers of certificates, hexadecimal, as `meshward certs revoke` prints them.
    #[serde(default)]
    pub serials: Vec<Spanned<String>>,
    /// SPIFFE IDs, whole: the workload is shut out, whatever certificate it has.
    #[serde(default)]
    pub ids: Vec<Spanned<String>>,
    /// Sidecars also check the revocation list, `ca.crl` beside their certificates, which `meshward certs` then keeps.
    #[serde(default)]
    pub crl: Option<Spanned<bool>>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificatesSpec {
    /// What the overlays `dev` and `prod` stand on: `embedded` (Secrets that `meshward certs` fills), `cert-manager`,
    /// `csi-driver-spiffe`, or `spire`. When not said: `embedded` in `dev`, `cert-manager` in `prod`.
    #[serde(default)]
    pub provider: Option<Spanned<CertificateProvider>>,
    /// With `spire`: the agent's socket as the pod sees it. `/run/spire/sockets/agent.sock` when not said.
    #[serde(default)]
    pub agent_socket: Option<Spanned<String>>,
    /// How long anything may stay open between sidecars, `10m`, at least `2s` and at most 30 days: so long lives on what a
    /// dropped root or a revoked certificate has opened. HTTP connections and the streams on them share it. When not
    /// said: an hour for an HTTP connection, a day for a stream that stays on it and for a TCP connection.
    #[serde(default)]
    pub max_connection_duration: Option<Spanned<Period>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateProvider {
    /// `meshward certs`
    Embedded,
    /// cert-manager's Certificates, in Secrets
    CertManager,
    /// cert-manager's csi-driver-spiffe: the key never leaves its node
    CsiDriverSpiffe,
    /// SPIRE: Envoy asks the agent of its node
    Spire,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InterceptionSpec {
    /// An image with `sh`, `iptables-save` and `iptables-restore` (and `ip6tables-…`), pinned by its digest: `name@sha256:…`. It
    /// runs once in each pod, before the application, as root with NET_ADMIN; the rules are text in the manifest.
    pub image: Spanned<String>,
    /// What becomes of connections to what is not in the mesh.
    pub outside: Spanned<Outside>,
    /// What is left alone.
    #[serde(default)]
    pub exclude: ExcludeSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outside {
    /// They pass as they are.
    Pass,
    /// They are closed.
    Refuse,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExcludeSpec {
    /// Connections of the applications to these ports go out as they are.
    #[serde(default)]
    pub outbound_ports: Vec<Spanned<u16>>,
    /// Connections of the applications to these IPv4 addresses go out as they are.
    #[serde(default)]
    pub outbound_cidrs: Vec<Spanned<String>>,
    /// Ports of the pods that everybody reaches, without a certificate: a port for metrics, say.
    #[serde(default)]
    pub inbound_ports: Vec<Spanned<u16>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DefaultAction {
    Allow,
    #[default]
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathParams {
    #[default]
    Strip,
    Reject,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Tcp,
}

/// One service: a workload with a sidecar and an identity.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// A DNS label, unique in the mesh. Callers reach the service as `http://127.0.0.1:15006` with this `Host`.
    pub name: Spanned<String>,
    /// `http` when not said.
    #[serde(default)]
    pub protocol: Option<Spanned<Protocol>>,
    /// The application's port. An edge has none.
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    /// The namespace, when it is another one than the mesh's.
    #[serde(default)]
    pub namespace: Option<Spanned<String>>,
    /// The Kubernetes service account, and so the end of the SPIFFE ID. The service's name when not said.
    #[serde(default)]
    pub service_account: Option<Spanned<String>>,
    /// The pod's labels, which policies select by. `app: <name>` is always there.
    #[serde(default)]
    pub labels: BTreeMap<String, Spanned<String>>,
    /// The services that this one calls: each is a route out of its sidecar, and, as long as no ALLOW policy selects
    /// the callee, a permission there.
    #[serde(default)]
    pub calls: Vec<CallSpec>,
    /// Makes this the way in from outside: plain HTTP outside, mTLS inside.
    #[serde(default)]
    pub edge: Option<Spanned<EdgeSpec>>,
    /// 1 when not said.
    #[serde(default)]
    pub replicas: Option<Spanned<u32>>,
    /// A file in the sidecar's container with the number of replicas, in place of `replicas` as long as it holds one: for limits
    /// of the service, of which each sidecar has its share. It is read again when it changes, as a volume of the downward API
    /// or of a ConfigMap does. It must be there when the sidecar starts.
    #[serde(default)]
    pub replicas_file: Option<Spanned<String>>,
    /// The application's container. Without one, `render` writes no Deployment: add the sidecar to your own with
    /// `meshward inject`.
    #[serde(default)]
    pub container: Option<Spanned<ContainerSpec>>,
    /// HTTP health checks of an application whose pods are yours (`meshward inject`): each path is on the sidecar's port 15021,
    /// as `/healthz/readiness`, `/healthz/liveness` and `/healthz/startup`, for probes that have no certificate.
    #[serde(default)]
    pub probes: Option<Spanned<ProbesSpec>>,
    /// How `meshward up` starts the application here, without Kubernetes.
    #[serde(default)]
    pub local: Option<LocalSpec>,
}

/// A callee: its name, or its name with the loopback port on which the caller finds it (TCP only).
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Spanned<NameOrCall>")]
pub struct CallSpec {
    pub service: Spanned<String>,
    pub port: Option<Spanned<u16>>,
}

#[derive(Clone, Debug, JsonSchema)]
#[serde(untagged)]
enum NameOrCall {
    Name(String),
    Call(DetailedCall),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DetailedCall {
    service: Spanned<String>,
    /// The port on the caller's loopback; the callee's own port when not said.
    #[serde(default)]
    port: Option<Spanned<u16>>,
}

impl From<Spanned<NameOrCall>> for CallSpec {
    fn from(written: Spanned<NameOrCall>) -> Self {
        match written.value {
            NameOrCall::Name(name) => Self { service: Spanned::new(name, written.span), port: None },
            NameOrCall::Call(call) => Self { service: call.service, port: call.port },
        }
    }
}

impl<'de> Deserialize<'de> for NameOrCall {
    // Not serde's `untagged`: that loses the places and the reasons.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = NameOrCall;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a service's name (a string), or a mapping with `service` and `port`")
            }
            fn visit_str<E>(self, name: &str) -> Result<NameOrCall, E> {
                Ok(NameOrCall::Name(name.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, entries: A) -> Result<NameOrCall, A::Error> {
                DetailedCall::deserialize(de::value::MapAccessDeserializer::new(entries))
                    .map(NameOrCall::Call)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for CallSpec {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Call".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        NameOrCall::json_schema(generator)
    }
}

/// The way in from outside.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EdgeSpec {
    /// The port of the plain HTTP listener; 8080 when not said.
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    /// The first route that fits a request takes it; a request that fits none gets a 404.
    pub routes: Vec<EdgeRouteSpec>,
}

/// Requests whose path lies under `prefix` (at a `/`), and whose host is `host` when that is said, go to `service`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EdgeRouteSpec {
    /// A path like `/books`, matching `/books` and `/books/…` and not `/bookstore`. `/` matches all.
    pub prefix: Spanned<String>,
    /// Only for this host name, whatever the port.
    #[serde(default)]
    pub host: Option<Spanned<String>>,
    /// The HTTP service that answers. It counts as one of the edge's `calls`.
    pub service: Spanned<String>,
    /// Replaces the prefix on the way in; `/` takes it off.
    #[serde(default)]
    pub rewrite: Option<Spanned<String>>,
}

/// The application's container, in Kubernetes' words.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ContainerSpec {
    pub image: Spanned<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    /// Plain values, or a key of a Secret that exists in the cluster: `{secret: name, key: password}`.
    #[serde(default)]
    pub env: BTreeMap<String, EnvSpec>,
    /// Health checks. HTTP ones pass through the sidecar's health listener, so that they work with the application
    /// bound to loopback and with a NetworkPolicy in force.
    #[serde(default)]
    pub probes: ProbesSpec,
    /// Kubernetes' `resources`.
    #[serde(default)]
    pub resources: Option<ResourcesSpec>,
    /// Directories that the application may write to: its root file system is read-only.
    #[serde(default)]
    pub writable: Vec<Spanned<WritableSpec>>,
    /// The user to run as; not 0. The image's own when not said, which must then not be root.
    #[serde(default)]
    pub run_as_user: Option<Spanned<u32>>,
}

/// An environment variable's value.
#[derive(Clone, Debug, JsonSchema)]
#[serde(untagged)]
pub enum EnvSpec {
    Value(String),
    Secret(SecretKeySpec),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretKeySpec {
    /// The Secret's name.
    pub secret: String,
    pub key: String,
}

impl<'de> Deserialize<'de> for EnvSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = EnvSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a mapping with `secret` and `key`")
            }
            fn visit_str<E>(self, value: &str) -> Result<EnvSpec, E> {
                Ok(EnvSpec::Value(value.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, entries: A) -> Result<EnvSpec, A::Error> {
                SecretKeySpec::deserialize(de::value::MapAccessDeserializer::new(entries))
                    .map(EnvSpec::Secret)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Readiness, liveness and startup, each optional.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbesSpec {
    #[serde(default)]
    pub readiness: Option<Spanned<ProbeSpec>>,
    #[serde(default)]
    pub liveness: Option<Spanned<ProbeSpec>>,
    #[serde(default)]
    pub startup: Option<Spanned<ProbeSpec>>,
}

impl ProbesSpec {
    /// Those that are there, with their names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &ProbeSpec)> {
        let all = [("readiness", &self.readiness), ("liveness", &self.liveness), ("startup", &self.startup)];
        all.into_iter().filter_map(|(name, probe)| Some((name, &probe.as_ref()?.value)))
    }
}

/// Either a path to GET or a command to run in the application's container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProbeSpec {
    /// An HTTP path of the application, for services that speak HTTP.
    #[serde(default)]
    pub path: Option<String>,
    /// A command.
    #[serde(default)]
    pub exec: Option<Vec<String>>,
}

/// CPU and memory, in Kubernetes' notation (`100m`, `128Mi`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesSpec {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// A directory to write to: gone with the pod, or kept by a PersistentVolumeClaim of the given size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WritableSpec {
    /// An absolute path.
    pub path: String,
    /// The size to claim (`10Gi`). An emptyDir when not said.
    #[serde(default)]
    pub claim: Option<String>,
}

/// The application as a process of this machine.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalSpec {
    /// Program and arguments. `{address}` becomes the service's own loopback address, `{port}` its port.
    pub command: Vec<String>,
    /// Environment; the same placeholders.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

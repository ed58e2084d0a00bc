//! Ways not to be one's own CA, beside cert-manager's Issuer and Certificates (which `render` writes as an overlay):
//! cert-manager's csi-driver-spiffe, and SPIRE.
//!
//! Each function gives the piece of a manifest or of Envoy's configuration that takes the place of ours; the SPIFFE IDs
//! are the same `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, so that policies stay as they are.

use serde_json::{Value, json};

/// Where SPIRE's agent listens, on its node and by its CSI driver in the pod.
pub const SPIRE_SOCKET: &str = "/run/spire/sockets/agent.sock";
/// The cluster of Envoy that is the agent.
pub const SPIRE_CLUSTER: &str = "spire_agent";

/// The volume of a pod in which csi-driver-spiffe keeps `tls.crt`, `tls.key` and `ca.crt`, renewed at two thirds of their
/// lifetime. It takes the place of the Secret at `/etc/certs`: the file names are the same, since the driver is told them.
///
/// The driver gives the service account's identity in the trust domain that it was installed with
/// (`app.trustDomain`), with a URI SAN and no DNS SANs.
pub fn csi_driver_spiffe_volume(name: &str) -> Value {
    json!({
        "name": name,
        "csi": {
            "driver": "spiffe.csi.cert-manager.io",
            "readOnly": true,
            "volumeAttributes": {
                "spiffe.csi.cert-manager.io/fs-group": "65532",
            },
        },
    })
}

/// What a service account needs to use csi-driver-spiffe: its token makes the CertificateRequest.
pub fn csi_driver_spiffe_rbac(namespace: &str, service_account: &str) -> [Value; 2] {
    let name = format!("{service_account}-certificate-requests");
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": { "name": name, "namespace": namespace },
            "rules": [{
                "apiGroups": ["cert-manager.io"],
                "resources": ["certificaterequests"],
                "verbs": ["create"],
            }],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": name, "namespace": namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": service_account, "namespace": namespace }],
        }),
    ]
}

/// Envoy's cluster for the SDS API of SPIRE's agent.
pub fn spire_cluster(socket: &str) -> Value {
    json!({
        "name": SPIRE_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            }
        },
        "load_assignment": {
            "cluster_name": SPIRE_CLUSTER,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": socket } } } }] }],
        },
    })
}

/// The secret of the workload's own certificate: SPIRE names it by the SPIFFE ID.
pub fn spire_certificate(spiffe_id: &str) -> Value {
    spire_secret(spiffe_id)
}

/// The secret of the trust bundle: named by the trust domain's ID; `ALL` is every federated one, by trust domain, in
/// Envoy's SPIFFE validator.
pub fn spire_trust(trust_domain: &str, federated: bool) -> Value {
    if federated { spire_secret("ALL") } else { spire_secret(&format!("spiffe://{trust_domain}")) }
}

fn spire_secret(name: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": SPIRE_CLUSTER } }],
            },
        },
    })
}

/// The volume by which SPIRE's CSI driver brings the agent's socket into a pod.
pub fn spire_volume(name: &str) -> Value {
    json!({ "name": name, "csi": { "driver": "csi.spiffe.io", "readOnly": true } })
}

/// What to tell the SPIRE server of a workload, for its controller manager: the same ID as ours, and the DNS names.
pub fn spire_cluster_id(namespace: &str, service: &str, trust_domain: &str) -> Value {
    json!({
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": "ClusterSPIFFEID",
        "metadata": { "name": format!("{namespace}-{service}") },
        "spec": {
            "spiffeIDTemplate": format!(
                "spiffe://{trust_domain}/ns/{{{{ .PodMeta.Namespace }}}}/sa/{{{{ .PodSpec.ServiceAccountName }}}}"
            ),
            "podSelector": { "matchLabels": { "app": service } },
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
            "dnsNameTemplates": [service, format!("{service}.{namespace}.svc.cluster.local")],
        },
    })
}

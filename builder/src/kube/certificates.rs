//! The overlay `cert-manager`: a CA of the mesh's own, and for every service a certificate with its SPIFFE ID, renewed
//! without anybody's doing. The Secrets have the names and keys that the pods mount anyway.

use super::types::{CertificateSpec, IssuerRef, IssuerSpec, Labels, Object, ObjectMeta, PrivateKey, Spec};
use super::{Documents, labels_of_mesh, named};
use crate::diagnostic::Failure;
use crate::mesh::{Resolved, Service};

const API_VERSION: &str = "cert-manager.io/v1";
/// The Secret of the CA; as in `meshward certs`.
const CA_SECRET: &str = "service-mesh-ca";
/// Where cert-manager looks for the Secret of a ClusterIssuer.
const CLUSTER_NAMESPACE: &str = "cert-manager";

/// Ten years for the CA; a day for a service, renewed after two thirds of it, as `meshward certs renew` does.
const CA_DURATION: &str = "87600h";
const CA_RENEW_BEFORE: &str = "8760h";
const LEAF_DURATION: &str = "24h";
const LEAF_RENEW_BEFORE: &str = "8h";

/// Issuers and certificates. With services in several namespaces the issuers are the cluster's, since a namespace's
/// issuer has a CA of its own, and they must share one.
pub fn documents(mesh: &Resolved) -> Result<String, Failure> {
    let cluster_wide = mesh.services.iter().any(|service| service.namespace != mesh.namespace);
    let kind = if cluster_wide { "ClusterIssuer" } else { "Issuer" };
    let namespace = if cluster_wide { CLUSTER_NAMESPACE } else { mesh.namespace.as_str() };
    let issuer = |name: &str, spec| Object {
        api_version: API_VERSION,
        kind,
        metadata: ObjectMeta {
            name: name.to_owned(),
            namespace: if cluster_wide { String::new() } else { namespace.to_owned() },
            labels: labels_of_mesh(mesh),
            annotations: Labels::new(),
        },
        body: Spec { spec },
    };
    let self_signed = format!("{}-self-signed", mesh.name);
    let reference = |name: &str| IssuerRef { name: name.to_owned(), kind, group: "cert-manager.io" };
    let ca = Object {
        api_version: API_VERSION,
        kind: "Certificate",
        metadata: ObjectMeta {
            name: CA_SECRET.to_owned(),
            namespace: namespace.to_owned(),
            labels: labels_of_mesh(mesh),
            annotations: Labels::new(),
        },
        body: Spec {
            spec: CertificateSpec {
                secret_name: CA_SECRET.to_owned(),
                common_name: format!("{} mesh CA", mesh.name),
                is_ca: true,
                // A signing certificate has the trust domain's ID, without a path (X509-SVID, 3.2).
                uris: vec![format!("spiffe://{}", mesh.trust_domain)],
                dns_names: Vec::new(),
                duration: CA_DURATION,
                renew_before: CA_RENEW_BEFORE,
                usages: vec!["digital signature", "cert sign", "crl sign"],
                private_key: key("Never"),
                issuer_ref: reference(&self_signed),
            },
        },
    };
    let mut file = Documents::new(mesh);
    file.push(&issuer(&self_signed, IssuerSpec::SelfSigned {}))?;
    file.push(&ca)?;
    file.push(&issuer(&mesh.name, IssuerSpec::Ca { secret_name: CA_SECRET.to_owned() }))?;
    for service in &mesh.services {
        file.push(&certificate(mesh, service, reference(&mesh.name)))?;
    }
    Ok(file.text)
}

fn certificate(mesh: &Resolved, service: &Service, issuer_ref: IssuerRef) -> Object<Spec<CertificateSpec>> {
    let secret_name = format!("{}-mtls-cert", service.name);
    let spec = CertificateSpec {
        secret_name: secret_name.clone(),
        common_name: service.name.clone(),
        is_ca: false,
        // Exactly one: a verifier must refuse more (X509-SVID, 2).
        uris: vec![mesh.spiffe_id(service)],
        dns_names: vec![service.name.clone(), service.fqdn()],
        duration: LEAF_DURATION,
        renew_before: LEAF_RENEW_BEFORE,
        usages: vec!["digital signature", "server auth", "client auth"],
        private_key: key("Always"),
        issuer_ref,
    };
    named(mesh, service, API_VERSION, "Certificate", secret_name, Spec { spec })
}

/// A new key with every certificate, but not for the CA, whose renewal would else be a rotation of trust.
fn key(rotation_policy: &'static str) -> PrivateKey {
    PrivateKey { algorithm: "ECDSA", size: 256, rotation_policy }
}

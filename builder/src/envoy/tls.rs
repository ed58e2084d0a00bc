//! mTLS on both sides: certificates and trust by SDS, from files or from SPIRE's agent; identities by SPIFFE ID.
//!
//! Session resumption is off on both sides: a resumed session would not look at the certificate again, and so outlive
//! a trust bundle that no longer has its CA.

use serde::Serialize;

use super::agent;
use super::placement::Secrets;
use super::types::{
    Any, AnyValue, ConfigSource, DataSource, Extension, Resources, StringMatcher, WatchedDirectory,
};

/// Names of the secrets, and of the files that hold them.
pub const CERTIFICATE: &str = "certificate";
pub const TRUST: &str = "trust";
pub const CERTIFICATE_FILE: &str = "sds-certificate.yaml";
pub const TRUST_FILE: &str = "sds-trust.yaml";

#[derive(Serialize)]
struct DownstreamTlsContext {
    require_client_certificate: bool,
    disable_stateless_session_resumption: bool,
    disable_stateful_session_resumption: bool,
    common_tls_context: CommonTlsContext,
}

#[derive(Serialize)]
struct UpstreamTlsContext {
    sni: String,
    max_session_keys: u32,
    common_tls_context: CommonTlsContext,
}

#[derive(Serialize)]
struct CommonTlsContext {
    tls_params: TlsParameters,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alpn_protocols: Vec<&'static str>,
    tls_certificate_sds_secret_configs: Vec<SdsSecretConfig>,
    combined_validation_context: CombinedValidationContext,
}

/// TLS 1.3 wherever the other side has it, as among sidecars; 1.2 with Envoy's default suites for all else.
#[derive(Serialize)]
struct TlsParameters {
    tls_minimum_protocol_version: &'static str,
    tls_maximum_protocol_version: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SdsSecretConfig {
    File { name: &'static str, sds_config: ConfigSource },
    Agent(AnyValue),
}

impl Secrets {
    fn certificate(&self) -> SdsSecretConfig {
        match self {
            Self::Files { directory } => SdsSecretConfig::File {
                name: CERTIFICATE,
                sds_config: ConfigSource::file(directory, CERTIFICATE_FILE),
            },
            Self::Agent { certificate, .. } => SdsSecretConfig::Agent(agent::secret(certificate)),
        }
    }

    fn trust(&self) -> SdsSecretConfig {
        match self {
            Self::Files { directory } => {
                SdsSecretConfig::File { name: TRUST, sds_config: ConfigSource::file(directory, TRUST_FILE) }
            }
            Self::Agent { trust, .. } => SdsSecretConfig::Agent(agent::secret(trust)),
        }
    }
}

#[derive(Serialize)]
struct CombinedValidationContext {
    default_validation_context: ValidationContext,
    validation_context_sds_secret_config: SdsSecretConfig,
}

#[derive(Serialize)]
struct ValidationContext {
    match_typed_subject_alt_names: Vec<SanMatcher>,
}

#[derive(Serialize)]
struct SanMatcher {
    san_type: &'static str,
    matcher: StringMatcher,
}

/// Who may be on the other side.
pub enum Peers<'a> {
    /// Anyone of these trust domains.
    TrustDomains(Vec<&'a str>),
    /// This SPIFFE ID alone.
    Exactly(String),
}

impl Peers<'_> {
    fn matchers(self) -> Vec<SanMatcher> {
        let uri = |matcher| SanMatcher { san_type: "URI", matcher };
        match self {
            // The slash ends the trust domain: `books.example` must not let `books.example.evil` in.
            Self::TrustDomains(domains) => domains
                .iter()
                .map(|domain| uri(StringMatcher::Prefix(format!("spiffe://{domain}/"))))
                .collect(),
            Self::Exactly(id) => vec![uri(StringMatcher::Exact(id))],
        }
    }
}

fn common(secrets: &Secrets, peers: Peers<'_>, alpn: &[&'static str]) -> CommonTlsContext {
    CommonTlsContext {
        tls_params: TlsParameters {
            tls_minimum_protocol_version: "TLSv1_2",
            tls_maximum_protocol_version: "TLSv1_3",
        },
        alpn_protocols: alpn.to_vec(),
        tls_certificate_sds_secret_configs: vec![secrets.certificate()],
        combined_validation_context: CombinedValidationContext {
            default_validation_context: ValidationContext { match_typed_subject_alt_names: peers.matchers() },
            validation_context_sds_secret_config: secrets.trust(),
        },
    }
}

/// The server's side: a certificate of one of the trust domains is required.
pub fn downstream(secrets: &Secrets, peers: Peers<'_>, alpn: &[&'static str]) -> Extension {
    let context = DownstreamTlsContext {
        require_client_certificate: true,
        disable_stateless_session_resumption: true,
        disable_stateful_session_resumption: true,
        common_tls_context: common(secrets, peers, alpn),
    };
    Extension::new(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        context,
    )
}

/// The client's side: the callee's very identity is required.
pub fn upstream(secrets: &Secrets, sni: String, id: String) -> Extension {
    let context = UpstreamTlsContext {
        sni,
        max_session_keys: 0,
        common_tls_context: common(secrets, Peers::Exactly(id), &[]),
    };
    Extension::new(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        context,
    )
}

fn secret<T: Serialize>(secret: T) -> Resources {
    Resources {
        resources: vec![Any::new("envoy.extensions.transport_sockets.tls.v3.Secret", secret).erase()],
    }
}

/// The file of the own certificate and key.
pub fn certificate_file(certificates: &str) -> Resources {
    #[derive(Serialize)]
    struct Secret {
        name: &'static str,
        tls_certificate: TlsCertificate,
    }
    #[derive(Serialize)]
    struct TlsCertificate {
        certificate_chain: DataSource,
        private_key: DataSource,
        watched_directory: WatchedDirectory,
    }
    secret(Secret {
        name: CERTIFICATE,
        tls_certificate: TlsCertificate {
            certificate_chain: DataSource { filename: format!("{certificates}/tls.crt") },
            private_key: DataSource { filename: format!("{certificates}/tls.key") },
            watched_directory: WatchedDirectory { path: certificates.to_owned() },
        },
    })
}

/// How peers' certificates are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By the roots of the own trust domain.
    Roots,
    /// The same, and by the revocation list beside them. Leaves only: a CA is dropped by rotation, not by a list.
    RootsAndList,
    /// By the roots of each one's own trust domain (SPIFFE Trust Domain and Bundle, 4): what one of them signs is never
    /// good for an identity of another. Envoy's SPIFFE validator reads no revocation list.
    Federated,
}

impl Trust {
    pub fn of(mesh: &crate::mesh::Resolved) -> Self {
        if !mesh.federates_with.is_empty() {
            Self::Federated
        } else if mesh.revocation.crl {
            Self::RootsAndList
        } else {
            Self::Roots
        }
    }
}

/// The file of the trusted CAs.
pub fn trust_file(certificates: &str, trust: Trust) -> Resources {
    #[derive(Serialize)]
    struct Secret {
        name: &'static str,
        validation_context: Context,
    }
    #[derive(Serialize)]
    struct Context {
        #[serde(skip_serializing_if = "Option::is_none")]
        trusted_ca: Option<DataSource>,
        #[serde(skip_serializing_if = "Option::is_none")]
        crl: Option<DataSource>,
        #[serde(skip_serializing_if = "Option::is_none")]
        only_verify_leaf_cert_crl: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        custom_validator_config: Option<Extension>,
        watched_directory: WatchedDirectory,
    }
    #[derive(Serialize)]
    struct SpiffeValidator {
        trust_bundles: WatchedFile,
    }
    #[derive(Serialize)]
    struct WatchedFile {
        filename: String,
        watched_directory: WatchedDirectory,
    }
    let folder = || WatchedDirectory { path: certificates.to_owned() };
    let file = |name: &str| format!("{certificates}/{name}");
    let mut context = Context {
        trusted_ca: None,
        crl: None,
        only_verify_leaf_cert_crl: None,
        custom_validator_config: None,
        watched_directory: folder(),
    };
    if trust == Trust::Federated {
        let bundles = WatchedFile { filename: file("trust-bundles.json"), watched_directory: folder() };
        context.custom_validator_config = Some(Extension::new(
            "envoy.tls.cert_validator.spiffe",
            "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
            SpiffeValidator { trust_bundles: bundles },
        ));
    } else {
        context.trusted_ca = Some(DataSource { filename: file("ca.crt") });
    }
    if trust == Trust::RootsAndList {
        context.crl = Some(DataSource { filename: file("ca.crl") });
        context.only_verify_leaf_cert_crl = Some(true);
    }
    secret(Secret { name: TRUST, validation_context: context })
}

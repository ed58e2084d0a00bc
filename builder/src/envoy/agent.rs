//! Certificates from SPIRE's agent: its socket speaks Envoy's SDS, in the place of files.
//!
//! The SPIFFE IDs are the same `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, so that policies stay.

use serde_json::{Value, json};

use super::types::AnyValue;

/// The cluster that is the agent. No service can have this name: it has an underscore.
pub const CLUSTER: &str = "spire_agent";
/// The agent's name for the bundles of all trust domains that the workload federates with, and its own, in Envoy's SPIFFE
/// validator.
pub const ALL_BUNDLES: &str = "ALL";

/// A reference to a secret of the agent's.
pub fn secret(name: &str) -> AnyValue {
    let source: Value = json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": CLUSTER } }],
        },
    });
    json!({ "name": name, "sds_config": source })
}

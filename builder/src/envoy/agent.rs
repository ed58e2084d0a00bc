//! Certificates from SPIRE's agent: its socket speaks Envoy's SDS, in the place of files.
//!
//! The SPIFFE IDs are the same `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, so that policies stay.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cluster;
use super::types::{Address, AnyValue, Cluster, Pipe};

/// The cluster that is the agent. No service can have this name: it has an underscore.
pub const CLUSTER: &str = "spire_agent";
/// The agent's name for the bundles of all trust domains that the workload federates with, and its own, in Envoy's SPIFFE
/// validator.
pub const ALL_BUNDLES: &str = "ALL";

/// The agent at its socket. gRPC, so HTTP/2.
pub fn cluster(socket: &str) -> Cluster {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut cluster = cluster::at(CLUSTER, Some(Address::Pipe(Pipe { path: socket.to_owned() })));
    let options = json!({
        "@type": format!("type.googleapis.com/{OPTIONS}"),
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    cluster.typed_extension_protocol_options = BTreeMap::from([(OPTIONS, options)]);
    cluster
}

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

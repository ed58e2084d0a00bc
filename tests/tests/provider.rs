//! The pieces for SPIRE are what Envoy understands.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::process::Command;

use meshward_builder::pki::provider;
use meshward_tests::tools;
use serde_json::json;

#[test]
fn envoy_takes_certificates_from_spires_agent() {
    for federated in [false, true] {
        let bootstrap = json!({
            "node": { "id": "test", "cluster": "test" },
            "static_resources": {
                "clusters": [provider::spire_cluster(provider::SPIRE_SOCKET)],
                "listeners": [{
                    "name": "inbound",
                    "address": { "socket_address": { "address": "127.0.0.1", "port_value": 15001 } },
                    "filter_chains": [{
                        "filters": [{
                            "name": "envoy.filters.network.tcp_proxy",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                                "stat_prefix": "inbound",
                                "cluster": provider::SPIRE_CLUSTER,
                            },
                        }],
                        "transport_socket": {
                            "name": "envoy.transport_sockets.tls",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                                "require_client_certificate": true,
                                "common_tls_context": {
                                    "tls_certificate_sds_secret_configs": [
                                        provider::spire_certificate("spiffe://test.example/ns/default/sa/callee"),
                                    ],
                                    "validation_context_sds_secret_config":
                                        provider::spire_trust("test.example", federated),
                                },
                            },
                        },
                    }],
                }],
            },
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy.json");
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let output = Command::new(tools::envoy().unwrap())
            .args(["--mode", "validate", "--use-dynamic-base-id", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "federated {federated}: {said}");
    }
}

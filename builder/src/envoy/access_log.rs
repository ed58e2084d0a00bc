//! One JSON line for every request and connection, on standard output: who, what, and which rule decided.
//!
//! The path is written without its query, which may hold what no log should.

use serde::Serialize;
use serde_json::{Map, Value};

use super::filter::NAME;
use super::types::Extension;

#[derive(Serialize)]
struct StdoutAccessLog {
    log_format: LogFormat,
}

#[derive(Serialize)]
struct LogFormat {
    json_format: Map<String, Value>,
}

fn to_stdout(listener: &str, fields: &[(&str, &str)]) -> Vec<Extension> {
    let mut format = Map::new();
    format.insert("listener".to_owned(), listener.into());
    format.extend(fields.iter().map(|(name, operator)| ((*name).to_owned(), (*operator).into())));
    format.insert("decision".to_owned(), format!("%FILTER_STATE(wasm.{NAME}:PLAIN)%").into());
    vec![Extension::new(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        StdoutAccessLog { log_format: LogFormat { json_format: format } },
    )]
}

/// For a listener that speaks HTTP.
pub fn http(listener: &str) -> Vec<Extension> {
    to_stdout(
        listener,
        &[
            ("time", "%START_TIME%"),
            ("method", "%REQ(:METHOD)%"),
            ("authority", "%REQ(:AUTHORITY)%"),
            ("path", "%PATH(NQ:ORIG_OR_PATH)%"),
            ("protocol", "%PROTOCOL%"),
            ("status", "%RESPONSE_CODE%"),
            ("details", "%RESPONSE_CODE_DETAILS%"),
            ("flags", "%RESPONSE_FLAGS%"),
            ("duration_ms", "%DURATION%"),
            ("bytes_received", "%BYTES_RECEIVED%"),
            ("bytes_sent", "%BYTES_SENT%"),
            ("peer", "%DOWNSTREAM_PEER_URI_SAN%"),
            ("peer_address", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"),
            ("upstream", "%UPSTREAM_CLUSTER%"),
            ("upstream_address", "%UPSTREAM_HOST%"),
            ("request_id", "%REQ(X-REQUEST-ID)%"),
        ],
    )
}

/// For a listener that passes bytes on.
pub fn tcp(listener: &str) -> Vec<Extension> {
    to_stdout(
        listener,
        &[
            ("time", "%START_TIME%"),
            ("details", "%CONNECTION_TERMINATION_DETAILS%"),
            ("flags", "%RESPONSE_FLAGS%"),
            ("duration_ms", "%DURATION%"),
            ("bytes_received", "%BYTES_RECEIVED%"),
            ("bytes_sent", "%BYTES_SENT%"),
            ("peer", "%DOWNSTREAM_PEER_URI_SAN%"),
            ("peer_address", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"),
            ("upstream", "%UPSTREAM_CLUSTER%"),
            ("upstream_address", "%UPSTREAM_HOST%"),
            ("tls_failure", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"),
        ],
    )
}

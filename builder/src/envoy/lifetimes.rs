//! How long what was opened may stay open: Envoy never looks at a certificate again, so that this bounds how long an
//! identity lives on whose root was dropped, or which only a revocation list refuses.

use std::time::Duration;

use crate::mesh::Resolved;
use crate::native::Period;

/// Of an HTTP connection, when mesh.yaml says nothing.
const CONNECTION: Duration = Duration::from_secs(3600);
/// Of a stream and of a TCP connection then: as long as a certificate lives.
const DAY: Duration = Duration::from_secs(86_400);

/// The bounds of one mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// An HTTP connection, at the callee. Then it drains, without a lost request, and waits for its streams.
    pub connection: Duration,
    /// The same at the caller: a little shorter, so that it is the caller that ends the connection, and no request meets a
    /// closing one.
    pub upstream: Duration,
    /// A stream (gRPC, WebSocket), which its connection waits for.
    pub stream: Duration,
    pub tcp: Duration,
}

impl Lifetimes {
    /// What mesh.yaml says is for both together: a stream may have begun at its connection's end.
    pub fn of(mesh: &Resolved) -> Self {
        let all = mesh.certificates.max_connection_duration.map(|Period(all)| all);
        let connection = all.map_or(CONNECTION, |all| CONNECTION.min(all / 2));
        Self {
            connection,
            upstream: connection * 11 / 12,
            stream: all.map_or(DAY, |all| all - connection),
            tcp: all.unwrap_or(DAY),
        }
    }
}

/// As protobuf's JSON has it.
pub fn in_seconds(duration: Duration) -> String {
    Period(duration).to_envoy()
}

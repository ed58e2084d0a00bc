//! Answering a request here.

use alloc::vec::Vec;

use super::{HostError, abi, check};

/// An answer in place of the upstream's.
#[derive(Clone, Copy, Debug)]
pub struct LocalResponse<'a> {
    /// HTTP status.
    pub status: u16,
    /// What a gRPC caller gets; `None`: what Envoy maps the status to (403: PERMISSION_DENIED, 503: UNAVAILABLE).
    pub grpc_status: Option<u8>,
    /// `%RESPONSE_CODE_DETAILS%` of the access log; never sent to the client.
    pub details: &'a str,
    pub body: &'a [u8],
    /// Names in lower case. Envoy adds `content-type: text/plain` when none is here and there is a body.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Sends it. The callback must return `Action::Pause` afterwards.
///
/// # Errors
/// The host cannot answer this request any more.
pub fn send_local_response(response: &LocalResponse<'_>) -> Result<(), HostError> {
    /// Envoy chooses the gRPC status.
    const NO_GRPC_STATUS: i32 = -1;
    check(abi::send_local_response(
        u32::from(response.status),
        response.details.as_bytes(),
        response.body,
        &serialize(response.headers).unwrap_or_default(),
        response.grpc_status.map_or(NO_GRPC_STATUS, i32::from),
    ))
}

/// The ABI's layout (see [`super::HeaderMap`]); nothing for headers that do not fit 32-bit lengths.
fn serialize(headers: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(headers.len()).ok()?.to_le_bytes());
    for (name, value) in headers {
        bytes.extend(u32::try_from(name.len()).ok()?.to_le_bytes());
        bytes.extend(u32::try_from(value.len()).ok()?.to_le_bytes());
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    Some(bytes)
}

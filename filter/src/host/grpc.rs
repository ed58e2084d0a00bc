//! Calls to other services, and the streams that wait for them.

use meshward_engine::rls;

use super::{HostBytes, HostError, abi, check};

/// `GrpcReceiveBuffer` in the ABI's list of buffers.
const RECEIVED: u32 = 5;
/// `Request` and `Downstream` in the ABI's list of streams.
const REQUEST: u32 = 0;
const DOWNSTREAM: u32 = 2;

/// Asks the rate limit service behind a cluster; `proxy_on_grpc_receive` or `proxy_on_grpc_close` of the context `root` gets
/// the token that this returns. Not of the current context: that may end before the answer is there.
///
/// # Errors
/// The call cannot be made: there is no such cluster, or none of its hosts is there.
pub fn grpc_call(root: u32, cluster: &str, message: &[u8], milliseconds: u32) -> Result<u32, HostError> {
    let mut token = 0;
    check(abi::set_effective_context(root))?;
    let service = rls::grpc_service(cluster);
    check(abi::grpc_call(
        &service,
        rls::SERVICE.as_bytes(),
        rls::METHOD.as_bytes(),
        message,
        milliseconds,
        &mut token,
    ))?;
    Ok(token)
}

/// The answer to a call; only during `proxy_on_grpc_receive`.
///
/// # Errors
/// The host has none to give.
pub fn received(size: usize) -> Result<HostBytes, HostError> {
    let mut bytes = HostBytes::default();
    check(abi::buffer(RECEIVED, size, &mut bytes))?;
    Ok(bytes)
}

/// Has the calls to the host that follow be for another context.
///
/// # Errors
/// It is gone.
pub fn become_context(id: u32) -> Result<(), HostError> {
    check(abi::set_effective_context(id))
}

/// Lets the current request, or the current connection's bytes, go on. That it cannot is the end of it anyway.
pub fn go_on(is_http: bool) {
    let _ = abi::continue_stream(if is_http { REQUEST } else { DOWNSTREAM });
}

//! Ending a connection.

use super::{HostError, abi, check};

/// `Downstream` in the ABI's list of streams.
const DOWNSTREAM: u32 = 2;

/// Closes the caller's connection at once. Only in a TCP callback.
///
/// # Errors
/// There is no connection to close any more.
pub fn close_downstream() -> Result<(), HostError> {
    check(abi::close_stream(DOWNSTREAM))
}

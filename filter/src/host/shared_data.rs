//! Data that the workers share: small values under names that come from this crate alone. Envoy never forgets a name,
//! so none may be made from what a caller sends.

use super::{HostBytes, HostError, abi, check};

/// Reads `name`: the value, and the number that it has until someone else writes. `None` when it was never written.
/// 0.76 µs.
///
/// # Errors
/// The host has no shared data.
pub fn read(name: &str) -> Result<Option<(HostBytes, u32)>, HostError> {
    let mut value = HostBytes::default();
    let mut number = 0;
    match check(abi::shared_data(name.as_bytes(), &mut value, &mut number)) {
        Ok(()) => Ok(Some((value, number))),
        Err(HostError::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `name` if it still has the number `seen`. 0.15 µs.
///
/// # Errors
/// Someone else wrote in between (`CasMismatch`).
pub fn replace(name: &str, value: &[u8], seen: u32) -> Result<(), HostError> {
    check(abi::set_shared_data(name.as_bytes(), value, seen))
}

/// Writes `name` whatever it is.
///
/// # Errors
/// The host has no shared data.
pub fn write(name: &str, value: &[u8]) -> Result<(), HostError> {
    // 0 is the ABI's "whatever is there"; Envoy gives no value this number.
    check(abi::set_shared_data(name.as_bytes(), value, 0))
}

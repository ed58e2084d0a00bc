//! Envoy's attributes (`connection.mtls`, `source.address`, …) and the filter state that we write.

use super::{HostBytes, HostError, abi, check};

/// The value of an attribute, its path written with NUL between the parts (`"source\0address"`); `None` when it is
/// absent. Text is raw, a number 8 bytes little-endian, a truth value one byte.
///
/// # Errors
/// The host cannot say what it is.
pub fn property(path: &str) -> Result<Option<HostBytes>, HostError> {
    let mut bytes = HostBytes::default();
    match check(abi::property(path.as_bytes(), &mut bytes)) {
        Ok(()) => Ok(Some(bytes)),
        Err(HostError::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets filter state `wasm.<name>` of this request or connection, for filters behind this one and the access log.
///
/// # Errors
/// The host refuses it.
pub fn set_property(name: &str, value: &[u8]) -> Result<(), HostError> {
    check(abi::set_property(name.as_bytes(), value))
}

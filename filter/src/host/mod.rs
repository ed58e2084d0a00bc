//! Every call to the host. Envoy's answer becomes a `Result`; nothing here panics, whatever Envoy answers.
//!
//! The SDK (the crate `proxy-wasm`) has these calls too, and panics in each one on a status that it does not expect, or
//! on a header that is not UTF-8: a caller who can cause that takes the worker's VM down. It also passes no response
//! code details.
//!
//! What a call costs on Envoy 1.40: about 1 µs when it returns bytes (Envoy calls back into the VM to have memory
//! for them), a tenth of that when it does not.

mod abi;
mod buffer;
mod grpc;
mod headers;
mod metric;
mod property;
mod response;
pub mod shared_data;
mod stream;

pub use buffer::{HostBytes, plugin_configuration};
pub use grpc::{become_context, go_on, grpc_call, received};
pub use headers::{
    HeaderMap, add_response_header, list, request_header, request_headers, response_header, response_trailer,
};
pub use metric::{Counter, Gauge, define_counter, define_gauge, increment, record};
pub use property::{property, set_property};
pub use response::{LocalResponse, send_local_response};
pub use stream::close_downstream;

use core::time::Duration;

/// A status of proxy-wasm other than success, as the host gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(pub u32);

impl HostError {
    /// `NotFound`: there is no such thing.
    pub const NOT_FOUND: Self = Self(1);
}

/// `Ok` or the status.
fn check(status: u32) -> Result<(), HostError> {
    if status == 0 { Ok(()) } else { Err(HostError(status)) }
}

/// Severity of a log line, with the ABI's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    Info = 2,
    Error = 4,
}

/// Writes a line to Envoy's log, which drops it when `wasm` logs at a higher level. That it cannot be written is
/// nobody's to know.
pub fn log(level: Level, line: &str) {
    let _ = abi::log(level as u32, line.as_bytes());
}

/// The time since 1970. 100 ns.
pub fn now() -> Result<Duration, HostError> {
    let mut nanoseconds = 0;
    check(abi::current_time(&mut nanoseconds))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// Nanoseconds of a clock that never goes back, the same for all workers; its zero does not matter. 100 ns.
///
/// # Errors
/// The host has no such clock.
pub fn monotonic() -> Result<u64, HostError> {
    /// `CLOCK_MONOTONIC` of WASI preview 1.
    const MONOTONIC: u32 = 1;
    let mut nanoseconds = 0;
    check(abi::clock(MONOTONIC, &mut nanoseconds))?;
    Ok(nanoseconds)
}

/// Random numbers that nobody can guess.
///
/// # Errors
/// The host has none.
pub fn random() -> Result<[u64; 2], HostError> {
    let mut bytes = [0; 16];
    check(abi::random(&mut bytes))?;
    let number = u128::from_le_bytes(bytes);
    Ok([number as u64, (number >> 64) as u64])
}

/// Has `on_tick` of this root context called so often.
///
/// # Errors
/// The host refuses it.
pub fn set_tick_period(period: Duration) -> Result<(), HostError> {
    check(abi::set_tick_period(u32::try_from(period.as_millis()).unwrap_or(u32::MAX)))
}

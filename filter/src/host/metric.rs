//! Counters in Envoy's statistics. Their names are made in `metrics.rs` alone.

use super::{HostError, abi, check};

/// A counter that Envoy knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u32);

/// `Counter` in the ABI's list of metrics.
const COUNTER: u32 = 0;

/// Makes a counter, or finds the one with this name: names are the process's, not the VM's. A name is never freed.
///
/// # Errors
/// The host refuses it.
pub fn define_counter(name: &str) -> Result<Counter, HostError> {
    let mut id = 0;
    check(abi::define_metric(COUNTER, name.as_bytes(), &mut id))?;
    Ok(Counter(id))
}

/// A gauge that Envoy knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(u32);

/// `Gauge` in the ABI's list of metrics.
const GAUGE: u32 = 1;

/// Makes a gauge, or finds the one with this name, as [`define_counter`].
///
/// # Errors
/// The host refuses it.
pub fn define_gauge(name: &str) -> Result<Gauge, HostError> {
    let mut id = 0;
    check(abi::define_metric(GAUGE, name.as_bytes(), &mut id))?;
    Ok(Gauge(id))
}

/// Sets a gauge. That it cannot be set must not cost a request.
pub fn record(gauge: Gauge, value: u64) {
    let _ = abi::record_metric(gauge.0, value);
}

/// Moves a gauge. That it cannot be moved must not cost a request.
pub fn add(gauge: Gauge, by: i64) {
    let _ = abi::increment_metric(gauge.0, by);
}

/// Counts one. A counter that cannot be counted must not cost a request, so there is no error.
pub fn increment(counter: Counter) {
    let _ = abi::increment_metric(counter.0, 1);
}

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

/// Counts one. A counter that cannot be counted must not cost a request, so there is no error.
pub fn increment(counter: Counter) {
    let _ = abi::increment_metric(counter.0, 1);
}

//! Counters in Envoy's statistics. Their names are made in `metrics.rs` alone.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::{HostError, abi, check};
use crate::vm::PerVm;

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
    define(COUNTER, name).map(Counter)
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
    define(GAUGE, name).map(Gauge)
}

/// What this VM has defined, by name. Envoy 1.40 remembers every call under a number of its own, also for a name that is
/// there already: each would cost memory for as long as the VM lives, and some come with every request.
static DEFINED: PerVm<Vec<(String, u32)>> = PerVm::new(Vec::new());

#[inline(never)]
fn define(kind: u32, name: &str) -> Result<u32, HostError> {
    let define = |defined: &mut Vec<(String, u32)>| match defined
        .binary_search_by(|(known, _)| known.as_str().cmp(name))
    {
        Ok(at) => Ok(defined.get(at).map_or(0, |(_, id)| *id)),
        Err(at) => {
            let mut id = 0;
            check(abi::define_metric(kind, name.as_bytes(), &mut id))?;
            defined.insert(at, (name.to_owned(), id));
            Ok(id)
        }
    };
    DEFINED.with(define).unwrap_or(Err(HostError::NOT_FOUND))
}

/// Sets a gauge. That it cannot be set must not cost a request.
pub fn record(gauge: Gauge, value: u64) {
    let _ = abi::record_metric(gauge.0, value);
}

/// Counts one. A counter that cannot be counted must not cost a request, so there is no error.
pub fn increment(counter: Counter) {
    let _ = abi::increment_metric(counter.0, 1);
}

//! The words that all workers share, in Envoy's shared data.
//!
//! INVARIANT: all names are written in [`prepare`], while a configuration is taken. Envoy gives the first write of a
//! name no version to compare, so of two workers that created one the second would undo the first. The main thread
//! takes a configuration before any worker does, and finds what an earlier configuration, or an earlier VM, has left:
//! a reload is no fresh burst.

use alloc::vec::Vec;

use meshward_engine::limits::Seed;
use meshward_engine::limits::config::LimitsConfig;
use meshward_engine::shared_words::{Conflict, Region, SharedWords, Slot};

use crate::host::{self, HostError, shared_data};

/// Shared data as words under compare-and-swap.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl SharedWords for Host {
    fn load(&self, slot: Slot) -> Option<(Vec<u8>, u32)> {
        let (value, number) = shared_data::read(slot.name().as_str()).ok()??;
        Some((value.into_vec(), number))
    }

    fn replace(&self, slot: Slot, version: u32, word: &[u8]) -> Result<(), Conflict> {
        shared_data::replace(slot.name().as_str(), word, version).map_err(|_| Conflict)
    }
}

/// Creates what these limits need and is not there yet, and gives the seed of the hashes.
pub fn prepare(limits: &LimitsConfig) -> Result<Seed, HostError> {
    let regions = [
        (Region::RateLimit, !limits.rates.is_empty()),
        (Region::Lease, limits.service.is_some()),
        (Region::Breaker, !limits.breakers.is_empty()),
        (Region::InFlight, !limits.concurrency.is_empty()),
        (Region::Members, !limits.concurrency.is_empty()),
    ];
    for (region, _) in regions.into_iter().filter(|(_, needed)| *needed) {
        // The last one first: if it is there, all are.
        let mut slots: Vec<Slot> = Slot::all(region).collect();
        if let Some(last) = slots.pop()
            && shared_data::read(last.name().as_str())?.is_none()
        {
            for slot in slots.into_iter().chain([last]) {
                shared_data::write(slot.name().as_str(), &[])?;
            }
        }
    }
    seed()
}

fn seed() -> Result<Seed, HostError> {
    let name = Slot::of(Region::Seed, 0).name();
    if let Some((value, _)) = shared_data::read(name.as_str())?
        && let Ok(bytes) = <[u8; 16]>::try_from(&*value)
    {
        let number = u128::from_le_bytes(bytes);
        return Ok(Seed([number as u64, (number >> 64) as u64]));
    }
    let [first, second] = host::random()?;
    shared_data::write(name.as_str(), &[first.to_le_bytes(), second.to_le_bytes()].concat())?;
    Ok(Seed([first, second]))
}

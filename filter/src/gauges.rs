//! How many breakers are open and half open, as gauges, also of those that nobody asks any more.
//!
//! A gauge that went up and down with every change would stay up for a breaker that a configuration dropped, or that was
//! forgotten, while it was open. So it is always set to what the shared words say: when a breaker changes, when a
//! configuration is taken, and at every tick. Each VM shows what it has seen change; a gauge is the process's, and whoever
//! sets it sets the same.

use alloc::string::String;
use alloc::vec::Vec;

use meshward_engine::circuit_breaker::{self, State};
use meshward_engine::config::Role;

use crate::host::{self, Gauge};
use crate::shared::Host;
use crate::vm::PerVm;

/// Between two ticks the words are read at most so often: half a millisecond each time.
const BUDGET: u32 = 32;

static SHOWN: PerVm<Shown> =
    PerVm::new(Shown { known: Vec::new(), bases: [Vec::new(), Vec::new()], left: BUDGET });

struct Shown {
    /// As many as there are breakers and destinations in the configurations that this VM has had.
    known: Vec<Known>,
    /// The breakers of the configurations in force, by role, see [`meshward_engine::limits::Limits::breaker_bases`].
    bases: [Vec<u32>; 2],
    left: u32,
}

/// What has a gauge for each state: open, half open.
struct Known {
    label: u32,
    role: Role,
    base: u32,
    gauges: [Gauge; 2],
    counts: [u64; 2],
}

/// A configuration is in force: what it has not is counted no more.
pub fn configured(role: Role, bases: &[u32]) {
    SHOWN.with(|shown| {
        if let Some(own) = shown.bases.get_mut(role as usize) {
            *own = bases.to_vec();
        }
        shown.refresh();
    });
}

/// Once in a while.
pub fn tick() {
    SHOWN.with(|shown| {
        shown.left = BUDGET;
        shown.refresh();
    });
}

/// A breaker with that label has changed. `name`: of its gauges.
pub fn changed(role: Role, base: u32, label: u32, name: &dyn Fn(State) -> String) {
    SHOWN.with(|shown| {
        if !shown.known.iter().any(|known| known.label == label) {
            let gauge = |state| host::define_gauge(&name(state));
            let (Ok(open), Ok(half_open)) = (gauge(State::Open), gauge(State::HalfOpen)) else { return };
            shown.known.push(Known { label, role, base, gauges: [open, half_open], counts: [0, 0] });
        }
        if shown.left > 0 {
            shown.left -= 1;
            shown.refresh();
        }
    });
}

impl Shown {
    #[inline(never)]
    fn refresh(&mut self) {
        let Ok(now) = host::monotonic() else { return };
        if self.known.is_empty() {
            return;
        }
        for known in &mut self.known {
            known.counts = [0, 0];
        }
        circuit_breaker::census(&Host, now, |label, state| {
            for known in self.known.iter_mut().filter(|known| known.label == label) {
                let own = self.bases.get(known.role as usize);
                if own.is_some_and(|bases| bases.contains(&known.base)) {
                    let [open, half_open] = &mut known.counts;
                    *(if state == State::Open { open } else { half_open }) += 1;
                }
            }
        });
        // Of two with one name (the key of a breaker has changed) the later is the one that counts.
        for known in &self.known {
            let ([open, half_open], [opened, half_opened]) = (known.gauges, known.counts);
            host::record(open, opened);
            host::record(half_open, half_opened);
        }
    }
}

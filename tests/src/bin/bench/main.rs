//! What a policy costs a sidecar: CPU of the callee's Envoy per request, native filters and ours side by side.
//!
//! `cargo run --release -p meshward-tests --bin bench [-- ROUNDS [REQUESTS]]`. Two real Envoys: load → client sidecar → mTLS →
//! server sidecar → application (an answer of the client's Envoy, so that the server's CPU is one hop). Every case is a
//! listener of the one server process; each round visits all of them in another order. CPU is the time that all threads
//! of the server ran (`/proc/<pid>/task/*/schedstat`), so this needs Linux. Differences under 4 µs between two filters mean
//! little: one listener differs from another by as much.
#![allow(clippy::print_stdout, reason = "a benchmark's table is its output")]

mod cases;
mod load;
mod rig;

use std::collections::BTreeMap;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(15), |text| text.parse()).context("ROUNDS is a number")?;
    let requests: usize =
        arguments.next().map_or(Ok(1000), |text| text.parse()).context("REQUESTS is a number")?;
    let folder = tempfile::tempdir()?;
    let cases = cases::all(folder.path())?;
    let rig = rig::Rig::start(folder.path(), &cases)?;
    let mut measured: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut order: Vec<usize> = (0..cases.len()).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..=rounds {
        shuffle(&mut order, &mut seed);
        for case in &order {
            // What costs milliseconds a request needs fewer of them.
            let requests =
                if cases.get(*case).is_some_and(|case| case.slow) { requests / 5 } else { requests };
            let cpu = rig.visit(*case, requests).with_context(|| format!("case {case}"))?;
            // The first round warms up.
            if round > 0 {
                measured.entry(*case).or_default().push(cpu);
            }
        }
    }
    let medians: Vec<f64> = measured.values_mut().map(|values| quantile(values, 0.5)).collect();
    let none = medians.first().copied().unwrap_or(0.0);
    println!("| case | CPU µs per request (median of {rounds}) | p25 | over none |\n|---|---|---|---|");
    for (number, case) in cases.iter().enumerate() {
        let Some(values) = measured.get_mut(&number) else { continue };
        let (median, low) = (quantile(values, 0.5), quantile(values, 0.25));
        println!("| {} | {median:.1} | {low:.1} | {:+.1} |", case.name, median - none);
    }
    Ok(())
}

/// Fisher and Yates, with numbers of an xorshift generator: the same order in every run.
fn shuffle(order: &mut [usize], seed: &mut u64) {
    for end in (1..order.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        let other = usize::try_from(*seed % (end as u64 + 1)).unwrap_or(0);
        order.swap(end, other);
    }
}

fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position in a short list")]
    let place = ((values.len() as f64 - 1.0) * at).round() as usize;
    values.get(place).copied().unwrap_or(0.0)
}

//! What a decision costs: `cargo bench -p meshward-engine [-- NUMBER]`, of that many policies alone.
//!
//! Beside other engines, with the same policies: `benches/peers`.
#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

mod workload;

use std::hint::black_box;
use std::time::{Duration, Instant};

use meshward_engine::config::PluginConfig;
use meshward_engine::policy::Policy;
use workload::{Kind, calls, config};

/// Calls that are timed together, so that reading the clock does not count.
const BATCH: usize = 16;

fn main() {
    println!(
        "kind   policies  median ns   p99 ns  allowed  wire bytes  bytes/policy  decode ms  compile ms  explain us"
    );
    let only: Option<usize> = std::env::args().skip(1).find_map(|word| word.parse().ok());
    for kind in [Kind::Exact, Kind::Mixed] {
        for policies in
            [1, 100, 1_000, 10_000].into_iter().filter(|number| only.is_none_or(|only| only == *number))
        {
            measure(kind, policies);
        }
    }
}

fn measure(kind: Kind, policies: usize) {
    let bytes = config(kind, policies).encode().unwrap();
    let start = Instant::now();
    let decoded = PluginConfig::decode(&bytes).unwrap();
    let decode = start.elapsed();
    let start = Instant::now();
    let policy = Policy::compile(&decoded).unwrap();
    let compile = start.elapsed();
    drop(decoded);

    let calls = calls(kind, policies, 16 * 1024);
    let requests: Vec<_> = calls.iter().map(workload::Call::request).collect();
    let allowed = requests.iter().filter(|request| policy.decide(request).is_allowed()).count();
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        for batch in requests.chunks(BATCH) {
            let start = Instant::now();
            for request in batch {
                black_box(policy.decide(black_box(request)));
            }
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    // What a sidecar does for a line of its log; none is written for what is allowed.
    let denied = requests.iter().filter(|request| !policy.decide(request).is_allowed()).take(200);
    let (mut explained, start) = (0, Instant::now());
    for request in denied {
        black_box(policy.explain(black_box(request)));
        explained += 1;
    }
    let explain = start.elapsed().as_secs_f64() * 1e6 / f64::from(explained.max(1));
    let nanoseconds = |at: usize| times[at].as_nanos() as f64 / BATCH as f64;
    println!(
        "{:<6} {policies:>8} {:>10.0} {:>8.0} {:>7.0}% {:>11} {:>13.1} {:>10.1} {:>11.1} {explain:>11.1}",
        format!("{kind:?}").to_lowercase(),
        nanoseconds(times.len() / 2),
        nanoseconds(times.len() * 99 / 100),
        allowed as f64 / requests.len() as f64 * 100.0,
        bytes.len(),
        bytes.len() as f64 / policies as f64,
        decode.as_secs_f64() * 1e3,
        compile.as_secs_f64() * 1e3,
    );
}

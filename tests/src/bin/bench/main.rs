//! What a policy costs a sidecar: CPU of the callee's Envoy per request, native filters and ours side by side; and what
//! it takes to load ten thousand.
//!
//! `cargo run --release -p meshward-tests --bin bench [-- PART.. --rounds N --requests N --only TEXT --module FILE]`; the parts
//! are `authorization`, `limits`, `breakers` and `loading`, and without one it is all of them. Two real Envoys: load → client
//! sidecar → mTLS → server sidecar → application (an answer of the client's Envoy, so that the server's CPU is one hop). Every
//! case is a listener of the one server process; each round visits all of them in another order. CPU is the time that all
//! threads of the server ran (`/proc/<pid>/task/*/schedstat`), so this needs Linux. Differences under 4 µs between two filters
//! mean little: one listener differs from another by as much.
#![allow(clippy::print_stdout, reason = "a benchmark's table is its output")]

mod cases;
mod load;
mod loading;
mod rig;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use self::cases::{Case, Modules, Part};
use self::rig::Rig;

/// What the command line asks for.
struct Options {
    /// None: all, and loading.
    parts: Vec<Part>,
    loading: bool,
    rounds: usize,
    /// Requests of a visit.
    requests: usize,
    /// Only cases with one of these in their names; none: all.
    only: Vec<String>,
    /// Modules to compare ours with.
    modules: Vec<PathBuf>,
}

impl Options {
    fn parse() -> anyhow::Result<Self> {
        let mut options = Self {
            parts: Vec::new(),
            loading: false,
            rounds: 15,
            requests: 1000,
            only: Vec::new(),
            modules: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("`{argument}` wants a value"));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse().context("`--rounds` is a number")?,
                "--requests" => options.requests = value()?.parse().context("`--requests` is a number")?,
                "--only" => options.only.push(value()?),
                "--module" => options.modules.push(PathBuf::from(value()?).canonicalize()?),
                "loading" => options.loading = true,
                other => match Part::ALL.into_iter().find(|part| part.name() == other) {
                    Some(part) => options.parts.push(part),
                    None => bail!(
                        "there is no `{other}`: authorization, limits, breakers, loading, --rounds N, --requests N, \
                         --only TEXT, --module FILE"
                    ),
                },
            }
        }
        if options.parts.is_empty() && !options.loading {
            (options.parts, options.loading) = (Part::ALL.to_vec(), true);
        }
        Ok(options)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse()?;
    let folder = tempfile::tempdir()?;
    let modules = Modules::prepare(folder.path(), options.modules.clone())?;
    for part in &options.parts {
        println!("\n{}\n", part.name());
        measure(*part, &options, &modules, folder.path())?;
    }
    if options.loading {
        println!("\nloading\n");
        loading::measure(&modules, folder.path())?;
    }
    Ok(())
}

fn measure(part: Part, options: &Options, modules: &Modules, folder: &Path) -> anyhow::Result<()> {
    let mut cases = part.cases(modules)?;
    let is_wanted =
        |case: &Case| options.only.is_empty() || options.only.iter().any(|text| case.name.contains(text));
    // What all are compared with is always there.
    cases.retain(|case| case.filters.is_empty() || is_wanted(case));
    let rig = Rig::start(folder, &cases)?;
    let mut measured: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let mut order: Vec<usize> = (0..cases.len()).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..=options.rounds {
        shuffle(&mut order, &mut seed);
        for number in &order {
            let (Some(case), Some(measured)) = (cases.get(*number), measured.get_mut(*number)) else {
                continue;
            };
            let requests = if case.slow { options.requests / 5 } else { options.requests };
            let cpu = rig.visit(*number, requests).with_context(|| case.name.clone())?;
            // The first round warms up.
            if round > 0 {
                measured.push(cpu);
            }
        }
    }
    print(&cases, &measured);
    Ok(())
}

/// The table, in Markdown. Differences are of visits in the same round, so that what slows a whole round down does not
/// count, from the first case on the same side of a connection.
fn print(cases: &[Case], measured: &[Vec<f64>]) {
    println!(
        "| case | CPU µs per request, median of {} | p25 | over no filter |",
        measured.first().map_or(0, Vec::len)
    );
    println!("|---|---|---|---|");
    for (case, values) in cases.iter().zip(measured) {
        let none = cases.iter().zip(measured).find(|(first, _)| first.plain == case.plain);
        let none = none.map_or(&[][..], |(_, values)| values);
        let over = values.iter().zip(none).map(|(value, none)| value - none).collect();
        let (median, low, over) =
            (quantile(values.clone(), 0.5), quantile(values.clone(), 0.25), quantile(over, 0.5));
        println!("| {} | {median:.1} | {low:.1} | {over:+.1} |", case.name);
    }
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

fn quantile(mut values: Vec<f64>, at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position in a short list")]
    let place = ((values.len() as f64 - 1.0) * at).round() as usize;
    values.get(place).copied().unwrap_or(0.0)
}

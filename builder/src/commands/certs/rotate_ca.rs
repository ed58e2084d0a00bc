//! `meshward certs rotate-ca`: another root under a mesh that runs, one safe phase at a time.

use time::Duration;

use super::common::{self, Dir, PassphraseFile};
use super::report::{self, Format};
use crate::console::{Console, Exit};
use crate::diagnostic::Failure;
use crate::pki::authority::Phase;
use crate::pki::error::stamp;
use crate::pki::ledger::Ledger;
use crate::pki::rotate::{self, Direction, Rotation};

/// Moves the rotation of the CA on by one phase. Run it three times, with the mesh's files delivered in between.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Phases: stable --(a new root enters every bundle)--> adding --(it issues)--> switched --(the old root \
    goes)--> stable.\nA phase is not begun before the last one has settled (--settle), and the old root does not go while \
    a leaf of it lives. Stopped anywhere, even killed, the same command takes it up again.\n\n\
    Examples:\n  meshward certs rotate-ca --status\n  meshward certs rotate-ca\n  \
    meshward certs rotate-ca -o kubernetes | kubectl apply -f -\n  meshward certs rotate-ca --abort   # one phase back"
)]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    passphrase: PassphraseFile,
    /// Only tell where the rotation stands
    #[arg(long, conflicts_with = "abort")]
    status: bool,
    /// One phase back
    #[arg(long)]
    abort: bool,
    /// How long every pod is given to see what the last phase changed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = common::duration)]
    settle: Duration,
    /// How to print what changed
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if args.status {
        return status(args, console);
    }
    let mut store = args.dir.open(console)?;
    let direction = if args.abort { Direction::Abort } else { Direction::Advance };
    let place = args.passphrase.place()?;
    let step =
        Rotation { store: &mut store, place, settle: args.settle, now: common::now() }.step(direction)?;
    report::outcomes(&step.outcomes, args.output, &store, console)?;
    if step.from == step.to {
        console.note("an interrupted step was completed; the settling time counts from now");
    }
    console.note(&format!("{}\nnext: {}", describe(step.to), next(step.to)));
    Ok(Exit::Success)
}

fn status(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let store = args.dir.peek()?;
    let authority = rotate::authority(&store)?;
    let ledger = Ledger::load(&store)?;
    let alive = rotate::alive(&store, &authority, &ledger, common::now())?;
    if args.output == Format::Json {
        let value = serde_json::json!({
            "phase": authority.phase(),
            "since": stamp(authority.since()?),
            "issuing": authority.active().name(),
            "other": authority.other().map(|other| other.name()),
            "aliveOfOther": alive,
            "next": next(authority.phase()),
        });
        let _ = writeln!(console.out(), "{value:#}");
        return Ok(Exit::Success);
    }
    let _ = writeln!(console.out(), "{} (since {})", describe(authority.phase()), stamp(authority.since()?));
    for leaf in &alive {
        let _ = writeln!(console.out(), "alive of the other root: {leaf}");
    }
    let _ = writeln!(console.out(), "next: {}", next(authority.phase()));
    Ok(Exit::Success)
}

pub(super) fn describe(phase: Phase) -> &'static str {
    match phase {
        Phase::Stable => "stable: one root, which is trusted and issues",
        Phase::Adding => "adding: the next root is in every bundle, the old one still issues",
        Phase::Switched => "switched: the new root issues, the old one is still in every bundle",
    }
}

fn next(phase: Phase) -> &'static str {
    match phase {
        Phase::Stable => "nothing; `meshward certs rotate-ca` begins a rotation",
        Phase::Adding => {
            "deliver the bundles to every pod, then `meshward certs rotate-ca` lets the new root issue"
        }
        Phase::Switched => {
            "deliver the certificates to every pod, then `meshward certs rotate-ca` drops the old root"
        }
    }
}

//! `meshward certs renew`: what is due, once or for ever.

use std::process::Command;

use time::Duration;

use super::common::{self, Dir, PassphraseFile};
use super::report::{self, Format};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::pki::authority::Phase;
use crate::pki::error::stamp;
use crate::pki::ledger::Ledger;
use crate::pki::renewal::{self, Outcome};
use crate::pki::rotate::{self, Direction, Rotation};
use crate::pki::store::Store as _;

/// Renews certificates between 1/2 and 2/3 of their lifetime; everything else is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is fresh now; 1 something could not be renewed.\n\n\
    Examples:\n  meshward certs renew\n  meshward certs renew -o kubernetes | kubectl apply -f -\n  \
    meshward certs renew --watch --exec 'systemctl reload my-proxy'\n  \
    meshward certs renew --rotate-ca    # from a timer: also moves a rotation of the CA on when it is safe")]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    passphrase: PassphraseFile,
    /// Go on for ever, waking when the next certificate is due
    #[arg(long)]
    watch: bool,
    /// Run this in a shell after something changed; $MESHWARD_CHANGED names the changed folders
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Begin rotating the CA in the last third of its life, and move a rotation on, each phase when it is safe
    #[arg(long)]
    rotate_ca: bool,
    /// How long every pod is given to see a changed trust bundle before a rotation moves on
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = common::duration)]
    settle: Duration,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Between two looks of `--watch`: not busier than this, whatever the lifetimes.
const SHORTEST_NAP: Duration = Duration::seconds(1);
/// Nor rarer: a clock may leap, and sets may be changed by others.
const LONGEST_NAP: Duration = Duration::minutes(10);

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    // Standard input can be read only once.
    let place = args.passphrase.place()?;
    loop {
        let nap = match once(args, &place, console) {
            Ok(next) => next.map_or(LONGEST_NAP, |next| next - common::now()),
            Err(failure) if !args.watch => return Err(failure),
            Err(failure) => {
                // Certificates last long enough to try again; giving up would be worse.
                failure.diagnostics.iter().for_each(|diagnostic| console.report(diagnostic));
                Duration::seconds(30)
            }
        };
        if !args.watch {
            return Ok(Exit::Success);
        }
        let nap = nap.clamp(SHORTEST_NAP, LONGEST_NAP);
        std::thread::sleep(nap.unsigned_abs());
    }
}

/// Returns when the next certificate is due.
fn once(
    args: &Args,
    place: &crate::pki::authority::KeyPlace,
    console: &mut Console<'_>,
) -> Result<Option<time::OffsetDateTime>, Failure> {
    let mut store = args.dir.open(console)?;
    let now = common::now();
    let authority = rotate::authority(&store)?;
    let due = renewal::ca_due(&authority, now)?;
    let mut rotation = Rotation { store: &mut store, place: place.clone(), settle: args.settle, now };
    let outcomes = if args.rotate_ca && (due || authority.phase() != Phase::Stable) {
        advance(&mut rotation, console)?
    } else {
        let mut ledger = Ledger::load(rotation.store)?;
        rotation.settle_sets(&authority, &mut ledger)?
    };
    if outcomes.is_empty() && !args.watch {
        console.note(&format!("nothing was issued in {}, so nothing is kept fresh", args.dir.name()));
    }
    if due && !args.rotate_ca {
        let end = stamp(authority.active().not_after()?);
        let message = format!("the CA expires at {end}, and is in the last third of its life");
        console.report(&Diagnostic::warning("ca-due", message).help("begin now: `meshward certs rotate-ca`"));
    }
    let changed: Vec<_> = outcomes.iter().filter(|o| o.done.changed()).map(|o| o.set.as_str()).collect();
    if !args.watch || !changed.is_empty() {
        report::outcomes(&outcomes, args.output, rotation.store, console)?;
    }
    drop(rotation);
    if let (Some(command), false) = (&args.exec, changed.is_empty()) {
        let changed = changed.iter().map(|set| store.location(set)).collect::<Vec<_>>().join(" ");
        // The next one may work while the command runs.
        drop(store);
        execute(command, &changed)?;
    }
    Ok(outcomes.iter().map(|outcome| outcome.done.renew_at()).min())
}

/// One phase on when it is safe; waiting is no error here.
fn advance(rotation: &mut Rotation<'_>, console: &mut Console<'_>) -> Result<Vec<Outcome>, Failure> {
    match rotation.step(Direction::Advance) {
        Ok(step) => {
            console.note(&format!("rotation of the CA: {}", super::rotate_ca::describe(step.to)));
            Ok(step.outcomes)
        }
        Err(error) if matches!(error.code(), "not-settled" | "leaf-alive") => {
            console.note(&format!("rotation of the CA waits: {error}"));
            let authority = rotate::authority(rotation.store)?;
            let mut ledger = Ledger::load(rotation.store)?;
            Ok(rotation.settle_sets(&authority, &mut ledger)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn execute(command: &str, changed: &str) -> Result<(), Failure> {
    let failed = |why: String| Failure::from(Diagnostic::error("exec", format!("`{command}` {why}")));
    let status = Command::new("sh")
        .args(["-c", command])
        .env("MESHWARD_CHANGED", changed)
        .status()
        .map_err(|cause| failed(format!("could not be started: {cause}")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("ended with {status}"))) }
}

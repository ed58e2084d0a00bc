//! `meshward certs needs-renewal`: for cron and monitoring.

use std::path::PathBuf;

use super::common::{self, Dir};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::pki::error::stamp;
use crate::pki::ledger::Ledger;
use crate::pki::renewal::{self, Need};
use crate::pki::store::{self, LEAF_SUFFIX, Store as _};
use crate::pki::{ca, pem, rotate};

/// Tells what is due. Nothing is changed, no key is opened.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing is due; 1 something is due, or could not be read; 2 usage.\n\
    (step's `needs-renewal` has 0 and 1 the other way round.)\n\n\
    Examples:\n  meshward certs needs-renewal || meshward certs renew\n  meshward certs needs-renewal bookapi\n  \
    meshward certs needs-renewal --file /etc/certs/tls.crt")]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    /// Services [default: all, and the CA]
    services: Vec<String>,
    /// A certificate file instead
    #[arg(long, value_name = "FILE", conflicts_with = "services")]
    file: Option<PathBuf>,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut due = 0;
    let mut say = |line: String, is_due: bool| {
        due += usize::from(is_due);
        if !args.quiet {
            let _ = writeln!(console.out(), "{line}");
        }
    };
    let now = common::now();
    if let Some(path) = &args.file {
        let what = format!("`{}`", path.display());
        let chain = pem::certificates(&what, &common::read(path)?)?;
        for (at, der) in chain.iter().enumerate() {
            let certificate = ca::parse(&what, der)?;
            let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
            let renew_at =
                renewal::renew_at(begin.to_datetime(), end.to_datetime(), certificate.raw_serial());
            let is_due = renew_at <= now;
            let state = if is_due { "renew now" } else { "fine" };
            say(format!("{}#{at}: {state} (from {})", path.display(), stamp(renew_at)), is_due);
        }
        return Ok(if due == 0 { Exit::Success } else { Exit::Failure });
    }
    let store = args.dir.peek()?;
    let authority = rotate::authority(&store)?;
    let ledger = Ledger::load(&store)?;
    let sets: Vec<_> = args
        .services
        .iter()
        .map(|name| store::leaf_set(name.strip_suffix(LEAF_SUFFIX).unwrap_or(name)))
        .collect();
    for set in &sets {
        if !ledger.managed.contains_key(set) {
            let message = format!("`{set}` was not issued in {}", args.dir.name());
            return Err(Diagnostic::error("unknown-service", message)
                .help("see `meshward certs inspect`")
                .into());
        }
    }
    let trust = authority.trust_files()?;
    for (set, request) in renewal::managed(&ledger)? {
        if !sets.is_empty() && !sets.contains(&set) {
            continue;
        }
        let current = store.read(&set)?;
        match renewal::need(&store.place(&set), current.as_ref(), &request, &authority, &trust, &ledger, now)?
        {
            Need::Nothing { renew_at } => say(format!("{set}: fine (until {})", stamp(renew_at)), false),
            Need::Bundle { .. } => say(format!("{set}: renew now, the trust bundle has changed"), true),
            Need::Leaf(reason) => say(format!("{set}: renew now, since {reason}"), true),
        }
    }
    if sets.is_empty() {
        let end = stamp(authority.active().not_after()?);
        if renewal::ca_due(&authority, now)? {
            say(format!("CA: rotate now, it expires at {end}"), true);
        } else {
            say(format!("CA: fine (expires at {end})"), false);
        }
    }
    Ok(if due == 0 { Exit::Success } else { Exit::Failure })
}

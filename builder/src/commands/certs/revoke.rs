//! `meshward certs revoke`: an end before the expiry date.

use super::common::{self, Dir, PassphraseFile};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::pki::ledger::{Ledger, Reason};
use crate::pki::{authority, renewal, revoke, rotate};

/// Revokes living certificates, writes the revocation list (`ca.crl`) into every folder, and prints a deny list.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Two things enforce a revocation: the revocation list in Envoy's validation context (new connections), and \
    the deny list of mesh.yaml, which the filter enforces on every request of every connection.\n\
    A service's certificate is issued anew by the next `certs renew`, with another key and serial number; so name the \
    SPIFFE ID in the deny list only to shut the workload out altogether.\n\n\
    Examples:\n  meshward certs revoke bookapi --reason key-compromise && meshward certs renew\n  \
    meshward certs revoke 5f1b2c3d4e5f60718293a4b5c6d7e8f9\n  \
    meshward certs revoke spiffe://cluster.local/ns/jobs/sa/backup --reason cessation-of-operation --forget"
)]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    passphrase: PassphraseFile,
    /// Serial numbers (hex), SPIFFE IDs or services
    #[arg(required = true, value_name = "SERIAL|SPIFFE-ID|SERVICE")]
    what: Vec<String>,
    /// Why
    #[arg(long, value_enum, default_value_t = Reason::Unspecified)]
    reason: Reason,
    /// Do not issue to these any more: `renew` forgets them
    #[arg(long)]
    forget: bool,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut store = args.dir.open(console)?;
    let mut authority = rotate::authority(&store)?;
    let mut ledger = Ledger::load(&store)?;
    let passphrase = args.passphrase.read()?;
    let now = common::now();
    let mut mistakes = Vec::new();
    let mut serials = Vec::new();
    let mut sets = Vec::new();
    for text in &args.what {
        let entries = revoke::select(&mut ledger, text, now);
        if entries.is_empty() {
            let message = format!("no living certificate was issued to `{text}`");
            mistakes
                .push(Diagnostic::error("not-issued", message).help("see `meshward certs inspect --issued`"));
        }
        sets.extend(entries.iter().filter_map(|entry| entry.set.clone()));
        serials.extend(revoke::mark(entries, args.reason, now));
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into());
    }
    if args.forget {
        ledger.managed.retain(|set, _| !sets.contains(set));
    }
    revoke::refresh(&mut authority, &mut ledger, passphrase.as_ref(), now)?;
    // The ledger first: were it lost, a list without the revocation would be made from it the next time.
    ledger.save(&mut store)?;
    authority.save(&mut store)?;
    let lists = renewal::deliver_trust(&mut store, &authority)?;
    for set in &lists {
        console.note(&format!("{set}: {} replaced", authority::CRL));
    }
    for serial in &serials {
        let _ = writeln!(console.out(), "{serial}");
    }
    if !serials.is_empty() {
        let list: Vec<_> = serials.iter().map(|serial| format!("\"{serial}\"")).collect();
        console.note(&format!("in mesh.yaml, for requests on open connections too:\n  spec: {{ revocation: {{ serials: [{}] }} }}", list.join(", ")));
    }
    if serials.is_empty() {
        console.note("all of these were revoked before; the list was made anew");
    }
    Ok(Exit::Success)
}

//! `meshward certs init-ca`: the mesh's certificate authority.

use std::path::PathBuf;

use time::Duration;

use super::common::{self, Dir, PassphraseFile};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::MeshFiles;
use crate::pki::authority::{self, KeyPlace};
use crate::pki::error::stamp;
use crate::pki::ledger;
use crate::pki::store::Store as _;
use crate::pki::{Authority, CaOptions, svid};

/// Makes a root certificate (EC P-256) for one trust domain, with its key readable by you alone.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Name constraints (--permit-dns) bind the DNS names of leaves only. A constraint on the trust domain \
    itself would be one on URIs, and rustls refuses every chain that carries one; that a CA signs only identities of its \
    trust domain is checked when it signs, and by the filter when it trusts.\n\n\
    Examples:\n  meshward certs init-ca                                    # the trust domain of mesh.yaml\n  \
    meshward certs init-ca --trust-domain prod.example --lifetime 5y --passphrase-file ca.pass\n  \
    meshward certs init-ca --trust-domain prod.example --keys ~/.meshward/keys\n  \
    meshward certs init-ca --trust-domain prod.example --intermediate --root-key /media/safe/root.key"
)]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    mesh: MeshFiles,
    /// The trust domain [default: that of mesh.yaml]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// How long the root lives; an intermediate lives half as long
    #[arg(long, value_name = "DURATION", default_value = "10y", value_parser = common::duration)]
    lifetime: Duration,
    /// Sign with an intermediate, so that the root's key can be kept elsewhere
    #[arg(long)]
    intermediate: bool,
    /// Write the root's key to this file instead of beside the others
    #[arg(long, value_name = "FILE", requires = "intermediate")]
    root_key: Option<PathBuf>,
    /// Keep the CA's keys in this folder instead of with the certificates
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Let the CA sign only leaves with DNS names equal to or below this one; may be repeated
    #[arg(long, value_name = "DNS-NAME")]
    permit_dns: Vec<String>,
    #[command(flatten)]
    passphrase: PassphraseFile,
    /// Make a new CA although there is one; what the old one issued is no longer trusted
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let trust_domain = match &args.trust_domain {
        Some(name) => svid::trust_domain(name)?,
        None => svid::trust_domain(&args.mesh.load()?.trust_domain)?,
    };
    let mut store = args.dir.open(console)?;
    if store.read(authority::SET)?.is_some() && !args.force {
        let message = format!("there already is a CA in {}", store.place(authority::SET));
        return Err(Diagnostic::error("ca-exists", message)
            .help("to replace it under a running mesh: `meshward certs rotate-ca`")
            .help("to throw it away with all that it issued: `--force`")
            .into());
    }
    let place = KeyPlace {
        keys: args.keys.clone().map(std::path::absolute).transpose().map_err(|cause| {
            Diagnostic::error("certs-io", format!("the folder of keys cannot be used: {cause}"))
        })?,
        passphrase: args.passphrase.read()?,
        root_key: args.root_key.clone(),
    };
    let options = CaOptions {
        lifetime_seconds: args.lifetime.whole_seconds(),
        intermediate: args.intermediate,
        permit_dns: args.permit_dns.clone(),
    };
    let ca = Authority::create(&trust_domain, &options, &place, common::now())?;
    // A new CA knows of nothing that the old one issued.
    ledger::Ledger::default().save(&mut store)?;
    ca.save(&mut store)?;
    let _ = writeln!(
        console.out(),
        "trust domain  {trust_domain}\nvalid until   {}\nfingerprint   sha256:{}\ntrust bundle  ca.crt of {}",
        stamp(ca.active().not_after()?),
        ca.active().root().map(|root| authority::fingerprint(root)).unwrap_or_default(),
        store.location(authority::SET)
    );
    if place.passphrase.is_none() && place.keys.is_none() {
        console.note(
            "note: the CA key is not encrypted (--passphrase-file) and lies with the certificates (--keys); its mode is 0600",
        );
    }
    if args.intermediate && place.root_key.is_none() {
        console.note("note: the root's key is kept with the other; move `root.key` to a safe place, no verb of `certs` needs it");
    }
    Ok(Exit::Success)
}

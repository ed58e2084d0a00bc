//! `meshward certs federate`: trust in other trust domains, each by its own roots.

use super::common::{self, Dir};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::pki::{federation, renewal, rotate, svid};

/// Trusts the workloads of other trust domains, by bundle files that they give you.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every folder of a service then has `trust-bundles.json`, a bundle for each trust domain, for Envoy's SPIFFE \
    validator: what one of them signs is never good for an identity of another. Say `federatesWith` in mesh.yaml, so that \
    `render` uses it. Give the others yours: `meshward certs export -o spiffe-bundle`. Run this again when they rotate.\n\n\
    Examples:\n  meshward certs federate partner.example=partner-bundle.json\n  \
    meshward certs federate partner.example=partner-root.pem other.example=other.json\n  \
    meshward certs federate --remove partner.example\n  meshward certs federate      # list"
)]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    /// Trust domains and their bundles (SPIFFE format or PEM)
    #[arg(value_name = "TRUST-DOMAIN=FILE")]
    add: Vec<String>,
    /// Trust this one no longer; may be repeated
    #[arg(long, value_name = "TRUST-DOMAIN")]
    remove: Vec<String>,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if args.add.is_empty() && args.remove.is_empty() {
        for name in rotate::authority(&args.dir.peek()?)?.federated().keys() {
            let _ = writeln!(console.out(), "{name}");
        }
        return Ok(Exit::Success);
    }
    let mut store = args.dir.open(console)?;
    let mut authority = rotate::authority(&store)?;
    let mut changed = false;
    for name in &args.remove {
        let trust_domain = svid::trust_domain(name)?;
        if !authority.federated().contains_key(trust_domain.as_str()) {
            let message = format!("`{name}` is not federated");
            return Err(Diagnostic::error("federation", message)
                .help("see `meshward certs federate`")
                .into());
        }
        changed |= authority.federate(&trust_domain, None)?;
    }
    for pair in &args.add {
        let (trust_domain, path) = federation::parse_pair(pair)?;
        let bundle = federation::read(&format!("`{}`", path.display()), &common::read(&path)?)?;
        changed |= authority.federate(&trust_domain, Some(bundle))?;
    }
    if changed {
        authority.save(&mut store)?;
    }
    // Also completes what an interrupted run left.
    for set in renewal::deliver_trust(&mut store, &authority)? {
        let _ = writeln!(console.out(), "{set}: trust bundles replaced");
    }
    Ok(Exit::Success)
}

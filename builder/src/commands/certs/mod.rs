//! `meshward certs`: certificates for life.

use clap::Subcommand;

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;

mod common;
mod export;
mod federate;
mod init_ca;
mod inspect;
mod issue;
mod needs_renewal;
mod renew;
mod report;
mod revoke;
mod rotate_ca;
mod verify;

#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Certificates live in one folder (`certs/`), in sub-folders named like the Kubernetes Secrets:\n  \
    service-mesh-ca/      ca.crt (trust bundle), ca.key, issuer.crt, state.json\n  \
    service-mesh-issued/  issued.json: what was issued and is still alive\n  \
    <service>-mtls-cert/  tls.crt, tls.key, ca.crt: what a pod mounts at /etc/certs\n\
    Each sub-folder is replaced all at once (a `..data` link, as in a Kubernetes volume): a crash leaves old or new.\n\n\
    Examples:\n  meshward certs init-ca --trust-domain cluster.local\n  \
    meshward certs issue\n  meshward certs issue -o kubernetes | kubectl apply -f -\n  \
    meshward certs renew --watch\n  meshward certs verify"
)]
pub struct Args {
    #[command(subcommand)]
    // Boxed, since all verbs of `meshward` are one enum.
    command: Box<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the mesh's certificate authority
    InitCa(init_ca::Args),
    /// Issue certificates to services, or sign a signing request
    Issue(issue::Args),
    /// Renew the certificates that are due
    Renew(renew::Args),
    /// Tell whether anything is due for renewal (exit code 1: yes)
    NeedsRenewal(needs_renewal::Args),
    /// Replace the CA under a running mesh, phase by phase
    RotateCa(rotate_ca::Args),
    /// Show what certificates say
    Inspect(inspect::Args),
    /// Check certificates: chain, SPIFFE rules, names, dates, keys, trust bundles
    Verify(verify::Args),
    /// Revoke certificates and write the revocation list
    Revoke(revoke::Args),
    /// Trust other trust domains, each by its own roots
    Federate(federate::Args),
    /// Print certificates as Kubernetes Secrets, Envoy SDS files or SPIFFE trust bundles
    Export(export::Args),
}

impl Args {
    pub fn run(self, console: &mut Console<'_>) -> Result<Exit, Failure> {
        match *self.command {
            Command::InitCa(args) => init_ca::run(&args, console),
            Command::Issue(args) => issue::run(&args, console),
            Command::Renew(args) => renew::run(&args, console),
            Command::NeedsRenewal(args) => needs_renewal::run(&args, console),
            Command::RotateCa(args) => rotate_ca::run(&args, console),
            Command::Inspect(args) => inspect::run(&args, console),
            Command::Verify(args) => verify::run(&args, console),
            Command::Revoke(args) => revoke::run(&args, console),
            Command::Federate(args) => federate::run(&args, console),
            Command::Export(args) => export::run(&args, console),
        }
    }
}

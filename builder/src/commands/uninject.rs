//! `meshward uninject`: takes out what `inject` put in.

use super::edit::{Edit, Words};
use super::inject::edited;
use crate::console::{Console, Exit};
use crate::diagnostic::Failure;
use crate::inject;

/// Takes the sidecars out again: the bytes from before the injection.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshward uninject deployment.yaml --diff\n  meshward uninject -f k8s/ -i\n  \
    kubectl get deployment bookapi -o yaml | meshward uninject - | kubectl replace -f -"
)]
pub struct Args {
    #[command(flatten)]
    edit: Edit,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let words = Words { done: "uninjected", subject: "workload" };
    args.edit.run(console, words, |text| inject::uninject(text).map(edited))
}

//! `meshward uninject`: takes out what `inject` put in.

use super::edit::{Edit, Words};
use super::inject::edited;
use super::live::Live;
use crate::console::{Console, Exit};
use crate::diagnostic::Failure;
use crate::inject;
use crate::live::inject::{Direction, plan};

/// Takes the sidecars out again: the bytes from before the injection.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshward uninject deployment.yaml --diff\n  meshward uninject -f k8s/ -i\n  \
    kubectl get deployment bookapi -o yaml | meshward uninject - | kubectl replace -f -\n  \
    meshward uninject -n shop deployment/bookapi --diff"
)]
pub struct Args {
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if args.live.is_meant() {
        let (names, show) = args.edit.on_a_cluster()?;
        let cluster = args.live.connect()?;
        let plan = plan(&cluster, &args.live.wanted(names, false)?, &Direction::Uninject)?;
        return args.live.carry_out(console, &cluster, &plan, show);
    }
    let words = Words { done: "uninjected", subject: "workload" };
    args.edit.run(console, words, |text| inject::uninject(text).map(edited))
}

//! `meshward unpatch`: takes out what `patch` put in.

use super::edit::{Edit, Words};
use super::live::Live;
use super::patch::{Holders, Select, edited};
use crate::console::{Console, Exit};
use crate::diagnostic::Failure;
use crate::live::patch::{Direction, plan};
use crate::patch;

/// Takes the filter and its guard out again: the bytes from before the patch.
///
/// Needs no backup: what was put in is known by its names and types, and taking it out is the exact inverse, as long as
/// nobody rewrote the file in between.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshward unpatch envoy.yaml --diff\n  meshward unpatch -f k8s/ -i\n  \
    kubectl get configmap bookapi-envoy-config -o yaml | meshward unpatch - | kubectl apply -f -\n  \
    meshward unpatch -n shop configmap/bookapi-envoy-config --diff")]
pub struct Args {
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    live: Live,
    #[command(flatten)]
    holders: Holders,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let selection = args.select.selection();
    if args.live.is_meant() {
        let (names, show) = args.edit.on_a_cluster()?;
        let cluster = args.live.connect()?;
        let wanted = args.live.wanted(names, args.holders.secrets)?;
        let plan = plan(&cluster, &wanted, &Direction::Unpatch(&selection), !args.holders.no_rollout)?;
        return args.live.carry_out(console, &cluster, &plan, show);
    }
    let words = Words { done: "unpatched", subject: "Envoy configuration" };
    args.edit.run(console, words, |text| patch::unpatch(text, &selection).map(edited))
}

//! `meshward completions`: a completion script for a shell.

use clap::CommandFactory as _;

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshward completions bash > /etc/bash_completion.d/meshward\n  \
                        source <(meshward completions zsh)")]
pub struct Args {
    /// The shell to complete for
    shell: clap_complete::Shell,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "meshward", console.out());
    Ok(Exit::Success)
}

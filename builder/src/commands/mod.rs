//! The verbs: one file each, a clap `Args` struct and one function.

use clap::Subcommand;

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;

mod completions;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a completion script for your shell
    Completions(completions::Args),
}

impl Command {
    pub fn run(self, console: &mut Console<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Completions(args) => completions::run(&args, console),
        }
    }
}

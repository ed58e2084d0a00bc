//! `meshward policy`: ask the filter's engine, and look for what is valid and not what was meant.

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;

mod eval;
mod lint;

/// Test, lint and explain policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Decide requests, one JSON object per line, with the engine that runs in the filter
    Eval(eval::Args),
    /// Say what a finding of `lint` means, and what to write instead
    Explain(lint::ExplainArgs),
    /// Find what is valid and still not what was meant
    Lint(lint::LintArgs),
}

pub fn run(args: Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match args.command {
        Command::Eval(args) => eval::run(args, console),
        Command::Explain(args) => Ok(lint::explain(&args, console)),
        Command::Lint(args) => lint::lint(args, console),
    }
}

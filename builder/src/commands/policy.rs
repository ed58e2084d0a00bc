//! `meshward policy`: ask the filter's engine, and look for what is valid and not what was meant.

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;

mod diff;
mod eval;
mod lint;
mod test;

/// Test, lint and explain policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show which requests two versions of a mesh answer otherwise, and by which policies
    Diff(diff::Args),
    /// Decide requests, one JSON object per line, with the engine that runs in the filter
    Eval(eval::Args),
    /// Say what a finding of `lint` means, and what to write instead
    Explain(lint::ExplainArgs),
    /// Find what is valid and still not what was meant
    Lint(lint::LintArgs),
    /// Ask the engine the requests of a file of checks, and compare with what is expected there
    Test(test::Args),
}

pub fn run(args: Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match args.command {
        Command::Diff(args) => diff::run(&args, console),
        Command::Eval(args) => eval::run(args, console),
        Command::Explain(args) => Ok(lint::explain(&args, console)),
        Command::Lint(args) => lint::lint(args, console),
        Command::Test(args) => test::run(&args, console),
    }
}

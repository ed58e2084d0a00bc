//! The `meshward` binary: parse, dispatch, render, exit code. Everything else is in the library.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use meshward_builder::Cli;
use meshward_builder::console::{Console, Exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let mut out = std::io::stdout();
    let mut err = std::io::stderr();
    let mut console = Console::new(&mut out, &mut err, colour);
    let exit = match cli.command.run(&mut console) {
        Ok(exit) => exit,
        Err(failure) => {
            for diagnostic in &failure.diagnostics {
                console.report(diagnostic);
            }
            Exit::Failure
        }
    };
    // A reader that closed the pipe early (`| head`) has what it wanted.
    let _ = out.flush();
    ExitCode::from(exit as u8)
}

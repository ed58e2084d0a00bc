//! `meshward filter`: what a built module is.

use std::path::PathBuf;

use super::build::Format;
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::wasm::{self, Inspection, MAX_SIZE};

/// Looks at filter modules.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show a module's size, digest, imports and exports, and whether Envoy would take it
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 when Envoy, or a ConfigMap, would not take the module.\n\n\
    Examples:\n  meshward filter inspect .meshward/filter/meshward-*.wasm\n  \
    meshward filter inspect module.wasm -o json")]
struct InspectArgs {
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match &args.command {
        Command::Inspect(args) => inspect(args, console),
    }
}

fn inspect(args: &InspectArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let name = args.file.display().to_string();
    let bytes = std::fs::read(&args.file).map_err(|error| {
        Diagnostic::error("module-unreadable", format!("cannot read `{name}`: {error}"))
            .help("give the path of a `.wasm` file; `meshward build` prints the one it wrote")
    })?;
    let inspection = wasm::inspect(&bytes);
    // A reader that left has what it wanted.
    let _ = match args.output {
        Format::Json => writeln!(console.out(), "{:#}", serde_json::json!(inspection)),
        Format::Text => console.out().write_all(describe(&inspection).as_bytes()),
    };
    if inspection.problems.is_empty() {
        return Ok(Exit::Success);
    }
    Err(inspection.diagnostics(&name).into())
}

fn describe(inspection: &Inspection) -> String {
    let mut text =
        format!("size     {} bytes of at most {MAX_SIZE}\nsha256   {}\n", inspection.size, inspection.sha256);
    let lists = [
        ("imports", &inspection.imports),
        ("exports", &inspection.exports),
        ("custom", &inspection.custom_sections),
    ];
    for (title, names) in lists {
        for (index, name) in names.iter().enumerate() {
            let title = if index == 0 { title } else { "" };
            text.push_str(&format!("{title:<8} {name}\n"));
        }
    }
    text
}

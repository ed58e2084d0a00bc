//! `meshward build`: the filter as a module that Envoy loads.

use std::path::PathBuf;

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;
use crate::wasm::{self, BuildOptions, MAX_SIZE, Origin};

/// Compiles the filter, trims it, checks it, and writes it as meshward-<sha12>.wasm.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The same sources and compiler give the same sha256 in any folder, unless --wasm-opt is given.\n\n\
    Examples:\n  meshward build\n  meshward build --output-dir out -o json\n  \
    meshward build --module meshward-0123456789ab.wasm --output-dir out   # check and take over a built one"
)]
pub struct Args {
    /// The root of a checkout of Meshward [default: found above the working folder or this binary]
    #[arg(long, value_name = "DIR", env = "MESHWARD_SOURCE", conflicts_with = "module")]
    source: Option<PathBuf>,
    /// Take this module instead of building one
    #[arg(long, value_name = "FILE", env = "MESHWARD_MODULE")]
    module: Option<PathBuf>,
    /// The folder to write to
    #[arg(long, value_name = "DIR", default_value = ".meshward/filter")]
    output_dir: PathBuf,
    /// Also run wasm-opt -O3 from PATH: smaller, but the sha256 then depends on its version
    #[arg(long, conflicts_with = "module")]
    wasm_opt: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let options = BuildOptions {
        origin: Origin::from_args(args.module.as_deref(), args.source.as_deref()),
        output_dir: args.output_dir.clone(),
        wasm_opt: args.wasm_opt,
    };
    let built = wasm::build(&options, console)?;
    // A reader that left has what it wanted.
    let _ = match args.output {
        Format::Json => writeln!(console.out(), "{:#}", serde_json::json!(built)),
        Format::Text => writeln!(
            console.out(),
            "{}\nsize    {} bytes of at most {MAX_SIZE}\nsha256  {}",
            built.path.display(),
            built.size,
            built.sha256
        ),
    };
    Ok(Exit::Success)
}

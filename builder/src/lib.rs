//! What the `meshward` command does, as a library.
//!
//! `main.rs` parses, dispatches, renders and chooses the exit code; a module under `commands` loads its input, calls
//! the library and returns what is to be shown. Nothing but `main.rs` prints.
#![forbid(unsafe_code)]

pub mod commands;
pub mod compile;
pub mod console;
pub mod diagnostic;
pub mod envoy;
pub mod envoy_binary;
pub mod inject;
pub mod kube;
pub mod limits;
pub mod live;
pub mod local;
pub mod mesh;
pub mod migrate;
pub mod native;
pub mod patch;
pub mod pki;
pub mod policy;
pub mod schema;
pub mod status;
pub mod validate;
pub mod wasm;
pub mod yaml;

/// The command line, as clap reads it.
#[derive(Debug, clap::Parser)]
#[command(
    name = "meshward",
    version,
    about = "A service mesh for Envoy without a control plane",
    infer_subcommands = true,
    after_help = "Exit codes: 0 done; 1 failed, or found what it was asked to look for; 2 the command line is wrong."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: commands::Command,
}

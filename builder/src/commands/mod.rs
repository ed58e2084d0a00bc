//! The verbs: one file each, a clap `Args` struct and one function.

use clap::Subcommand;

use crate::console::{Console, Exit};
use crate::diagnostic::Failure;

mod build;
mod certs;
mod completions;
mod edit;
mod filter;
mod init;
mod inject;
mod live;
mod migrate;
mod patch;
mod policy;
mod render;
mod schema;
mod status;
mod uninject;
mod unpatch;
mod up;
mod validate;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the filter: a module that Envoy loads, checked, with its size and sha256
    Build(build::Args),
    /// Make, renew, rotate and check certificates
    Certs(certs::Args),
    /// Print a completion script for your shell
    Completions(completions::Args),
    /// Look at a built filter
    Filter(filter::Args),
    /// Test, lint and explain policies
    Policy(policy::Args),
    /// Write a first mesh.yaml
    Init(init::Args),
    /// Give workloads that are there already an Envoy sidecar
    Inject(inject::Args),
    /// Bring services that run without a mesh into one, step by step
    Migrate(migrate::Args),
    /// Put the filter into Envoy configurations and ConfigMaps that are there already
    Patch(patch::Args),
    /// Take the sidecars out again: the bytes from before
    Uninject(uninject::Args),
    /// Take the filter out again: the bytes from before
    Unpatch(unpatch::Args),
    /// Write Kubernetes manifests and Envoy configurations
    Render(render::Args),
    /// Run the whole mesh on this machine, without Kubernetes
    Up(up::Args),
    /// Print the JSON Schema of mesh files
    Schema(schema::Args),
    /// Show breakers, limits, configurations and certificates of sidecars that run
    Status(status::Args),
    /// Check everything that `render` writes: with a real Envoy, kustomize, the Kubernetes schemas
    Validate(validate::Args),
}

impl Command {
    pub fn run(self, console: &mut Console<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Build(args) => build::run(&args, console),
            Self::Certs(args) => args.run(console),
            Self::Completions(args) => completions::run(&args, console),
            Self::Filter(args) => filter::run(&args, console),
            Self::Policy(args) => policy::run(args, console),
            Self::Init(args) => init::run(&args, console),
            Self::Inject(args) => inject::run(&args, console),
            Self::Migrate(args) => migrate::run(&args, console),
            Self::Patch(args) => patch::run(&args, console),
            Self::Uninject(args) => uninject::run(&args, console),
            Self::Unpatch(args) => unpatch::run(&args, console),
            Self::Render(args) => render::run(&args, console),
            Self::Up(args) => up::run(&args, console),
            Self::Schema(args) => schema::run(&args, console),
            Self::Status(args) => status::run(&args, console),
            Self::Validate(args) => validate::run(&args, console),
        }
    }
}

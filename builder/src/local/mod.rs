//! The mesh on this machine, without Kubernetes: real Envoys, the applications behind them, and requests to check it.
//!
//! Everything that starts processes, chooses addresses or writes the state folder is in here; what a sidecar's
//! configuration says is `envoy`'s, what a certificate says is `pki`'s.

pub mod banner;
pub mod certificates;
pub mod check;
pub mod client;
pub mod ledger;
pub mod network;
pub mod plan;
pub mod process;
pub mod programs;
pub mod run;
pub mod state;
pub mod stop;
pub mod wait;

pub use run::{Options, Running, start};
pub use stop::Stop;

//! AuthorizationPolicy and PeerAuthentication: Istio's language as it is, checked more strictly than Istio does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the YAML, field for field |
//! | [`check`] | YAML → checked policies; all mistakes at once |
//! | [`condition`] | the keys of `when` |
//! | [`authorization`], [`peer`] | checked policies |
//! | [`select`] | which policies are for which workload |
//! | [`compile`] | checked policies → the engine's, for one workload |
//! | [`diff`] | what two meshes answer to the same requests |
//! | [`documents`] | texts → documents, also without a Mesh |
//! | [`eval`] | requests as lines of JSON → decisions as lines of JSON |
//! | [`lint`] | what is valid and still not what was meant |
//! | [`listener`] | what the listener makes of a path before the filter sees it |
//!
//! Deliberately absent: deciding. That is the engine's, the same code as in the filter.

pub mod authorization;
pub mod check;
pub mod compile;
pub mod condition;
pub mod diff;
pub mod documents;
pub mod eval;
pub mod lint;
pub mod listener;
pub mod model;
pub mod peer;
pub mod select;

#[cfg(test)]
mod tests;

pub use authorization::AuthorizationPolicy;
pub(crate) use check::NO_SIDECAR;
pub use check::{Policies, load};
pub use compile::{Compiled, Names, PortMap, compile_for};
pub use model::API_VERSIONS;
pub use peer::{Mode, PeerAuthentication, peer_authentication_for};
pub use select::Workload;

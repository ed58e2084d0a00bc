//! Meshward's decisions, pure: what they need is an argument.
//!
//! Deliberately absent: I/O, clocks, randomness, globals, logging and host calls. The same code runs inside Envoy
//! (compiled to wasm by `meshward-filter`), in the `meshward` command and in tests, and answers the same.
//!
//! | module | what it holds |
//! |---|---|
//! | [`spiffe`] | SPIFFE IDs and trust domains, parsed strictly |
//! | [`config`] | [`config::PluginConfig`], the only wire type, and its bytes |
//! | [`pattern`] | what a value may be compared with, and the grammar of Istio's strings |
//! | [`request`] | a borrowed view of one request or connection |
//! | [`path_guard`] | paths that two parsers could read differently are refused |
//! | [`policy`] | [`policy::Policy::compile`], [`policy::Policy::decide`] |
//! | [`decision`] | the answer, and the rule that gave it |
//! | [`stats`] | names of the filter's counters |
#![forbid(unsafe_code)]

pub mod config;
pub mod decision;
pub mod oracle;
pub mod path_guard;
pub mod pattern;
pub mod policy;
pub mod request;
pub mod spiffe;
pub mod stats;
pub mod svid;
mod wire;

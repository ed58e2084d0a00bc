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
//! | [`svid`] | the peer's leaf certificate |
//! | [`policy`] | [`policy::Policy::compile`], [`policy::Policy::decide`] |
//! | `index` | which rules may match, at a cost that does not grow with their number |
//! | `oracle` | the same decisions by the plainest interpreter, to test against (feature `oracle`) |
//! | [`decision`] | the answer, and the rule that gave it |
//! | [`text`] | numbers and addresses as text, without `core::fmt` |
//! | [`stats`] | names of the filter's counters |
//! | [`shared_words`] | state that all workers share, behind a trait of compare-and-swap |
//! | [`circuit_breaker`] | Closed, Open, HalfOpen in one word |
//! | [`concurrency`] | requests in flight, in counters that heal |
//! | [`lease`], [`rls`] | shares of a global budget; what is said to the service that keeps it |
//! | [`limits`] | which buckets, breakers and counters a request touches, and what they say |
//! | [`rate_limit`], [`rate_limit_table`] | a rate as one number; any number of them in a fixed table |
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_std)]

#[macro_use]
extern crate alloc;

pub mod circuit_breaker;
pub mod concurrency;
pub mod config;
pub mod decision;
mod index;
pub mod lease;
pub mod limits;
#[cfg(any(test, feature = "oracle"))]
pub mod oracle;
pub mod path_guard;
pub mod pattern;
pub mod policy;
pub mod rate_limit;
pub mod rate_limit_table;
pub mod request;
pub mod rls;
pub mod shared_words;
mod small;
pub mod spiffe;
pub mod stats;
pub mod svid;
pub mod text;
mod wire;

//! `meshward certs` as a user runs it: what it prints, and that a kill at any point loses nothing.
//!
//! The modules are under `cfg(test)`, which is true here anyway, so that clippy sees their helpers as tests.

#[cfg(test)]
#[path = "certs/cluster.rs"]
mod cluster;
#[cfg(test)]
#[path = "certs/crash.rs"]
mod crash;
#[cfg(test)]
#[path = "certs/support.rs"]
mod support;
#[cfg(test)]
#[path = "certs/thousand.rs"]
mod thousand;
#[cfg(test)]
#[path = "certs/transcripts.rs"]
mod transcripts;
#[cfg(test)]
#[path = "certs/vectors.rs"]
mod vectors;

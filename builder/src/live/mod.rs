//! A cluster that runs: what `patch`, `unpatch`, `inject` and `uninject` do to files, done to its objects.
//!
//! Read, plan, show, write. [`select`] finds what is meant; [`patch`] and [`inject`] make a [`plan::Plan`] of what they read, which says every change
//! before it is made; [`plan`] tries all of it on the server first (`dryRun`) and then writes it, one object after the
//! other. A write is a server-side apply of the fields concerned and of no others, bound to the version of the object
//! that was read: what somebody else changed meanwhile is never lost, and what somebody else owns is taken only with
//! `--force-conflicts`. Before the first write there is a [`backup`].

pub mod backup;
pub mod client;
pub mod error;
pub mod fields;
mod held;
pub mod inject;
pub mod kind;
pub mod module;
pub mod patch;
pub mod plan;
mod rollout;
pub mod select;

/// The name under which our fields are owned.
pub const MANAGER: &str = "meshward";

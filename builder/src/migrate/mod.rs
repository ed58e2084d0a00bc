//! Services that run without a mesh, brought into one step by step; every step can be looked at, done, and taken back.
//!
//! [`inventory`] reads the manifests, [`settings`] finds where one service is told how to call another, [`plan`] makes the
//! steps of both, [`steps`] does one on the files, and [`state`] keeps what was done, with the bytes from before. A step is
//! a set of files before and after, and nothing else: taking it back puts the bytes from before into place, as long as
//! nobody changed them since. On a cluster the files are what was read from it, and the difference that a step makes in a
//! file is applied to the object ([`cluster`]).

pub mod cluster;
pub mod counter;
pub mod inventory;
pub mod plan;
pub mod settings;
pub mod state;
pub mod steps;

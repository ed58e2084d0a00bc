//! A sidecar for workloads that somebody else wrote: Deployments and the like get Envoy, its volumes and a checksum.
//!
//! The manifest stays its author's: [`apply`] splices with the same editor as [`crate::patch`], and `uninject` gives the
//! bytes from before. [`workload`] finds pod templates and says which are left alone, [`sidecar`] says what is added.
//! The application is told to call the sidecar, as in a rendered mesh, or its traffic is led there where the mesh says so.

pub mod apply;
pub mod sidecar;
pub mod workload;

pub use apply::{inject, uninject};
pub use sidecar::{Options, Redirect, redirects};

//! mesh.yaml: found, read, checked. Everything else in this crate works on [`Resolved`].

pub mod discover;
pub mod document;
mod load;
pub mod model;
pub mod read;
mod resolve;
pub mod revision;

#[cfg(test)]
mod tests;

pub use discover::MeshFiles;
pub use load::{load, load_sources};
pub use resolve::{
    Call, ENVOY_IMAGE, Edge, EdgeRoute, INTERCEPTING_USER, Interception, Local, RateLimitService, Resolved,
    Revocation, Service, is_pinned, ports,
};

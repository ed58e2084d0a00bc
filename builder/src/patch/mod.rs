//! Loading the filter into Envoy configurations that somebody else wrote.
//!
//! Parse, splice, compare: a text is read into a [`tree`] that knows its bytes, [`edit`] splices into it, [`sites`]
//! finds the configurations in ConfigMaps and streams, [`apply`] decides what goes where and checks what came out.

pub mod apply;
pub mod edit;
pub mod emit;
pub mod envoy;
pub mod files;
pub mod filters;
pub mod harden;
pub mod scalar;
mod selection;
pub mod sites;
pub mod splice;
pub mod tree;

pub use apply::{Outcome, patch, unpatch};
pub use filters::{Configurations, Discovery, Plugin, Position};
pub use selection::Selection;

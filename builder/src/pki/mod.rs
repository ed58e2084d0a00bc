//! Certificates for life: a CA for one trust domain, the X.509-SVIDs it issues, and what keeps both fresh.
//!
//! The clock is an argument everywhere in this module; only `commands::certs` reads it. Keys and serial numbers come
//! from the operating system, by ring. Encoding, parsing and chain building are the libraries': rcgen issues,
//! x509-parser reads, webpki verifies.
//!
//! Deliberately absent: any network.

pub mod authority;
pub mod ca;
pub mod cluster;
pub mod error;
pub(crate) mod fault;
pub mod federation;
pub mod folder;
pub mod key;
pub mod ledger;
pub mod manifest;
mod names;
pub mod pem;
pub mod renewal;
pub mod revoke;
pub mod rotate;
pub mod sds;
pub mod secrets;
pub mod store;
pub mod svid;
pub mod verify;

pub use authority::Authority;
pub use ca::{Ca, CaOptions};
pub use error::{Error, Result};
pub use svid::{Issued, SvidRequest, issue, sign_csr};

#[cfg(test)]
mod tests;

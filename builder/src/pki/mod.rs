//! Certificates for life: a CA for one trust domain, the X.509-SVIDs it issues, and what keeps both fresh.
//!
//! The clock is an argument everywhere in this module; only `commands::certs` reads it. Keys and serial numbers come
//! from the operating system, by ring. Encoding, parsing and chain building are the libraries': rcgen issues,
//! x509-parser reads, webpki verifies.
//!
//! Deliberately absent: any network.

pub mod ca;
pub mod error;
pub(crate) mod fault;
pub mod folder;
pub mod key;
pub mod pem;
pub mod svid;

pub use ca::{Ca, CaOptions};
pub use error::{Error, Result};
pub use svid::{Issued, SvidRequest, issue, sign_csr};

#[cfg(test)]
mod tests;

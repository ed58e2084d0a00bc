//! What is known of one request or connection, borrowed from whoever read it.
//!
//! Bytes stay bytes: paths, headers and host names come from the network and need not be UTF-8. A caller fills in
//! only what [`crate::policy::Policy::needs`] asks for; an attribute that is asked for and not there is `None`.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::spiffe::SpiffeIdRef;

pub use crate::config::Protocol;

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    /// No certificate: plain text, or TLS without a client certificate.
    Absent,
    /// A certificate that is not a valid X509-SVID. Refused whatever the policies say.
    Invalid,
    /// A valid X509-SVID's ID.
    Verified(SpiffeIdRef<'a>),
}

/// A name and a value: of a header (name in lower case), a claim (`[a][b]`) or a piece of metadata.
///
/// Several entries may have one name: a repeated header, or the elements of a claim that is a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// As [`crate::policy::Attributes`] lists it.
    pub name: &'a str,
    /// As it came from the network.
    pub value: &'a [u8],
}

/// One request (HTTP) or one connection (TCP).
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who calls.
    pub peer: Peer<'a>,
    /// Serial number of the peer's certificate, big-endian, without leading zeroes.
    pub serial: Option<&'a [u8]>,
    /// Address of the direct peer of the connection (`ipBlocks`, `source.ip`).
    pub source_ip: Option<IpAddr>,
    /// Address of the original client, with `x-forwarded-for` as far as it is trusted (`remoteIpBlocks`, `remote.ip`).
    pub remote_ip: Option<IpAddr>,
    /// Local address of the connection.
    pub destination_ip: Option<IpAddr>,
    /// Local port of the connection, 0 to 65535.
    pub destination_port: Option<u16>,
    /// Server name of the TLS handshake.
    pub sni: Option<&'a [u8]>,
    /// `:method`.
    pub method: Option<&'a [u8]>,
    /// `:path` as received, with query.
    pub path: Option<&'a [u8]>,
    /// `:authority`, with its port if it has one.
    pub authority: Option<&'a [u8]>,
    /// The headers that policies ask for.
    pub headers: &'a [Field<'a>],
    /// Of the validated token (`requestPrincipals`), see [`principal_of_token`].
    pub request_principal: Option<&'a [u8]>,
    /// Claims of the validated token that policies ask for; a list has one entry per element.
    pub claims: &'a [Field<'a>],
    /// Other filters' dynamic metadata that policies ask for (`experimental.envoy.filters.*`).
    pub metadata: &'a [Field<'a>],
}

/// What stands between issuer and subject of a request principal: no `/`, since both may have one, and `https://a` with
/// the subject `b/c` is not `https://a/b` with the subject `c`.
pub const TOKEN_SEPARATOR: char = '\0';

/// Issuer and subject of a validated token as [`Request::request_principal`] takes them; `None` when one is empty or has a
/// separator in it.
#[must_use]
pub fn principal_of_token(issuer: &[u8], subject: &[u8]) -> Option<Vec<u8>> {
    let is_good = |part: &[u8]| !part.is_empty() && !part.contains(&0);
    (is_good(issuer) && is_good(subject)).then(|| [issuer, b"\0", subject].concat())
}

impl Request<'_> {
    /// A request of which nothing is known.
    pub const EMPTY: Request<'static> = Request {
        peer: Peer::Absent,
        serial: None,
        source_ip: None,
        remote_ip: None,
        destination_ip: None,
        destination_port: None,
        sni: None,
        method: None,
        path: None,
        authority: None,
        headers: &[],
        request_principal: None,
        claims: &[],
        metadata: &[],
    };
}

impl<'a> Request<'a> {
    /// The verified identity, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<SpiffeIdRef<'a>> {
        match self.peer {
            Peer::Verified(id) => Some(id),
            Peer::Absent | Peer::Invalid => None,
        }
    }

    /// `:path` without query and fragment, which is what path rules see.
    #[must_use]
    pub fn url_path(&self) -> Option<&'a [u8]> {
        let path = self.path?;
        let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
        path.get(..end)
    }
}

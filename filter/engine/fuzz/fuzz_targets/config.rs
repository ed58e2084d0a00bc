//! Configurations of any bytes: no panic, what is read is written the same, and what compiles decides as it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshward_engine::config::PluginConfig;
use meshward_engine::oracle;
use meshward_engine::policy::Policy;
use meshward_engine::request::{Peer, Request};
use meshward_engine::spiffe::SpiffeIdRef;

// Any bytes, and any bytes behind a whole head: a fuzzer does not find LZ4 by itself.
fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let length = (bytes.len() as u32).to_le_bytes();
    check(&[b"meshward\x04", &length[..], &lz4_flex::block::compress(bytes)].concat());
});

fn check(bytes: &[u8]) {
    let Ok(config) = PluginConfig::decode(bytes) else { return };
    // Bytes may say one thing in several ways; what we write is one of them.
    let written = config.encode().expect("what was read can be written");
    assert_eq!(PluginConfig::decode(&written).as_ref(), Ok(&config));
    let Ok(policy) = Policy::compile(&config) else { return };
    let id = SpiffeIdRef::parse(b"spiffe://example.org/ns/a/sa/b").expect("valid");
    let requests = [
        Request::EMPTY,
        Request {
            peer: Peer::Verified(id),
            method: Some(b"GET"),
            path: Some(b"/a/b?c"),
            authority: Some(b"h"),
            ..Request::EMPTY
        },
    ];
    for request in &requests {
        assert_eq!(policy.decide(request), oracle::decide(&config, request));
    }
}

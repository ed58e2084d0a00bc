//! SPIFFE IDs, trust domains and values of policies: no panic, and what is valid says the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshward_engine::config::{Attribute, HeaderMode};
use meshward_engine::pattern::Pattern;
use meshward_engine::spiffe::{SpiffeId, SpiffeIdRef, TrustDomain};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(id) = SpiffeIdRef::parse(bytes) {
        assert_eq!(id.as_str().as_bytes(), bytes);
        assert_eq!(["spiffe://", id.trust_domain(), id.path()].concat(), id.as_str());
        let domain = TrustDomain::parse(id.trust_domain()).expect("the trust domain of a valid ID is valid");
        assert_eq!(SpiffeId::from_parts(&domain, id.path()).expect("the parts make it").as_ref(), id);
        if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
            assert!(SpiffeId::for_service_account(&domain, namespace, account).is_ok());
        }
    }
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let header = Attribute::Header { name: "x".into(), mode: HeaderMode::Joined };
    for attribute in [
        Attribute::Principal,
        Attribute::Namespace,
        Attribute::ServiceAccount,
        Attribute::SourceIp,
        Attribute::DestinationPort,
        Attribute::Path,
        header,
    ] {
        if let Ok(pattern) = Pattern::parse(&attribute, text, "own") {
            let written = pattern.to_text();
            // A service account is written with its namespace, and only what a user writes is held to 320 characters.
            if written.len() <= 320 {
                assert_eq!(Pattern::parse(&attribute, &written, "own").as_ref(), Ok(&pattern), "{text}");
            }
        }
    }
});

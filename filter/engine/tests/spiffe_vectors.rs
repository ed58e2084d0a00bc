//! SPIFFE's own cases (go-spiffe, java-spiffe, rust-spiffe, SPIRE), from the shared vectors.
//!
//! Out of scope, each with its reason, is what [`OUT_OF_SCOPE`] and the comments at `null` verdicts list.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test"
)]

mod vectors;

use meshward_engine::spiffe::{SpiffeError, SpiffeId, TrustDomain, check_path, check_segment};
use meshward_engine::svid::{Svid, SvidError, decode_pem};
use serde_json::Value;

/// Files whose expected answer is not ours, and why.
const OUT_OF_SCOPE: [(&str, &str); 5] = [
    (
        "svid__x509svid__testdata__wrong-intermediate-no-ca.pem",
        "the chain is TLS's to check; the leaf is good",
    ),
    ("svid__x509svid__testdata__wrong-intermediate-no-key-cert-sign.pem", "the chain is TLS's to check"),
    ("spiffe__tests__testdata__svid__x509__wrong-intermediate-no-ca.der", "the chain is TLS's to check"),
    (
        "spiffe__tests__testdata__svid__x509__wrong-intermediate-no-key-cert-sign.der",
        "the chain is TLS's to check",
    ),
    (
        "spiffe__tests__testdata__svid__x509__empty-subject-name.der",
        "rust-spiffe is lenient: key usage and, with an empty subject, the SAN must be critical (X509-SVID 4.3 and 3.1)",
    ),
];

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_default()
}

#[test]
fn ids() {
    let Some(cases) = vectors::read("spiffe/spiffe_id_vectors.json") else { return };
    let mut checked = 0;
    for case in cases.as_array().unwrap() {
        let input = text(case, "input");
        let parsed = SpiffeId::parse(input);
        match case["valid"].as_bool() {
            Some(true) => {
                let id = parsed.unwrap_or_else(|error| panic!("{input:?}: {error}"));
                assert_eq!(id.as_ref().trust_domain(), text(case, "trust_domain"), "{input:?}");
                assert_eq!(id.as_ref().path(), text(case, "path"), "{input:?}");
                assert_eq!(id.to_string(), input);
            }
            Some(false) => assert_eq!(parsed.map_err(reason), Err(text(case, "reason")), "{input:?}"),
            // Longer than 2048 bytes, or a trust domain longer than 255: the standard leaves the choice; we refuse.
            None => {
                let error = parsed.unwrap_err();
                assert!(matches!(error, SpiffeError::TooLong | SpiffeError::TrustDomainTooLong), "{input:?}");
            }
        }
        checked += 1;
    }
    assert!(checked > 500, "only {checked} cases");
}

#[test]
fn trust_domains() {
    let Some(cases) = vectors::read("spiffe/trust_domain_vectors.json") else { return };
    for case in cases.as_array().unwrap() {
        let input = text(case, "input");
        let parsed = TrustDomain::parse(input);
        match case["valid"].as_bool() {
            Some(true) => assert_eq!(parsed.unwrap().as_str(), text(case, "trust_domain"), "{input:?}"),
            Some(false) => assert_eq!(parsed.map_err(reason), Err(text(case, "reason")), "{input:?}"),
            None => assert_eq!(parsed, Err(SpiffeError::TrustDomainTooLong)),
        }
    }
}

#[test]
fn paths() {
    let Some(cases) = vectors::read("spiffe/path_vectors.json") else { return };
    for case in cases.as_array().unwrap() {
        let result = match text(case, "op") {
            "validate_path" => check_path(text(case, "input").as_bytes()),
            "join_segments" => {
                let segments = case["input"].as_array().unwrap();
                segments.iter().try_for_each(|segment| check_segment(segment.as_str().unwrap().as_bytes()))
            }
            other => panic!("unknown op {other}"),
        };
        let expected = if case["valid"] == true { Ok(()) } else { Err(text(case, "reason")) };
        assert_eq!(result.map_err(reason), expected, "{case}");
    }
}

#[test]
fn matchers() {
    let Some(cases) = vectors::read("spiffe/match_vectors.json") else { return };
    for case in cases.as_array().unwrap() {
        // go-spiffe's zero ID, which some of its matchers accept: here it cannot be made.
        if text(case, "input").is_empty() {
            continue;
        }
        let id = SpiffeId::parse(text(case, "input"));
        let arg = &case["arg"];
        let matches = match (text(case, "matcher"), id) {
            (_, Err(_)) => false,
            ("any", Ok(_)) => true,
            ("id", Ok(id)) => SpiffeId::parse(arg.as_str().unwrap_or_default()) == Ok(id),
            ("one_of", Ok(id)) => arg
                .as_array()
                .unwrap()
                .iter()
                .any(|one| SpiffeId::parse(one.as_str().unwrap()).as_ref() == Ok(&id)),
            ("member_of", Ok(id)) => TrustDomain::parse(arg.as_str().unwrap_or_default())
                .is_ok_and(|domain| domain.as_str() == id.as_ref().trust_domain()),
            (other, _) => panic!("unknown matcher {other}"),
        };
        assert_eq!(matches, text(case, "expect") == "allow", "{case}");
    }
}

#[test]
fn certificates() {
    let Some(cases) = vectors::read("spiffe/x509_svid_cases.json") else { return };
    let mut checked = 0;
    for case in cases.as_array().unwrap() {
        // Cases without a file are about bundles and chains, which are TLS's; two URIs and a foreign scheme are in
        // `svid/tests.rs`.
        let Some(file) = case["file"].as_str() else { continue };
        let name = file.rsplit('/').next().unwrap();
        if OUT_OF_SCOPE.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let bytes = vectors::read_bytes(&format!("spiffe/{file}")).unwrap();
        let mut der = Vec::new();
        let der = if file.ends_with(".der") {
            first_certificate(&bytes)
        } else {
            decode_pem(&bytes, &mut der).map(|()| der.as_slice())
        };
        let answer = der.and_then(|der| Svid::parse(der).map(|svid| svid.not_after));
        let expected = match text(case, "expect") {
            "ok" | "ok (URI+DNS SAN)" => Ok(()),
            "parses; expired" => {
                assert!(answer.is_ok_and(|not_after| not_after < 1_900_000_000), "{file}");
                Ok(())
            }
            "leaf has CA flag" => Err(&[SvidError::Ca][..]),
            "leaf has keyCertSign" | "leaf has cRLSign" => Err(&[SvidError::SigningUsage][..]),
            "leaf has no SPIFFE ID" => Err(&[SvidError::NoUri][..]),
            // Those files have keyCertSign as well.
            "leaf lacks digitalSignature" => {
                Err(&[SvidError::NoDigitalSignature, SvidError::SigningUsage][..])
            }
            "unparseable" | "no PEM blocks" => Err(&[SvidError::Der, SvidError::Pem][..]),
            other => panic!("unknown expectation {other}"),
        };
        match (answer, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(faults)) if faults.contains(&error) => {}
            (answer, expected) => panic!("{file}: {answer:?}, expected {expected:?}"),
        }
        checked += 1;
    }
    assert!(checked >= 18, "only {checked} certificates");
}

/// A DER file may hold a chain, one certificate after the other; the leaf comes first.
fn first_certificate(bytes: &[u8]) -> Result<&[u8], SvidError> {
    match bytes {
        [0x30, 0x82, high, low, ..] => {
            let length = 4 + (usize::from(*high) << 8 | usize::from(*low));
            bytes.get(..length).ok_or(SvidError::Der)
        }
        _ => Err(SvidError::Der),
    }
}

fn reason(error: SpiffeError) -> &'static str {
    match error {
        SpiffeError::Empty => "empty",
        SpiffeError::WrongScheme => "bad_scheme",
        SpiffeError::MissingTrustDomain => "missing_trust_domain",
        SpiffeError::TrustDomainCharacter => "trust_domain_bad_char",
        SpiffeError::TrustDomainTooLong => "too_long",
        SpiffeError::PathCharacter => "path_bad_char",
        SpiffeError::EmptySegment => "empty_segment",
        SpiffeError::DotSegment => "dot_segment",
        SpiffeError::TrailingSlash => "trailing_slash",
        SpiffeError::NoLeadingSlash => "missing_leading_slash",
        SpiffeError::TooLong => "too_long",
    }
}

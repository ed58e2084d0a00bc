//! `verify` on certificates that break one rule each, and agreement with the filter's own check of leaves.

use meshward_engine::svid::Svid;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use time::Duration;

use super::support::{HOUR, NOW, ca, request};
use crate::pki::verify::Chain;
use crate::pki::{Ca, issue, key};

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A leaf like ours, changed.
fn leaf(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/default/sa/bookapi")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = NOW - HOUR;
    params.not_after = NOW + HOUR;
    change(&mut params);
    params.signed_by(&key::generate().unwrap(), ca.issuer()).unwrap().der().clone()
}

#[test]
fn each_broken_rule_is_named_and_the_filter_agrees() {
    let ca = ca();
    /// Name, change, and the code and words of the finding.
    type Case = (&'static str, fn(&mut CertificateParams), Option<(&'static str, &'static str)>);
    let cases: [Case; 14] = [
        ("as issued", |_| {}, None),
        (
            "a DNS name beside the ID",
            |p| p.subject_alt_names.push(SanType::DnsName("b".try_into().unwrap())),
            None,
        ),
        ("a subject", |p| p.distinguished_name.push(DnType::CommonName, "b"), None),
        ("no extended key usage", |p| p.extended_key_usages.clear(), None),
        (
            "no URI SAN",
            |p| p.subject_alt_names = vec![SanType::DnsName("b".try_into().unwrap())],
            Some(("svid-id", "no URI SAN")),
        ),
        (
            "two URI SANs",
            |p| p.subject_alt_names.push(uri("spiffe://cluster.local/b")),
            Some(("svid-id", "2 URI SANs")),
        ),
        (
            "the same URI SAN twice",
            |p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/default/sa/bookapi")),
            Some(("svid-id", "2 URI SANs")),
        ),
        (
            "another scheme",
            |p| p.subject_alt_names = vec![uri("sparfe://cluster.local/b")],
            Some(("svid-id", "scheme")),
        ),
        (
            "an ID without a path",
            |p| p.subject_alt_names = vec![uri("spiffe://cluster.local")],
            Some(("svid-id", "no path")),
        ),
        (
            "a CA",
            |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
            Some(("svid-ca", "cA is true")),
        ),
        ("no key usage", |p| p.key_usages.clear(), Some(("svid-key-usage", "no key usage"))),
        (
            "no digitalSignature",
            |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
            Some(("svid-key-usage", "lacks the key usage digitalSignature")),
        ),
        (
            "keyCertSign",
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Some(("svid-key-usage", "keyCertSign")),
        ),
        ("cRLSign", |p| p.key_usages.push(KeyUsagePurpose::CrlSign), Some(("svid-key-usage", "cRLSign"))),
    ];
    for (name, change, fault) in cases {
        let der = leaf(&ca, change);
        let certificates = [der.clone()];
        let found = Chain { what: "the leaf", certificates: &certificates }.svid();
        match fault {
            None => assert!(found.is_empty(), "{name}: {found:?}"),
            Some((code, words)) => {
                assert!(
                    found.iter().any(|f| f.code == code && f.message.contains(words)),
                    "{name}: {found:?}"
                );
            }
        }
        assert_eq!(
            Svid::parse(&der).is_ok(),
            fault.is_none(),
            "{name}: the filter says {:?}",
            Svid::parse(&der)
        );
    }
}

#[test]
fn dates_and_issuers_are_told_apart() {
    let (ca, other) = (ca(), ca_of("other.test"));
    let issued = issue(&ca, &request(), NOW).unwrap();
    let certificates = [issued.certificate.clone()];
    let chain = Chain { what: "the leaf", certificates: &certificates };
    let end = NOW + HOUR * 24;
    let codes = |at| chain.dates(at).iter().map(|found| found.code).collect::<Vec<_>>();
    assert_eq!(codes(end), [""; 0], "both ends count");
    assert_eq!(codes(end + Duration::seconds(1)), ["expired"]);
    assert_eq!(codes(NOW - Duration::seconds(121)), ["not-yet-valid"]);
    let trust = |roots: &[CertificateDer<'static>], at| {
        chain.trust("the bundle", roots, at).into_iter().map(|found| found.message).collect::<Vec<_>>()
    };
    assert!(trust(ca.path(), NOW).is_empty());
    assert!(trust(ca.path(), end + HOUR).is_empty(), "expired is said by the dates, not as a broken chain");
    let foreign = trust(other.path(), NOW);
    assert!(foreign[0].contains("its issuer is not known"), "{foreign:?}");
    assert_eq!(trust(&[], NOW).len(), 1, "an empty bundle trusts nobody");
    let broken = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    let found = Chain { what: "x", certificates: &[broken] }.svid();
    assert_eq!(found[0].code, "damaged");
    assert_eq!(Chain { what: "x", certificates: &[] }.svid()[0].code, "damaged");
}

fn ca_of(trust_domain: &str) -> Ca {
    let trust_domain = crate::pki::svid::trust_domain(trust_domain).unwrap();
    Ca::create(&trust_domain, &crate::pki::CaOptions::default(), NOW).unwrap()
}

//! Every rule of X509-SVID on what `issue` makes, and other implementations' verdict.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::support::{HOUR, NOW, ca, ca_with, openssl_verify, request, webpki};
use crate::pki::{Ca, CaOptions, Error, Issued, issue, key, pem, sign_csr, svid};

fn chain(issued: &Issued) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    pem::certificates("chain", issued.chain_pem.as_bytes()).unwrap()
}

#[test]
fn a_leaf_keeps_every_rule_of_x509_svid() {
    let issued = issue(&ca(), &request(), NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.certificate).unwrap();
    let sans = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(sans.critical, "the subject is empty (RFC 5280, 4.2.1.6)");
    assert_eq!(
        sans.value.general_names,
        [
            GeneralName::URI("spiffe://cluster.local/ns/default/sa/bookapi"),
            GeneralName::DNSName("bookapi"),
            GeneralName::DNSName("bookapi.default.svc.cluster.local"),
        ]
    );
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap();
    assert!(extended.value.server_auth && extended.value.client_auth);
    assert_eq!(leaf.validity().not_before.to_datetime(), NOW - Duration::minutes(2));
    assert_eq!(leaf.validity().not_after.to_datetime(), NOW + Duration::hours(24));
    let key = key::decode("key", issued.key_pem.as_ref().unwrap().as_bytes(), None).unwrap();
    assert!(key::matches(&key, leaf.public_key().raw));
}

#[test]
fn serials_are_random_even_for_the_same_key() {
    let ca = ca();
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let mut serials: Vec<_> =
        (0..50).map(|_| sign_csr(&ca, csr.as_bytes(), &request(), NOW).unwrap().serial).collect();
    assert!(serials.iter().all(|serial| serial.len() == 16 && serial[0] & 0x80 == 0), "positive, 127 bits");
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 50);
}

#[test]
fn webpki_and_openssl_accept_leaves_of_every_kind_of_ca() {
    let folder = tempfile::tempdir().unwrap();
    let permit = vec!["bookapi".to_owned(), "default.svc.cluster.local".to_owned()];
    let kinds = [
        CaOptions::default(),
        CaOptions { intermediate: true, ..CaOptions::default() },
        CaOptions { permit_dns: permit.clone(), ..CaOptions::default() },
        CaOptions { permit_dns: permit, intermediate: true, ..CaOptions::default() },
        // A hundred years cross 2050, where the encoding of times changes.
        CaOptions { lifetime_seconds: Duration::days(36500).whole_seconds(), ..CaOptions::default() },
    ];
    for options in kinds {
        let ca = ca_with(&options);
        let mut request = request();
        request.lifetime = Duration::minutes(5);
        let issued = issue(&ca, &request, NOW).unwrap();
        let root = ca.path().last().unwrap();
        for (at, fine) in [
            (NOW - Duration::seconds(30), true),
            (NOW, true),
            (NOW + Duration::seconds(299), true),
            (NOW + Duration::seconds(301), false),
            (NOW - Duration::seconds(31), false),
        ] {
            let verdict = webpki(&chain(&issued), root, at);
            assert_eq!(verdict.is_ok(), fine, "webpki at {at}, {options:?}: {verdict:?}");
            if let Some(verdict) = openssl_verify(folder.path(), &issued.chain_pem, &issued.bundle_pem, at) {
                assert_eq!(verdict.is_ok(), fine, "openssl at {at}, {options:?}: {verdict:?}");
            }
        }
    }
}

#[test]
fn another_ca_does_not_verify_it() {
    let issued = issue(&ca(), &request(), NOW).unwrap();
    assert!(webpki(&chain(&issued), ca().path().last().unwrap(), NOW).is_err());
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let ca = ca_with(&CaOptions { lifetime_seconds: HOUR.whole_seconds(), ..CaOptions::default() });
    let issued = issue(&ca, &request(), NOW).unwrap();
    assert_eq!(issued.not_after, NOW + HOUR);
    assert!(matches!(issue(&ca, &request(), NOW + HOUR), Err(Error::Expired { .. })));
    assert!(matches!(issue(&ca, &request(), NOW - HOUR), Err(Error::NotYetValid { .. })));
}

#[test]
fn a_signing_request_gives_its_key_and_nothing_else() {
    let ca = ca();
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(vec!["admin.default".to_owned()]).unwrap();
    wish.distinguished_name.push(DnType::CommonName, "root");
    wish.subject_alt_names
        .push(SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()));
    wish.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
    let issued = sign_csr(&ca, csr.as_bytes(), &request(), NOW).unwrap();
    assert!(issued.key_pem.is_none());
    let (_, leaf) = X509Certificate::from_der(&issued.certificate).unwrap();
    assert!(key::matches(&key, leaf.public_key().raw));
    assert!(!leaf.is_ca() && !leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    let text = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value.general_names);
    assert!(!text.contains("admin"), "{text}");
    webpki(&chain(&issued), ca.path().last().unwrap(), NOW).unwrap();

    let mut forged = ::pem::parse(&csr).unwrap().into_contents();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = pem::encode("CERTIFICATE REQUEST", &forged);
    assert!(matches!(sign_csr(&ca, forged.as_bytes(), &request(), NOW), Err(Error::Csr { .. })));
    assert!(matches!(sign_csr(&ca, b"", &request(), NOW), Err(Error::Csr { .. })));
}

#[test]
fn what_must_not_be_signed_is_refused() {
    let ca = ca_with(&CaOptions {
        permit_dns: vec!["bookapi".into(), "svc.cluster.local".into()],
        ..CaOptions::default()
    });
    let with = |change: fn(&mut crate::pki::SvidRequest)| {
        let mut request = request();
        change(&mut request);
        issue(&ca, &request, NOW).map(|issued| issued.not_after).map_err(|error| error.code())
    };
    assert_eq!(with(|_| {}), Ok(NOW + Duration::hours(24)));
    let id = |text: &str| svid::spiffe_id(text).unwrap();
    assert_eq!(
        with(|r| r.id = spiffe::SpiffeId::new("spiffe://evil.test/ns/a/sa/b").unwrap()),
        Err("foreign-trust-domain")
    );
    assert_eq!(id("spiffe://cluster.local").path(), "");
    assert_eq!(with(|r| r.id = spiffe::SpiffeId::new("spiffe://cluster.local").unwrap()), Err("spiffe-id"));
    assert_eq!(with(|r| r.dns_names = vec!["Book".into()]), Err("dns-name"));
    assert_eq!(with(|r| r.dns_names = vec!["notbookapi".into()]), Err("name-constraints"));
    assert_eq!(with(|r| r.dns_names = vec!["x.bookapi".into()]), Ok(NOW + Duration::hours(24)));
    assert_eq!(with(|r| r.lifetime = Duration::seconds(59)), Err("lifetime"));
    assert_eq!(with(|r| r.lifetime = Duration::days(398)), Err("lifetime"));
}

#[test]
fn identities_are_taken_in_canonical_form_only() {
    for wrong in [
        "",
        "spiffe://",
        "spiffe://A/b",
        "SPIFFE://a/b",
        "spiffe://a/b/",
        "spiffe://a//b",
        "https://a/b",
        "spiffe://a:1/b",
    ] {
        assert!(svid::spiffe_id(wrong).is_err(), "{wrong}");
    }
    assert!(svid::trust_domain("spiffe://a").is_err(), "a name, not a URI");
    assert!(svid::trust_domain("Cluster.local").is_err());
    let long = format!("spiffe://a/{}", "b".repeat(2048 - 11));
    assert!(svid::spiffe_id(&long).is_ok());
    assert!(svid::spiffe_id(&(long + "b")).is_err());
}

#[test]
fn a_ca_is_saved_and_loaded_with_its_key_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let ca = ca_with(&CaOptions { intermediate: true, ..CaOptions::default() });
    assert!(ca.root_key().is_some());
    ca.save(folder.path(), None).unwrap();
    let mode = std::fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = Ca::load(folder.path(), None).unwrap();
    let issued = issue(&again, &request(), NOW).unwrap();
    assert_eq!(chain(&issued).len(), 2);
    webpki(&chain(&issued), ca.path().last().unwrap(), NOW).unwrap();

    // Another CA's key in the folder.
    let other = key::encode(super::support::ca().key(), None).unwrap();
    std::fs::write(folder.path().join("ca.key"), other.as_bytes()).unwrap();
    assert!(matches!(Ca::load(folder.path(), None), Err(Error::KeyMismatch { .. })));
}

#[test]
fn a_ca_that_no_certificate_could_express_is_refused() {
    let create = |seconds, now: OffsetDateTime| {
        let options = CaOptions { lifetime_seconds: seconds, ..CaOptions::default() };
        Ca::create(&svid::trust_domain("a").unwrap(), &options, now).map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(create(60, NOW), Err("lifetime"));
    assert_eq!(create(-1, NOW), Err("lifetime"));
    assert_eq!(create(Duration::days(365 * 8000).whole_seconds(), NOW), Err("lifetime"));
    assert_eq!(create(i64::MAX, NOW), Err("lifetime"));
    assert_eq!(create(Duration::days(36500).whole_seconds(), NOW), Ok(()));
}

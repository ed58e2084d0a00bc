//! Certificates made here with every single fault; the shared vectors are in `tests/spiffe_vectors.rs`.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyPair, KeyUsagePurpose as Ku, SanType,
};
use time::macros::datetime;

use super::*;

const ID: &str = "spiffe://example.org/ns/a/sa/b";

fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "b");
    params.subject_alt_names = vec![uri(ID), SanType::DnsName("b.example.org".try_into().unwrap())];
    params.key_usages = vec![Ku::DigitalSignature, Ku::KeyEncipherment];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(vec![0x00, 0x80, 0x01].into());
    params.not_before = datetime!(2026-01-01 0:00 UTC);
    params.not_after = datetime!(2060-01-01 0:00 UTC);
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn der(params: &CertificateParams) -> Vec<u8> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// What becomes of a good certificate after a change.
fn after(change: impl FnOnce(&mut CertificateParams)) -> Result<(), SvidError> {
    let mut params = good();
    change(&mut params);
    Svid::parse(&der(&params)).map(|_| ())
}

#[test]
fn a_good_leaf_is_read() {
    let der = der(&good());
    let svid = Svid::parse(&der).unwrap();
    assert_eq!(svid.id.as_str(), ID);
    assert_eq!(svid.serial, [0x80, 0x01]);
    assert_eq!((svid.not_before, svid.not_after), (1_767_225_600, 2_840_140_800));
    assert!(svid.is_valid_at(svid.not_before) && svid.is_valid_at(svid.not_after));
    assert!(!svid.is_valid_at(svid.not_before - 1) && !svid.is_valid_at(svid.not_after + 1));
}

#[test]
fn every_fault_has_its_name() {
    assert_eq!(after(|_| ()), Ok(()));
    assert_eq!(after(|c| c.extended_key_usages.clear()), Ok(()));
    assert_eq!(after(|c| c.is_ca = IsCa::NoCa), Ok(()));
    assert_eq!(after(|c| c.subject_alt_names.clear()), Err(SvidError::NoUri));
    assert_eq!(after(|c| drop(c.subject_alt_names.remove(0))), Err(SvidError::NoUri));
    assert_eq!(after(|c| c.subject_alt_names.push(uri(ID))), Err(SvidError::SeveralUris));
    assert_eq!(after(|c| c.subject_alt_names.push(uri("https://a/b"))), Err(SvidError::SeveralUris));
    let id = |text: &'static str| after(move |c| c.subject_alt_names[0] = uri(text));
    assert_eq!(id("https://example.org/a"), Err(SvidError::Id(SpiffeError::WrongScheme)));
    assert_eq!(id("spiffe://Example.org/a"), Err(SvidError::Id(SpiffeError::TrustDomainCharacter)));
    assert_eq!(id("spiffe://example.org/a/../b"), Err(SvidError::Id(SpiffeError::DotSegment)));
    assert_eq!(id(""), Err(SvidError::Id(SpiffeError::Empty)));
    assert_eq!(id("spiffe://example.org"), Err(SvidError::RootPath));
    assert_eq!(after(|c| c.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err(SvidError::Ca));
    assert_eq!(after(|c| c.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))), Err(SvidError::Ca));
    assert_eq!(after(|c| c.key_usages.clear()), Err(SvidError::KeyUsage));
    assert_eq!(after(|c| c.key_usages = vec![Ku::KeyEncipherment]), Err(SvidError::NoDigitalSignature));
    assert_eq!(after(|c| c.key_usages.push(Ku::KeyCertSign)), Err(SvidError::SigningUsage));
    assert_eq!(after(|c| c.key_usages.push(Ku::CrlSign)), Err(SvidError::SigningUsage));
    assert_eq!(after(|c| c.extended_key_usages = vec![Eku::ServerAuth]), Err(SvidError::ExtendedKeyUsage));
    assert_eq!(after(|c| c.extended_key_usages = vec![Eku::Any]), Err(SvidError::ExtendedKeyUsage));
}

#[test]
fn key_usage_must_be_critical_and_there_once() {
    let usage = |critical| {
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
        usage.set_criticality(critical);
        usage
    };
    let with = |extensions: Vec<CustomExtension>| {
        after(|c| {
            c.key_usages.clear();
            c.custom_extensions = extensions;
        })
    };
    assert_eq!(with(vec![usage(true)]), Ok(()));
    assert_eq!(with(vec![usage(false)]), Err(SvidError::KeyUsage));
    assert_eq!(with(vec![usage(true), usage(true)]), Err(SvidError::DuplicateExtension));
}

#[test]
fn an_empty_subject_needs_a_critical_name() {
    let with = |critical, subject: &str| {
        after(|c| {
            let length = u8::try_from(ID.len()).unwrap();
            let names = [&[0x30, length + 2, 0x86, length], ID.as_bytes()].concat();
            let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
            extension.set_criticality(critical);
            c.subject_alt_names.clear();
            c.custom_extensions = vec![extension];
            c.distinguished_name = rcgen::DistinguishedName::new();
            if !subject.is_empty() {
                c.distinguished_name.push(DnType::CommonName, subject);
            }
        })
    };
    assert_eq!(with(true, ""), Ok(()));
    assert_eq!(with(false, "b"), Ok(()));
    assert_eq!(with(false, ""), Err(SvidError::SubjectAltNameNotCritical));
}

#[test]
fn pem_as_a_file_and_as_envoy_gives_it() {
    let certificate = good().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let pem = certificate.pem();
    let encoded = pem
        .replace(' ', "%20")
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
        .replace('\r', "%0D")
        .replace('\n', "%0A");
    let mut der = vec![1, 2, 3];
    for text in [&pem, &encoded, &pem.replace('\r', ""), &format!("text before\n{pem}{pem}")] {
        decode_pem(text.as_bytes(), &mut der).unwrap();
        assert_eq!(der, certificate.der().to_vec());
    }
    for wrong in [
        String::new(),
        pem.replace("BEGIN", "BEGUN"),
        pem.replace("-----END", ""),
        pem.replacen("MI", "M!", 1),
        encoded.replacen("%0A", "%0", 1),
        encoded.replacen("%0A", "%zz", 1),
    ] {
        assert_eq!(decode_pem(wrong.as_bytes(), &mut der), Err(SvidError::Pem), "{wrong}");
    }
}

#[test]
fn base64_by_its_letter() {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        decode_base64(text.as_bytes(), &mut bytes).map(|()| bytes)
    };
    assert_eq!(decode("Zm9vYmFy").unwrap(), b"foobar");
    assert_eq!(decode("Zm9v%0AYmE%3D").unwrap(), b"fooba");
    assert_eq!(decode("Zm9vYg==\n").unwrap(), b"foob");
    assert_eq!(decode("").unwrap(), b"");
    for wrong in ["Zm9vY", "Zm9vYg=", "Zm9vYg===", "Zm9=YmFy", "Zm 9", "====", "%", "Zm9v%3"] {
        assert_eq!(decode(wrong), Err(SvidError::Pem), "{wrong}");
    }
}

#[test]
fn damage_never_panics() {
    let der = der(&good());
    for length in 0..der.len() {
        assert!(Svid::parse(&der[..length]).is_err());
    }
    for at in 0..der.len() {
        for change in [1, 0x20, 0x80, 0xff] {
            let mut changed = der.clone();
            changed[at] ^= change;
            let _ = Svid::parse(&changed);
        }
    }
}

//! Revocation: certificate revocation lists (RFC 5280, 5) for Envoy's validation context.
//!
//! A list is signed by each generation of the CA for what it issued; the file holds all of them. `nextUpdate` is the
//! CA's own end: the file is pushed, not fetched, and a list that expires would refuse every peer (BoringSSL does).

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use super::authority::Authority;
use super::error::{Error, Result};
use super::key::Passphrase;
use super::ledger::{Entry, Ledger, Reason, Revocation};
use super::store::Store;

/// What of the ledger `text` means: a serial number, a SPIFFE ID, a set or a service. Living ones only.
pub fn select<'a>(ledger: &'a mut Ledger, text: &str, now: OffsetDateTime) -> Vec<&'a mut Entry> {
    let serial = text.replace(':', "").to_ascii_lowercase();
    let set = super::store::leaf_set(text);
    ledger
        .issued
        .iter_mut()
        .filter(|entry| entry.not_after > now)
        .filter(|entry| {
            let of_set = entry.set.as_deref().is_some_and(|name| name == text || name == set);
            entry.serial == serial || entry.id == text || of_set
        })
        .collect()
}

/// Marks entries; already revoked ones keep their first date. Returns the serials that are newly revoked.
pub fn mark(entries: Vec<&mut Entry>, reason: Reason, now: OffsetDateTime) -> Vec<String> {
    let mut marked = Vec::new();
    for entry in entries {
        if entry.revoked.is_none() {
            let at = now.replace_nanosecond(0).unwrap_or(now);
            entry.revoked = Some(Revocation { at, reason });
            marked.push(entry.serial.clone());
        }
    }
    marked
}

/// The first list, where there is none yet: sidecars that check a list take no certificate at all without one.
pub fn ensure_list(
    store: &mut dyn Store,
    authority: &mut Authority,
    ledger: &mut Ledger,
    passphrase: Option<&Passphrase>,
    now: OffsetDateTime,
) -> Result<()> {
    if authority.crl().is_some() {
        return Ok(());
    }
    refresh(authority, ledger, passphrase, now)?;
    ledger.save(store)?;
    authority.save(store)
}

/// Makes the lists anew and puts them into the CA's set; the ledger's number goes up.
pub fn refresh(
    authority: &mut Authority,
    ledger: &mut Ledger,
    passphrase: Option<&Passphrase>,
    now: OffsetDateTime,
) -> Result<()> {
    ledger.crl_number += 1;
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let mut text = String::new();
    for generation in authority.generations() {
        let ca = authority.open(generation, passphrase)?;
        let name = generation.name();
        let mut revoked_certs = Vec::new();
        for entry in ledger.issued.iter().filter(|entry| entry.generation == name) {
            if let Some(revocation) = &entry.revoked {
                revoked_certs.push(RevokedCertParams {
                    serial_number: serial(&entry.serial)?,
                    revocation_time: revocation.at,
                    reason_code: code(revocation.reason),
                    invalidity_date: None,
                });
            }
        }
        let params = CertificateRevocationListParams {
            this_update: now - super::ca::CLOCK_SKEW,
            next_update: ca.not_after(),
            crl_number: SerialNumber::from(ledger.crl_number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::PreSpecified(key_identifier(&ca)?),
        };
        text += &params.signed_by(ca.issuer())?.pem()?;
    }
    authority.set_crl(Some(text));
    Ok(())
}

fn key_identifier(ca: &super::Ca) -> Result<Vec<u8>> {
    let first = ca.path().first().ok_or_else(|| Error::damaged("the CA", "it has no certificate"))?;
    let parsed = super::ca::parse("the CA certificate", first)?;
    let found = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    found.ok_or_else(|| Error::damaged("the CA certificate", "it has no subject key identifier"))
}

fn serial(hex: &str) -> Result<SerialNumber> {
    let wrong = || Error::damaged("the ledger", format!("`{hex}` is no serial number"));
    if hex.is_empty() || !hex.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(2) {
        let pair = hex.get(at..at + 2).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(pair, 16).map_err(|_| wrong())?);
    }
    Ok(SerialNumber::from(bytes))
}

/// RFC 5280, 5.3.1: `unspecified` is said by leaving the code out.
fn code(reason: Reason) -> Option<RevocationReason> {
    match reason {
        Reason::Unspecified => None,
        Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
        Reason::Superseded => Some(RevocationReason::Superseded),
        Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        Reason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
    }
}

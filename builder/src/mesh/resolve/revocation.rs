//! Checks of the deny list and of federation.

use super::super::document::Spanned;
use super::super::model::{MeshSpec, RevocationSpec};
use super::Revocation;
use super::check::Check;

impl Check<'_> {
    /// No trust domain is federated with itself, and no list is asked for where none is read.
    pub fn federation(&mut self, spec: &MeshSpec) {
        for other in &spec.federates_with {
            if other.value == spec.trust_domain.value
                || spec.trust_domain_aliases.iter().any(|own| own.value == other.value)
            {
                let message = format!("`{}` is the mesh's own trust domain", other.value);
                self.error(&other.span, "federation", message, "name other trust domains only".to_owned());
            }
        }
        let crl = spec.revocation.crl.as_ref().filter(|crl| crl.value);
        if let (Some(crl), false) = (crl, spec.federates_with.is_empty()) {
            let message = "with `federatesWith`, Envoy's SPIFFE validator judges certificates, and it reads no revocation list";
            let help = "leave `crl` out; `serials` and `ids` are enforced in both cases".to_owned();
            self.error(&crl.span, "federation", message, help);
        }
    }

    pub fn revocation(&mut self, spec: &RevocationSpec) -> Revocation {
        let serials = spec.serials.iter().filter_map(|serial| self.serial(serial)).collect();
        let mut ids = Vec::new();
        for id in &spec.ids {
            match crate::pki::svid::spiffe_id(&id.value) {
                Ok(_) => ids.push(id.value.clone()),
                Err(error) => self.error(&id.span, "spiffe-id", error.to_string(), None),
            }
        }
        Revocation { serials, ids, crl: spec.crl.as_ref().is_some_and(|crl| crl.value) }
    }

    /// Hexadecimal digits, perhaps with colons between pairs; at most 20 bytes (RFC 5280, 4.1.2.2).
    fn serial(&mut self, text: &Spanned<String>) -> Option<Vec<u8>> {
        let digits: String = text.value.chars().filter(|digit| *digit != ':').collect();
        let even = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
        let mut bytes = Vec::new();
        for at in (0..even.len()).step_by(2) {
            match even.get(at..at + 2).map(|pair| u8::from_str_radix(pair, 16)) {
                // `from_str_radix` takes a sign.
                Some(Ok(byte)) if !even.contains('+') => bytes.push(byte),
                _ => {
                    bytes.clear();
                    break;
                }
            }
        }
        let significant: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
        if significant.is_empty() || significant.len() > 20 {
            let message = format!("`{}` is no serial number of a certificate", text.value);
            let help =
                "write it as `meshward certs inspect` shows it, in quotes: hexadecimal digits, at most 40"
                    .to_owned();
            self.error(&text.span, "invalid-serial", message, help);
            return None;
        }
        Some(significant)
    }
}

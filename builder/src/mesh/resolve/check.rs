//! Checks of single values, and the words for what is wrong with them.

use std::ops::Range;

use super::super::document::{Document, Spanned};
use crate::diagnostic::Diagnostic;

/// The longest DNS label (RFC 1035, 2.3.4), and the longest value of a Kubernetes label.
const LONGEST_LABEL: usize = 63;

/// Whether an image is named with the digest of what it names: 64 hexadecimal digits.
pub fn is_pinned(image: &str) -> bool {
    image.split_once("@sha256:").is_some_and(|(name, digest)| {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        !name.is_empty()
            && !name.contains(char::is_whitespace)
            && digest.len() == 64
            && digest.bytes().all(hex)
    })
}

pub(super) struct Check<'a> {
    pub document: &'a Document,
    pub mistakes: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    pub fn error(
        &mut self,
        span: &Range<usize>,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        let mut mistake = self.document.error(code, message, span);
        mistake.help.extend(help.into());
        self.mistakes.push(mistake);
    }

    pub fn warning(&mut self, span: &Range<usize>, code: &'static str, message: String, help: String) {
        let warning = Diagnostic::warning(code, message).at(&self.document.source, span.clone()).help(help);
        self.mistakes.push(warning);
    }

    /// `file:line` of a place in the document.
    pub fn line(&self, span: &Range<usize>) -> String {
        format!("{}:{}", self.document.source.name, self.document.source.position(span.start).0)
    }

    /// A Kubernetes name that is one DNS label: `[a-z]([-a-z0-9]*[a-z0-9])?`, at most 63 characters.
    pub fn dns_label(&mut self, what: &str, name: &Spanned<String>) {
        let letter_first = name.starts_with(|first: char| first.is_ascii_lowercase());
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.len() > LONGEST_LABEL {
            let message = format!(
                "{what} can have {LONGEST_LABEL} characters, and `{}` has {}",
                name.value,
                name.len()
            );
            self.error(&name.span, "invalid-name", message, None);
        } else if !letter_first || name.ends_with('-') || !name.chars().all(good) {
            let message =
                format!("`{}` cannot be {what}: Kubernetes and SPIFFE take no other form", name.value);
            let help = "use lower-case letters, digits and `-`, starting with a letter, not ending with `-`"
                .to_owned();
            self.error(&name.span, "invalid-name", message, help);
        }
    }

    /// A service account's name: DNS labels joined by dots.
    pub fn service_account(&mut self, name: &Spanned<String>) {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let label = |label: &str| {
            !label.is_empty() && label.chars().all(good) && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            let message = format!("`{}` cannot be a service account's name", name.value);
            let help = "use lower-case letters, digits, `-` and `.`".to_owned();
            self.error(&name.span, "invalid-name", message, help);
        }
    }

    /// SPIFFE-ID, 2.1: lower case, no port, no user, at most 255 bytes.
    pub fn trust_domain(&mut self, name: &Spanned<String>) {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || name.len() > 255 || !name.chars().all(good) {
            let lower = name.to_ascii_lowercase();
            let bare = lower.strip_prefix("spiffe://").unwrap_or(&lower).trim_end_matches('/');
            let help = if !bare.is_empty() && bare.chars().all(good) {
                format!("did you mean `{bare}`?")
            } else {
                "use lower-case letters, digits, `.`, `-` and `_`, without scheme and port".to_owned()
            };
            self.error(
                &name.span,
                "invalid-trust-domain",
                format!("`{}` is no SPIFFE trust domain", name.value),
                help,
            );
        }
    }

    pub fn pinned_image(&mut self, image: &Spanned<String>) {
        if !is_pinned(image) {
            let message = format!("`{}` may become another image", image.value);
            self.error(
                &image.span,
                "invalid-image",
                message,
                "pin it by its digest, as `name@sha256:…`".to_owned(),
            );
        }
    }

    pub fn image(&mut self, image: &Spanned<String>) {
        if image.trim().is_empty() || image.contains(char::is_whitespace) {
            let message = format!("`{}` is no image reference", image.value);
            self.error(&image.span, "invalid-image", message, "write it like `registry/name:tag`".to_owned());
        }
    }

    /// A Kubernetes label (the syntax of `metadata.labels`).
    pub fn label(&mut self, key: &str, value: &Spanned<String>) {
        let edge = |c: char| c.is_ascii_alphanumeric();
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let segment = |text: &str| {
            text.len() <= LONGEST_LABEL
                && text.chars().all(inner)
                && text.starts_with(edge)
                && text.ends_with(edge)
        };
        let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
        if !segment(name) || prefix.is_some_and(|prefix| prefix.is_empty() || prefix.len() > 253) {
            self.error(&value.span, "invalid-label", format!("`{key}` cannot be a label's name"), None);
        }
        if !value.is_empty() && !segment(value) {
            let help =
                "use letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends"
                    .to_owned();
            self.error(
                &value.span,
                "invalid-label",
                format!("`{}` cannot be a label's value", value.value),
                help,
            );
        }
    }
}

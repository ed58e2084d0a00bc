//! `from`, `to`, `when` of a limit, read and checked by the policy module; durations with their unit; whole numbers.

use std::ops::Range;

use meshward_engine::config::{Attribute, HeaderMode};

use crate::diagnostic::Diagnostic;
use crate::mesh::document::{Document, Spanned};
use crate::policy::authorization::{Match, Rule};
use crate::policy::check::RuleReader;
use crate::policy::model;

/// `from` as it is written.
pub type From = Option<Spanned<Vec<Spanned<model::From>>>>;
/// `to` as it is written.
pub type To = Option<Spanned<Vec<Spanned<model::To>>>>;
/// `when` as it is written.
pub type When = Option<Spanned<Vec<Spanned<model::Condition>>>>;

/// Reads the parts that all limits share, of one policy.
pub struct Reader<'a> {
    pub document: &'a Document,
    /// Nothing was set aside while reading, so what is missing is missing.
    pub whole: bool,
    /// The policy's own.
    pub namespace: &'a str,
    pub headers: HeaderMode,
    pub mistakes: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    pub fn error(&mut self, code: &'static str, message: impl Into<String>, span: &Range<usize>, help: &str) {
        self.mistakes.push(self.document.error(code, message, span).help(help));
    }

    fn policy(&mut self) -> RuleReader<'_> {
        RuleReader {
            document: self.document,
            whole: self.whole,
            namespace: self.namespace,
            headers: self.headers,
            mistakes: self.mistakes,
        }
    }

    /// The rule; `None` when nothing is said, which is every request. `span` is where it stands.
    pub fn rule(&mut self, span: &Range<usize>, from: From, to: To, when: When) -> Option<Rule> {
        if from.is_none() && to.is_none() && when.is_none() {
            return None;
        }
        Some(self.policy().rule(Spanned::new(model::Rule { from, to, when }, span.clone())))
    }

    /// Values of one field, as an AuthorizationPolicy has them.
    pub fn field(
        &mut self,
        name: &str,
        values: &Spanned<Vec<Spanned<String>>>,
        attribute: Attribute,
    ) -> Option<Match> {
        self.policy().field(name, &Some(values.clone()), attribute, false)
    }

    /// `1s`, `250ms`, `1h30m`, in nanoseconds; longer than nothing.
    pub fn duration(&mut self, field: &str, written: &Spanned<String>) -> Option<u64> {
        let parsed = written.parse::<jiff::SignedDuration>().ok();
        let nanoseconds = parsed.and_then(|duration| u64::try_from(duration.as_nanos()).ok());
        let found = nanoseconds.filter(|nanoseconds| *nanoseconds > 0);
        if found.is_none() {
            let message = format!("`{}` is no time for `{field}`", written.value);
            let help = "write a number and its unit, `1s`, `250ms`, `1m`, `24h`: more than nothing, less than 500 years";
            self.error("invalid-duration", message, &written.span, help);
        }
        found
    }

    /// A number of at least 1.
    pub fn at_least_one(&mut self, field: &str, written: &Spanned<u32>) -> Option<u32> {
        if written.value == 0 {
            let help = "to refuse everything write a DENY policy; to limit nothing take the limit out";
            self.error("zero", format!("`{field}` is at least 1"), &written.span, help);
        }
        (written.value > 0).then_some(written.value)
    }
}

//! An AuthorizationPolicy that has been checked: values parsed, names filled in, every part with its place.
//!
//! Deliberately absent: reading (`super::model`), checking (`super::check`), choosing workloads (`super::select`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use meshward_engine::config::{Action, Attribute, DenyResponse, Pattern};

use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::mesh::document::Spanned;

/// One AuthorizationPolicy, whole and good.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    pub source: Arc<Source>,
    pub name: Spanned<String>,
    pub namespace: String,
    pub target: Target,
    pub action: Action,
    /// Evaluated and counted, without a say.
    pub dry_run: bool,
    pub rules: Vec<Rule>,
    pub deny_response: Option<DenyResponse>,
}

impl AuthorizationPolicy {
    /// `namespace/name`
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name.value)
    }

    /// A finding at a place in this policy.
    pub fn finding(
        &self,
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        span: &Range<usize>,
    ) -> Diagnostic {
        Diagnostic::new(severity, code, message).at(&self.source, span.clone())
    }
}

/// Which workloads of its namespace (in the root namespace: of all) a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those with all of these labels; with none, all.
    Labels { labels: BTreeMap<String, String>, span: Range<usize> },
    /// Those behind one of these services, by name.
    Services(Vec<Spanned<String>>),
}

/// `(any of from) and (any of to) and (all of when)`; an empty list means anything.
#[derive(Clone, Debug)]
pub struct Rule {
    pub span: Range<usize>,
    pub from: Vec<Clause>,
    pub to: Vec<Clause>,
    pub when: Vec<Match>,
}

impl Rule {
    /// Everything that the rule compares, wherever it stands.
    pub fn matches(&self) -> impl Iterator<Item = &Match> {
        self.from.iter().chain(&self.to).flat_map(|clause| &clause.matches).chain(&self.when)
    }
}

/// One `source` or one `operation`: all of it must hold.
#[derive(Clone, Debug)]
pub struct Clause {
    pub span: Range<usize>,
    pub matches: Vec<Match>,
}

/// One field or one condition.
#[derive(Clone, Debug)]
pub struct Match {
    /// As the user wrote it: `notPaths`, `request.headers[x-role]`.
    pub field: String,
    pub span: Range<usize>,
    pub attribute: Attribute,
    pub negated: bool,
    /// Not empty.
    pub values: Vec<Value>,
}

/// A value, as written and as it is compared.
#[derive(Clone, Debug)]
pub struct Value {
    pub text: Spanned<String>,
    pub pattern: Pattern,
}

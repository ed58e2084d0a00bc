//! One request and its answer as values, for the verbs that ask many: the very line that `policy eval` reads, and the very
//! line that it writes.

use serde::Deserialize;

use super::{Evaluator, Options, Paths};
use crate::diagnostic::Failure;
use crate::mesh::{Resolved, Service};

/// What `policy eval` answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answered {
    decision: String,
    /// What the client gets; 200 stands for whatever the application answers.
    pub status: u16,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
    pub limit: Option<String>,
    /// A word; behind `: ` of a denial what came nearest.
    pub reason: String,
}

impl Answered {
    /// By something before the policies.
    pub fn refusal(status: u16, reason: &str) -> Self {
        let (decision, reason) = ("deny".to_owned(), reason.to_owned());
        Self { decision, status, policy: None, rule: None, limit: None, reason }
    }

    pub fn is_allowed(&self) -> bool {
        self.decision == "allow"
    }

    /// As `up --check` shows it: `allow default/bookapi/0`, `deny default/bookapi/per-caller`, else the reason's word.
    pub fn decided(&self) -> String {
        let decision = &self.decision;
        match (&self.policy, self.rule, &self.limit) {
            (Some(policy), Some(rule), _) => format!("{decision} {policy}/{rule}"),
            (Some(policy), None, Some(limit)) => format!("{decision} {policy}/{limit}"),
            _ => format!("{decision} {}", self.word()),
        }
    }

    /// The reason without what came nearest.
    pub fn word(&self) -> &str {
        self.reason.split(": ").next().unwrap_or_default()
    }

    /// What came nearest, of a denial.
    pub fn nearest(&self) -> Option<&str> {
        self.reason.split_once(": ").map(|(_, nearest)| nearest)
    }
}

impl Evaluator {
    /// For the sidecar of a service.
    ///
    /// # Errors
    /// What the engine has against its policies.
    pub fn of_service(
        mesh: &Resolved,
        service: &Service,
        paths: Paths,
        terse: bool,
    ) -> Result<Self, Failure> {
        let options = Options {
            workload: Some((service.namespace.clone(), service.name.clone())),
            paths: Some(paths),
            terse,
            ..Options::default()
        };
        Self::of_mesh(mesh, &options)
    }

    /// Asks one request, written as a line of `policy eval`'s.
    ///
    /// # Errors
    /// It cannot be read; why.
    pub fn ask(&self, request: &serde_json::Value) -> Result<Answered, String> {
        let mut output = Vec::new();
        let line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        self.answer(&line, &mut output)?.map_err(|error| error.to_string())?;
        serde_json::from_slice(&output).map_err(|error| error.to_string())
    }
}

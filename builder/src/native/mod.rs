//! Envoy's own protections: limits of connections and requests (`circuit_breakers`, which open and close nothing), ejection of
//! hosts (`outlier_detection`), retries within a budget, timeouts. Written as Istio's DestinationRule or in the part
//! `envoy` of a CircuitBreakerPolicy.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the YAML, field for field |
//! | [`check`] | YAML → checked settings |
//! | [`settings`] | checked settings, and which hold for which call |
//! | [`period`] | lengths of time |
//!
//! Deliberately absent: Envoy's own form of it (`crate::envoy`), and the breakers of the filter (`crate::limits`).

pub mod check;
pub mod model;
pub mod period;
pub mod settings;

pub use period::Period;
pub use settings::{ForCall, Settings, for_call};

use crate::diagnostic::Diagnostic;
use crate::limits::{CircuitBreakerPolicy, circuit_breaker};
use crate::mesh::Resolved;
use crate::mesh::document::Document;

#[cfg(test)]
mod tests;

/// Reads the DestinationRules among the documents, and what CircuitBreakerPolicies ask of Envoy. Mistakes are appended.
pub fn load(
    documents: &[Document],
    breakers: &[CircuitBreakerPolicy],
    mesh: &Resolved,
    mistakes: &mut Vec<Diagnostic>,
) -> Vec<Settings> {
    let rules = documents.iter().filter(|document| document.kind.value == "DestinationRule");
    let mut settings: Vec<Settings> =
        rules.filter_map(|document| check::destination_rule(document, mesh, mistakes)).collect();
    let of_policy = |policy| circuit_breaker::native(policy, mesh, documents, mistakes);
    settings.extend(breakers.iter().filter_map(of_policy));
    settings
}

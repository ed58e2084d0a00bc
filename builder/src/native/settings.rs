//! Envoy's own protections, checked: for which calls, and with which values.
//!
//! INVARIANT: of two policies that say the same part for the same call one is a mistake ([`conflicts`]), so that the order of
//! files decides nothing.

use std::sync::Arc;

use super::model::{ConnectionPool, OutlierDetection, Retries};
use super::period::Period;
use crate::diagnostic::{Diagnostic, Source};
use crate::mesh::document::Spanned;
use crate::mesh::{Resolved, Service};
use crate::policy::authorization::Target;
use crate::policy::select;

/// What one document says.
#[derive(Clone, Debug)]
pub struct Settings {
    pub source: Arc<Source>,
    /// `DestinationRule shop/books`, for messages.
    pub title: String,
    pub name: Spanned<String>,
    pub callers: Callers,
    /// Names of services; `None`: all that the caller calls.
    pub destinations: Option<Vec<String>>,
    pub connection_pool: Option<Spanned<ConnectionPool>>,
    pub outlier_detection: Option<Spanned<OutlierDetection>>,
    pub retries: Option<Spanned<Retries>>,
    pub timeout: Option<Spanned<Period>>,
}

/// In whose sidecars.
#[derive(Clone, Debug)]
pub struct Callers {
    pub target: Target,
    /// `None`: of any namespace.
    pub namespaces: Option<Vec<String>>,
}

/// What holds for one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForCall<'a> {
    pub connection_pool: Option<&'a ConnectionPool>,
    pub outlier_detection: Option<&'a OutlierDetection>,
    pub retries: Option<&'a Retries>,
    pub timeout: Option<Period>,
}

impl Settings {
    /// Whether it is for the calls of `caller` to `callee`.
    pub fn is_for(&self, mesh: &Resolved, caller: &Service, callee: &str) -> bool {
        self.callers.namespaces.as_ref().is_none_or(|all| all.contains(&caller.namespace))
            && select::target_fits(&self.callers.target, &mesh.workload(caller))
            && self.destinations.as_ref().is_none_or(|names| names.iter().any(|name| name == callee))
    }
}

/// What holds for the calls of `caller` to `callee`.
pub fn for_call<'a>(mesh: &'a Resolved, caller: &Service, callee: &Service) -> ForCall<'a> {
    let mut found = ForCall::default();
    for one in mesh.native.iter().filter(|one| one.is_for(mesh, caller, &callee.name)) {
        found.connection_pool =
            found.connection_pool.or(one.connection_pool.as_ref().map(|part| &part.value));
        found.outlier_detection =
            found.outlier_detection.or(one.outlier_detection.as_ref().map(|part| &part.value));
        found.retries = found.retries.or(one.retries.as_ref().map(|part| &part.value));
        found.timeout = found.timeout.or(one.timeout.as_ref().map(|part| part.value));
    }
    found
}

/// Two that say the same part for the same call.
pub fn conflicts(mesh: &Resolved, mistakes: &mut Vec<Diagnostic>) {
    for (at, one) in mesh.native.iter().enumerate() {
        for other in mesh.native.iter().take(at) {
            let call = mesh.services.iter().find_map(|caller| {
                let both = caller.calls.iter().find(|call| {
                    one.is_for(mesh, caller, &call.service) && other.is_for(mesh, caller, &call.service)
                });
                both.map(|call| (caller, call))
            });
            let Some((caller, call)) = call else { continue };
            for ((part, span), (_, taken)) in one.parts().into_iter().zip(other.parts()) {
                let (Some(span), Some(_)) = (span, taken) else { continue };
                let message = format!(
                    "`{part}` for the calls of `{}` to `{}` is said twice, here and by {}",
                    caller.name, call.service, other.title
                );
                let (line, _) = other.source.position(other.name.span.start);
                mistakes.push(
                    Diagnostic::error("two-settings", message)
                        .at(&one.source, span)
                        .help(format!("the other is at {}:{line}; keep one of them", other.source.name)),
                );
            }
        }
    }
}

impl Settings {
    /// Every part with its name, and its place where it is said. Always in this order.
    fn parts(&self) -> [(&'static str, Option<std::ops::Range<usize>>); 4] {
        [
            ("connectionPool", self.connection_pool.as_ref().map(|part| part.span.clone())),
            ("outlierDetection", self.outlier_detection.as_ref().map(|part| part.span.clone())),
            ("retries", self.retries.as_ref().map(|part| part.span.clone())),
            ("timeout", self.timeout.as_ref().map(|part| part.span.clone())),
        ]
    }
}

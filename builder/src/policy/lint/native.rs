//! MW020, MW021, MW022: values of Envoy's own protections that do nothing.

use super::Context;
use super::codes::{Code, EJECTS_NOTHING, GATEWAY_ERRORS, PANIC};
use crate::diagnostic::Diagnostic;
use crate::mesh::Service;
use crate::native::Settings;
use crate::native::model::OutlierDetection;

/// The default of `consecutive5xxErrors`.
const CONSECUTIVE_5XX: u32 = 5;

pub(super) fn lint(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let Some(mesh) = context.mesh else { return };
    for settings in &mesh.native {
        let Some(outlier) = &settings.outlier_detection else { continue };
        gateway_errors(settings, outlier, findings);
        let callees = mesh.services.iter().filter(|callee| {
            let is_for = |caller: &&Service| settings.is_for(mesh, caller, &callee.name);
            mesh.callers_of(&callee.name).any(|caller| is_for(&caller))
        });
        // The one with the most hosts: what does nothing there does nothing anywhere.
        if let Some(callee) = callees.max_by_key(|callee| callee.replicas) {
            ejects_nothing(settings, outlier, callee, findings);
            panics(settings, outlier, callee, findings);
        }
    }
}

fn finding(
    settings: &Settings,
    code: &'static Code,
    message: String,
    span: &std::ops::Range<usize>,
) -> Diagnostic {
    Diagnostic::new(code.severity, code.code, message).at(&settings.source, span.clone())
}

/// 502, 503 and 504 are 5xx as well, so the larger number is never reached first.
fn gateway_errors(settings: &Settings, outlier: &OutlierDetection, findings: &mut Vec<Diagnostic>) {
    let all = outlier.consecutive_5xx_errors.as_ref().map_or(CONSECUTIVE_5XX, |number| number.value);
    let Some(gateway) = &outlier.consecutive_gateway_errors else { return };
    if all > 0 && gateway.value >= all {
        let message = format!(
            "`consecutiveGatewayErrors: {}` has no effect: the host is out after {all} 5xx of any kind",
            gateway.value
        );
        findings.push(
            finding(settings, &GATEWAY_ERRORS, message, &gateway.span)
                .help("write a number below `consecutive5xxErrors`, or `consecutive5xxErrors: 0` to count 502, 503 and 504 alone"),
        );
    }
}

/// Envoy ejects a host only as long as the ejected ones, with it, are at most so many of 100.
fn ejects_nothing(
    settings: &Settings,
    outlier: &OutlierDetection,
    callee: &Service,
    findings: &mut Vec<Diagnostic>,
) {
    let Some(percent) = &outlier.max_ejection_percent else { return };
    if percent.value.saturating_mul(callee.replicas) < 100 {
        let message = format!(
            "`maxEjectionPercent: {}` of the {} of `{}` is less than one host: nothing is ever ejected",
            percent.value,
            hosts(callee.replicas),
            callee.name
        );
        findings.push(finding(settings, &EJECTS_NOTHING, message, &percent.span).help(format!(
            "write at least {}, or leave it out: then 50, and always at least one host",
            100u32.div_ceil(callee.replicas.max(1))
        )));
    }
}

/// With the first ejection too few are left, and Envoy uses all again.
fn panics(settings: &Settings, outlier: &OutlierDetection, callee: &Service, findings: &mut Vec<Diagnostic>) {
    let Some(percent) = &outlier.min_health_percent else { return };
    let left = callee.replicas.saturating_sub(1).saturating_mul(100);
    if percent.value > 0 && left < percent.value.saturating_mul(callee.replicas) {
        let message = format!(
            "with one of the {} of `{}` out, fewer than `minHealthPercent: {}` are left, and all are used again",
            hosts(callee.replicas),
            callee.name,
            percent.value
        );
        findings.push(
            finding(settings, &PANIC, message, &percent.span)
                .help("leave it out, or write less than what is left with one host out"),
        );
    }
}

fn hosts(number: u32) -> String {
    if number == 1 { "1 host".to_owned() } else { format!("{number} hosts") }
}

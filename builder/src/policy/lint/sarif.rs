//! Findings as SARIF 2.1.0, which code review tools show beside the lines.
//!
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/>

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::codes;
use crate::diagnostic::{Diagnostic, Severity};

/// One run with all findings.
pub fn report(findings: &[Diagnostic]) -> Value {
    let used: BTreeSet<&str> = findings.iter().map(|finding| finding.code).collect();
    let rules: Vec<Value> = used.into_iter().map(rule).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "meshward",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn rule(name: &str) -> Value {
    match codes::find(name) {
        Ok(code) => json!({
            "id": name,
            "shortDescription": { "text": code.title },
            "fullDescription": { "text": code.why },
            "help": { "text": code.mend },
            "defaultConfiguration": { "level": level(code.severity) },
        }),
        Err(_) => json!({ "id": name }),
    }
}

fn result(finding: &Diagnostic) -> Value {
    let mut text = finding.message.clone();
    for help in &finding.help {
        text.push_str("\nhelp: ");
        text.push_str(help);
    }
    let mut result =
        json!({ "ruleId": finding.code, "level": level(finding.severity), "message": { "text": text } });
    if let (Some(place), Some(object)) = (&finding.location, result.as_object_mut()) {
        let (line, column) = place.source.position(place.span.start);
        let (end_line, end_column) = place.source.position(place.span.end.max(place.span.start));
        object.insert(
            "locations".to_owned(),
            json!([{ "physicalLocation": {
                "artifactLocation": { "uri": place.source.name },
                "region": { "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column },
            }}]),
        );
    }
    result
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

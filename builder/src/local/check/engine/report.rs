//! What became of the checks: for people, as JSON, as JUnit's XML.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Outcome, Verdict};
use crate::diagnostic::{Diagnostic, Source};

/// One for each check that is not as expected, at its `expect`.
pub fn failures(outcomes: &[Outcome<'_>], source: &Arc<Source>) -> Vec<Diagnostic> {
    let failure = |outcome: &Outcome<'_>| {
        let Verdict::Other(answered, wrong) = &outcome.verdict else { return None };
        let message = format!("`{}`: {}", outcome.check.name, wrong.join("; "));
        let mut failure = Diagnostic::error("not-as-expected", message)
            .at(source, outcome.check.span.clone())
            .help(format!("the answer is: {}", answered.decided()));
        if let Some(nearest) = answered.nearest() {
            failure = failure.help(format!("nearest: {nearest}"));
        }
        Some(failure)
    };
    outcomes.iter().filter_map(failure).collect()
}

/// As expected, not so, left out.
fn counts(outcomes: &[Outcome<'_>]) -> (usize, usize, usize) {
    let failed = outcomes.iter().filter(|outcome| outcome.failed()).count();
    let left_out = outcomes.iter().filter(|one| matches!(one.verdict, Verdict::LeftOut(_))).count();
    (outcomes.len() - failed - left_out, failed, left_out)
}

/// `54 checks: 46 as expected, 0 not, 8 left out`
pub fn summary(outcomes: &[Outcome<'_>]) -> String {
    let (good, failed, left_out) = counts(outcomes);
    format!("{} checks: {good} as expected, {failed} not, {left_out} left out", outcomes.len())
}

/// Every check with its place, what is expected, what is answered.
pub fn as_json(outcomes: &[Outcome<'_>], source: &Source) -> Value {
    let one = |outcome: &Outcome<'_>| {
        let check = outcome.check;
        let (line, column) = source.position(check.span.start);
        let mut value = json!({
            "name": check.name, "file": source.name, "line": line, "column": column,
            "from": check.from, "to": check.to, "request": check.message.summary(),
        });
        let rest = match &outcome.verdict {
            Verdict::LeftOut(why) => json!({ "result": "left_out", "why": why }),
            Verdict::AsExpected(answered) => json!({
                "result": "passed", "status": answered.status, "decided": answered.decided(),
                "reason": answered.reason,
            }),
            Verdict::Other(answered, wrong) => json!({
                "result": "failed", "status": answered.status, "decided": answered.decided(),
                "reason": answered.reason, "wrong": wrong,
            }),
        };
        super::merge(&mut value, &rest);
        value
    };
    Value::Array(outcomes.iter().map(one).collect())
}

/// JUnit's XML, as CI systems read it.
pub fn as_junit(outcomes: &[Outcome<'_>], source: &Source) -> String {
    let (_, failed, left_out) = counts(outcomes);
    let (file, tests) = (xml(&source.name), outcomes.len());
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{failed}\" skipped=\"{left_out}\">\n"
    );
    for outcome in outcomes {
        let check = outcome.check;
        let (line, _) = source.position(check.span.start);
        let inside = match &outcome.verdict {
            Verdict::AsExpected(_) => String::new(),
            Verdict::LeftOut(why) => format!("<skipped message=\"{}\"/>", xml(why)),
            Verdict::Other(answered, wrong) => {
                let message = xml(&wrong.join("; "));
                format!("<failure message=\"{message}\">{}</failure>", xml(&answered.reason))
            }
        };
        let (name, from, to) = (xml(&check.name), xml(&check.from), xml(&check.to));
        text.push_str(&format!(
            "  <testcase classname=\"{from} to {to}\" name=\"{name}\" file=\"{file}\" line=\"{line}\">{inside}</testcase>\n"
        ));
    }
    text + "</testsuite>\n"
}

/// Text in XML; control characters, of which XML 1.0 has none, as a question mark.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() => escaped.push('?'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

//! What changed, for people and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Change, Report, Way};

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Widened => "widened",
            Self::Narrowed => "narrowed",
            Self::Moved => "moved",
        }
    }
}

/// What changed, each with a request that shows it, and a closing line. `moved`: also what only another rule decides.
pub fn as_text(report: &Report, moved: bool) -> String {
    let mut text = String::new();
    for change in report.changes.iter().filter(|change| moved || change.way != Way::Moved) {
        let sign = match change.way {
            Way::Widened => '+',
            Way::Narrowed => '-',
            Way::Moved => '~',
        };
        let more = match change.count {
            1 => String::new(),
            count => format!("   (and {} more)", count - 1),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{sign} {}: {}{more}", change.workload, in_words(&change.example));
        let _ = writeln!(text, "    {}  ->  {}", change.was.decided(), change.now.decided());
    }
    if !text.is_empty() {
        text.push('\n');
    }
    for (names, what) in [(&report.new, "is new"), (&report.gone, "is gone")] {
        for name in names {
            let _ = writeln!(text, "the workload {name} {what}");
        }
    }
    let _ = writeln!(
        text,
        "{} widened, {} narrowed, {} decided otherwise with the same answer, of {} requests to {} workloads",
        report.count(Way::Widened),
        report.count(Way::Narrowed),
        report.count(Way::Moved),
        report.asked,
        report.both + report.new.len() + report.gone.len()
    );
    text
}

/// `GET /books by spiffe://…, x-role: admin`
fn in_words(request: &Value) -> String {
    let at = |path: &str| request.pointer(path).and_then(Value::as_str);
    let mut text = match (at("/method"), at("/path")) {
        (Some(method), Some(path)) => format!("{method} {path}"),
        (method, path) => format!("{}{}", method.unwrap_or("a connection"), path.unwrap_or_default()),
    };
    let _ = match at("/source/principal") {
        Some(principal) => write!(text, " by {principal}"),
        None => write!(text, " by nobody (no certificate)"),
    };
    for (path, name) in [
        ("/source/ip", "from"),
        ("/source/remote_ip", "for"),
        ("/host", "to host"),
        ("/sni", "server name"),
        ("/destination/ip", "at"),
    ] {
        if let Some(value) = at(path) {
            let _ = write!(text, ", {name} {value}");
        }
    }
    for name in ["headers", "jwt", "metadata"] {
        if let Some(value) = request.get(name) {
            let _ = write!(text, ", {name} {value}");
        }
    }
    text
}

/// Everything, the moved ones too.
pub fn as_json(report: &Report) -> Value {
    let answer =
        |answered: &super::Answered| json!({ "status": answered.status, "decided": answered.decided() });
    let change = |change: &Change| {
        json!({
            "workload": change.workload, "change": change.way.name(), "requests": change.count,
            "was": answer(&change.was), "now": answer(&change.now), "example": change.example,
        })
    };
    json!({
        "changes": report.changes.iter().map(change).collect::<Vec<_>>(),
        "asked": report.asked, "possible": report.possible,
        "new": report.new, "gone": report.gone, "limits_differ": report.limits_differ,
    })
}

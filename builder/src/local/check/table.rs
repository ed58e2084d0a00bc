//! The outcomes as a table in kubectl's style: columns apart by spaces, no lines.

use super::Outcome;
use super::model::Way;
use super::odd::Certificate;

const HEAD: [&str; 8] = ["", "FROM", "TO", "REQUEST", "EXPECTED", "SEEN", "DECIDED BY", "CHECK"];

/// Longer cells are cut.
const WIDEST: usize = 46;

pub fn render(outcomes: &[Outcome], colour: bool) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(outcomes.iter().map(row));
    let mut widths = [0; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        let failed = index
            .checked_sub(1)
            .and_then(|index| outcomes.get(index))
            .is_some_and(|outcome| !outcome.as_expected());
        let line = line.trim_end();
        if failed && colour {
            text.push_str(&format!("\u{1b}[31m{line}\u{1b}[0m\n"));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.as_expected()) {
        text.push_str(&format!("\nnot as expected: {}\n", outcome.check.name));
        for wrong in &outcome.wrong {
            text.push_str(&format!("  {wrong}\n"));
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.as_expected()).count();
    text.push_str(&format!(
        "\n{} requests, {} as expected, {failed} not\n",
        outcomes.len(),
        outcomes.len() - failed
    ));
    text
}

fn row(outcome: &Outcome) -> [String; HEAD.len()] {
    let check = &outcome.check;
    let from = match (check.way, certificate(check.certificate)) {
        (Way::Edge, _) => "(outside)".to_owned(),
        (_, "") => check.from.clone(),
        (_, odd) => format!("{} ({odd})", check.from),
    };
    [
        if outcome.as_expected() { "ok" } else { "NOT" }.to_owned(),
        from,
        check.to.clone(),
        cut(&check.message.summary()),
        check.expect.summary(),
        cut(&outcome.seen.summary()),
        cut(if outcome.decided.is_empty() { "-" } else { &outcome.decided }),
        check.name.clone(),
    ]
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WIDEST {
        return text.to_owned();
    }
    text.chars().take(WIDEST - 1).chain(['…']).collect()
}

fn certificate(kind: Certificate) -> &'static str {
    match kind {
        Certificate::Own => "",
        Certificate::None => "no certificate",
        Certificate::Expired => "expired",
        Certificate::NotYetValid => "not yet valid",
        Certificate::ForeignCa => "foreign CA",
        Certificate::WrongTrustDomain => "wrong trust domain",
        Certificate::TwoUris => "two URIs",
        Certificate::NoUri => "no URI",
        Certificate::NotSpiffe => "no SPIFFE ID",
        Certificate::IsCa => "a CA's",
    }
}

//! What went wrong, where, and how to mend it: the one error type that reaches a user, and its two renderings.
//!
//! Errors are data here. Nothing in this module prints; `main.rs` does.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// A text that diagnostics point into: a file, or standard input.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The path as the user wrote it, or `<stdin>`.
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// One-based line and column (in characters) of a byte offset. An offset past the end is the end.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        (line, column)
    }
}

/// A place in a source, as a byte range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub source: Arc<Source>,
    pub span: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// One mistake: what, where, why, how to mend.
///
/// `message` is lower case, without a full stop, the user's own text in backticks, and gives the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable and kebab-case (`unknown-service`), or a lint's `MWnnn`.
    pub code: &'static str,
    pub message: String,
    pub location: Option<Location>,
    /// How to mend it, an instruction each.
    pub help: Vec<String>,
}

impl Diagnostic {
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity, code, message: message.into(), location: None, help: Vec::new() }
    }

    #[must_use]
    pub fn at(mut self, source: &Arc<Source>, span: Range<usize>) -> Self {
        self.location = Some(Location { source: Arc::clone(source), span });
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// The form for people: the message, the line it speaks of, the remedy.
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Info => Level::INFO,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let mut group = Group::with_title(title);
        if let Some(location) = &self.location {
            // A span past the end of the text would make the renderer panic.
            let text = location.source.text.as_str();
            let end = location.span.end.min(text.len());
            let start = location.span.start.min(end);
            let (lines, first) = lines_of(text, start..end);
            group = group.element(
                Snippet::source(lines)
                    .line_start(text.get(..first).map_or(0, |before| before.matches('\n').count()) + 1)
                    .path(location.source.name.as_str())
                    .annotation(AnnotationKind::Primary.span(start - first..end - first)),
            );
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut text = renderer.render(&[group]);
        text.push('\n');
        text
    }

    /// `file:line:column`, where there is one.
    pub fn place(&self) -> Option<String> {
        let location = self.location.as_ref()?;
        let (line, column) = location.source.position(location.span.start);
        let mut place = String::new();
        // Writing into a String cannot fail.
        let _ = write!(place, "{}:{line}:{column}", location.source.name);
        Some(place)
    }

    /// The form for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "help": self.help,
        });
        if let (Some(location), Some(object)) = (&self.location, value.as_object_mut()) {
            let (line, column) = location.source.position(location.span.start);
            object.insert("file".into(), location.source.name.clone().into());
            object.insert("line".into(), line.into());
            object.insert("column".into(), column.into());
        }
        value
    }
}

/// The whole lines that a place is in, and where they begin: the renderer reads all that it is given, every time.
fn lines_of(text: &str, span: Range<usize>) -> (&str, usize) {
    let first = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let last = text.get(span.end..).and_then(|after| after.find('\n')).map_or(text.len(), |at| span.end + at);
    // At the very end of a text there is no line to show.
    text.get(first..last).filter(|lines| !lines.is_empty()).map_or((text, 0), |lines| (lines, first))
}

/// All that stopped a command: at least one diagnostic, every mistake and not only the first.
#[derive(Debug)]
pub struct Failure {
    pub diagnostics: Vec<Diagnostic>,
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { diagnostics: vec![diagnostic] }
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }
}

/// The candidate nearest to what was written, for a "did you mean". None is better than a wild guess.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(written.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_counts_lines_and_characters_from_one() {
        let source = Source::new("m.yaml", "a: ü\nbc: d\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(5), (1, 5), "after the two-byte ü");
        assert_eq!(source.position(6), (2, 1));
        assert_eq!(source.position(999), (3, 1));
    }

    #[test]
    fn rendering_names_the_place_and_the_remedy() {
        let source = Source::new("mesh.yaml", "calls:\n  - paymets\n");
        let text = Diagnostic::error("unknown-service", "service `paymets` is not defined")
            .at(&source, 11..18)
            .help("did you mean `payments`?")
            .render(false);
        assert!(text.starts_with("error[unknown-service]: service `paymets` is not defined"), "{text}");
        assert!(text.contains("mesh.yaml:2:5"), "{text}");
        assert!(text.contains("help: did you mean `payments`?"), "{text}");
    }

    #[test]
    fn a_span_past_the_end_does_not_panic() {
        let source = Source::new("mesh.yaml", "x");
        let text = Diagnostic::error("e", "m").at(&source, 5..9).render(false);
        assert!(text.contains("mesh.yaml"), "{text}");
    }

    #[test]
    fn nearest_does_not_guess_wildly() {
        assert_eq!(nearest("paymets", ["orders", "payments"]), Some("payments"));
        assert_eq!(nearest("x", ["orders", "payments"]), None);
    }
}

//! What `patch`, `unpatch`, `inject` and `uninject` have in common: which files, and where the result goes.

use std::path::PathBuf;

use serde_json::json;

use super::live::Show;
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure, Severity, Source};
use crate::patch::files::{self, Input};
use crate::patch::sites::Finding;
use crate::patch::tree::SyntaxError;

/// What is read, and where the result goes: `#[command(flatten)]` it.
#[derive(Debug, clap::Args)]
pub struct Edit {
    /// Files, folders, or `-` for standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same, as kubectl has it; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Write the files themselves, all or none [default: the text on standard output]
    #[arg(short, long, conflicts_with_all = ["out", "diff", "check"])]
    in_place: bool,
    /// Write the text to this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["diff", "check"])]
    out: Option<PathBuf>,
    /// Show what would change, and change nothing
    #[arg(long, conflicts_with = "check")]
    diff: bool,
    /// Change nothing; exit with 1 if something would change
    #[arg(long)]
    check: bool,
    /// `json`: a report on standard output; the text then needs --in-place, --out or --check
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// What an edit made of one text.
#[derive(Debug, Default)]
pub struct Edited {
    pub text: String,
    pub findings: Vec<Finding>,
    /// One line for each place.
    pub done: Vec<String>,
    /// There was something that the command is about, whether or not it had to be changed.
    pub concerned: bool,
}

/// The words of one command.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// `patched`.
    pub done: &'static str,
    /// What it looks for: `Envoy configuration`.
    pub subject: &'static str,
}

struct Result1 {
    input: Input,
    edited: Edited,
}

impl Edit {
    /// The arguments as names of objects, and how the result is shown.
    ///
    /// # Errors
    /// Something was asked that is only for files.
    pub fn on_a_cluster(&self) -> Result<(Vec<String>, Show), Diagnostic> {
        if self.in_place || self.out.is_some() || !self.filename.is_empty() {
            return Err(Diagnostic::error(
                "two-places",
                "files and a cluster cannot be changed with one command",
            )
            .help("on a cluster, name objects (`configmap/NAME`, `deployment/NAME`) or labels, and leave out -f, -i and --out"));
        }
        let names = self.files.iter().map(|name| name.display().to_string()).collect();
        Ok((names, Show { diff: self.diff, check: self.check, json: self.output == Format::Json }))
    }

    /// Runs an edit over every file and brings the results where they belong.
    ///
    /// # Errors
    /// Every mistake in every file; then nothing is written.
    pub fn run(
        &self,
        console: &mut Console<'_>,
        words: Words,
        edit: impl Fn(&str) -> Result<Edited, SyntaxError>,
    ) -> Result<Exit, Failure> {
        let paths: Vec<PathBuf> = self.files.iter().chain(&self.filename).cloned().collect();
        if paths.is_empty() {
            return Err(Diagnostic::error("no-input", "no file is named")
                .help("name files or folders, or `-` for standard input")
                .into());
        }
        let stdout = !(self.in_place || self.diff || self.check || self.out.is_some());
        if stdout && self.output == Format::Json {
            return Err(Diagnostic::error(
                "two-outputs",
                "the text and the report cannot both go to standard output",
            )
            .help("add --in-place, --out FILE or --check")
            .into());
        }
        let (mut results, mut mistakes) = (Vec::new(), Vec::new());
        for input in files::read(&paths)? {
            match edit(&input.source.text) {
                Ok(edited) => {
                    for finding in &edited.findings {
                        let diagnostic = diagnostic(finding, &input.source);
                        if finding.severity == Severity::Error {
                            mistakes.push(diagnostic);
                        } else if input.named || edited.concerned {
                            console.report(&diagnostic);
                        }
                    }
                    if input.named && !edited.concerned && edited.findings.is_empty() {
                        mistakes.push(Diagnostic::error(
                            "nothing-to-do",
                            format!("there is no {} in `{}`", words.subject, input.source.name),
                        ));
                    }
                    results.push(Result1 { input, edited });
                }
                // In a folder there may be anything.
                Err(error) if input.named => mistakes.push(unread(&error, &input.source)),
                Err(_) => {
                    console.note(&format!("{}: left out, it is neither YAML nor JSON", input.source.name))
                }
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes.into());
        }
        if results.iter().all(|result| !result.edited.concerned)
            && results.iter().all(|result| !result.input.named)
        {
            return Err(Diagnostic::error(
                "nothing-to-do",
                format!("there is no {} in these folders", words.subject),
            )
            .into());
        }
        self.write(console, words, &results)
    }

    fn write(&self, console: &mut Console<'_>, words: Words, results: &[Result1]) -> Result<Exit, Failure> {
        let changed = |result: &&Result1| result.edited.text != result.input.source.text;
        if self.output == Format::Json {
            let report: Vec<_> = results.iter().map(report).collect();
            let _ = writeln!(console.out(), "{:#}", json!({ "files": report }));
        }
        if self.diff {
            for result in results.iter().filter(changed) {
                let (name, old) = (&result.input.source.name, &result.input.source.text);
                let diff = similar::TextDiff::from_lines(old, &result.edited.text);
                let _ = write!(console.out(), "{}", diff.unified_diff().header(name, name));
            }
        } else if self.check {
            for result in results.iter().filter(changed) {
                console.note(&format!("{}: would be {}", result.input.source.name, words.done));
            }
            let any = results.iter().any(|result| changed(&result));
            return Ok(if any { Exit::Failure } else { Exit::Success });
        } else if self.in_place {
            for result in results.iter().filter(changed) {
                match &result.input.path {
                    Some(path) => files::replace(path, &result.edited.text)?,
                    None => {
                        return Err(Diagnostic::error(
                            "no-file",
                            "standard input cannot be written in place",
                        )
                        .into());
                    }
                }
            }
        } else {
            let [result] = results else {
                return Err(Diagnostic::error("several-files", "several texts do not fit into one output")
                    .help("use --in-place, --diff or --check")
                    .into());
            };
            match &self.out {
                Some(path) => files::replace(path, &result.edited.text)?,
                None => {
                    let _ = write!(console.out(), "{}", result.edited.text);
                }
            }
        }
        for result in results {
            let name = &result.input.source.name;
            let state = if changed(&result) { words.done } else { "unchanged" };
            for line in &result.edited.done {
                console.note(&format!("{name}: {state}: {line}"));
            }
        }
        Ok(Exit::Success)
    }
}

fn report(result: &Result1) -> serde_json::Value {
    let source = &result.input.source;
    json!({
        "file": source.name,
        "changed": result.edited.text != source.text,
        "done": result.edited.done,
        "findings": result.edited.findings.iter().map(|f| diagnostic(f, source).to_json()).collect::<Vec<_>>(),
    })
}

fn diagnostic(finding: &Finding, source: &std::sync::Arc<Source>) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(finding.severity, finding.code, finding.message.clone());
    if let Some(help) = &finding.help {
        diagnostic = diagnostic.help(help.clone());
    }
    diagnostic.at(source, finding.span.clone())
}

fn unread(error: &SyntaxError, source: &std::sync::Arc<Source>) -> Diagnostic {
    let diagnostic =
        Diagnostic::error("not-yaml", format!("this is neither YAML nor JSON: {}", error.message))
            .at(source, error.offset..error.offset);
    if source.text.contains("{{") || source.text.contains("{%") {
        return diagnostic.help("it looks like a template: render it first (`helm template`), and pipe what comes out into this command");
    }
    diagnostic
}

//! `meshward policy lint` and `meshward policy explain`.

use std::path::PathBuf;

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure, Severity};
use crate::mesh::{MeshFiles, discover};
use crate::policy::lint::{self, codes, sarif};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a Mesh among the documents, what is said of workloads and identities cannot be checked.\n\
    `meshward policy explain MW001` says more about a finding.\n\n\
    Exit code 1 when something was found at or above --fail-on.\n\n\
    Examples:\n  \
    meshward policy lint deploy/mesh.yaml policies/\n  \
    kubectl get authorizationpolicies -A -o yaml | meshward policy lint -\n  \
    meshward policy lint -f deploy/mesh.yaml --fail-on warning -o sarif > lint.sarif"
)]
pub struct LintArgs {
    /// Files or folders, `-` for standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    mesh: MeshFiles,
    /// How to print the findings
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Which findings make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
    /// Leave findings of this code out; may be repeated
    #[arg(long, value_name = "CODE", value_parser = known_code)]
    suppress: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// A list of findings
    Json,
    /// SARIF 2.1.0, for code review tools
    Sarif,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Info,
    /// Always exit with 0
    Never,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshward policy explain MW001\n  meshward policy explain")]
pub struct ExplainArgs {
    /// The code of a finding; all of them when not given
    #[arg(value_name = "CODE", value_parser = known_code)]
    code: Option<String>,
}

fn known_code(text: &str) -> Result<String, String> {
    codes::find(text).map(|code| code.code.to_owned()).map_err(|near| match near {
        Some(near) => format!("there is no such code; did you mean {near}?"),
        None => "there is no such code; `meshward policy explain` lists them".to_owned(),
    })
}

pub fn lint(args: LintArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut paths = args.files;
    if paths.is_empty() {
        paths = args.mesh.paths()?;
    } else {
        paths.extend(args.mesh.filename);
    }
    let mut findings = lint::of_sources(&discover::sources(&paths)?);
    findings.retain(|finding| !args.suppress.iter().any(|code| code == finding.code));
    let colour = console.colour();
    let text = match args.output {
        Format::Text => findings.iter().map(|finding| finding.render(colour) + "\n").collect(),
        Format::Json => {
            let list: Vec<_> = findings.iter().map(Diagnostic::to_json).collect();
            format!("{:#}\n", serde_json::Value::Array(list))
        }
        Format::Sarif => format!("{:#}\n", sarif::report(&findings)),
    };
    // A reader that left has what it wanted.
    let _ = console.out().write_all(text.as_bytes());
    console.note(&summary(&findings));
    let threshold = match args.fail_on {
        FailOn::Error => Severity::Error,
        FailOn::Warning => Severity::Warning,
        FailOn::Info => Severity::Info,
        FailOn::Never => return Ok(Exit::Success),
    };
    let failed = findings.iter().any(|finding| finding.severity >= threshold);
    Ok(if failed { Exit::Failure } else { Exit::Success })
}

fn summary(findings: &[Diagnostic]) -> String {
    if findings.is_empty() {
        return "nothing found".to_owned();
    }
    let kinds = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "note")];
    let counted = kinds.map(|(severity, name)| {
        let count = findings.iter().filter(|finding| finding.severity == severity).count();
        format!("{count} {name}{}", if count == 1 { "" } else { "s" })
    });
    counted.join(", ")
}

pub fn explain(args: &ExplainArgs, console: &mut Console<'_>) -> Exit {
    let text: String = match args.code.as_deref().map(codes::find) {
        Some(Ok(code)) => {
            format!(
                "{} ({:?}): {}\n\n{}\n\n{}\n",
                code.code,
                code.severity,
                code.title,
                wrapped(code.why),
                wrapped(code.mend)
            )
        }
        _ => codes::ALL.iter().map(|code| format!("{}  {}\n", code.code, code.title)).collect(),
    };
    // A reader that left has what it wanted.
    let _ = console.out().write_all(text.as_bytes());
    Exit::Success
}

/// At most 100 characters in a line.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

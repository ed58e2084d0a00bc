//! `up --check`: written-down requests, sent for real, each with the answer that is expected. `policy test` reads the same.
//!
//! What is shown as seen comes from the wire; which rule decided comes from the callee's Envoy. Nothing here asks the
//! policy engine what it would say: that is `policy eval`'s.

use std::path::Path;
use std::time::{Duration, Instant};

use super::certificates;
use super::state::State;
use crate::console::Console;
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::Resolved;
use crate::pki::Ca;

pub mod engine;
mod evidence;
pub mod model;
pub mod odd;
mod postgres;
mod send;
mod table;

pub use model::{Check, Checks, For};
pub use send::{Place, Places, Seen};

/// One check that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub check: Check,
    pub seen: Seen,
    /// The rule that decided, as the callee's Envoy tells; empty when none did.
    pub decided: String,
    /// What is not as expected; empty when all is.
    pub wrong: Vec<String>,
}

impl Outcome {
    pub fn as_expected(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Carries out every check, in order, one at a time.
///
/// # Errors
/// A check that cannot even be tried: a certificate that cannot be made or read. An unexpected answer is no error here.
pub fn run(
    checks: &Checks,
    mesh: &Resolved,
    places: &Places,
    state: &State,
    ca: &Ca,
    mut stop: impl FnMut() -> bool,
) -> Result<Vec<Outcome>, Failure> {
    let sender = send::Sender::new(mesh, places, ca, |service| certificates::identity(state, service))?;
    let mut outcomes = Vec::new();
    let begin = Instant::now();
    for (number, check) in checks.checks.iter().enumerate() {
        let early = || check.at.is_some_and(|at| begin.elapsed() < at.0);
        while early() && !stop() {
            std::thread::sleep(Duration::from_millis(20));
        }
        if stop() {
            return Err(Diagnostic::error("stopped", "stopped before all checks were made").into());
        }
        outcomes.push(sender.carry_out(check, number)?);
    }
    Ok(outcomes)
}

/// Reads and checks a file of checks against the mesh it is for.
///
/// # Errors
/// A file that cannot be read, and every mistake in it.
pub fn load(file: &Path, mesh: &Resolved, whom: For) -> Result<Checks, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Diagnostic::error("checks-unreadable", format!("`{}` cannot be read: {error}", file.display()))
            .help("name the file of checks: `meshward up --check=FILE`, `meshward policy test FILE`")
    })?;
    model::read(&crate::diagnostic::Source::new(file.display().to_string(), text), mesh, whom)
}

/// The table of all outcomes, and a closing line; on standard output.
pub fn print(outcomes: &[Outcome], console: &mut Console<'_>) {
    let text = table::render(outcomes, console.colour());
    // A reader that has gone wants no table.
    let _ = console.out().write_all(text.as_bytes());
}

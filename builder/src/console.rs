//! Where a command writes: data to standard output, everything else to standard error; and how it ends.

use std::io::{self, IsTerminal as _, Write};

use crate::diagnostic::Diagnostic;

/// How a command ends, as a process exit code.
///
/// 2 is clap's, for a command line that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and nothing found that was asked to be found.
    Success = 0,
    /// It failed, or found what it was asked to look for (findings, differences, an unexpected answer).
    Failure = 1,
}

/// A command's two streams. Tests give it buffers.
pub struct Console<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    colour: bool,
    interactive: bool,
}

impl<'a> Console<'a> {
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, colour: bool) -> Self {
        Self { out, err, colour, interactive: io::stderr().is_terminal() }
    }

    /// Standard output, for data. A closed pipe is the reader's choice and no error of ours: callers may ignore it.
    pub fn out(&mut self) -> &mut dyn Write {
        self.out
    }

    /// A line for people, on standard error.
    pub fn note(&mut self, line: &str) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(self.err, "{line}");
    }

    pub fn report(&mut self, diagnostic: &Diagnostic) {
        let _ = write!(self.err, "{}", diagnostic.render(self.colour));
    }

    pub fn colour(&self) -> bool {
        self.colour
    }

    /// Whether progress may be drawn and questions asked.
    pub fn interactive(&self) -> bool {
        self.interactive
    }
}

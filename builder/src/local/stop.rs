//! The wish to stop: Ctrl-C, SIGTERM, a closed terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::diagnostic::Diagnostic;

/// Shared by all who wait for something.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by the signals, from now on.
    ///
    /// # Errors
    /// The system does not take the handlers.
    pub fn on_signals() -> Result<Self, Diagnostic> {
        let stop = Self::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0)).map_err(|error| {
                Diagnostic::error("signals", format!("signals cannot be handled: {error}"))
            })?;
        }
        Ok(stop)
    }

    pub fn wanted(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error when stopping is wanted, to leave by `?`.
    ///
    /// # Errors
    /// When it is.
    pub fn check(&self) -> Result<(), Diagnostic> {
        if self.wanted() {
            Err(Diagnostic::new(crate::diagnostic::Severity::Info, "stopped", "stopped"))
        } else {
            Ok(())
        }
    }
}

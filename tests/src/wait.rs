//! Polling.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long anything may take; far above what it takes, for a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Until `condition` holds.
///
/// # Errors
/// It does not within [`PATIENCE`]; `what` names it.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

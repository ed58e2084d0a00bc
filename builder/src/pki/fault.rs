//! Points at which tests kill the process, to prove that a crash there loses nothing. Nothing in release builds.

/// Marks a point between two changes on the disk.
///
/// In builds with debug assertions, `MESHWARD_TEST_ABORT_AT=n` aborts the process, as `kill -9` would, at the n-th
/// point it passes (from 1). `name` says in the source what was just done.
#[cfg(debug_assertions)]
pub fn step(name: &'static str) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    let wanted = std::env::var("MESHWARD_TEST_ABORT_AT").ok().and_then(|text| text.parse::<usize>().ok());
    if wanted == Some(passed) {
        // Which point it was helps whoever reads a failed test.
        let _ =
            std::io::Write::write_all(&mut std::io::stderr(), format!("aborted after: {name}\n").as_bytes());
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub fn step(_name: &'static str) {}

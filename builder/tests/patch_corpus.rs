//! `patch` over real configurations: twice is once, `unpatch` gives the bytes back, nothing else is touched.
//!
//! The corpus is read from `$MESHWARD_CORPUS`, or `../shared/corpus` beside the workspace; without it the test says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use meshward_builder::diagnostic::Severity;
use meshward_builder::patch::{Configurations, Plugin, Selection, patch, unpatch};

fn corpus() -> Option<PathBuf> {
    let path = std::env::var_os("MESHWARD_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"), PathBuf::from);
    if path.join("envoy").is_dir() {
        return Some(path);
    }
    drop(writeln!(std::io::stderr(), "SKIPPED: patch over the corpus: {} is not there", path.display()));
    None
}

fn plugin() -> Plugin {
    Plugin {
        wasm: "/etc/meshward/meshward-0123456789ab.wasm".into(),
        configurations: Configurations { http: b"\0policy".to_vec(), tcp: b"\0tcp".to_vec(), outbound: None },
        discovery: None,
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn every_file_comes_back_byte_for_byte() {
    let Some(corpus) = corpus() else { return };
    let mut found = Vec::new();
    for folder in ["files", "derived", "embedded", "rendered", "crashers"] {
        files(&corpus.join("envoy").join(folder), &mut found);
    }
    found.sort();
    let (mut patched, mut refused, mut untouched, mut unread) = (0, 0, 0, 0);
    let (mut added, mut removed, mut lists) = (0, 0, 0);
    let (mut hardenings, mut hardening_refused) = (0, 0);
    let verbose = std::env::var_os("MESHWARD_VERBOSE").is_some();
    for path in &found {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let name = path.display();
        let outcome = match patch(&text, &plugin(), &Selection::default(), false) {
            Ok(outcome) => outcome,
            Err(error) => {
                unread += 1;
                if verbose {
                    println!("UNREAD {name}: {error}");
                }
                continue;
            }
        };
        if outcome.failed() {
            refused += 1;
            assert_eq!(outcome.text, text, "{name}: refused and changed");
            if verbose {
                for finding in outcome.findings.iter().filter(|f| f.severity == Severity::Error) {
                    println!("REFUSED {name}: {} {}", finding.code, finding.message);
                }
            }
            continue;
        }
        if outcome.done.is_empty() {
            untouched += 1;
            assert_eq!(outcome.text, text, "{name}: nothing done and changed");
            if verbose {
                println!(
                    "UNTOUCHED {name}: {} sites {:?}",
                    outcome.sites,
                    outcome.findings.iter().map(|f| f.message.as_str()).collect::<Vec<_>>()
                );
            }
            continue;
        }
        patched += 1;
        lists += outcome.done.len();
        let twice = patch(&outcome.text, &plugin(), &Selection::default(), false).unwrap();
        assert_eq!(twice.text, outcome.text, "{name}: the second patch changed something");
        let newer = Plugin { wasm: "/etc/meshward/meshward-newer.wasm".into(), ..plugin() };
        let replaced = patch(&outcome.text, &newer, &Selection::default(), false).unwrap();
        assert_eq!(
            replaced.text,
            patch(&text, &newer, &Selection::default(), false).unwrap().text,
            "{name}: replaced"
        );
        let back = unpatch(&outcome.text, &Selection::default()).unwrap();
        assert!(back.text == text, "{name}: unpatch does not give the bytes back");
        let hardened = patch(&text, &plugin(), &Selection::default(), true).unwrap();
        if hardened.failed() {
            hardening_refused += 1;
            assert_eq!(hardened.text, text, "{name}: hardening was refused and changed something");
        } else {
            hardenings += 1;
            let again = patch(&hardened.text, &plugin(), &Selection::default(), true).unwrap();
            assert!(again.text == hardened.text, "{name}: the second hardening changed something");
            let back = unpatch(&hardened.text, &Selection::default()).unwrap();
            assert!(back.text == text, "{name}: unpatch does not take the mends back");
        }
        let diff = similar::TextDiff::from_lines(&text, &outcome.text);
        let (mut plus, mut minus) = (0, 0);
        for change in diff.iter_all_changes() {
            match change.tag() {
                similar::ChangeTag::Insert => plus += 1,
                similar::ChangeTag::Delete => minus += 1,
                similar::ChangeTag::Equal => {}
            }
        }
        added += plus;
        removed += minus;
        if verbose {
            println!("PATCHED {name}: {} lists, +{plus} -{minus}", outcome.done.len());
        }
    }
    println!(
        "{} files: {patched} patched ({lists} filter lists, {added} lines written, {removed} of the file's own changed), {refused} refused, {untouched} without a listener, {unread} unreadable",
        found.len()
    );
    println!("{hardenings} hardened, {hardening_refused} refused to be");
    assert!(patched > 300, "only {patched} of {} files were patched", found.len());
}

//! `inject` over real manifests: twice is once, `uninject` gives the bytes back, nothing else is touched.
//!
//! The corpus is read from `$MESHWARD_CORPUS`, or `../shared/corpus` beside the workspace; without it the test says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use meshward_builder::inject::{Options, inject, uninject};
use meshward_builder::kube::Filter;

#[path = "invariants/inject.rs"]
mod invariants;

fn options() -> Options {
    Options {
        image: "envoyproxy/envoy:x".into(),
        filter: Filter { sha256: "0123456789ab".into(), ..Filter::default() },
        ..Options::default()
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn every_manifest_comes_back_byte_for_byte() {
    let corpus = std::env::var_os("MESHWARD_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"), PathBuf::from)
        .join("k8s");
    if !corpus.is_dir() {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: inject over the corpus: {} is not there",
            corpus.display()
        ));
        return;
    }
    let mut found = Vec::new();
    files(&corpus, &mut found);
    found.sort();
    let verbose = std::env::var_os("MESHWARD_VERBOSE").is_some();
    let (mut injected, mut workloads, mut refused, mut none, mut unread, mut left) = (0, 0, 0, 0, 0, 0);
    for path in &found {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let name = path.display();
        // Both kinds of sidecar, and what another reader makes of them.
        if let Err(what) = invariants::hold(&text) {
            panic!("{name}: {what}");
        }
        for native in [false, true] {
            let options = Options { native, ..options() };
            let Ok(outcome) = inject(&text, &options) else {
                unread += 1;
                if verbose {
                    println!("UNREAD {name}");
                }
                continue;
            };
            left += outcome.findings.iter().filter(|finding| finding.code == "left-alone").count();
            if outcome.failed() {
                refused += 1;
                assert_eq!(outcome.text, text, "{name}: refused and changed");
                if verbose {
                    println!(
                        "REFUSED {name}: {:?}",
                        outcome.findings.iter().map(|f| (&f.code, &f.message)).collect::<Vec<_>>()
                    );
                }
                continue;
            }
            if outcome.done.is_empty() {
                none += 1;
                assert_eq!(outcome.text, text, "{name}: nothing done and changed");
                continue;
            }
            injected += 1;
            workloads += outcome.done.len();
            let newer = Options {
                filter: Filter { sha256: "ba9876543210".into(), ..Filter::default() },
                ..options.clone()
            };
            let replaced = inject(&outcome.text, &newer).unwrap();
            assert!(replaced.text == inject(&text, &newer).unwrap().text, "{name}: replaced");
            let back = uninject(&outcome.text).unwrap();
            assert!(back.text == text, "{name}: uninject does not give the bytes back");
        }
    }
    println!(
        "{} files: {injected} injected ({workloads} workloads), {left} workloads left alone, {refused} refused, {none} without workloads, {unread} unreadable",
        found.len()
    );
    assert!(injected > 100, "only {injected}");
}

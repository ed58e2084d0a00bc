//! The README's map of the code tells the truth: what it names exists, and every room of the code is on it.

#![allow(clippy::expect_used, reason = "a test that cannot read what it is about has failed")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// The backticked words of the map's section.
fn map() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Map of the code"))
        .expect("the README has a section `Map of the code`");
    section.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn what_the_map_names_exists() {
    let missing: Vec<String> =
        map().into_iter().filter(|name| name.contains('/') && !root().join(name).exists()).collect();
    assert!(missing.is_empty(), "the README's map names what is not there: {missing:?}");
}

#[test]
fn every_room_is_on_the_map() {
    let map = map();
    let mut unnamed = Vec::new();
    for crate_folder in ["builder/src", "filter/src", "filter/engine/src"] {
        for entry in fs::read_dir(root().join(crate_folder)).expect("the crate's sources are there").flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            // `x.rs` and `x/` are one room; the entry points need no sign.
            let room = name.trim_end_matches(".rs").to_owned();
            if ["lib", "main"].contains(&room.as_str()) {
                continue;
            }
            let place = format!("{crate_folder}/{room}");
            if !map.iter().any(|named| named.trim_end_matches('/').trim_end_matches(".rs") == place) {
                unnamed.push(place);
            }
        }
    }
    unnamed.sort();
    unnamed.dedup();
    assert!(unnamed.is_empty(), "the README's map does not name: {unnamed:?}");
}

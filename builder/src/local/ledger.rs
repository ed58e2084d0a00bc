//! What is running, on disk: so that an `up` after one that was killed finds what that one left behind.
//!
//! A process number alone proves nothing, because the system gives it to others later. So the time at which the process
//! was started is noted too, as the kernel tells it. Where the kernel does not (no `/proc`), nothing is ever taken for ours.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;

/// One process, the first of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    pub pid: u32,
    /// In clock ticks since the machine started.
    pub started: Option<u64>,
}

impl Entry {
    pub fn of(name: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), pid, started: start_time(pid) }
    }

    /// Whether that very process still runs.
    pub fn alive(&self) -> bool {
        self.started.is_some() && start_time(self.pid) == self.started
    }
}

/// The file.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    entries: Vec<Entry>,
}

impl Ledger {
    /// An empty one; the file is written with the first entry.
    pub fn open(file: &Path) -> Self {
        Self { file: file.to_path_buf(), entries: Vec::new() }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, entry: Entry) -> Result<(), Diagnostic> {
        self.entries.push(entry);
        let text = serde_json::to_string_pretty(&self.entries).unwrap_or_default();
        super::state::write(&self.file, text.as_bytes())
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        // What stays would only name processes that are gone, and is checked before it is believed.
        let _ = fs::remove_file(&self.file);
    }
}

/// What was started. A file that cannot be read names nobody.
pub fn entries(file: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Those of an earlier run that are still there.
pub fn left_behind(file: &Path) -> Vec<Entry> {
    entries(file).into_iter().filter(Entry::alive).collect()
}

/// Field 22 of `/proc/<pid>/stat` (proc_pid_stat(5)). The name in field 2 may hold spaces and brackets.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    // A zombie runs no more, though its number is not free.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_one_with_its_number_is_not() {
        let me = Entry::of("me", std::process::id());
        assert!(me.alive());
        let impostor = Entry { started: me.started.map(|started| started + 1), ..me.clone() };
        assert!(!impostor.alive());
        assert!(!Entry { started: None, ..me }.alive());
    }

    #[test]
    fn only_the_living_are_left_behind_and_garbage_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.json");
        let mut ledger = Ledger::open(&file);
        let me = Entry::of("me", std::process::id());
        ledger.add(me.clone()).unwrap();
        ledger.add(Entry { name: "gone".into(), pid: u32::MAX, started: Some(1) }).unwrap();
        assert_eq!(left_behind(&file), [me]);
        fs::write(&file, "{").unwrap();
        assert!(left_behind(&file).is_empty());
    }
}

//! Child processes: each in a process group of its own, its output in a file, its end noticed, its group stopped.
//!
//! A group each, so that Ctrl-C in the terminal reaches `up` alone, which then stops all in order.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::ledger::{Entry, Ledger};
use crate::diagnostic::Diagnostic;

/// How long a process may take to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(8);

/// Everything that was started, in order. Dropping it stops everything.
pub struct Processes {
    running: Vec<Process>,
    ledger: Ledger,
}

struct Process {
    name: String,
    child: Child,
    /// Where its standard error goes; shown when it dies.
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// Where a process writes.
pub struct Logs {
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

impl Logs {
    /// Both streams in one file.
    pub fn together(file: PathBuf) -> Self {
        Self { stdout: file.clone(), stderr: file }
    }
}

impl Processes {
    pub fn new(ledger: Ledger) -> Self {
        Self { running: Vec::new(), ledger }
    }

    /// Starts `command` and notes it in the ledger.
    ///
    /// # Errors
    /// The program does not start, or a log file cannot be written.
    pub fn start(&mut self, name: &str, mut command: Command, logs: &Logs) -> Result<(), Diagnostic> {
        let (stdout, stderr) = open(logs).map_err(|error| {
            Diagnostic::error("log-unwritable", format!("the log of {name} cannot be written: {error}"))
                .help(format!("make `{}` writable, or remove it", logs.stderr.display()))
        })?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().map_err(|error| {
            Diagnostic::error(
                "not-started",
                format!("{name} does not start: `{}`: {error}", command.get_program().display()),
            )
            .help("check that the program is installed, and spelled right in `local.command`")
        })?;
        let started = self.ledger.add(Entry::of(name, child.id()));
        self.running.push(Process { name: name.to_owned(), child, log: logs.stderr.clone(), ended: None });
        // Only now: a process that could not be noted must still be stopped.
        started
    }

    /// The process's number, while it runs.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|process| process.name == name).map(|process| process.child.id())
    }

    /// One diagnostic for each process that has ended by itself, once.
    pub fn ended(&mut self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for process in &mut self.running {
            if process.ended.is_some() {
                continue;
            }
            if let Ok(Some(status)) = process.child.try_wait() {
                process.ended = Some(status);
                found.push(report(process, status));
            }
        }
        found
    }

    /// Stops all, the last started first, and forgets them.
    pub fn stop(&mut self) {
        for process in self.running.iter().rev().filter(|process| process.ended.is_none()) {
            signal(process.child.id(), Signal::SIGTERM);
        }
        let deadline = Instant::now() + GRACE;
        for mut process in std::mem::take(&mut self.running).into_iter().rev() {
            let id = process.child.id();
            while process.ended.is_none() && Instant::now() < deadline {
                process.ended = process.child.try_wait().unwrap_or(None);
                if process.ended.is_none() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            // Also where the first of the group has ended: it may have left children.
            signal(id, Signal::SIGKILL);
            // It cannot refuse SIGKILL; reaping it frees its number.
            let _ = process.child.wait();
        }
        self.ledger.clear();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// To the whole group; to nobody when it is gone.
fn signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        // ESRCH: the group is gone, which is what is wanted.
        let _ = killpg(Pid::from_raw(id), signal);
    }
}

/// Stops a group that is no child of this process. False when it does not go.
pub(super) fn stop_group(id: u32) -> bool {
    let Ok(group) = i32::try_from(id) else { return false };
    let group = Pid::from_raw(group);
    for (step, patience) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, Duration::from_secs(2))] {
        let _ = killpg(group, step);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            // Without a signal: only asks whether it is there.
            if kill(Pid::from_raw(-group.as_raw()), None) == Err(Errno::ESRCH) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    false
}

fn open(logs: &Logs) -> io::Result<(File, File)> {
    for file in [&logs.stdout, &logs.stderr] {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
    }
    let stdout = File::options().create(true).write(true).truncate(true).open(&logs.stdout)?;
    // One open file when both go to the same place, or they would write over each other.
    let stderr = if logs.stderr == logs.stdout {
        stdout.try_clone()?
    } else {
        File::options().create(true).write(true).truncate(true).open(&logs.stderr)?
    };
    Ok((stdout, stderr))
}

fn report(process: &Process, status: ExitStatus) -> Diagnostic {
    let lines = last_lines(&process.log, 12);
    let mut message = format!("{} ended by itself ({status})", process.name);
    if !lines.is_empty() {
        message.push_str(", its last words:\n");
        message.push_str(&lines.join("\n"));
    }
    Diagnostic::error("process-ended", message).help(format!("its log: {}", process.log.display()))
}

/// The end of a log, without Envoy's backtraces of its own configuration; empty when it cannot be read.
pub(super) fn last_lines(file: &Path, count: usize) -> Vec<String> {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text.lines().rev().take(count).map(str::to_owned).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn world() -> (tempfile::TempDir, Processes, Logs) {
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes::new(Ledger::open(&folder.path().join("run.json")));
        let logs = Logs::together(folder.path().join("logs/a.log"));
        (folder, processes, logs)
    }

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn alive(id: &str) -> bool {
        // A zombie whose parent is gone may linger in a container without an init.
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn stopping_takes_the_grandchildren_along() {
        let (_folder, mut processes, logs) = world();
        processes.start("a", shell("trap '' TERM; sleep 600 & echo $!; exec sleep 601"), &logs).unwrap();
        until("the grandchild", || !last_lines(&logs.stdout, 1).is_empty());
        let grandchild = last_lines(&logs.stdout, 1).remove(0);
        assert!(alive(&grandchild));
        let id = processes.id("a").unwrap();
        // `trap ''` is inherited: both ignore SIGTERM; so end the leader, and only the group's SIGKILL reaches the other.
        kill(Pid::from_raw(id.try_into().unwrap()), Signal::SIGKILL).unwrap();
        processes.stop();
        until("the grandchild's end", || !alive(&grandchild));
    }

    #[test]
    fn an_end_is_reported_once_with_the_last_words() {
        let (_folder, mut processes, logs) = world();
        processes.start("bookapi", shell("echo cannot listen >&2; exit 3"), &logs).unwrap();
        let mut found = Vec::new();
        until("its end", || {
            found = processes.ended();
            !found.is_empty()
        });
        let message = &found[0].message;
        assert!(message.contains("bookapi ended by itself (exit status: 3)"), "{message}");
        assert!(message.contains("cannot listen"), "{message}");
        assert!(processes.ended().is_empty(), "told twice");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let (_folder, mut processes, logs) = world();
        let error = processes.start("bookapi", Command::new("/nowhere/bookapi"), &logs).unwrap_err();
        assert!(error.message.contains("`/nowhere/bookapi`"), "{}", error.message);
    }
}

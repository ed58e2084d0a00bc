//! The binary in a folder of its own, with a scrubbed environment.

use std::path::Path;
use std::process::{Command, Output};

pub const MESH: &str = "\
apiVersion: meshward.dev/v1alpha1
kind: Mesh
metadata: {name: bookstore}
spec:
  trustDomain: cluster.local
  services:
    - {name: bookapi, port: 5288}
    - {name: pgadmin, port: 80, calls: [bookapi]}
";

/// A folder with a mesh.yaml.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mesh.yaml"), MESH).unwrap();
    folder
}

pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshward"));
    command
        .current_dir(folder)
        .arg("certs")
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    command.stdin(std::process::Stdio::null());
    command
}

pub fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

/// Runs, and fails the test with all that was said when the command fails.
pub fn fine(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "certs {args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n--- stdout\n{out}--- stderr\n{err}", output.status)
}

/// A folder with everything in it, links as links.
pub fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(status.success());
    to
}

/// Times, serial numbers and fingerprints out of a text.
pub fn scrub(text: &str) -> String {
    let mut scrubbed = String::new();
    let mut word = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() || "-:".contains(character) {
            word.push(character);
            continue;
        }
        scrubbed += &scrub_word(&word);
        word.clear();
        scrubbed.push(character);
    }
    scrubbed.pop();
    scrubbed
}

fn scrub_word(word: &str) -> String {
    let bare = word.strip_prefix("sha256:").unwrap_or(word);
    if let Some((name, generation)) = word.rsplit_once('-')
        && generation.len() == 16
    {
        return format!("{name}-{}", scrub_word(generation));
    }
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_time = bare.len() == 20 && bare.starts_with("20") && bare.ends_with('Z');
    match bare.len() {
        20 if is_time => "[time]".into(),
        64 if is_hex(bare) => "[sha256]".into(),
        16 if is_hex(bare) => "[generation]".into(),
        32 if is_hex(bare) => "[serial]".into(),
        8 if is_hex(bare) && bare.bytes().any(|byte| byte.is_ascii_digit()) => "[key]".into(),
        _ => word.to_owned(),
    }
}

//! Reads the shared vectors, which are not in this repository, and asks `policy eval`'s library.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use meshward_builder::policy::eval::{self, Evaluator, Options};
use serde_json::Value;

/// A vector file; without the vectors a visible SKIPPED and nothing.
pub fn read(path: &str) -> Option<Vec<u8>> {
    let file = folder()?.join(path);
    Some(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

/// The vector folder, if it is there.
pub fn folder() -> Option<PathBuf> {
    let folder = match std::env::var("MESHWARD_VECTORS") {
        Ok(folder) => PathBuf::from(folder),
        Err(_) => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    drop(writeln!(
        std::io::stderr(),
        "SKIPPED: policy vectors: none in {} (set MESHWARD_VECTORS)",
        folder.display()
    ));
    None
}

pub fn json(path: &str) -> Option<Value> {
    read(path).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// Policies on disk, since that is what `--mesh` names.
pub fn evaluator(policies: &[&str], options: Options) -> Result<Evaluator, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for (number, text) in policies.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number:03}.yaml")), text).unwrap();
    }
    let options = Options { mesh: vec![folder.path().to_owned()], ..options };
    Evaluator::new(&options, &mut Vec::new()).map_err(|failure| {
        failure.diagnostics.iter().map(|one| format!("{}: {}", one.code, one.message)).collect()
    })
}

/// The answers to some requests.
pub fn ask(evaluator: &Evaluator, requests: &[Value]) -> Vec<Value> {
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    let mut output = Vec::new();
    let summary = eval::run(evaluator, lines.as_bytes(), &mut output).unwrap();
    let answers: Vec<Value> = output
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!((summary.unreadable, answers.len()), (0, requests.len()), "{answers:?}");
    answers
}

/// Strings of a JSON object.
pub fn labels(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().unwrap();
    entries.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// The object without what is null.
pub fn compact(value: Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, compact(value)))
                .collect(),
        ),
        other => other,
    }
}

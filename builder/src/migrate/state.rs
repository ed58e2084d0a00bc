//! What was planned and what was done, with the bytes from before: `.meshward/migrate/`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::plan::Step;
use crate::diagnostic::{Diagnostic, Failure};
use crate::patch::files;

/// The file with everything but the bytes.
const FILE: &str = "state.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The manifests, as they were named.
    pub files: Vec<PathBuf>,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// They were read from a cluster, and steps go there, too.
    pub on_cluster: bool,
    /// Where new manifests go.
    pub folder: PathBuf,
    pub mesh: PathBuf,
    pub trust_domain: String,
    pub wasm: PathBuf,
    pub steps: Vec<Step>,
    pub done: Vec<Done>,
}

/// A step that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    pub step: String,
    pub changes: Vec<Change>,
    /// It was begun and did not come to its end: what there is of it can be taken back, or the rest be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// A file that a step changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub path: PathBuf,
    /// The sha256 of the text before, which is kept under that name. None: there was no file.
    pub before: Option<String>,
    /// The sha256 of the text after, which is kept, too.
    pub after: String,
}

/// The folder of a migration.
#[derive(Clone, Debug)]
pub struct Store {
    pub folder: PathBuf,
}

impl Store {
    /// Reads the state; None before there is a plan.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn load(&self) -> Result<Option<State>, Diagnostic> {
        let path = self.folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Diagnostic::error(
                    "unreadable",
                    format!("`{}` cannot be read: {error}", path.display()),
                ));
            }
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Diagnostic::error("unreadable", format!("`{}` is damaged: {error}", path.display()))
                .help("the bytes from before are in the folder `before` beside it, each under its sha256")
        })
    }

    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, state: &State) -> Result<(), Diagnostic> {
        self.folder()?;
        let text = serde_json::to_string_pretty(state).unwrap_or_default();
        files::replace(&self.folder.join(FILE), &text)
    }

    fn folder(&self) -> Result<PathBuf, Diagnostic> {
        let before = self.folder.join("before");
        fs::create_dir_all(&before).map_err(|error| unwritable(&before, &error))?;
        Ok(before)
    }

    /// Keeps a text, and says under which name.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn keep(&self, text: &str) -> Result<String, Diagnostic> {
        let name = sha256(text);
        let path = self.folder()?.join(&name);
        if !path.exists() {
            files::replace(&path, text)?;
        }
        Ok(name)
    }

    /// # Errors
    /// It is not there, or is no longer what was kept.
    pub fn kept(&self, name: &str) -> Result<String, Diagnostic> {
        let path = self.folder.join("before").join(name);
        let text = fs::read_to_string(&path).map_err(|error| {
            Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
        })?;
        if sha256(&text) == name {
            Ok(text)
        } else {
            Err(Diagnostic::error(
                "damaged",
                format!("`{}` is no longer what was kept there", path.display()),
            ))
        }
    }
}

impl State {
    /// From its begin to its end.
    pub fn is_done(&self, step: &str) -> bool {
        self.done.iter().any(|done| done.step == step && !done.unfinished)
    }

    /// Notes that a step begins, before anything of it is done. One that begins again keeps what was there at first.
    pub fn begin(&mut self, step: &str, changes: Vec<Change>) {
        if let Some(known) = self.done.iter_mut().find(|done| done.step == step) {
            for change in changes {
                match known.changes.iter_mut().find(|one| one.path == change.path) {
                    Some(one) => one.after = change.after,
                    None => known.changes.push(change),
                }
            }
        } else {
            self.done.push(Done { step: step.to_owned(), changes, unfinished: true });
        }
    }

    /// Notes that a step came to its end.
    pub fn finish(&mut self, step: &str) {
        for done in self.done.iter_mut().filter(|done| done.step == step) {
            done.unfinished = false;
        }
    }

    /// The step of a name.
    ///
    /// # Errors
    /// There is none; the message names the nearest.
    pub fn step(&self, name: &str) -> Result<&Step, Failure> {
        if let Some(step) = self.steps.iter().find(|step| step.name == name) {
            return Ok(step);
        }
        let unknown = Diagnostic::error("unknown-step", format!("the plan has no step `{name}`"));
        let near = crate::diagnostic::nearest(name, self.steps.iter().map(|step| step.name.as_str()));
        let help = near.map_or_else(
            || "`meshward migrate status` lists them".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        Err(unknown.help(help).into())
    }
}

pub fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unwritable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("unwritable", format!("`{}` cannot be written: {error}", path.display()))
}

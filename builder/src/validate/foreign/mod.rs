//! Configurations that somebody else wrote, asked of a real Envoy: alone, or in ConfigMaps, with what they name in files.
//!
//! `envoy --mode validate` does not read file-based dynamic parts, wants the certificates to be there, and speaks of its
//! own JSON. Here each configuration is asked twice: as it is written, with throw-away certificates where it names some
//! (so that what Envoy's own reading of YAML trips over is found), and with its dynamic parts put in
//! ([`flatten`]). What Envoy says is placed at the line of the file that it is about ([`blame`]).

mod blame;
mod flatten;
pub mod located;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use self::flatten::Files;
use self::located::{Located, Place};
use super::envoy::run;
use super::{Check, Outcome, unwritable};
use crate::diagnostic::{Diagnostic, Failure, Severity, Source};
use crate::patch::sites::{self, Text};
use crate::patch::splice::{self, Edit};
use crate::patch::tree::Tree;
use crate::patch::{envoy as shape, files::Input};
use crate::pki::{self, Ca, CaOptions, SvidRequest};

/// Envoy wants to have a name before it subscribes to anything; in pods it often comes from the command line.
const NODE: [&str; 4] = ["--service-node", "any", "--service-cluster", "any"];

/// Where files are that a configuration names.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// A folder that stands for `/` of the pod.
    pub root: Option<PathBuf>,
    /// The filter's module, wherever the configuration has it.
    pub module: Option<PathBuf>,
}

/// Whether there is an Envoy configuration in a text.
pub fn is_foreign(text: &str) -> bool {
    let Ok(tree) = Tree::parse(text) else { return sites::looks_like_envoy(text) };
    let file = tree.documents().first().is_some_and(|root| shape::is_envoy(&tree, *root));
    file || sites::texts(text).is_ok_and(|texts| texts.iter().any(|text| is_config(&text.value)))
}

fn is_config(text: &str) -> bool {
    sites::looks_like_envoy(text)
        && Tree::parse(text)
            .map_or(true, |tree| tree.documents().first().is_some_and(|root| shape::is_envoy(&tree, *root)))
}

/// Asks about every configuration of the inputs. Remarks are told apart: they do not make it bad.
///
/// # Errors
/// What keeps it from being asked at all.
pub fn check(
    inputs: &[Input],
    around: &Around,
    envoy: &Path,
) -> Result<(Vec<Check>, Vec<Diagnostic>), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("meshward-validate-")
        .tempdir()
        .map_err(|error| Diagnostic::error("no-folder", format!("there is no folder to work in: {error}")))?;
    let scratch = Scratch::new(folder.path())?;
    let (mut checks, mut remarks) = (Vec::new(), Vec::new());
    for input in inputs {
        let texts = match sites::texts(&input.source.text) {
            Ok(texts) => texts,
            // Not YAML to us: Envoy has the word, where the file is a configuration at all.
            Err(_) if sites::looks_like_envoy(&input.source.text) => Vec::new(),
            Err(_) => continue,
        };
        let mut configs: Vec<Text> = Vec::new();
        if texts.is_empty() && is_config(&input.source.text) {
            configs.push(Text::file(&input.source.text));
        }
        let (more, others): (Vec<Text>, Vec<Text>) =
            texts.into_iter().partition(|text| is_bootstrap(&text.value));
        configs.extend(more);
        for config in configs {
            let subject = if config.name.is_empty() {
                input.source.name.clone()
            } else {
                format!("{}: {}", input.source.name, config.name)
            };
            let mut one = One {
                input,
                others: &others,
                around,
                scratch: &scratch,
                texts: Vec::new(),
                missing: Vec::new(),
            };
            let outcome = one.ask(config, envoy)?;
            remarks.append(&mut one.missing);
            checks.push(Check { kind: "envoy", subject, outcome });
        }
    }
    Ok((checks, remarks))
}

/// A file of listeners or secrets is asked about with the bootstrap that names it.
fn is_bootstrap(text: &str) -> bool {
    is_config(text)
        && Tree::parse(text).map_or(true, |tree| {
            tree.documents().first().is_some_and(|root| {
                ["static_resources", "dynamic_resources"]
                    .iter()
                    .any(|field| shape::field(&tree, *root, field).is_some())
            })
        })
}

/// Throw-away files.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let trust_domain = spiffe::TrustDomain::new("throw-away.example")
            .map_err(|error| Diagnostic::error("invalid-trust-domain", error.to_string()))?;
        let now = OffsetDateTime::now_utc();
        let ca = Ca::create(&trust_domain, &CaOptions::default(), now)?;
        let request = SvidRequest::for_service(&trust_domain, "default", "any", "any")?;
        let issued = pki::issue(&ca, &request, now)?;
        let key = issued.key_pem.as_ref().map_or(&[][..], |key| key.as_bytes());
        let scratch = Self { folder: folder.to_owned() };
        for (name, bytes) in [
            ("tls.crt", issued.chain_pem.as_bytes()),
            ("tls.key", key),
            ("ca.crt", issued.bundle_pem.as_bytes()),
            // A session ticket key has 80 bytes.
            ("ticket", &[7; 80]),
            ("empty", b""),
            ("nothing.yaml", b"resources: []\n"),
        ] {
            scratch.write(name, bytes)?;
        }
        Ok(scratch)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))?;
        Ok(path)
    }
}

/// The question about one configuration.
struct One<'a> {
    input: &'a Input,
    /// What else the objects of its file hold.
    others: &'a [Text],
    around: &'a Around,
    scratch: &'a Scratch,
    /// All texts that were read: their source, and the way from their bytes to its.
    texts: Vec<(Arc<Source>, Text)>,
    /// What is not to be found here.
    missing: Vec<Diagnostic>,
}

impl One<'_> {
    fn ask(&mut self, config: Text, envoy: &Path) -> Result<Outcome, Failure> {
        let written = config.value.clone();
        let is_json = written.trim_start().starts_with('{');
        self.texts.push((Arc::clone(&self.input.source), config));
        let located =
            Tree::parse(&written).ok().and_then(|tree| Located::read(&tree, *tree.documents().first()?, 0));
        let Some(mut located) = located else {
            // Envoy reads it otherwise, or says better what is wrong with it.
            let path = self.scratch.write("as-written.yaml", written.as_bytes())?;
            return Ok(match run(envoy, &path, &NODE) {
                Ok(()) => Outcome::Good,
                Err(said) => bad(self.refusal(&said, None)),
            });
        };
        let mut edits = Vec::new();
        if let Some(reason) = self.stand_in(&mut located, &mut edits, false) {
            return Ok(Outcome::Skipped { reason });
        }
        let name = if is_json { "as-written.json" } else { "as-written.yaml" };
        let text = splice::apply(&written, &edits).unwrap_or_else(|| written.clone());
        let path = self.scratch.write(name, text.as_bytes())?;
        if let Err(said) = run(envoy, &path, &NODE) {
            return Ok(bad(self.refusal(&said, Some(&located))));
        }
        let before = located.json();
        flatten::flatten(&mut located, self);
        if located.json() == before {
            return Ok(Outcome::Good);
        }
        if let Some(reason) = self.stand_in(&mut located, &mut Vec::new(), true) {
            return Ok(Outcome::Skipped { reason });
        }
        let flat = serde_json::to_vec(&located.json()).unwrap_or_default();
        let path = self.scratch.write("flattened.json", &flat)?;
        Ok(match run(envoy, &path, &NODE) {
            Ok(()) => Outcome::Good,
            Err(said) => bad(self.refusal(&said, Some(&located))),
        })
    }

    /// Files that the configuration names, or what stands in for them, in the values and as edits of the text; those of
    /// dynamic parts in the values only when they are `flat`, for their paths are needed until then. What keeps it from
    /// being asked about, if there is something.
    fn stand_in(&mut self, config: &mut Located, edits: &mut Vec<Edit>, flat: bool) -> Option<String> {
        let mut named: Vec<(String, String, Place)> = Vec::new();
        let mut skipped = None;
        config.each_map(&mut |map, above| {
            let log = map
                .field("@type")
                .and_then(Located::text)
                .is_some_and(|kind| kind.ends_with(".FileAccessLog"));
            for (key, is_log) in [("filename", false), ("path", log), ("access_log_path", true)] {
                if key == "path" && !log {
                    continue;
                }
                let Some(value) = map.field_mut(key) else { continue };
                let Some(path) = value.text().map(str::to_owned) else { continue };
                let stand_in = if is_log {
                    Some("/dev/null".to_owned())
                } else {
                    match self.stands_for(&path, above) {
                        Ok(stand_in) => stand_in,
                        Err(reason) => {
                            skipped.get_or_insert(reason);
                            None
                        }
                    }
                };
                if let Some(stand_in) = stand_in.filter(|stand_in| *stand_in != path) {
                    if stand_in.ends_with("/empty") {
                        named.push((
                            path.clone(),
                            above.last().cloned().unwrap_or_default(),
                            value.place.clone(),
                        ));
                    }
                    if value.place.text == 0 {
                        let text = serde_json::Value::String(stand_in.clone()).to_string();
                        edits.push(Edit { range: value.place.span.clone(), text });
                    }
                    value.content = located::Content::Scalar(stand_in.into());
                }
            }
            // Envoy wants the file to be there, and does not read it here.
            let source = |key: &String| {
                key.ends_with("_config") || ["path_config_source", "config_source"].contains(&key.as_str())
            };
            if above.last().is_some_and(source)
                && !log
                && let Some(value) = map.field_mut("path")
                && value.text().is_some()
            {
                let nothing = self.scratch.path("nothing.yaml");
                if value.place.text == 0 {
                    let text = serde_json::Value::String(nothing.clone()).to_string();
                    edits.push(Edit { range: value.place.span.clone(), text });
                }
                if flat {
                    value.content = located::Content::Scalar(nothing.into());
                }
            }
            // The folder that is watched.
            if above.last().is_some_and(|key| key == "watched_directory")
                && let Some(value) = map.field_mut("path")
                && value.text().is_some_and(|path| !Path::new(path).is_dir())
            {
                let folder = self.scratch.folder.display().to_string();
                if value.place.text == 0 {
                    let text = serde_json::Value::String(folder.clone()).to_string();
                    edits.push(Edit { range: value.place.span.clone(), text });
                }
                value.content = located::Content::Scalar(folder.into());
            }
        });
        for (path, what, place) in named {
            let message = format!("`{path}` ({what}) is not here: its content is not checked");
            self.remark(message, &place);
        }
        skipped
    }

    /// A file in the place of one of the pod; None leaves the path as it is.
    fn stands_for(&self, path: &str, above: &[String]) -> Result<Option<String>, String> {
        let found = self.on_disk(path).map(|path| path.display().to_string());
        let is = |key: &str| above.iter().rev().take(2).any(|part| part == key);
        if path.ends_with(".wasm") {
            let own = Path::new(path)
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("meshward-"));
            let module = self.around.module.as_ref().filter(|_| own).map(|path| path.display().to_string());
            return match module.or(found) {
                Some(module) => Ok(Some(module)),
                None => Err(format!(
                    "the module `{path}` is not here; name it with --module, or its folder with --root"
                )),
            };
        }
        if found.is_some() {
            return Ok(found);
        }
        let name = if is("certificate_chain") {
            "tls.crt"
        } else if is("private_key") {
            "tls.key"
        } else if is("trusted_ca") || is("trust_bundle") {
            "ca.crt"
        } else if is("session_ticket_keys") || is("keys") {
            "ticket"
        } else {
            "empty"
        };
        Ok(Some(self.scratch.path(name)))
    }

    /// Where a file of the pod is on this machine.
    fn on_disk(&self, path: &str) -> Option<PathBuf> {
        let name = Path::new(path).file_name()?;
        let below_root = self.around.root.as_ref().map(|root| root.join(path.trim_start_matches('/')));
        let beside = self.input.path.as_ref().and_then(|file| file.parent()).map(|folder| folder.join(name));
        [below_root, beside, Some(PathBuf::from(path))]
            .into_iter()
            .flatten()
            .find(|path| path.is_file() && self.input.path.as_ref() != Some(path))
    }

    fn remark(&mut self, message: String, place: &Place) {
        let mut remark = Diagnostic::new(Severity::Warning, "not-here", message)
            .help("name the folder that stands for `/` of the pod with --root");
        if let Some((source, text)) = self.texts.get(place.text) {
            remark = remark.at(source, text.outer(place.span.clone()));
        }
        if !self.missing.contains(&remark) {
            self.missing.push(remark);
        }
    }

    fn refusal(&self, said: &str, config: Option<&Located>) -> Diagnostic {
        let at = |place: &Place, mistake: Diagnostic| match self.texts.get(place.text) {
            Some((source, text)) => mistake.at(source, text.outer(place.span.clone())),
            None => mistake,
        };
        let begin = Place { text: 0, span: 0..0 };
        if said.starts_with("it was ended by signal") {
            let message = format!("Envoy itself dies of this configuration: {said}");
            return at(&begin, Diagnostic::error("envoy-dies", message))
                .help("this is a mistake of Envoy's; leave out parts until it lives to find which");
        }
        if let (Some((line, column)), Some((_, text))) = (blame::position(said), self.texts.first()) {
            let start: usize =
                text.value.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
            let offset = (start + column.saturating_sub(1)).min(text.value.len());
            let why = said.rsplit("yaml-cpp: ").next().unwrap_or(said).trim();
            let why = why.split_once(": ").map_or(why, |(_, why)| why);
            let message = format!("Envoy cannot read this: {why}");
            return at(&Place { text: 0, span: offset..offset }, Diagnostic::error("envoy-refuses", message));
        }
        let Some(config) = config else {
            let line = said.lines().next().unwrap_or(said);
            return at(&begin, Diagnostic::error("envoy-refuses", format!("Envoy refuses this: {line}")));
        };
        let blame = blame::blame(said, config);
        let mistake = Diagnostic::error("envoy-refuses", format!("Envoy refuses this: {}", blame.message));
        at(&blame.place.unwrap_or_else(|| blame::head(config)), mistake)
    }
}

impl Files for One<'_> {
    fn open(&mut self, path: &str, asked: &Place) -> Option<Located> {
        let name = Path::new(path).file_name()?.to_string_lossy().into_owned();
        let beside = self.others.iter().find(|text| text.key() == name);
        let (source, text) = if let Some(text) = beside {
            let again = sites::texts(&self.input.source.text).ok()?;
            (Arc::clone(&self.input.source), again.into_iter().find(|one| one.name == text.name)?)
        } else if let Some(file) = self.on_disk(path) {
            let content = std::fs::read_to_string(&file).ok()?;
            (Source::new(file.display().to_string(), content.clone()), Text::file(&content))
        } else {
            self.remark(format!("`{path}` is not here: what Envoy reads from it is not checked"), asked);
            return None;
        };
        let tree = Tree::parse(&text.value).ok()?;
        let located = Located::read(&tree, *tree.documents().first()?, self.texts.len())?;
        self.texts.push((source, text));
        Some(located)
    }
}

fn bad(mistake: Diagnostic) -> Outcome {
    Outcome::Bad { diagnostics: vec![mistake] }
}

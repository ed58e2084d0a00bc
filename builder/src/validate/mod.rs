//! Whether everything that `render` writes is good: asked of those who will read it.
//!
//! Envoy itself (`--mode validate`) judges every configuration as it would run in the pod, the filter's `on_configure` in
//! it; kustomize builds the base and every overlay; the Kubernetes API's own schemas judge every object. What cannot be
//! asked here says SKIPPED and why, and is never called good.

mod envoy;
mod flatten;
pub mod foreign;
mod kubernetes;
mod pod;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::diagnostic::{Diagnostic, Failure};
use crate::kube::Filter;
use crate::mesh::Resolved;

/// What was asked, and how it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// `lint`, `envoy`, `kustomize` or `schema`.
    pub kind: &'static str,
    /// A service, a folder, or a number of objects.
    pub subject: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a check ended.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    Good,
    /// Not asked, and why.
    Skipped {
        reason: String,
    },
    Bad {
        #[serde(serialize_with = "as_json")]
        diagnostics: Vec<Diagnostic>,
    },
}

fn as_json<S: serde::Serializer>(diagnostics: &[Diagnostic], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(diagnostics.iter().map(Diagnostic::to_json))
}

/// With what to ask.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The Envoy to ask; its reason for not being there otherwise.
    pub envoy: Result<PathBuf, String>,
    /// `kubectl`, on `PATH`.
    pub kubectl: Option<PathBuf>,
    /// A Python that has `kubernetes_validate`, or why there is none.
    pub python: Result<PathBuf, String>,
}

/// Asks everybody.
///
/// # Errors
/// What keeps the checks from being made at all: policies that do not compile, no folder to work in. What the checks
/// find is in their outcomes.
pub fn validate(
    mesh: &Resolved,
    filter: &Filter,
    module: &Path,
    tools: &Tools,
) -> Result<Vec<Check>, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("meshward-validate-")
        .tempdir()
        .map_err(|error| Diagnostic::error("no-folder", format!("there is no folder to work in: {error}")))?;
    let mut checks = match &tools.envoy {
        Ok(envoy) => envoy::check(mesh, filter, module, envoy, folder.path())?,
        Err(reason) => {
            let subject = format!("{} services", mesh.services.len());
            vec![Check { kind: "envoy", subject, outcome: Outcome::Skipped { reason: reason.clone() } }]
        }
    };
    checks.extend(kubernetes::check(mesh, filter, module, tools, folder.path())?);
    Ok(checks)
}

/// What `work` makes of each item, in their order; as many at a time as there are processors.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(worker);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

pub use kubernetes::python_with_schemas;

/// `name` in one of the folders of `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Diagnostic::error("unwritable", format!("`{}` cannot be written: {error}", path.display())).into()
}

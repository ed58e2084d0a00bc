//! kustomize's word on the base and every overlay, and the API schemas' on every object in them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Check, Outcome, Tools};
use crate::diagnostic::{Diagnostic, Failure};
use crate::kube::{self, Filter, tree};
use crate::mesh::Resolved;

/// The package with the schemas, and the Kubernetes version that is asked for.
const PACKAGE: &str = "kubernetes-validate==1.37.0";
/// Kinds of cert-manager and SPIRE are no part of Kubernetes, and the package has no schemas of them.
const FOREIGN: &str = "cert-manager.io/ spire.spiffe.io/";

/// One object a line in, one line out: the object's name and what is wrong with it.
const SCRIPT: &str = r#"
import json, sys, yaml, kubernetes_validate as k
versions = [v for v in k.api.versions.available_versions()] if hasattr(k, "api") else []
for document in yaml.safe_load_all(sys.stdin):
    if document is None: continue
    name = document.get("kind", "?") + "/" + document.get("metadata", {}).get("name", "?")
    if document.get("apiVersion", "").startswith(tuple(sys.argv[1].split())):
        print(json.dumps({"name": name, "skipped": True})); continue
    try:
        k.validate(document, sys.argv[2], strict=True)
        print(json.dumps({"name": name}))
    except Exception as error:
        print(json.dumps({"name": name, "error": str(error).splitlines()[0] if str(error) else repr(error)}))
"#;

/// Builds the base and the overlays, and looks at every object.
pub fn check(
    mesh: &Resolved,
    filter: &Filter,
    module: &Path,
    tools: &Tools,
    folder: &Path,
) -> Result<Vec<Check>, Failure> {
    let Some(kubectl) = &tools.kubectl else {
        let reason = "there is no `kubectl` on PATH".to_owned();
        return Ok(vec![skipped("kustomize", "base and overlays".to_owned(), reason)]);
    };
    let deploy = folder.join("deploy");
    tree::replace(&deploy, &kube::render(mesh, filter)?, Some((filter, module)))?;
    let overlays: Vec<&str> = tree::FOLDERS.into_iter().filter(|name| deploy.join(name).exists()).collect();
    // kustomize has one thread, and so has Python.
    Ok(super::in_parallel(&overlays, |overlay| of_overlay(kubectl, tools, &deploy, overlay))
        .into_iter()
        .flatten()
        .collect())
}

fn of_overlay(kubectl: &Path, tools: &Tools, deploy: &Path, overlay: &str) -> Vec<Check> {
    let check = |outcome| Check { kind: "kustomize", subject: overlay.to_owned(), outcome };
    match kustomize(kubectl, &deploy.join(overlay)) {
        Ok(objects) => {
            let schema = match &tools.python {
                Ok(python) => schemas(python, overlay, &objects),
                Err(reason) => skipped("schema", overlay.to_owned(), reason.clone()),
            };
            vec![check(Outcome::Good), schema]
        }
        Err(said) => {
            let message = format!("kustomize cannot build `{overlay}`: {said}");
            let diagnostics = vec![Diagnostic::error("kustomize-refuses", message)];
            vec![check(Outcome::Bad { diagnostics })]
        }
    }
}

fn skipped(kind: &'static str, subject: String, reason: String) -> Check {
    Check { kind, subject, outcome: Outcome::Skipped { reason } }
}

fn kustomize(kubectl: &Path, folder: &Path) -> Result<Vec<u8>, String> {
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`{}` cannot be run: {error}", kubectl.display()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().next_back().unwrap_or("it says nothing").to_owned())
}

#[derive(serde::Deserialize)]
struct Verdict {
    name: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    skipped: bool,
}

fn schemas(python: &Path, overlay: &str, objects: &[u8]) -> Check {
    let verdicts = match ask(python, objects) {
        Ok(verdicts) => verdicts,
        Err(reason) => return skipped("schema", overlay.to_owned(), reason),
    };
    let diagnostics: Vec<Diagnostic> = verdicts
        .iter()
        .filter_map(|verdict| {
            let error = verdict.error.as_ref()?;
            Some(Diagnostic::error("schema", format!("`{}` in `{overlay}`: {error}", verdict.name)))
        })
        .collect();
    let foreign = verdicts.iter().filter(|verdict| verdict.skipped).count();
    let mut subject = format!("{overlay}: {} objects", verdicts.len() - foreign);
    if foreign > 0 {
        subject = format!("{subject} ({foreign} of cert-manager's or SPIRE's kinds have no schema here)");
    }
    let outcome = if diagnostics.is_empty() { Outcome::Good } else { Outcome::Bad { diagnostics } };
    Check { kind: "schema", subject, outcome }
}

fn ask(python: &Path, objects: &[u8]) -> Result<Vec<Verdict>, String> {
    let failed = |error: std::io::Error| format!("`{}` cannot be run: {error}", python.display());
    let mut child = Command::new(python)
        .args(["-c", SCRIPT, FOREIGN, "1.37"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let pipe = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // From a thread of its own: both pipes may be full at once.
        scope.spawn(|| pipe.map(|mut pipe| pipe.write_all(objects)));
        child.wait_with_output()
    })
    .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let verdicts: Vec<Verdict> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if output.status.success() && !verdicts.is_empty() {
        return Ok(verdicts);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("the schema check failed: {}", said.lines().next_back().unwrap_or("it says nothing")))
}

/// A Python with the schemas: the one on `PATH` when it has them, else one of our own in `cache`, made when `fetch`.
///
/// # Errors
/// Why there is none, in words.
pub fn python_with_schemas(cache: Option<&Path>, fetch: bool) -> Result<PathBuf, String> {
    let python = super::on_path("python3").ok_or("there is no `python3` on PATH")?;
    if has_schemas(&python) {
        return Ok(python);
    }
    let cache = cache.ok_or("there is no cache folder (set MESHWARD_CACHE)")?;
    let home = cache.join(PACKAGE.replace("==", "-"));
    let own = home.join("bin/python3");
    if has_schemas(&own) {
        return Ok(own);
    }
    if !fetch {
        return Err(format!(
            "`{PACKAGE}` of PyPI is not installed; leave out `--offline` to have it fetched"
        ));
    }
    std::fs::create_dir_all(cache)
        .map_err(|error| format!("`{}` cannot be written: {error}", cache.display()))?;
    let run = |program: &Path, arguments: &[&std::ffi::OsStr]| -> Result<(), String> {
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("`{}` cannot be run: {error}", program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(said.lines().next_back().unwrap_or("it says nothing").to_owned())
    };
    run(&python, &["-m".as_ref(), "venv".as_ref(), home.as_os_str()])
        .map_err(|said| format!("no virtual environment for `{PACKAGE}`: {said}"))?;
    run(
        &own,
        &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
            .map(std::ffi::OsStr::new),
    )
    .map_err(|said| format!("`{PACKAGE}` cannot be had: {said}"))?;
    if has_schemas(&own) { Ok(own) } else { Err(format!("`{PACKAGE}` does not work here")) }
}

fn has_schemas(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import kubernetes_validate, yaml"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

//! The options with which `patch`, `unpatch`, `inject` and `uninject` work on a cluster, and how its changes are shown,
//! asked about and made.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::live::client::{Cluster, Target};
use crate::live::module::Module;
use crate::live::plan::Plan;
use crate::live::select::Wanted;

/// With one of the first four the arguments are objects of a cluster and not files.
#[derive(Debug, Default, clap::Args)]
#[command(
    next_help_heading = "On a cluster, instead of files",
    group = clap::ArgGroup::new("cluster")
        .args(["kubeconfig", "context", "namespace", "all_namespaces"])
        .multiple(true)
)]
pub struct Live {
    /// The kubeconfig [default: as kubectl finds it]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only objects with these labels, as kubectl has it
    #[arg(short = 'l', long, value_name = "LABELS", requires = "cluster")]
    selector: Option<String>,
    /// `client`: show what would be written; `server`: have the API server judge it as well, and keep nothing
    #[arg(long, value_name = "WHERE", requires = "cluster", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    dry_run: Option<DryRun>,
    /// Do not ask before writing
    #[arg(short, long, requires = "cluster")]
    yes: bool,
    /// Take over fields that another manager owns
    #[arg(long, requires = "cluster")]
    force_conflicts: bool,
    /// Where what was there before is kept
    #[arg(long, value_name = "FOLDER", requires = "cluster", default_value = ".meshward/backup")]
    backup_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DryRun {
    None,
    Client,
    Server,
}

/// How the result is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    pub diff: bool,
    pub check: bool,
    pub json: bool,
}

impl Live {
    /// Whether a cluster is meant.
    pub fn is_meant(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.namespace.is_some() || self.all_namespaces
    }

    /// Whether more than one namespace is meant.
    pub fn is_all(&self) -> bool {
        self.all_namespaces
    }

    /// Whether nothing is to be kept.
    pub fn is_dry(&self) -> bool {
        matches!(self.dry_run, Some(DryRun::Client | DryRun::Server))
    }

    pub fn connect(&self) -> Result<Cluster, Failure> {
        let target = Target {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
        };
        Ok(Cluster::connect(&target)?)
    }

    /// The objects that are meant.
    ///
    /// # Errors
    /// Named objects, and all of something beside them.
    pub fn wanted(&self, names: Vec<String>, secrets: bool) -> Result<Wanted, Diagnostic> {
        if !names.is_empty() && (self.all_namespaces || self.selector.is_some()) {
            return Err(Diagnostic::error(
                "named-and-all",
                "objects are named, and labels or all namespaces are asked for, too",
            )
            .help("leave out the names, or -A and -l"));
        }
        Ok(Wanted { names, selector: self.selector.clone(), all_namespaces: self.all_namespaces, secrets })
    }

    /// Shows the plan, and carries it out if that is wanted.
    pub fn carry_out(
        &self,
        console: &mut Console<'_>,
        cluster: &Cluster,
        plan: &Plan,
        show: Show,
    ) -> Result<Exit, Failure> {
        self.carry_out_noted(console, cluster, plan, show, &mut || Ok(()))
    }

    /// The same; `note` is called when all is asked and tried, before the first write.
    pub fn carry_out_noted(
        &self,
        console: &mut Console<'_>,
        cluster: &Cluster,
        plan: &Plan,
        show: Show,
        note: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<Exit, Failure> {
        for remark in &plan.remarks {
            console.report(remark);
        }
        for label in &plan.unchanged {
            console.note(&format!("{label}: unchanged"));
        }
        if !show.json && !show.check {
            let _ = write!(console.out(), "{}", plan.diff());
        }
        let lines = || plan.steps.iter().map(|step| format!("{}: {}", step.label(), step.what.join("; ")));
        let tell = |console: &mut Console<'_>, how: &str| {
            for line in lines() {
                console.note(&format!("{how}{line}"));
            }
        };
        let report = |console: &mut Console<'_>, state: &str, backups: &[PathBuf]| {
            if show.json {
                let steps: Vec<_> = plan
                    .steps
                    .iter()
                    .map(|step| {
                        json!({"kind": step.kind.name, "namespace": step.namespace, "name": step.name, "what": step.what})
                    })
                    .collect();
                let remarks: Vec<_> = plan.remarks.iter().map(Diagnostic::to_json).collect();
                let report = json!({"state": state, "steps": steps, "unchanged": plan.unchanged,
                    "findings": remarks, "backups": backups});
                let _ = writeln!(console.out(), "{report:#}");
            }
        };
        if plan.steps.is_empty() {
            report(console, "unchanged", &[]);
            console.note("nothing is to be changed");
            return Ok(Exit::Success);
        }
        let dry_run = self.dry_run.unwrap_or(DryRun::None);
        if show.check || show.diff || dry_run == DryRun::Client {
            tell(console, "would be written: ");
            report(console, "planned", &[]);
            return Ok(if show.check { Exit::Failure } else { Exit::Success });
        }
        plan.try_out(cluster, self.force_conflicts)?;
        if dry_run == DryRun::Server {
            tell(console, "the server would take: ");
            report(console, "tried", &[]);
            return Ok(Exit::Success);
        }
        if !self.yes {
            tell(console, "to be written: ");
            if !confirmed(console, &cluster.name)? {
                console.note("nothing was changed");
                return Ok(Exit::Failure);
            }
        }
        note()?;
        let written =
            plan.write(cluster, self.force_conflicts, &self.backup_dir, &mut |line| console.note(line))?;
        for path in &written.backups {
            console.note(&format!("what was there before: {}", path.display()));
        }
        report(console, "written", &written.backups);
        Ok(Exit::Success)
    }
}

/// Asks on the terminal.
fn confirmed(console: &mut Console<'_>, cluster: &str) -> Result<bool, Failure> {
    if !(std::io::stdin().is_terminal() && console.interactive()) {
        return Err(Diagnostic::error(
            "not-confirmed",
            "nobody is there to be asked, and nothing was changed",
        )
        .help("write it with --yes, or look at it with --diff or --dry-run=server")
        .into());
    }
    console.note(&format!("write this to `{cluster}`? [y/N]"));
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The module at a path.
pub fn module(path: &Path) -> Result<Module, Diagnostic> {
    std::fs::read(path).map(Module::new).map_err(|error| {
        Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
    })
}

//! `meshward migrate`: services that run without a mesh, brought into one step by step.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::live::{Live, Show};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::live::error::label;
use crate::live::kind::SECRET;
use crate::live::plan::text_diff;
use crate::migrate::inventory::Inventory;
use crate::migrate::plan::{Step, What, plan};
use crate::migrate::state::{Change, Done, State, Store, sha256, unwritable};
use crate::migrate::steps::{FileChange, changes};
use crate::migrate::{cluster, counter};
use crate::patch::files;

/// Brings services that run without a mesh into one, step by step: plan, look, apply, and undo what you do not like.
///
/// A plan is made from your manifests, or from a cluster, and changes nothing. Each step is then applied by itself: a
/// backup, a proposed mesh.yaml that refuses nobody, configurations, a sidecar at a time, the addresses by which services
/// call each other, and, when nobody comes without a certificate any more, STRICT.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshward migrate plan -f k8s/ --wasm meshward.wasm --name bookstore\n  meshward migrate status\n  \
    meshward migrate apply            # the next step\n  meshward migrate apply inject:bookapi --diff\n  \
    meshward migrate apply watch --admin bookapi=127.0.0.1:9901 --seconds 60\n  meshward migrate undo inject:bookapi\n  \
    meshward migrate plan -n shop --wasm meshward.wasm        # what runs in a cluster\n\n\
    The state is in .meshward/migrate: keep it until you are through."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Read what there is, and show the steps; nothing is changed
    #[command(
        after_help = "Examples:\n  meshward migrate plan -f k8s/ --wasm meshward.wasm\n  meshward migrate plan -n shop --wasm meshward.wasm"
    )]
    Plan(Box<PlanArgs>),
    /// Show the steps, and which are done
    #[command(after_help = "Examples:\n  meshward migrate status\n  meshward migrate status -o json")]
    Status(StatusArgs),
    /// Do a step, or the next one
    #[command(
        after_help = "Examples:\n  meshward migrate apply\n  meshward migrate apply inject:bookapi --diff"
    )]
    Apply(Box<StepArgs>),
    /// Take a step back: the bytes from before
    #[command(
        after_help = "Examples:\n  meshward migrate undo\n  meshward migrate undo inject:bookapi --diff"
    )]
    Undo(Box<StepArgs>),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Where the migration is kept
    #[arg(long, value_name = "FOLDER", default_value = ".meshward/migrate")]
    state_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    live: Live,
    /// Manifests and folders of them, instead of a cluster; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The filter's module, from `meshward build`
    #[arg(long, value_name = "FILE")]
    wasm: PathBuf,
    /// The mesh's name
    #[arg(long, value_name = "NAME", default_value = "my-mesh")]
    name: String,
    /// The SPIFFE trust domain [default: <name>.example]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Where mesh.yaml will be
    #[arg(long, value_name = "FILE", default_value = "mesh.yaml")]
    mesh: PathBuf,
    /// Where new manifests will be
    #[arg(long, value_name = "FOLDER", default_value = "meshward")]
    output_dir: PathBuf,
    /// Plan anew, though steps are done
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    place: Place,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, clap::Args)]
struct StepArgs {
    /// The step [default: the next one; to undo: the last one]
    step: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    live: Live,
    /// Show what would change, and change nothing
    #[arg(long)]
    diff: bool,
    /// For `watch`: the admin interface of a service's sidecar (`kubectl port-forward … 9901`); may be repeated
    #[arg(long, value_name = "SERVICE=HOST:PORT")]
    admin: Vec<String>,
    /// For `watch`: how long nobody may come without a certificate
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match &args.verb {
        Verb::Plan(args) => make(args, console),
        Verb::Status(args) => {
            let state = load(&args.place)?;
            show(&state, args.output, console);
            Ok(Exit::Success)
        }
        Verb::Apply(args) => apply(args, console),
        Verb::Undo(args) => undo(args, console),
    }
}

fn store(place: &Place) -> Store {
    Store { folder: place.state_dir.clone() }
}

fn load(place: &Place) -> Result<State, Failure> {
    store(place).load()?.ok_or_else(|| {
        Diagnostic::error("no-plan", format!("there is no migration in `{}`", place.state_dir.display()))
            .help("make a plan first: `meshward migrate plan -f FOLDER --wasm FILE`")
            .into()
    })
}

fn make(args: &PlanArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let store = store(&args.place);
    if store.load()?.is_some_and(|state| !state.done.is_empty()) && !args.force {
        return Err(Diagnostic::error("under-way", "steps of the last plan are done")
            .help("go on with it (`meshward migrate status`), undo them, or plan anew with --force")
            .into());
    }
    let on_cluster = args.live.is_meant();
    let (paths, namespace) = if on_cluster {
        if args.live.is_all() {
            return Err(Diagnostic::error("one-namespace", "a migration is of one namespace")
                .help("name it with -n")
                .into());
        }
        if !args.files.is_empty() {
            return Err(Diagnostic::error(
                "two-places",
                "files and a cluster cannot be migrated with one plan",
            )
            .into());
        }
        let cluster = args.live.connect()?;
        let folder = args.place.state_dir.join("manifests").join(&cluster.namespace);
        cluster::pull(&cluster, &folder)?;
        (vec![folder], cluster.namespace)
    } else if args.files.is_empty() {
        return Err(Diagnostic::error("no-input", "no manifest is named")
            .help("name files or folders with -f, or a cluster's namespace with -n")
            .into());
    } else {
        (args.files.clone(), "default".to_owned())
    };
    let inputs = files::read(&paths)?;
    let inventory = Inventory::read(&inputs, &namespace);
    if inventory.services.is_empty() {
        return Err(Diagnostic::error(
            "nothing-to-do",
            "there is no Service with a Deployment, StatefulSet or DaemonSet behind it",
        )
        .into());
    }
    let trust_domain = args.trust_domain.clone().unwrap_or_else(|| format!("{}.example", args.name));
    let (steps, remarks) = plan(&inputs, &inventory, &args.name, &trust_domain);
    for remark in remarks {
        console.report(&Diagnostic::warning("not-covered", remark));
    }
    let state = State {
        files: paths,
        namespace,
        on_cluster,
        folder: if on_cluster { args.place.state_dir.join("new") } else { args.output_dir.clone() },
        mesh: args.mesh.clone(),
        trust_domain,
        wasm: args.wasm.clone(),
        steps,
        done: Vec::new(),
    };
    store.save(&state)?;
    show(&state, Format::Table, console);
    console.note("nothing is changed yet; look at a step with `meshward migrate apply STEP --diff`, do it without --diff");
    Ok(Exit::Success)
}

fn show(state: &State, format: Format, console: &mut Console<'_>) {
    let next = next(state).map(|step| step.name.clone());
    let word = |step: &Step| {
        if state.is_done(&step.name) {
            "done"
        } else if state.done.iter().any(|done| done.step == step.name) {
            "half"
        } else if Some(&step.name) == next.as_ref() {
            "next"
        } else {
            "-"
        }
    };
    if format == Format::Json {
        let steps: Vec<_> = state
            .steps
            .iter()
            .map(|step| json!({"step": step.name, "state": word(step), "title": step.title, "after": step.after}))
            .collect();
        let _ = writeln!(console.out(), "{:#}", json!({"steps": steps}));
        return;
    }
    let width = state.steps.iter().map(|step| step.name.len()).max().unwrap_or_default();
    for step in &state.steps {
        let _ = writeln!(console.out(), "{:5} {:width$}  {}", word(step), step.name, step.title);
    }
}

/// The first step that is not done, and may be.
fn next(state: &State) -> Option<&Step> {
    state
        .steps
        .iter()
        .find(|step| !state.is_done(&step.name) && step.after.iter().all(|name| state.is_done(name)))
}

fn apply(args: &StepArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut state = load(&args.place)?;
    let step = match &args.step {
        Some(name) => state.step(name)?.clone(),
        None => match next(&state) {
            Some(step) => step.clone(),
            None => {
                console.note("every step is done");
                return Ok(Exit::Success);
            }
        },
    };
    if state.is_done(&step.name) {
        console.note(&format!("{}: done already", step.name));
        return Ok(Exit::Success);
    }
    let before: Vec<&str> =
        step.after.iter().filter(|name| !state.is_done(name)).map(String::as_str).collect();
    if !before.is_empty() && !args.diff {
        let message = format!("`{}` comes after {}", step.name, before.join(", "));
        return Err(Diagnostic::error("too-early", message)
            .help("`meshward migrate apply` does the next one")
            .into());
    }
    match &step.what {
        What::Certificates if !certificates(args, &state, console)? => return Ok(Exit::Failure),
        What::Watch if !watch(args, console)? => return Ok(Exit::Failure),
        _ => {}
    }
    let made = changes(&state, &step, &args.place.state_dir)?;
    let store = store(&args.place);
    let shown = state.clone();
    // A step that is cut off, in the files or in the cluster, can be taken back, or be done to its end.
    let mut begin = || -> Result<(), Failure> {
        let mut kept = Vec::new();
        for change in &made {
            let before = change.before.as_deref().map(|text| store.keep(text)).transpose()?;
            kept.push(Change { path: change.path.clone(), before, after: store.keep(&change.after)? });
        }
        state.begin(&step.name, kept);
        Ok(store.save(&state)?)
    };
    if !carry_out(args, &shown, &made, &mut begin, console)? {
        return Ok(Exit::Success);
    }
    // Nothing had to be written in the cluster, or there is none.
    begin()?;
    for change in &made {
        write(&change.path, &change.after)?;
        console.note(&format!("{}: {}", step.name, change.path.display()));
    }
    state.finish(&step.name);
    store.save(&state)?;
    console.note(&format!("{}: done; `meshward migrate undo {}` takes it back", step.name, step.name));
    if !state.on_cluster
        && matches!(
            step.what,
            What::Inject { .. }
                | What::Expose { .. }
                | What::Setting { .. }
                | What::Config
                | What::Strict
                | What::Enforce
        )
    {
        console.note("apply the changed manifests as you always do, and see that the pods come up, before the next step");
    }
    if let Some(next) = next(&state) {
        console.note(&format!("next: {} ({})", next.name, next.title));
    }
    Ok(Exit::Success)
}

/// Shows the changes, and makes those of a cluster, after `begin`. Whether the files are to follow.
fn carry_out(
    args: &StepArgs,
    state: &State,
    made: &[FileChange],
    begin: &mut dyn FnMut() -> Result<(), Failure>,
    console: &mut Console<'_>,
) -> Result<bool, Failure> {
    if !state.on_cluster {
        for change in made {
            let name = change.path.display().to_string();
            let _ = write!(
                console.out(),
                "{}",
                text_diff(&name, change.before.as_deref().unwrap_or_default(), &change.after)
            );
        }
        return Ok(!args.diff);
    }
    let cluster = connect(args, state)?;
    // Copies and mesh.yaml are no objects.
    let objects: Vec<FileChange> = made
        .iter()
        .filter(|change| !change.path.starts_with(args.place.state_dir.join("backup")))
        .cloned()
        .collect();
    let plan = cluster::plan(&cluster, &objects, &state.namespace)?;
    let show = Show { diff: args.diff, ..Show::default() };
    let exit = args.live.carry_out_noted(console, &cluster, &plan, show, begin)?;
    Ok(exit == Exit::Success && !args.diff && !args.live.is_dry())
}

fn connect(args: &StepArgs, state: &State) -> Result<crate::live::client::Cluster, Failure> {
    let mut cluster = args.live.connect()?;
    cluster.namespace.clone_from(&state.namespace);
    Ok(cluster)
}

fn undo(args: &StepArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut state = load(&args.place)?;
    let Some(last) = state.done.last().map(|done| done.step.clone()) else {
        console.note("no step is done");
        return Ok(Exit::Success);
    };
    let step = state.step(args.step.as_deref().unwrap_or(&last))?.clone();
    let Some(at) = state.done.iter().position(|done| done.step == step.name) else {
        console.note(&format!("{}: not done", step.name));
        return Ok(Exit::Success);
    };
    let needs =
        |name: &String| state.steps.iter().any(|one| one.name == *name && one.after.contains(&step.name));
    let later: Vec<String> =
        state.done.iter().map(|done| done.step.clone()).filter(|name| needs(name)).collect();
    if !later.is_empty() {
        let message = format!("{} came after `{}`", later.join(", "), step.name);
        return Err(Diagnostic::error("undo-later-first", message).help("undo that first").into());
    }
    let store = store(&args.place);
    let (mut made, mut gone, mut mistakes) = (Vec::new(), Vec::new(), Vec::new());
    let Some(done) = state.done.get(at).cloned() else { return Ok(Exit::Success) };
    for change in &done.changes {
        let now = std::fs::read_to_string(&change.path).ok();
        let before = change.before.as_deref().map(|name| store.kept(name)).transpose()?;
        // As it was before: a step that was cut off, or undone in part. The cluster may have it nevertheless.
        if now == before {
            if let Some(before) = before.filter(|_| state.on_cluster) {
                let after = store.kept(&change.after)?;
                made.push(FileChange { path: change.path.clone(), before: Some(after), after: before });
            }
            continue;
        }
        if now.as_deref().map(sha256).as_ref() != Some(&change.after) {
            let touched = |other: &&Done| other.changes.iter().any(|one| one.path == change.path);
            let by = state.done.iter().skip(at + 1).rfind(touched);
            let message = format!("`{}` was changed since `{}`", change.path.display(), step.name);
            let help = by.map_or_else(
                || {
                    format!(
                        "put your change aside, undo, and make it again; the text from before is `{}`",
                        store
                            .folder
                            .join("before")
                            .join(change.before.as_deref().unwrap_or_default())
                            .display()
                    )
                },
                |by| format!("by `{}`: undo that first", by.step),
            );
            mistakes.push(Diagnostic::error("changed-since", message).help(help));
            continue;
        }
        match before {
            Some(before) => made.push(FileChange { path: change.path.clone(), before: now, after: before }),
            None => gone.push(change.path.clone()),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into());
    }
    let mut nothing = || Ok(());
    if !carry_out(args, &state, &made, &mut nothing, console)? {
        return Ok(Exit::Success);
    }
    for change in &made {
        write(&change.path, &change.after)?;
        console.note(&format!("{}: as before", change.path.display()));
    }
    for path in &gone {
        std::fs::remove_file(path).map_err(|error| unwritable(path, &error))?;
        console.note(&format!("{}: gone", path.display()));
        if state.on_cluster && matches!(step.what, What::Config) {
            console.note(
                "its object stays in the cluster, where nothing reads it any more: delete it when you like",
            );
        }
    }
    state.done.remove(at);
    store.save(&state)?;
    console.note(&format!("{}: taken back", step.name));
    Ok(Exit::Success)
}

fn write(path: &Path, text: &str) -> Result<(), Diagnostic> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    }
    files::replace(path, text)
}

/// Says how certificates are made; on a cluster, whether they are there.
fn certificates(args: &StepArgs, state: &State, console: &mut Console<'_>) -> Result<bool, Failure> {
    let mesh = state.mesh.display();
    console.note(&format!(
        "with your own hands, for here are no keys:\n  meshward certs init-ca -f {mesh}\n  meshward certs issue -f {mesh}\n  \
         meshward certs export -f {mesh} -o kubernetes | kubectl apply --server-side -f -"
    ));
    if !state.on_cluster || args.diff {
        return Ok(true);
    }
    let cluster = connect(args, state)?;
    let mesh = crate::mesh::load(std::slice::from_ref(&state.mesh))?;
    let mut all = true;
    for service in &mesh.services {
        let name = format!("{}-mtls-cert", service.name);
        let there = cluster
            .get(&SECRET, &service.namespace, &name)
            .map_err(|error| error.diagnostic(&SECRET, Some(&service.namespace), &name, &["get"]))?;
        if there.is_none() {
            all = false;
            console.note(&format!("not there yet: {}", label(&SECRET, Some(&service.namespace), &name)));
        }
    }
    Ok(all)
}

/// Whether nobody comes without a certificate for a while.
fn watch(args: &StepArgs, console: &mut Console<'_>) -> Result<bool, Failure> {
    if args.diff {
        return Ok(true);
    }
    let mut sidecars = Vec::new();
    for written in &args.admin {
        let Some((service, address)) = written.split_once('=') else {
            return Err(
                Diagnostic::error("no-address", format!("`{written}` is not SERVICE=HOST:PORT")).into()
            );
        };
        let count = |why| Diagnostic::error("no-counter", format!("{service}: {why}"));
        let before = counter::plain_text(address).map_err(count)?;
        sidecars.push((service, address, before));
    }
    if sidecars.is_empty() {
        return Err(Diagnostic::error("nobody-watched", "no sidecar is named")
            .help("forward the admin port of each service and name it: `kubectl port-forward deploy/bookapi 9901`, then `--admin bookapi=127.0.0.1:9901`")
            .into());
    }
    console.note(&format!("watching for {} s", args.seconds));
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    loop {
        let mut quiet = true;
        for (service, address, before) in &sidecars {
            let now = counter::plain_text(address)
                .map_err(|why| Diagnostic::error("no-counter", format!("{service}: {why}")))?;
            if now > *before {
                quiet = false;
                console.note(&format!("{service}: {} came without a certificate", now - before));
            }
        }
        if !quiet {
            console.note("find who it is in the sidecar's access log, bring it in or change its address, and watch again");
            return Ok(false);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            console.note("nobody came without a certificate");
            return Ok(true);
        }
        std::thread::sleep(left.min(Duration::from_secs(1)));
    }
}

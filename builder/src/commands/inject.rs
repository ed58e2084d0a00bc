//! `meshward inject`: a sidecar for workloads that somebody else wrote.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::edit::{Edit, Edited, Words};
use super::filter::{FilterFrom, Signer};
use super::live::{self, Live};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::envoy::{self, BOOTSTRAP_FILE, Placement};
use crate::inject::{self, Options};
use crate::kube::{Distribution, Filter};
use crate::live::inject::{Direction, plan};
use crate::mesh::{self, ENVOY_IMAGE};

/// Gives Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Pods an Envoy sidecar, with its volumes.
///
/// Only the sidecar is written; every other byte stays as it is. Twice is once, a newer sidecar replaces an older one,
/// and `meshward uninject` gives the bytes from before. Left alone, with the reason on standard error: what has
/// `meshward.dev/inject: "false"`, `hostNetwork`, another mesh's sidecar, or is no service of the mesh.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The sidecar mounts the ConfigMaps <service>-envoy-config and meshward-filter-<sha12> (from `meshward render`) \
    and the Secret <service>-mtls-cert (from `meshward certs issue`). The service is the workload's name, or its annotation \
    meshward.dev/service. Jobs get a native sidecar, which ends when they do.\n\n\
    Examples:\n  meshward inject deployment.yaml --wasm meshward.wasm --diff\n  \
    meshward inject -f k8s/ -i --wasm meshward.wasm --mesh mesh.yaml\n  \
    kubectl get deployment bookapi -o yaml | meshward inject - --filter-sha256 0123456789ab | kubectl apply -f -\n  \
    meshward inject -n shop deployment/bookapi --wasm meshward.wasm --mesh mesh.yaml\n  \
    meshward inject web.yaml --wasm meshward.wasm --filter-from image --filter-image registry.example/filter@sha256:<digest>"
)]
pub struct Args {
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    live: Live,
    /// The filter's module, whose hash is in the name of its ConfigMap
    #[arg(long, value_name = "FILE", required_unless_present = "filter_sha256")]
    wasm: Option<PathBuf>,
    /// The module's sha256 instead, or the first 12 digits of it
    #[arg(long, value_name = "HEX", conflicts_with = "wasm", value_parser = sha12)]
    filter_sha256: Option<String>,
    #[command(flatten)]
    from: FilterFrom,
    #[command(flatten)]
    signer: Signer,
    /// A mesh file or folder; may be repeated. Then only its services get a sidecar, and pods are replaced when what their
    /// Envoy reads at its start changes
    #[arg(long, value_name = "FILE")]
    mesh: Vec<PathBuf>,
    /// The service that the workload is, where it is not its name
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// A native sidecar: an init container that keeps running (Kubernetes 1.29 and later)
    #[arg(long)]
    native: bool,
    /// The sidecar's image [default: the mesh's, or the pinned Envoy]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

fn sha12(text: &str) -> Result<String, String> {
    let hex = text.len() >= 12
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    Some(text.to_owned()).filter(|_| hex).ok_or_else(|| "12 to 64 lower-case hexadecimal digits".to_owned())
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let options = options(args)?;
    if args.live.is_meant() {
        let (names, show) = args.edit.on_a_cluster()?;
        // Out of an image it needs no ConfigMap.
        let file = args.wasm.as_deref().filter(|_| options.filter.distribution == Distribution::ConfigMap);
        let module = file.map(live::module).transpose()?;
        let cluster = args.live.connect()?;
        let direction = Direction::Inject { options: &options, module: module.as_ref() };
        let plan = plan(&cluster, &args.live.wanted(names, false)?, &direction)?;
        return args.live.carry_out(console, &cluster, &plan, show);
    }
    let words = Words { done: "injected", subject: "workload" };
    args.edit.run(console, words, |text| inject::inject(text, &options).map(edited))
}

/// The outcome of an injection, as all edits report theirs.
pub fn edited(outcome: inject::apply::Outcome) -> Edited {
    let inject::apply::Outcome { text, findings, workloads, done } = outcome;
    Edited { text, findings, done, concerned: workloads > 0 }
}

fn options(args: &Args) -> Result<Options, Failure> {
    args.signer.check(args.wasm.as_deref())?;
    let sha256 = match (&args.filter_sha256, &args.wasm) {
        (Some(digits), _) => digits.clone(),
        (None, Some(file)) => {
            let bytes = std::fs::read(file).map_err(|error| {
                Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", file.display()))
            })?;
            Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
        }
        (None, None) => return Err(Diagnostic::error("no-module", "no module is named").into()),
    };
    let filter = Filter { sha256, distribution: args.from.distribution()?.unwrap_or_default() };
    if matches!(filter.distribution, Distribution::InitContainer(_)) && filter.sha256.len() != 64 {
        return Err(Diagnostic::error(
            "filter-image",
            "an init container checks all 64 digits of the module's sha256",
        )
        .help("give them all to --filter-sha256, or the module to --wasm")
        .into());
    }
    let (mut image, mut services, mut redirects) = (ENVOY_IMAGE.to_owned(), None, BTreeMap::new());
    if !args.mesh.is_empty() {
        let mesh = mesh::load(&args.mesh)?;
        if let Some(provider) = mesh.certificates.provider
            && !provider.fills_secrets()
        {
            let message = format!(
                "an injected sidecar reads the Secret `<service>-mtls-cert`, and `{}`, which mesh.yaml names, fills none",
                provider.name()
            );
            return Err(Diagnostic::error("certificates", message)
                .help("give these workloads a `container` in mesh.yaml, so that `render` writes them, or use `embedded` or `cert-manager`")
                .into());
        }
        let placement = Placement::Kubernetes { filter_sha12: filter.sha12().to_owned() };
        let mut hashes = BTreeMap::new();
        for service in &mesh.services {
            let files = envoy::render(&mesh, service, &placement)?;
            let bootstrap = files.iter().find(|file| file.name == BOOTSTRAP_FILE);
            let hash = bootstrap.map(|file| hex12(&Sha256::digest(&file.text))).unwrap_or_default();
            hashes.insert(service.name.clone(), hash);
        }
        services = Some(hashes);
        redirects = inject::redirects(&mesh);
        image.clone_from(&mesh.envoy_image);
    }
    let image = args.image.clone().unwrap_or(image);
    Ok(Options { image, filter, native: args.native, service: args.service.clone(), services, redirects })
}

fn hex12(digest: &[u8]) -> String {
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

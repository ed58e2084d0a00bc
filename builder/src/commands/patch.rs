//! `meshward patch`: the filter and its guard, put into Envoy configurations that somebody else wrote.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::edit::{Edit, Edited, Words};
use super::filter::Signer;
use super::live::{self, Live};
use crate::compile;
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure, nearest};
use crate::envoy::{filter_file_name, pod};
use crate::live::patch::{Direction, plan};
use crate::mesh;
use crate::patch::{self, Configurations, Discovery, Outcome, Plugin, Selection};
use meshward_engine::config::{PluginConfig, Protocol, Role};

/// Puts the filter and its guard before the router (before `tcp_proxy` on TCP) of every inbound listener.
///
/// Reads Envoy configurations (YAML, JSON) and what holds them: ConfigMaps, Secrets, Lists, streams of documents,
/// kustomizations. Only the two filters are written; every other byte stays as it is. Twice is once, a newer filter
/// replaces an older one, and `meshward unpatch` gives the bytes from before.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The patched Envoy needs the module at --wasm-path, and nothing else. With --discovery it also reads its \
    policy from a file that it watches, so that a new policy drains no connection.\n\n\
    Examples:\n  meshward patch envoy.yaml --wasm meshward.wasm --service bookapi --diff\n  \
    meshward patch -f k8s/ -i --wasm meshward.wasm --service bookapi\n  \
    kubectl get configmap bookapi-envoy-config -o yaml | meshward patch - --wasm meshward.wasm --service bookapi | kubectl apply -f -\n  \
    meshward patch -n shop configmap/bookapi-envoy-config --wasm meshward.wasm --service bookapi --dry-run=server\n\n\
    On a cluster the module becomes the ConfigMap meshward-filter-<sha12>, the workloads that mount the configuration mount it, \
    too, and their pods are replaced. Fields are written by server-side apply as the manager `meshward`; those of another \
    manager (kubectl's own, the first time) only with --force-conflicts."
)]
pub struct Args {
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    live: Live,
    #[command(flatten)]
    holders: Holders,
    /// The module; Envoy is told to find it as /etc/meshward/meshward-<sha12>.wasm
    #[arg(long, value_name = "FILE", required_unless_present = "wasm_path")]
    wasm: Option<PathBuf>,
    #[command(flatten)]
    signer: Signer,
    /// Where Envoy finds the module instead
    #[arg(long, value_name = "PATH")]
    wasm_path: Option<String>,
    /// The service of the mesh whose policy this Envoy enforces
    #[arg(long, value_name = "NAME", required_unless_present = "configuration")]
    service: Option<String>,
    /// A mesh file or folder; may be repeated [default: mesh.yaml here or further up]
    #[arg(long, value_name = "FILE", env = "MESHWARD_FILE")]
    mesh: Vec<PathBuf>,
    /// An encoded plugin configuration, put in as it is, instead of one of the mesh
    #[arg(long, value_name = "FILE", conflicts_with_all = ["service", "mesh", "discovery"])]
    configuration: Option<PathBuf>,
    /// Also mend what the listeners lack: client certificates, path normalization, the caller's address. Each mended line
    /// has a comment that says so; `unpatch` takes it back
    #[arg(long)]
    harden: bool,
    /// Have Envoy read the policy from filter-inbound.yaml in this folder of its pod, which it watches (ECDS)
    #[arg(long, value_name = "FOLDER", requires = "service")]
    discovery: Option<String>,
}

/// On a cluster: what is looked at besides ConfigMaps, and what follows.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "On a cluster, instead of files")]
pub struct Holders {
    /// Look into Secrets, too
    #[arg(long, requires = "cluster")]
    pub secrets: bool,
    /// Leave the workloads alone: the module is not mounted, and no pods are replaced
    #[arg(long, requires = "cluster")]
    pub no_rollout: bool,
}

/// Which listeners and managers are meant.
#[derive(Clone, Debug, clap::Args)]
pub struct Select {
    /// Only the listener of this name; may be repeated
    #[arg(long, value_name = "NAME")]
    listener: Vec<String>,
    /// Only the listener on this port; may be repeated
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// Only the HTTP connection manager of this stat_prefix or filter name; may be repeated
    #[arg(long, value_name = "NAME")]
    manager: Vec<String>,
    /// Outbound listeners too: those of `traffic_direction: OUTBOUND`, or with `outbound` or `egress` in their name
    #[arg(long)]
    outbound: bool,
}

impl Select {
    pub fn selection(&self) -> Selection {
        Selection {
            listeners: self.listener.clone(),
            ports: self.port.iter().map(|port| u32::from(*port)).collect(),
            managers: self.manager.clone(),
            outbound: self.outbound,
        }
    }
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let plugin = plugin(args)?;
    let selection = args.select.selection();
    let edit = |text: &str| patch::patch(text, &plugin, &selection, args.harden);
    if args.live.is_meant() {
        let (names, show) = args.edit.on_a_cluster()?;
        let module = match (&args.wasm_path, &args.wasm) {
            (None, Some(file)) => Some(live::module(file)?),
            _ => None,
        };
        let cluster = args.live.connect()?;
        let direction = Direction::Patch { edit: &edit, module: module.as_ref() };
        let wanted = args.live.wanted(names, args.holders.secrets)?;
        let plan = plan(&cluster, &wanted, &direction, !args.holders.no_rollout)?;
        return args.live.carry_out(console, &cluster, &plan, show);
    }
    let words = Words { done: "patched", subject: "Envoy configuration" };
    args.edit.run(console, words, |text| edit(text).map(edited))
}

/// The outcome of a patch, as all edits report theirs.
pub fn edited(outcome: Outcome) -> Edited {
    let Outcome { text, findings, sites, done } = outcome;
    Edited { text, findings, done, concerned: sites > 0 }
}

fn plugin(args: &Args) -> Result<Plugin, Failure> {
    args.signer.check(args.wasm.as_deref())?;
    let wasm = match (&args.wasm_path, &args.wasm) {
        (Some(path), _) => path.clone(),
        (None, Some(file)) => {
            let digest = Sha256::digest(read(file)?);
            let sha12: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            format!("{}/{}", pod::FILTER, filter_file_name(&sha12))
        }
        (None, None) => return Err(Diagnostic::error("no-module", "no module is named").into()),
    };
    if let Some(file) = &args.configuration {
        let bytes = read(file)?;
        let configurations = Configurations { http: bytes.clone(), tcp: bytes, outbound: None };
        return Ok(Plugin { wasm, configurations, discovery: None });
    }
    let mesh = mesh::load(&args.mesh)?;
    let name = args.service.as_deref().unwrap_or_default();
    let Some(service) = mesh.service(name) else {
        let mut unknown =
            Diagnostic::error("unknown-service", format!("service `{name}` is not in the mesh"));
        if let Some(near) = nearest(name, mesh.services.iter().map(|service| service.name.as_str())) {
            unknown = unknown.help(format!("did you mean `{near}`?"));
        }
        return Err(unknown.into());
    };
    let inbound = compile::plugin_config(&mesh, service, Role::Inbound)?;
    let outbound = compile::plugin_config(&mesh, service, Role::Outbound)?;
    if inbound.limits.service.is_some() {
        let message = format!(
            "`{name}` has limits of `scope: global`, and a patched Envoy has no cluster of the service"
        );
        return Err(Diagnostic::error("global-limit", message)
            .help(
                "take `scope: service`, or let `meshward render` or `inject` write the Envoy's configuration",
            )
            .into());
    }
    let nobody = |config: &PluginConfig| {
        PluginConfig::deny_all(&config.workload, config.role, config.protocol, config.trust_domain.clone())
    };
    let discovery = match &args.discovery {
        None => None,
        Some(folder) => {
            let until_read = configurations(nobody(&inbound), &nobody(&outbound))?;
            Some(Discovery { folder: folder.trim_end_matches('/').to_owned(), until_read })
        }
    };
    Ok(Plugin { wasm, configurations: configurations(inbound, &outbound)?, discovery })
}

/// The inbound configuration for either protocol: a foreign Envoy may have listeners of both.
fn configurations(mut inbound: PluginConfig, outbound: &PluginConfig) -> Result<Configurations, Failure> {
    inbound.protocol = Protocol::Http;
    let http = encode(&inbound)?;
    inbound.protocol = Protocol::Tcp;
    Ok(Configurations { http, tcp: encode(&inbound)?, outbound: Some(encode(outbound)?) })
}

fn encode(config: &PluginConfig) -> Result<Vec<u8>, Failure> {
    config.encode().map_err(|error| Diagnostic::error("plugin-configuration", error.to_string()).into())
}

fn read(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    std::fs::read(path).map_err(|error| {
        Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
    })
}

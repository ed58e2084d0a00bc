//! `meshward status`: breakers, limits, the filter's configuration and certificates of sidecars that run.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use jiff::Timestamp;

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::live::client::{Cluster, Target};
use crate::mesh::ports;
use crate::status::local::{self, Direct};
use crate::status::{Workload, cluster, read, text};

/// Shows what sidecars that run say of themselves: breakers that are open and why, limits and what they refused, which
/// configuration of the filter is in force, certificates, and what came without TLS.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sidecars: those of the `meshward up` of this folder; those of --admin; with -n, --context or --kubeconfig those\n\
    of a cluster's namespace, by port-forward, since an admin interface listens on its pod's loopback alone. The rights for\n\
    it, as a Role: {apiGroups: [\"\"], resources: [pods], verbs: [list]} and\n\
    {apiGroups: [\"\"], resources: [pods/portforward], verbs: [create, get]}.\n\n\
    Exit codes: 0 shown; 1 there is nothing to show, or with --check: a sidecar is down, not live, without a configuration, or\n\
    could not be asked everything, a certificate has expired, or a breaker is open or half open.\n\n\
    Examples:\n  meshward status\n  meshward status --check && echo all is well\n  meshward status -n shop -o json\n  \
    meshward status --admin 127.0.0.1:9901"
)]
pub struct Args {
    /// The state folder of `meshward up`
    #[arg(long, value_name = "DIR", default_value = ".meshward")]
    state: PathBuf,
    /// An admin interface; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = admin, conflicts_with_all = ["kubeconfig", "context", "namespace", "selector"])]
    admin: Vec<SocketAddr>,
    /// The kubeconfig [default: as kubectl finds it]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only pods with these labels, as kubectl has it
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// The port of the admin interfaces in the cluster
    #[arg(long, value_name = "PORT", default_value_t = ports::ADMIN)]
    admin_port: u16,
    /// Exit with 1 when something is open, down, expired or could not be asked
    #[arg(long)]
    check: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

fn admin(written: &str) -> Result<SocketAddr, String> {
    let mut found = written.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "it has no address".to_owned())
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let workloads = workloads(args, Timestamp::now())?;
    let written = match args.output {
        Format::Text => text::render(&workloads),
        Format::Json => format!("{:#}\n", serde_json::json!({"workloads": workloads})),
    };
    // A reader that has gone wants no more of it.
    let _ = console.out().write_all(written.as_bytes());
    let ill: Vec<&str> = workloads
        .iter()
        .filter(|workload| !workload.is_well())
        .map(|workload| workload.workload.as_str())
        .collect();
    if !args.check || ill.is_empty() {
        return Ok(Exit::Success);
    }
    console.note(&format!("not well: {}", ill.join(", ")));
    Ok(Exit::Failure)
}

fn workloads(args: &Args, now: Timestamp) -> Result<Vec<Workload>, Failure> {
    let target = Target {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
    };
    let in_cluster = target.kubeconfig.is_some() || target.context.is_some() || target.namespace.is_some();
    if in_cluster || args.selector.is_some() {
        let cluster = Cluster::connect(&target)?;
        let found = cluster::workloads(&cluster, args.selector.as_deref(), args.admin_port, now)?;
        if found.is_empty() {
            let message =
                format!("no pod of namespace `{}` has a sidecar with the filter", cluster.namespace);
            return Err(Diagnostic::error("no-sidecars", message)
                .help("name another namespace with -n, or other labels with -l")
                .into());
        }
        return Ok(found);
    }
    let ask =
        |name: &str, address: SocketAddr| read::workload(&Direct(address), name, &address.to_string(), now);
    if !args.admin.is_empty() {
        return Ok(args.admin.iter().map(|address| ask(&address.to_string(), *address)).collect());
    }
    let sidecars = local::sidecars(&args.state)?;
    Ok(sidecars.iter().map(|(name, address)| ask(name, *address)).collect())
}

//! `meshward certs export`: the same material in the forms that others read.

use std::path::PathBuf;

use super::common::Dir;
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::MeshFiles;
use crate::pki::cluster::{self, Renewal};
use crate::pki::ledger::Ledger;
use crate::pki::store::{self, LEAF_SUFFIX, Store};
use crate::pki::{Authority, authority, federation, folder, ledger, manifest, rotate, sds};

/// Prints Secrets, Envoy SDS files or SPIFFE trust bundles of what is in the folder.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshward certs export -o kubernetes | kubectl apply --server-side -f -\n  \
    meshward certs export -o sds --output-dir envoy/            # envoy/<service>/sds-{certificate,trust}.yaml\n  \
    meshward certs export -o spiffe-bundle > bundle.json        # for another trust domain\n  \
    meshward certs export -o cron-job --image registry.example/meshward:0.1 | kubectl apply -f -\n  \
    meshward certs export -o trust-bundles > trust-bundles.json # this and all federated trust domains\n\
    Plain `kubectl apply` keeps a copy of each Secret in an annotation; `--server-side` does not."
)]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    /// Services [default: all]
    services: Vec<String>,
    /// The form
    #[arg(short, long, value_enum)]
    output: Format,
    /// With kubernetes: also the CA's key and the ledger, for renewal inside the cluster
    #[arg(long)]
    with_ca_key: bool,
    /// With kubernetes: the namespace of the CA's Secret [default: that of the first service]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// With sds: write `<service>/sds-*.yaml` into this folder
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// With sds: where the sidecar sees the files [default: where they are]
    #[arg(long, value_name = "DIR")]
    mounted_at: Option<PathBuf>,
    #[command(flatten)]
    mesh: MeshFiles,
    /// With cron-job: an image that has `meshward` and `kubectl`
    #[arg(long, value_name = "IMAGE", required_if_eq("output", "cron-job"))]
    image: Option<String>,
    /// With cron-job: when to look; at least six times in the lifetime of a certificate
    #[arg(long, value_name = "CRON", default_value = "*/30 * * * *")]
    schedule: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Secrets `<service>-mtls-cert` and `service-mesh-ca`
    Kubernetes,
    /// Envoy SDS files that point into the folder
    Sds,
    /// This trust domain's bundle, a JWK set
    SpiffeBundle,
    /// CronJob, service account and Roles that renew the Secrets of mesh.yaml's services inside the cluster
    CronJob,
    /// A map of trust domains to bundles, for Envoy's SPIFFE validator (`trust_bundles`)
    TrustBundles,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if args.output == Format::CronJob {
        return cron_job(args, console);
    }
    let store = args.dir.peek()?;
    let authority = rotate::authority(&store)?;
    match args.output {
        Format::Kubernetes => kubernetes(args, &store, console)?,
        Format::Sds => envoy(args, &store, &authority, console)?,
        // Needs no certificates, and was done above.
        Format::CronJob => {}
        Format::SpiffeBundle => {
            for (_, bundle) in authority.trust_bundles()?.iter().take(1) {
                let _ = writeln!(console.out(), "{bundle:#}");
            }
        }
        Format::TrustBundles => {
            let _ = writeln!(console.out(), "{:#}", federation::bundle_map(&authority.trust_bundles()?)?);
        }
    }
    Ok(Exit::Success)
}

fn cron_job(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mesh = args.mesh.load()?;
    let image = args.image.clone().unwrap_or_default();
    for object in cluster::objects(&mesh, &Renewal { image, schedule: args.schedule.clone() }) {
        let text = crate::yaml::to_string(&object).map_err(|cause| {
            Diagnostic::error("certificate-build", format!("the CronJob cannot be written: {cause}"))
        })?;
        let _ = write!(console.out(), "---\n{text}");
    }
    Ok(Exit::Success)
}

/// The sets asked for, each there.
fn sets(args: &Args, store: &dyn Store) -> Result<Vec<String>, Failure> {
    let all: Vec<_> = store.list()?.into_iter().filter(|set| set.ends_with(LEAF_SUFFIX)).collect();
    if args.services.is_empty() {
        return Ok(all);
    }
    let mut asked = Vec::new();
    for name in &args.services {
        let set = store::leaf_set(name.strip_suffix(LEAF_SUFFIX).unwrap_or(name));
        if !all.contains(&set) {
            let message = format!("`{set}` was not issued in {}", args.dir.name());
            return Err(Diagnostic::error("unknown-service", message)
                .help(format!("issue it: `meshward certs issue {name}`"))
                .into());
        }
        asked.push(set);
    }
    Ok(asked)
}

fn kubernetes(args: &Args, store: &dyn Store, console: &mut Console<'_>) -> Result<(), Failure> {
    let ledger = Ledger::load(store)?;
    let mut namespace = args.namespace.clone();
    let mut text = String::new();
    for set in sets(args, store)? {
        let of_set = ledger.managed.get(&set).and_then(|managed| managed.namespace.clone());
        namespace = namespace.or_else(|| of_set.clone());
        let Some(files) = store.read(&set)? else { continue };
        text += &manifest::leaf_secret(&set, of_set.as_deref(), &files)?;
    }
    if args.services.is_empty() || args.with_ca_key {
        for set in [authority::SET, ledger::SET] {
            if set == ledger::SET && !args.with_ca_key {
                continue;
            }
            let Some(files) = store.read(set)? else { continue };
            text += &manifest::ca_secret(set, namespace.as_deref(), &files, args.with_ca_key)?;
        }
    }
    let _ = write!(console.out(), "{text}");
    Ok(())
}

fn envoy(
    args: &Args,
    store: &dyn Store,
    authority: &Authority,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    for set in sets(args, store)? {
        let folder = match &args.mounted_at {
            Some(folder) => folder.clone(),
            None => std::path::absolute(args.dir.dir.join(&set)).map_err(|cause| {
                Diagnostic::error(
                    "certs-io",
                    format!("the folder `{}` cannot be used: {cause}", args.dir.dir.display()),
                )
            })?,
        };
        let certificate = sds::yaml(&sds::certificate(&folder))?;
        let trust = sds::yaml(&sds::trust(&folder, authority.crl().is_some()))?;
        for (name, text) in [("sds-certificate", certificate), ("sds-trust", trust)] {
            match &args.output_dir {
                Some(out) => {
                    let path =
                        out.join(set.strip_suffix(LEAF_SUFFIX).unwrap_or(&set)).join(format!("{name}.yaml"));
                    folder::write_file(&path, text.as_bytes())?;
                    let _ = writeln!(console.out(), "{}", path.display());
                }
                None => {
                    let _ = write!(console.out(), "--- # {set}: {name}.yaml\n{text}");
                }
            }
        }
    }
    Ok(())
}

//! `meshward certs issue`: certificates for services, for any SPIFFE ID, or for a key that stays where it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use time::Duration;

use super::common::{self, Dir, PassphraseFile};
use super::report::{self, Format};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure, nearest};
use crate::mesh::MeshFiles;
use crate::pki::error::stamp;
use crate::pki::folder;
use crate::pki::ledger::Ledger;
use crate::pki::store::{self, LEAF_SUFFIX};
use crate::pki::{SvidRequest, renewal, revoke, rotate, sign_csr, svid};

/// Issues what is missing or no longer right; what is valid is kept.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The SPIFFE ID of a service is spiffe://<trust domain>/ns/<namespace>/sa/<service account>; its DNS names \
    are <service> and <service>.<namespace>.svc.cluster.local.\n\n\
    Examples:\n  meshward certs issue                                # every service of mesh.yaml\n  \
    meshward certs issue bookapi --lifetime 12h\n  \
    meshward certs issue -o kubernetes | kubectl apply -f -\n  \
    meshward certs issue --id spiffe://cluster.local/ns/jobs/sa/backup --name backup --dns backup.jobs\n  \
    meshward certs issue bookapi --csr pod.csr > tls.crt  # the key never leaves its pod"
)]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    mesh: MeshFiles,
    /// Services of mesh.yaml [default: all]
    services: Vec<String>,
    /// A SPIFFE ID instead of services
    #[arg(long, value_name = "SPIFFE-ID", conflicts_with = "services")]
    id: Option<String>,
    /// With --id: the name, `<name>-mtls-cert` is written [default: the ID's last segment]
    #[arg(long, value_name = "NAME", requires = "id")]
    name: Option<String>,
    /// With --id: a DNS name; may be repeated
    #[arg(long, value_name = "DNS-NAME", requires = "id")]
    dns: Vec<String>,
    /// How long a leaf lives, from 1m to 397d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = common::duration)]
    lifetime: Duration,
    /// Sign this request (PEM, `-` for standard input) for one service or --id; only its public key is taken
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// With --csr: write the certificate here [default: standard output]
    #[arg(long, value_name = "FILE", requires = "csr")]
    out: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFile,
    /// Issue anew even what is valid, and over what is damaged or of another CA
    #[arg(long, conflicts_with = "csr")]
    force: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let Wanted { requests: wanted, crl, federates_with } = wanted(args)?;
    let mut store = args.dir.open(console)?;
    let mut authority = rotate::authority(&store)?;
    authority.remove_retired()?;
    for other in federates_with.iter().filter(|other| !authority.federated().contains_key(*other)) {
        let message = format!("mesh.yaml federates with `{other}`, whose trust bundle is not known here");
        console.report(&Diagnostic::warning("federation", message).help(format!(
            "sidecars wait for it: get it from them, then `meshward certs federate {other}=FILE`"
        )));
    }
    let passphrase = args.passphrase.read()?;
    let mut ledger = Ledger::load(&store)?;
    let now = common::now();
    if crl {
        revoke::ensure_list(&mut store, &mut authority, &mut ledger, passphrase.as_ref(), now)?;
    }
    if let Some(csr) = &args.csr {
        let mut requests = wanted.values();
        let (Some(request), None) = (requests.next(), requests.next()) else {
            return Err(Diagnostic::error("csr", "a signing request is for one identity")
                .help("name the service, or give `--id`")
                .into());
        };
        let ca = authority.ca(passphrase.as_ref())?;
        let issued = sign_csr(&ca, &common::read(csr)?, request, now)?;
        ledger.prune(now);
        ledger.enter(&issued, request, authority.active().name(), None);
        // Before it is handed out.
        ledger.save(&mut store)?;
        match &args.out {
            Some(path) => folder::write_file(path, issued.chain_pem.as_bytes())?,
            None => {
                let _ = write!(console.out(), "{}", issued.chain_pem);
            }
        }
        console.note(&format!("signed until {} ({})", stamp(issued.not_after), request.id));
        return Ok(Exit::Success);
    }
    let mut open = || authority.ca(passphrase.as_ref());
    let outcomes =
        renewal::reconcile(&mut store, &authority, &mut ledger, &wanted, &mut open, args.force, now)?;
    report::outcomes(&outcomes, args.output, &store, console)?;
    Ok(Exit::Success)
}

/// What is asked for.
#[derive(Default)]
struct Wanted {
    /// By set.
    requests: BTreeMap<String, SvidRequest>,
    /// The mesh checks revocation lists.
    crl: bool,
    /// Its other trust domains.
    federates_with: Vec<String>,
}

fn wanted(args: &Args) -> Result<Wanted, Failure> {
    let mut wanted = BTreeMap::new();
    if let Some(id) = &args.id {
        let id = svid::spiffe_id(id)?;
        let name = match &args.name {
            Some(name) => name.clone(),
            None => id.path().rsplit('/').next().unwrap_or_default().to_owned(),
        };
        check_name(&name)?;
        let request = SvidRequest { id, dns_names: args.dns.clone(), lifetime: args.lifetime };
        wanted.insert(store::leaf_set(&name), request);
        return Ok(Wanted { requests: wanted, ..Wanted::default() });
    }
    let mesh = args.mesh.load()?;
    let trust_domain = svid::trust_domain(&mesh.trust_domain)?;
    let mut mistakes = Vec::new();
    for name in &args.services {
        let name = name.strip_suffix(LEAF_SUFFIX).unwrap_or(name);
        if mesh.service(name).is_none() {
            let names = mesh.services.iter().map(|service| service.name.as_str());
            let mut mistake =
                Diagnostic::error("unknown-service", format!("mesh.yaml has no service `{name}`"));
            mistake = match nearest(name, names) {
                Some(near) => mistake.help(format!("did you mean `{near}`?")),
                None => mistake.help("for an identity outside mesh.yaml give `--id`"),
            };
            mistakes.push(mistake);
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into());
    }
    for service in &mesh.services {
        let asked = |name: &String| name.strip_suffix(LEAF_SUFFIX).unwrap_or(name) == service.name;
        if !args.services.is_empty() && !args.services.iter().any(asked) {
            continue;
        }
        let mut request = SvidRequest::for_service(
            &trust_domain,
            &service.namespace,
            &service.service_account,
            &service.name,
        )?;
        request.lifetime = args.lifetime;
        wanted.insert(store::leaf_set(&service.name), request);
    }
    Ok(Wanted { requests: wanted, crl: mesh.revocation.crl, federates_with: mesh.federates_with })
}

/// A set's name is a folder's and a Secret's.
fn check_name(name: &str) -> Result<(), Failure> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edges = name.starts_with(['-', '.']) || name.ends_with(['-', '.']);
    if !name.is_empty() && name.len() <= 200 && name.bytes().all(fine) && !edges {
        return Ok(());
    }
    Err(Diagnostic::error("set-name", format!("`{name}` cannot be the name of a Secret"))
        .help("give one of `a`-`z`, `0`-`9`, `-` and `.` with `--name`")
        .into())
}

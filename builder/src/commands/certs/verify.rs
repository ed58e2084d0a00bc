//! `meshward certs verify`: would every peer accept every certificate?

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::common::{self, Dir};
use super::inspect;
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure, Severity};
use crate::pki::authority::{Authority, hex};
use crate::pki::error::Error;
use crate::pki::ledger::Ledger;
use crate::pki::store::{LEAF_BUNDLE, LEAF_CERTIFICATE, LEAF_KEY, LEAF_SUFFIX, Store};
use crate::pki::verify::{Chain, bundle};
use crate::pki::{ca, pem, rotate};

/// Checks chains, SPIFFE rules, names, dates, keys, revocation, and that every bundle trusts every leaf.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is well (warnings at most); 1 something is wrong; 2 usage.\n\n\
    Examples:\n  meshward certs verify                                   # the whole folder\n  \
    meshward certs verify /etc/certs/tls.crt --bundle /etc/certs/ca.crt --key /etc/certs/tls.key\n  \
    meshward certs verify --at 2027-01-31T12:00:00Z         # would it hold then?\n  \
    meshward certs verify tls.crt --bundle ca.crt --id spiffe://cluster.local/ns/default/sa/bookapi")]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    /// Certificate files (leaf, then intermediates; PEM or DER) instead of the folder
    files: Vec<PathBuf>,
    /// With files: the trust bundle
    #[arg(long, value_name = "FILE", requires = "files")]
    bundle: Option<PathBuf>,
    /// With one file: its key
    #[arg(long, value_name = "FILE", requires = "files")]
    key: Option<PathBuf>,
    /// With one file: the SPIFFE ID it must have
    #[arg(long, value_name = "SPIFFE-ID", requires = "files")]
    id: Option<String>,
    /// Check as of this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = common::time)]
    at: Option<OffsetDateTime>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What was looked at, and what is wrong with it.
type Findings = Vec<(String, Vec<Diagnostic>)>;

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let at = args.at.unwrap_or_else(common::now);
    if args.files.len() > 1 && (args.key.is_some() || args.id.is_some()) {
        return Err(Diagnostic::error("usage", "`--key` and `--id` are for one file")
            .help("check the files one by one")
            .into());
    }
    let findings = if args.files.is_empty() { folder(&*args.dir.peek()?, at)? } else { files(args, at)? };
    let is_wrong = |found: &Diagnostic| found.severity == Severity::Error;
    let failed = findings.iter().any(|(_, found)| found.iter().any(is_wrong));
    match args.output {
        Format::Json => {
            let list: Vec<_> = findings
                .iter()
                .map(|(what, found)| {
                    let fine = !found.iter().any(is_wrong);
                    let found: Vec<_> = found.iter().map(Diagnostic::to_json).collect();
                    serde_json::json!({ "subject": what, "ok": fine, "findings": found })
                })
                .collect();
            let _ = writeln!(console.out(), "{:#}", serde_json::Value::from(list));
        }
        Format::Text => {
            for (what, found) in &findings {
                let state = if found.iter().any(is_wrong) { "wrong" } else { "ok" };
                let _ = writeln!(console.out(), "{what}: {state}");
                for diagnostic in found {
                    console.report(diagnostic);
                }
            }
        }
    }
    Ok(if failed { Exit::Failure } else { Exit::Success })
}

fn files(args: &Args, at: OffsetDateTime) -> Result<Findings, Failure> {
    let trusted = args.bundle.as_ref().map(|path| -> Result<_, Failure> {
        let name = path.display().to_string();
        Ok((format!("`{name}`"), inspect::certificates(&name, &common::read(path)?)?))
    });
    let trusted = trusted.transpose()?;
    let mut findings = Findings::new();
    for path in &args.files {
        let name = path.display().to_string();
        let what = format!("`{name}`");
        let certificates = match inspect::certificates(&name, &common::read(path)?) {
            Ok(certificates) => certificates,
            Err(error) => {
                findings.push((name, vec![error.into()]));
                continue;
            }
        };
        let chain = Chain { what: &what, certificates: &certificates };
        let mut found = chain.svid();
        found.extend(chain.dates(at));
        match &trusted {
            Some((bundle_name, roots)) => {
                found.extend(bundle(bundle_name, roots, at));
                found.extend(chain.trust(bundle_name, roots, at));
            }
            None => found.push(
                Diagnostic::warning("no-bundle", format!("{what}: its chain was not checked up to a root"))
                    .help("give the trust bundle with `--bundle`"),
            ),
        }
        if let Some(key) = &args.key {
            found.extend(chain.key(&format!("`{}`", key.display()), &common::read(key)?));
        }
        if let Some(id) = &args.id {
            found.extend(chain.names(id, &[]));
        }
        findings.push((name, found));
    }
    Ok(findings)
}

/// Everything in the folder, and whether the parts fit together.
fn folder(store: &dyn Store, at: OffsetDateTime) -> Result<Findings, Failure> {
    let authority = rotate::authority(store)?;
    let ledger = Ledger::load(store)?;
    let mut findings = Findings::new();
    let roots = authority.bundle();
    findings.push((crate::pki::authority::SET.into(), bundle("the trust bundle of the CA", &roots, at)));
    let mut chains = Vec::new();
    // Most sets have the same bundle: each distinct one is checked against each leaf once.
    let mut bundles: BTreeMap<String, Vec<CertificateDer<'static>>> = BTreeMap::new();
    for set in store.list()? {
        if !set.ends_with(LEAF_SUFFIX) && !ledger.managed.contains_key(&set) {
            continue;
        }
        match load(store, &set, &authority, &ledger, at) {
            Ok((found, certificates, bundle_pem, roots)) => {
                bundles.entry(bundle_pem).or_insert(roots);
                chains.push((findings.len(), set.clone(), certificates));
                findings.push((set, found));
            }
            Err(error) => findings.push((set, vec![error.into()])),
        }
    }
    for (position, set, certificates) in &chains {
        let what = format!("`{set}`");
        let chain = Chain { what: &what, certificates };
        for (bundle_pem, roots) in &bundles {
            let owner =
                chains.iter().find_map(|(_, set, _)| (owns(store, set, bundle_pem)).then_some(set.as_str()));
            let name = format!("the trust bundle of `{}`", owner.unwrap_or("another service"));
            if let Some((_, found)) = findings.get_mut(*position) {
                found.extend(chain.trust(&name, roots, at));
            }
        }
    }
    for set in ledger.managed.keys() {
        if !findings.iter().any(|(name, _)| name == set) {
            let missing =
                Diagnostic::error("missing", format!("`{set}` was issued, and is not there any more"));
            findings.push((set.clone(), vec![missing.help("issue it anew: `meshward certs renew`")]));
        }
    }
    Ok(findings)
}

fn owns(store: &dyn Store, set: &str, bundle_pem: &str) -> bool {
    let files = store.read(set).ok().flatten();
    files.is_some_and(|files| files.get(LEAF_BUNDLE) == Some(bundle_pem.as_bytes()))
}

type Loaded = (Vec<Diagnostic>, Vec<CertificateDer<'static>>, String, Vec<CertificateDer<'static>>);

fn load(
    store: &dyn Store,
    set: &str,
    authority: &Authority,
    ledger: &Ledger,
    at: OffsetDateTime,
) -> Result<Loaded, Error> {
    let place = store.place(set);
    let files = store.read(set)?.ok_or_else(|| Error::damaged(&place, "it is empty"))?;
    let part =
        |name: &str| files.get(name).ok_or_else(|| Error::damaged(&place, format!("it has no `{name}`")));
    let what = format!("`{set}`");
    let certificates =
        pem::certificates(&format!("`{LEAF_CERTIFICATE}` of {place}"), part(LEAF_CERTIFICATE)?)?;
    let roots = pem::certificates(&format!("`{LEAF_BUNDLE}` of {place}"), part(LEAF_BUNDLE)?)?;
    let chain = Chain { what: &what, certificates: &certificates };
    let mut found = chain.svid();
    found.extend(chain.dates(at));
    found.extend(chain.key(&format!("`{LEAF_KEY}` of `{set}`"), part(LEAF_KEY)?));
    if let Some(first) = certificates.first() {
        let leaf = ca::parse(&what, first)?;
        if authority.signer_of(&leaf).is_none() {
            let trust_domain = authority.trust_domain()?.to_string();
            found.push(Error::Foreign { what: what.clone(), trust_domain }.into());
        }
        if ledger.is_revoked(&hex(leaf.raw_serial())) {
            found.push(
                Diagnostic::error("revoked", format!("{what} is revoked"))
                    .help("issue it anew: `meshward certs renew`"),
            );
        }
    }
    if let Some(managed) = ledger.managed.get(set) {
        found.extend(chain.names(&managed.id, &managed.dns_names));
    }
    let bundle_pem = String::from_utf8_lossy(part(LEAF_BUNDLE)?).into_owned();
    Ok((found, certificates, bundle_pem, roots))
}

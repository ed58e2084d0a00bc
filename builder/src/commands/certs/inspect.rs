//! `meshward certs inspect`: what certificates say.

use std::path::PathBuf;

use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use super::common::{self, Dir};
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::pki::authority::{fingerprint, hex};
use crate::pki::error::{Result, stamp};
use crate::pki::ledger::Ledger;
use crate::pki::store::{LEAF_CERTIFICATE, LEAF_SUFFIX, Store as _};
use crate::pki::{ca, folder, pem, renewal, svid};

/// Shows identity, names, dates, issuer and fingerprint.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshward certs inspect                 # everything in certs/\n  \
    meshward certs inspect bookapi -o json\n  meshward certs inspect /etc/certs/tls.crt\n  \
    kubectl get secret bookapi-mtls-cert -o jsonpath='{.data.tls\\.crt}' | base64 -d | meshward certs inspect -\n  \
    meshward certs inspect --issued        # the ledger: all that is alive, wherever it is")]
pub struct Args {
    #[command(flatten)]
    dir: Dir,
    /// Services, certificate files (PEM or DER), folders that hold `tls.crt`, or `-` [default: all in the folder]
    what: Vec<String>,
    /// List what was issued and is alive
    #[arg(long, conflicts_with = "what")]
    issued: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> std::result::Result<Exit, Failure> {
    let store = args.dir.peek()?;
    if args.issued {
        return issued(&Ledger::load(&store)?, args.output, console);
    }
    let mut sources = Vec::new();
    for text in &args.what {
        sources.push(load(args, text)?);
    }
    if args.what.is_empty() {
        for set in store.list()? {
            for file in [LEAF_CERTIFICATE, "issuer.crt", "other.crt"] {
                let Some(files) = store.read(&set)? else { continue };
                if let Some(content) = files.get(file) {
                    sources.push((format!("{set}/{file}"), content.to_vec()));
                }
            }
        }
        if sources.is_empty() {
            let message = format!("there are no certificates in {}", args.dir.name());
            return Err(Diagnostic::error("no-certificates", message)
                .help("make some: `meshward certs init-ca`, then `meshward certs issue`")
                .into());
        }
    }
    let now = common::now();
    let mut list = Vec::new();
    for (name, content) in &sources {
        for (at, der) in certificates(name, content)?.iter().enumerate() {
            let certificate = ca::parse(&format!("`{name}`"), der)?;
            list.push(describe(name, at, &certificate, der, now));
        }
    }
    if args.output == Format::Json {
        let _ = writeln!(console.out(), "{:#}", serde_json::Value::from(list));
        return Ok(Exit::Success);
    }
    for value in &list {
        let _ = write!(console.out(), "{}", text(value));
    }
    Ok(Exit::Success)
}

/// A service of the folder, a file, a folder or standard input.
fn load(args: &Args, text: &str) -> std::result::Result<(String, Vec<u8>), Failure> {
    let store = args.dir.peek()?;
    for set in [text.to_owned(), format!("{text}{LEAF_SUFFIX}")] {
        let found = store.read(&set)?.and_then(|files| files.get(LEAF_CERTIFICATE).map(<[u8]>::to_vec));
        if let Some(content) = found {
            return Ok((format!("{set}/{LEAF_CERTIFICATE}"), content));
        }
    }
    let path = PathBuf::from(text);
    if path.is_dir() {
        let found = folder::read(&path)?.and_then(|files| files.get(LEAF_CERTIFICATE).map(<[u8]>::to_vec));
        if let Some(content) = found {
            return Ok((path.join(LEAF_CERTIFICATE).display().to_string(), content));
        }
    }
    if text != "-" && !path.exists() {
        let message = format!("`{text}` is neither a service in {} nor a file", args.dir.name());
        return Err(Diagnostic::error("no-certificates", message)
            .help("list what is there: `meshward certs inspect`")
            .into());
    }
    let name = if text == "-" { "<stdin>" } else { text };
    Ok((name.to_owned(), common::read(&path)?))
}

/// PEM, or one or more certificates in DER one after the other.
pub(super) fn certificates(
    name: &str,
    content: &[u8],
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>> {
    use x509_parser::prelude::FromDer as _;
    let what = format!("`{name}`");
    // DER begins with a SEQUENCE.
    if content.first() != Some(&0x30) {
        return pem::certificates(&what, content);
    }
    let mut rest = content;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let parsed = X509Certificate::from_der(rest);
        let (after, _) = parsed.map_err(|cause| crate::pki::Error::damaged(&what, cause.to_string()))?;
        let length = rest.len() - after.len();
        found.push(rest.get(..length).unwrap_or_default().to_vec().into());
        rest = after;
    }
    Ok(found)
}

fn describe(
    source: &str,
    at: usize,
    certificate: &X509Certificate<'_>,
    der: &[u8],
    now: OffsetDateTime,
) -> serde_json::Value {
    let (uris, dns) = svid::names(certificate);
    let begin = certificate.validity().not_before.to_datetime();
    let end = certificate.validity().not_after.to_datetime();
    let state = if now > end {
        "expired"
    } else if now < begin {
        "not yet valid"
    } else {
        "valid"
    };
    let algorithm = match certificate.public_key().parsed() {
        Ok(x509_parser::public_key::PublicKey::EC(point)) => format!("EC {} bits", point.key_size()),
        Ok(x509_parser::public_key::PublicKey::RSA(key)) => format!("RSA {} bits", key.key_size()),
        _ => certificate.public_key().algorithm.algorithm.to_id_string(),
    };
    serde_json::json!({
        "source": source,
        "index": at,
        "uris": uris,
        "dnsNames": dns,
        "ca": certificate.is_ca(),
        "subject": certificate.subject().to_string(),
        "issuer": certificate.issuer().to_string(),
        "serial": hex(certificate.raw_serial()),
        "notBefore": stamp(begin),
        "notAfter": stamp(end),
        "renewAt": stamp(renewal::renew_at(begin, end, certificate.raw_serial())),
        "state": state,
        "key": algorithm,
        "sha256": fingerprint(der),
    })
}

fn text(value: &serde_json::Value) -> String {
    let get = |name: &str| value.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let list = |name: &str| {
        let names = value.get(name).and_then(serde_json::Value::as_array);
        names.into_iter().flatten().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let is_ca = value.get("ca") == Some(&true.into());
    let mut lines =
        format!("{}#{}\n", get("source"), value.get("index").map(ToString::to_string).unwrap_or_default());
    let mut line = |name: &str, text: String| {
        if !text.is_empty() {
            lines += &format!("  {name:<12}{text}\n");
        }
    };
    line("id", list("uris"));
    line("dns", list("dnsNames"));
    line("kind", if is_ca { "CA".into() } else { "leaf".into() });
    line("subject", get("subject"));
    line("issuer", get("issuer"));
    line("serial", get("serial"));
    line("valid", format!("{} to {} ({})", get("notBefore"), get("notAfter"), get("state")));
    if !is_ca {
        line("renew at", get("renewAt"));
    }
    line("key", get("key"));
    line("sha256", get("sha256"));
    lines
}

fn issued(ledger: &Ledger, format: Format, console: &mut Console<'_>) -> std::result::Result<Exit, Failure> {
    if format == Format::Json {
        let _ = writeln!(console.out(), "{:#}", serde_json::json!(ledger.issued));
        return Ok(Exit::Success);
    }
    let _ = writeln!(console.out(), "{:<34}{:<22}{:<10}{:<28}ID", "SERIAL", "UNTIL", "REVOKED", "FOLDER");
    for entry in &ledger.issued {
        let revoked = if entry.revoked.is_some() { "yes" } else { "no" };
        let set = entry.set.as_deref().unwrap_or("(signing request)");
        let _ = writeln!(
            console.out(),
            "{:<34}{:<22}{revoked:<10}{set:<28}{}",
            entry.serial,
            stamp(entry.not_after),
            entry.id
        );
    }
    Ok(Exit::Success)
}

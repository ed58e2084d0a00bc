//! What Go's crypto/x509 and Python's cryptography say of what we issue, when they are installed.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use time::Duration;

use super::support::{NOW, ca_with, request};
use crate::pki::{CaOptions, issue, key};

/// Chains that must verify, and at the end one whose root is another: `<n>.chain.pem`, `<n>.bundle.pem`, `<n>.key`.
fn write_cases(folder: &Path) -> usize {
    let permit = vec!["bookapi".to_owned(), "default.svc.cluster.local".to_owned()];
    let kinds = [
        CaOptions::default(),
        CaOptions { intermediate: true, ..CaOptions::default() },
        CaOptions { permit_dns: permit, intermediate: true, ..CaOptions::default() },
        CaOptions { lifetime_seconds: Duration::days(36500).whole_seconds(), ..CaOptions::default() },
    ];
    let mut bundle = String::new();
    for (number, options) in kinds.iter().enumerate() {
        let ca = ca_with(options);
        let issued = issue(&ca, &request(), NOW).unwrap();
        std::fs::write(folder.join(format!("{number}.chain.pem")), &issued.chain_pem).unwrap();
        std::fs::write(folder.join(format!("{number}.bundle.pem")), &issued.bundle_pem).unwrap();
        std::fs::write(folder.join(format!("{number}.key")), issued.key_pem.as_ref().unwrap().as_bytes())
            .unwrap();
        bundle = issued.bundle_pem;
    }
    let stranger = issue(&ca_with(&CaOptions::default()), &request(), NOW).unwrap();
    let number = kinds.len();
    std::fs::write(folder.join(format!("{number}.chain.pem")), &stranger.chain_pem).unwrap();
    std::fs::write(folder.join(format!("{number}.bundle.pem")), bundle).unwrap();
    std::fs::write(
        folder.join(format!("{number}.key")),
        key::encode(&key::generate().unwrap(), None).unwrap(),
    )
    .unwrap();
    kinds.len()
}

fn check(name: &str, mut command: Command, folder: &Path, good: usize) {
    let output = match command
        .current_dir(folder)
        .arg((good + 1).to_string())
        .arg(NOW.unix_timestamp().to_string())
        .output()
    {
        Ok(output) => output,
        Err(cause) => return drop(writeln!(std::io::stderr(), "SKIPPED: {name}: {cause}")),
    };
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    if out.is_empty()
        && (err.contains("No module named") || err.contains("ImportError") || err.contains("cannot find"))
    {
        return drop(writeln!(std::io::stderr(), "SKIPPED: {name}: {err}"));
    }
    let verdicts: Vec<_> = out.lines().collect();
    assert_eq!(verdicts.len(), good + 1, "{name}: {out}{err}");
    for verdict in &verdicts[..good] {
        assert_eq!(*verdict, "ok spiffe://cluster.local/ns/default/sa/bookapi", "{name}: {out}{err}");
    }
    assert!(verdicts[good].starts_with("refused"), "{name} accepts another CA's: {out}{err}");
}

#[test]
fn go_accepts_what_we_issue() {
    let folder = tempfile::tempdir().unwrap();
    let good = write_cases(folder.path());
    std::fs::write(folder.path().join("main.go"), GO).unwrap();
    let mut command = Command::new("go");
    command.env("GO111MODULE", "off").args(["run", "main.go"]);
    check("Go", command, folder.path(), good);
}

#[test]
fn python_accepts_what_we_issue() {
    let folder = tempfile::tempdir().unwrap();
    let good = write_cases(folder.path());
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON]);
    check("Python cryptography", command, folder.path(), good);
}

/// Verifies each chain for both usages, and that the key fits.
const GO: &str = r#"package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	unix, _ := strconv.ParseInt(os.Args[2], 10, 64)
	for n := 0; n < count; n++ {
		if id, err := verify(n, time.Unix(unix, 0)); err != nil {
			fmt.Println("refused", err)
		} else {
			fmt.Println("ok", id)
		}
	}
}

func verify(n int, at time.Time) (string, error) {
	chain, err := os.ReadFile(fmt.Sprintf("%d.chain.pem", n))
	if err != nil {
		return "", err
	}
	bundle, err := os.ReadFile(fmt.Sprintf("%d.bundle.pem", n))
	if err != nil {
		return "", err
	}
	key, err := os.ReadFile(fmt.Sprintf("%d.key", n))
	if err != nil {
		return "", err
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		return "", err
	}
	block, rest := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	above.AppendCertsFromPEM(rest)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: at,
			DNSName: "bookapi.default.svc.cluster.local", KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := leaf.Verify(options); err != nil {
			return "", err
		}
	}
	return leaf.URIs[0].String(), nil
}
"#;

const PYTHON: &str = r#"
import datetime, sys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, DNSName

count, at = int(sys.argv[1]), datetime.datetime.fromtimestamp(int(sys.argv[2]), datetime.timezone.utc).replace(tzinfo=None)
for n in range(count):
    read = lambda name: open(f"{n}.{name}", "rb").read()
    chain = x509.load_pem_x509_certificates(read("chain.pem"))
    roots = x509.load_pem_x509_certificates(read("bundle.pem"))
    try:
        if load_pem_private_key(read("key"), None).public_key() != chain[0].public_key():
            raise ValueError("the key is another's")
        builder = PolicyBuilder().store(Store(roots)).time(at)
        builder.build_server_verifier(DNSName("bookapi.default.svc.cluster.local")).verify(chain[0], chain[1:])
        subject = builder.build_client_verifier().verify(chain[0], chain[1:])
        print("ok", next(name.value for name in subject.subjects if isinstance(name, x509.UniformResourceIdentifier)))
    except Exception as error:
        print("refused", type(error).__name__, str(error).replace("\n", " "))
"#;

//! The SPIFFE projects' own certificates through `certs verify`.

use std::io::Write as _;
use std::path::PathBuf;

use super::support::{folder, run, said};

/// The folder of test vectors, when it is there.
fn vectors() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let path = std::env::var_os("MESHWARD_VECTORS").map_or(beside, PathBuf::from);
    if path.join("spiffe").is_dir() {
        return Some(path.join("spiffe"));
    }
    drop(writeln!(std::io::stderr(), "SKIPPED: SPIFFE certificates: no test vectors in {}", path.display()));
    None
}

/// A moment at which the leaf is valid, RFC 3339.
fn inside(content: &[u8]) -> Option<String> {
    let der = match x509_parser::pem::parse_x509_pem(content) {
        Ok((_, block)) => block.contents,
        Err(_) => content.to_vec(),
    };
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).ok()?;
    let moment = leaf.validity().not_before.to_datetime() + time::Duration::seconds(1);
    moment.format(&time::format_description::well_known::Rfc3339).ok()
}

#[test]
fn verify_agrees_with_the_spiffe_projects() {
    let Some(vectors) = vectors() else { return };
    let cases = std::fs::read(vectors.join("x509_svid_cases.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
    let folder = folder();
    let mut seen = 0;
    for case in cases {
        // The others are built by the unit tests.
        let Some(file) = case["file"].as_str() else { continue };
        let expect = case["expect"].as_str().unwrap();
        let path = vectors.join(file);
        let mut args = vec!["verify", "-o", "json", path.to_str().unwrap()];
        let at = inside(&std::fs::read(&path).unwrap());
        if let Some(at) = &at
            && !expect.contains("expired")
        {
            args.extend(["--at", at]);
        }
        let output = run(folder.path(), &args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (code, words) = match expect {
            // The standard is stricter than the library that the file is from (X509-SVID, 2 and 4.3), and so is the filter.
            "ok" if file.ends_with("empty-subject-name.der") => {
                ("svid-san-critical", "SAN extension is not critical")
            }
            ok if ok.starts_with("ok") => {
                assert!(output.status.success(), "{file} ({expect}): {}", said(&output));
                seen += 1;
                continue;
            }
            "leaf has CA flag" => ("svid-ca", "cA is true"),
            "leaf has keyCertSign" => ("svid-key-usage", "has the key usage keyCertSign"),
            "leaf has cRLSign" => ("svid-key-usage", "has the key usage cRLSign"),
            "leaf lacks digitalSignature" => ("svid-key-usage", "lacks the key usage digitalSignature"),
            "leaf has no SPIFFE ID" => ("svid-id", ""),
            "intermediate lacks CA flag" | "signing cert lacks CA flag" => ("not-a-ca", "cA is not true"),
            "intermediate lacks keyCertSign" | "signing cert lacks keyCertSign" => {
                ("not-a-ca", "lacks the key usage keyCertSign")
            }
            "unparseable" | "no PEM blocks" => ("damaged", ""),
            "parses; expired" => ("expired", ""),
            other => panic!("{file}: an expectation that this test does not know: {other}"),
        };
        assert_eq!(output.status.code(), Some(1), "{file} ({expect}): {}", said(&output));
        let wanted = format!("\"code\": \"{code}\"");
        assert!(text.contains(&wanted) && text.contains(words), "{file} ({expect}): {}", said(&output));
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} files were looked at");
}

#[test]
fn federate_agrees_with_the_spiffe_projects_on_bundles() {
    let Some(vectors) = vectors() else { return };
    let folder = folder();
    super::support::fine(folder.path(), &["init-ca"]);
    // Keys for JWTs are not ours to judge, and are ignored, with whatever is wrong with them.
    for (name, good) in [
        ("spiffebundle_valid_1.json", true),
        ("spiffebundle_valid_2.json", true),
        ("spiffebundle_valid_with_wit.json", true),
        ("spiffebundle_no_keys.json", false),
        // go-spiffe refuses it; the standard says that all but the first are to be ignored (X509-SVID, 6.2).
        ("spiffebundle_multiple_x509.json", true),
    ] {
        let path = vectors.join(format!("x509/go-spiffe/bundle__spiffebundle__testdata__{name}"));
        let pair = format!("partner.example={}", path.display());
        let output = run(folder.path(), &["federate", &pair]);
        assert_eq!(output.status.success(), good, "{name}: {}", said(&output));
    }
}

//! One fixture for each code of `policy lint`, and what a user sees for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use meshward_builder::diagnostic::{Diagnostic, Severity, Source};
use meshward_builder::policy::lint::{codes, of_sources, sarif};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn lint(file: &Path) -> Vec<Diagnostic> {
    let name = file.file_name().unwrap().to_str().unwrap();
    of_sources(&[Source::new(name, std::fs::read_to_string(file).unwrap())])
}

#[test]
fn every_code_has_a_fixture_that_shows_it_and_nothing_else() {
    let (mut shown, mut others) = (Vec::new(), Vec::new());
    for file in fixtures() {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let code = &name[..5];
        let findings = lint(&file);
        assert!(!findings.is_empty(), "{name} finds nothing");
        for finding in &findings {
            if finding.code != code {
                others.push(format!("{name}: {}", finding.render(false)));
            }
            assert!(finding.location.is_some() && !finding.help.is_empty(), "{name}: {finding:?}");
        }
        let text: String = findings.iter().map(|finding| finding.render(false) + "\n").collect();
        insta::with_settings!({ snapshot_path => "lint", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name.clone(), text);
        });
        shown.push(code.to_owned());
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    for code in codes::ALL {
        assert!(shown.iter().any(|shown| shown == code.code), "{} has no fixture", code.code);
    }
}

#[test]
fn a_good_policy_has_no_findings() {
    let source = Source::new(
        "good.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  rules:\n\
         \x20 - from: [{source: {principals: [\"cluster.local/ns/a/sa/web\"]}}]\n    to: [{operation: {methods: [GET], paths: [\"/books/{*}\"]}}]\n\
         \x20 - from: [{source: {principals: [\"cluster.local/ns/a/sa/admin\"]}}]\n",
    );
    assert_eq!(of_sources(&[source]), []);
}

/// Istio's validation warns of a few valid policies; so do we, and of no other valid one with these two codes.
#[test]
fn istios_own_warnings() {
    let folder = std::env::var("MESHWARD_VECTORS")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    let file = folder.join("authz/policy_validation_vectors.json");
    let Ok(text) = std::fs::read(&file) else {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: Istio's warnings: no {} (set MESHWARD_VECTORS)",
            file.display()
        ));
        return;
    };
    let cases: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for case in cases.as_array().unwrap().iter().filter(|case| case["valid"] == true) {
        let findings = of_sources(&[Source::new("p.yaml", case["policy"].as_str().unwrap())]);
        assert!(findings.iter().all(|finding| finding.severity != Severity::Error), "{}", case["name"]);
        let warned = findings.iter().any(|finding| matches!(finding.code, "MW010" | "MW012"));
        assert_eq!(warned, case["warning"], "{}: {findings:#?}", case["name"]);
    }
}

#[test]
fn sarif_has_places_and_rules() {
    let findings = lint(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint/MW001.yaml"));
    let report = sarif::report(&findings);
    let run = &report["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "MW001");
    assert_eq!(run["results"][0]["level"], "warning");
    let region = &run["results"][0]["locations"][0]["physicalLocation"]["region"];
    assert_eq!((&region["startLine"], &region["startColumn"]), (&10.into(), &5.into()), "{report:#}");
}

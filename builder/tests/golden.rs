//! mesh.yaml → the files of every sidecar, compared with what is committed: so that a review reads the difference.
//!
//! `MESHWARD_REGENERATE=1 cargo test -p meshward-builder --test golden` writes the outputs anew.

use std::fmt::Write as _;
use std::path::Path;

use meshward_builder::envoy::{self, Placement};
use meshward_builder::mesh;
use meshward_builder::mesh::model::CertificateProvider;

#[test]
fn every_case_renders_as_committed() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut checked = 0;
    for case in std::fs::read_dir(&cases).unwrap() {
        let folder = case.unwrap().path();
        let rendered = render(&folder.join("mesh.yaml")).unwrap();
        let golden = folder.join("out.yaml");
        if std::env::var_os("MESHWARD_REGENERATE").is_some() {
            std::fs::write(&golden, &rendered).unwrap();
        }
        let committed = std::fs::read_to_string(&golden).unwrap_or_default();
        let difference = similar::TextDiff::from_lines(&committed, &rendered).unified_diff().to_string();
        assert!(difference.is_empty(), "{}:\n{difference}", golden.display());
        checked += 1;
    }
    assert!(checked > 0, "there is no golden case in {}", cases.display());
}

fn render(mesh_file: &Path) -> Result<String, String> {
    let failed = |failure: meshward_builder::diagnostic::Failure| {
        failure.diagnostics.iter().map(|one| one.render(false)).collect::<String>()
    };
    let mesh = mesh::load(&[mesh_file.to_path_buf()]).map_err(failed)?;
    let placement = Placement::Kubernetes { filter_sha12: "0123456789ab".to_owned() };
    let mut all = String::new();
    for service in &mesh.services {
        let files = match mesh.certificates.provider {
            Some(CertificateProvider::Spire) => {
                let socket = &mesh.certificates.agent_socket;
                envoy::render_with_agent(&mesh, service, &placement, socket)
            }
            _ => envoy::render(&mesh, service, &placement),
        };
        for file in files.map_err(failed)? {
            let _ = write!(all, "---\n# {}: {}\n{}", service.name, file.name, without_plugin(&file.text));
        }
    }
    Ok(all)
}

/// The encoded plugin configuration is the engine's to test; here it would only hide what a review looks for.
fn without_plugin(text: &str) -> String {
    let mut kept = String::new();
    let mut in_bytes = false;
    for line in text.lines() {
        let is_value = in_bytes && line.trim_start().starts_with("value: ");
        in_bytes = line.ends_with("google.protobuf.BytesValue");
        let shown = if is_value {
            line.split("value: ").next().unwrap_or("").to_owned() + "value: …"
        } else {
            line.to_owned()
        };
        kept.push_str(&shown);
        kept.push('\n');
    }
    kept
}

//! `meshward validate` of configurations that somebody else wrote: flattened, asked of a real Envoy, and its words placed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test: helpers outside `#[test]` functions are not exempt by clippy.toml"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use meshward_builder::Cli;
use meshward_builder::console::{Console, Exit};
use meshward_builder::diagnostic::Source;
use meshward_builder::envoy_binary;

/// The Envoy to ask, found or fetched as the product does.
fn envoy() -> Option<PathBuf> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let found = envoy_binary::locate(None, &mut Console::new(&mut out, &mut err, false)).ok();
    if found.is_none() {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED: there is no Envoy here to be asked, and none to be fetched"
        ));
    }
    found
}

fn validate(envoy: &Path, folder: &Path, args: &[&str]) -> (Exit, String) {
    let mut line = vec!["meshward", "validate", "--envoy", envoy.to_str().unwrap()];
    line.extend(args);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::new(&mut out, &mut err, false);
    let exit = match Cli::try_parse_from(line).unwrap().command.run(&mut console) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.diagnostics.iter().for_each(|one| console.report(one));
            Exit::Failure
        }
    };
    let said = format!("{}{}", String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
    (exit, said.replace(&format!("{}/", folder.display()), ""))
}

/// A listener from a file, its certificates from SDS, its routes from a third; all of them keys of one ConfigMap.
const CONFIG_MAP: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data:
  envoy.yaml: |
    # the bootstrap
    node: {id: a, cluster: b}
    admin: {access_log_path: /var/log/nobody/admin.log}
    dynamic_resources:
      lds_config: {path_config_source: {path: /etc/envoy/lds.yaml, watched_directory: {path: /etc/envoy}}}
      cds_config: {path_config_source: {path: /etc/envoy/cds.yaml}}
  lds.yaml: |
    resources:
    - "@type": type.googleapis.com/envoy.config.listener.v3.Listener
      name: in
      address: {socket_address: {address: 127.0.0.1, port_value: 15001}}
      filterChains:
      - transport_socket:
          name: tls
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
            common_tls_context:
              tls_certificate_sds_secret_configs:
              - {name: own, sds_config: {path_config_source: {path: /etc/envoy/own.yaml}}}
              validation_context: {trusted_ca: {filename: /etc/certs/ca.crt}}
        filters:
        - name: http
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: in
            rds: {route_config_name: r, config_source: {path_config_source: {path: /etc/envoy/rds.yaml}}}
            http_filters:
            - name: envoy.filters.http.router
              typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  rds.yaml: |
    resources:
    - "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
      name: r
      virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: app}}]}]
  own.yaml: |
    resources:
    - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
      name: own
      tls_certificate: {certificate_chain: {filename: /etc/certs/tls.crt}, private_key: {filename: /etc/certs/tls.key}}
  cds.yaml: |
    resources:
    - "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
      name: app
      connect_timeout: 1s
      type: EDS
      eds_cluster_config: {eds_config: {path_config_source: {path: /etc/envoy/eds.yaml}}}
"#;

#[test]
fn what_envoy_does_not_read_itself_is_read_and_blamed_at_its_line() {
    let Some(envoy) = envoy() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cm.yaml");
    // What is written instead of what, and which of it is to blame.
    let cases: &[(&str, &str, &str)] = &[
        ("", "", ""),
        ("route: {cluster: app}", "route: {cluster: nobody}", "nobody"),
        ("stat_prefix: in", "stat_prefix: ''", "''"),
        ("connect_timeout: 1s", "connect_timeout: 1x", "1x"),
        ("private_key: {", "private_kee: {", "private_kee"),
        ("port_value: 15001", "port_value: 150010", "150010"),
        // Read by Envoy's own YAML, in the bootstrap.
        ("admin: {", "admin: {nobody: 1, ", "nobody"),
    ];
    for (before, after, blamed) in cases {
        let text = CONFIG_MAP.replace(before, after);
        fs::write(&file, &text).unwrap();
        let (exit, said) = validate(&envoy, folder.path(), &["-f", file.to_str().unwrap()]);
        if blamed.is_empty() {
            assert_eq!(exit, Exit::Success, "{said}");
            assert!(said.contains("`/etc/envoy/eds.yaml` is not here"), "{said}");
        } else {
            assert_eq!(exit, Exit::Failure, "{after}: {said}");
            let offset = text.find(after).unwrap() + after.find(blamed).unwrap();
            let (line, column) = Source::new("", text.as_str()).position(offset);
            assert!(said.contains(&format!("--> cm.yaml:{line}:{column}\n")), "{after}: {said}");
        }
    }
}

#[test]
fn files_are_found_beside_the_configuration_and_below_the_root() {
    let Some(envoy) = envoy() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    fs::write(
        &file,
        "node: {id: a, cluster: b}\ndynamic_resources:\n  cds_config: {path_config_source: {path: /etc/envoy/cds.yaml}}\n",
    )
    .unwrap();
    let (exit, said) = validate(&envoy, folder.path(), &["-f", file.to_str().unwrap()]);
    assert_eq!(exit, Exit::Success, "{said}");
    assert!(said.contains("not-here") && said.contains("envoy.yaml:3:43"), "{said}");
    let cds = "resources:\n- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: app\n  lb_policy: SOMEHOW\n";
    for place in ["cds.yaml", "pod/etc/envoy/cds.yaml"] {
        let path = folder.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, cds).unwrap();
        let root = folder.path().join("pod");
        let (exit, said) = validate(
            &envoy,
            folder.path(),
            &["-f", file.to_str().unwrap(), "--root", root.to_str().unwrap()],
        );
        assert_eq!(exit, Exit::Failure, "{said}");
        assert!(said.contains(&format!("--> {place}:4:14")), "{said}");
        fs::remove_file(&path).unwrap();
    }
}

/// Real configurations: those that Envoy validates as they are are good here, too; the others are refused with a place.
#[test]
fn the_corpus_is_judged_as_envoy_judges_it() {
    let corpus = std::env::var_os("MESHWARD_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"), PathBuf::from)
        .join("envoy");
    let Ok(index) = fs::read_to_string(corpus.join("index.json")) else {
        drop(writeln!(std::io::stderr(), "SKIPPED: there is no corpus at {}", corpus.display()));
        return;
    };
    let Some(envoy) = envoy() else { return };
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let rows: Vec<_> = index
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["kind"] != "ConfigMap" && row["path"].is_string())
        .collect();
    // A sample, always the same.
    let every =
        if std::env::var_os("MESHWARD_VALIDATE_ALL").is_some() { 1 } else { rows.len().div_ceil(40).max(1) };
    let (mut good, mut bad) = (0, 0);
    let mut wrong = Vec::new();
    for row in rows.iter().step_by(every) {
        let file = corpus.join(row["path"].as_str().unwrap());
        let (exit, said) = validate(&envoy, &corpus, &["-f", file.to_str().unwrap()]);
        if row["validates"] == true || row["validates_with_stubs"] == true {
            good += 1;
            // What Envoy does not read in this mode may be wrong, and is then blamed in its own file.
            let blamed = said.contains(&format!("  --> {}:", row["path"].as_str().unwrap()));
            if exit != Exit::Success && blamed && said.contains("error[") {
                wrong.push(format!("{}: {said}", row["path"]));
            }
        } else {
            bad += 1;
            assert!(exit == Exit::Success || said.contains("error["), "{}: {said}", row["path"]);
        }
    }
    eprintln!("{good} that Envoy validates, {bad} others");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(good > 0);
}

//! Two Envoys, pinned to a core each where `taskset` is there, and what the second one's threads have run.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use meshward_tests::{tools, wait};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::{Value, json};

use super::cases::{CALLER, Case};
use super::load;

/// The loopback address of everything here.
pub const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// The cluster of the application, as it is and with outlier detection.
const APPLICATION: &str = "application";
const WATCHED: &str = "application-watched";

/// Two running Envoys. Dropped, they end.
pub struct Rig {
    server: Process,
    _client: Process,
    /// Where the client's sidecar listens for each case, and how many values of `x-key` its requests have.
    entries: Vec<(SocketAddr, usize)>,
}

/// One Envoy. Dropped, it ends.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Its resident memory, in bytes.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
        Ok(kibibytes * 1024)
    }
}

impl Rig {
    /// Starts both, and waits until every case answers with 200.
    pub fn start(folder: &Path, cases: &[Case]) -> anyhow::Result<Self> {
        certificates(folder)?;
        let application = free_port()?;
        let ports: Vec<(u16, u16)> =
            cases.iter().map(|_| Ok((free_port()?, free_port()?))).collect::<anyhow::Result<_>>()?;
        let server: Vec<Value> = cases
            .iter()
            .zip(&ports)
            .map(|(case, (_, inbound))| {
                let cluster = if case.watched { WATCHED } else { APPLICATION };
                let tls = (!case.plain).then(|| server_tls(folder));
                listener(*inbound, case.filters.clone(), route(cluster), tls)
            })
            .collect();
        let mut client: Vec<Value> = ports
            .iter()
            .map(|(entry, inbound)| listener(*entry, vec![], route(&format!("server-{inbound}")), None))
            .collect();
        let answer = json!({ "direct_response": { "status": 200, "body": { "inline_string": "ok" } } });
        client.push(listener(application, vec![], answer, None));
        let upstreams = cases.iter().zip(&ports).map(|(case, (_, inbound))| {
            let tls = (!case.plain).then(|| client_tls(folder));
            cluster(&format!("server-{inbound}"), *inbound, tls)
        });
        let client = process(folder, "client", ("1", 1), client, upstreams.collect())?;
        let mut watched = cluster(WATCHED, application, None);
        if let Some(cluster) = watched.as_object_mut() {
            cluster.insert(
                "outlier_detection".into(),
                json!({ "consecutive_5xx": 7, "max_ejection_percent": 100 }),
            );
        }
        let applications = vec![cluster(APPLICATION, application, None), watched];
        let server = process(folder, "server", ("0", 1), server, applications)?;
        let entry = |(case, (entry, _)): (&Case, &(u16, u16))| (SocketAddr::from((HOST, *entry)), case.keys);
        let entries = cases.iter().zip(&ports).map(entry).collect();
        let rig = Self { server, _client: client, entries };
        for (number, case) in cases.iter().enumerate() {
            wait::until(&case.name, || rig.send(number, 16).is_ok())
                .with_context(|| last_lines(folder, "server"))?;
        }
        Ok(rig)
    }

    /// Sends requests through a case; CPU of the server in microseconds per request.
    pub fn visit(&self, case: usize, requests: usize) -> anyhow::Result<f64> {
        let before = self.server_time()?;
        let sent = self.send(case, requests)?;
        let ran = self.server_time()?.saturating_sub(before);
        Ok(ran.as_secs_f64() * 1e6 / sent as f64)
    }

    fn send(&self, case: usize, requests: usize) -> anyhow::Result<usize> {
        let (entry, keys) = self.entries.get(case).context("there is such a case")?;
        load::run(*entry, requests, *keys)
    }

    /// What all threads of the server have run so far.
    fn server_time(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.server.0.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// An Envoy on a set of cores, with so many workers.
pub fn process(
    folder: &Path,
    name: &str,
    (cores, workers): (&str, u32),
    listeners: Vec<Value>,
    clusters: Vec<Value>,
) -> anyhow::Result<Process> {
    let file = folder.join(format!("{name}.json"));
    // What it writes down about itself every few seconds is not a request's.
    let bootstrap = json!({
        "node": { "id": name, "cluster": "bench" },
        "stats_flush_interval": "299s",
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    std::fs::write(&file, bootstrap.to_string())?;
    let envoy = tools::envoy()?;
    let mut command = match Command::new("taskset").arg("-V").stdout(Stdio::null()).status() {
        Ok(_) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cores]).arg(envoy);
            command
        }
        Err(_) => Command::new(envoy),
    };
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    let child = command
        .arg("-c")
        .arg(&file)
        .args(["--use-dynamic-base-id", "--log-level", "warning", "--concurrency", &workers.to_string()])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(Process(child))
}

/// What an Envoy said last, for people.
pub fn last_lines(folder: &Path, name: &str) -> String {
    let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(5).collect();
    lines.into_iter().rev().map(|line| line.chars().take(400).collect::<String>() + "\n").collect()
}

pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?.port())
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": HOST.to_string(), "port_value": port } })
}

fn route(cluster: &str) -> Value {
    json!({ "route": { "cluster": cluster } })
}

/// A listener for HTTP with these filters, and what becomes of all requests behind them.
pub fn listener(port: u16, mut filters: Vec<Value>, action: Value, tls: Option<Value>) -> Value {
    let mut route = json!({ "match": { "prefix": "/" } });
    if let (Some(route), Value::Object(action)) = (route.as_object_mut(), action) {
        route.extend(action);
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    }));
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "normalize_path": true,
        "http_filters": filters,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
    });
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    if let (Some(chain), Some(tls)) = (chain.as_object_mut(), tls) {
        chain.insert("transport_socket".into(), tls);
    }
    json!({ "name": format!("listener-{port}"), "address": address(port), "filter_chains": [chain] })
}

fn cluster(name: &str, port: u16, tls: Option<Value>) -> Value {
    let endpoint = json!({ "endpoint": { "address": address(port) } });
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
    });
    if let (Some(cluster), Some(tls)) = (cluster.as_object_mut(), tls) {
        cluster.insert("transport_socket".into(), tls);
    }
    cluster
}

fn tls(folder: &Path, side: &str, name: &str) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name) });
    json!({
        "common_tls_context": {
            "tls_certificates": [{
                "certificate_chain": file(&format!("{name}.crt")),
                "private_key": file(&format!("{name}.key")),
            }],
            "validation_context": { "trusted_ca": file("ca.crt") },
        },
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}"),
    })
}

fn server_tls(folder: &Path) -> Value {
    let mut context = tls(folder, "DownstreamTlsContext", "server");
    if let Some(context) = context.as_object_mut() {
        context.insert("require_client_certificate".into(), true.into());
    }
    json!({ "name": "tls", "typed_config": context })
}

fn client_tls(folder: &Path) -> Value {
    json!({ "name": "tls", "typed_config": tls(folder, "UpstreamTlsContext", "client") })
}

/// A CA, and a certificate for each side.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key)?;
    std::fs::write(folder.join("ca.crt"), ca.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, id) in [("client", CALLER), ("server", "mesh.local/ns/shop/sa/server")] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{id}").try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        std::fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, &issuer)?.pem())?;
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    if !folder.join("client.key").exists() {
        bail!("the certificates were not written");
    }
    Ok(())
}

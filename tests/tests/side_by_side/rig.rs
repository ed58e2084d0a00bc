//! One Envoy with two listeners for each set and protocol, and a client that is who it is told to be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use meshward_builder::envoy::filter::{self, Layer};
use meshward_builder::local::client::{self, Identity, Request, Tls};
use meshward_engine::config::{PluginConfig, Protocol};
use meshward_tests::application::Speaks;
use meshward_tests::{Application, native_rbac, tools, wait};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::sets::{Asked, Set};
use super::token;

const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SERVER: &str = "spiffe://mesh.example/ns/a/sa/server";
const TOKEN_HEADER: &str = "x-token";

/// A running Envoy; dropped, it ends.
pub struct Rig {
    child: Child,
    _echo: Application,
    authority: Authority,
    /// For each set, by protocol, the native listener and ours.
    listeners: Vec<[[SocketAddr; 2]; 2]>,
    clients: RefCell<BTreeMap<Option<String>, Tls>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rig {
    /// Starts it, and waits until every listener is there.
    pub fn start(folder: &Path, sets: &[Set]) -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        std::fs::write(folder.join("ca.crt"), &authority.pem)?;
        let (chain, key) = authority.issue(SERVER)?;
        std::fs::write(folder.join("server.crt"), chain)?;
        std::fs::write(folder.join("server.key"), key.serialize_pem())?;
        // All at once, so that none is given out twice.
        let held: Vec<TcpListener> =
            (0..sets.len() * 4 + 1).map(|_| TcpListener::bind((HOST, 0))).collect::<io::Result<_>>()?;
        let mut addresses: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        drop(held);
        let echo = addresses.pop().context("an address for the application")?;
        let module = tools::filter()?;
        let mut listeners = Vec::new();
        for (set, four) in sets.iter().zip(addresses.chunks(4)) {
            for (protocol, two) in [Protocol::Http, Protocol::Tcp].into_iter().zip(four.chunks(2)) {
                let config = PluginConfig { protocol, ..set.config.clone() };
                let native = match (&set.native, protocol) {
                    (Some(written), Protocol::Http) => written.clone(),
                    _ => native_rbac::filters(&config)
                        .map_err(|why| anyhow::anyhow!("{}: {why:?}", set.name))?,
                };
                listeners.push(listener(folder, two[0], protocol, native));
                listeners.push(listener(folder, two[1], protocol, ours(&config, &module)?));
            }
        }
        let cluster = json!({
            "name": "echo",
            "load_assignment": { "cluster_name": "echo", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(echo) } }] }] },
        });
        let bootstrap = json!({ "static_resources": { "listeners": listeners, "clusters": [cluster] } });
        let file = folder.join("envoy.json");
        std::fs::write(&file, bootstrap.to_string())?;
        let application = Application::start(echo, Speaks::Tcp)?;
        let child = Command::new(tools::envoy()?)
            .arg("-c")
            .arg(&file)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .spawn()?;
        let listeners = addresses.chunks(4).map(|four| [[four[0], four[1]], [four[2], four[3]]]).collect();
        let clients = RefCell::default();
        let mut rig = Self { child, _echo: application, authority, listeners, clients };
        let mut ended = None;
        wait::until("the listeners", || {
            ended = rig.child.try_wait().ok().flatten();
            ended.is_some() || addresses.iter().all(|address| client::connect(*address).is_ok())
        })?;
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        anyhow::ensure!(ended.is_none(), "{}", log().chars().take(3000).collect::<String>());
        Ok(rig)
    }

    /// What the native listener (`which` 0) or ours (1) of a set answers: a status; of TCP 200 when the echo came back.
    pub fn ask(&self, set: usize, which: usize, asked: &Asked) -> String {
        let address = self.listeners[set][usize::from(asked.tcp)][which];
        let tls = self.client(asked.principal.as_deref());
        let name = asked.sni.clone().unwrap_or_else(|| HOST.to_string());
        let connect = || -> io::Result<_> {
            let mut socket = client::connect(address)?;
            let family = if asked.source.is_ipv4() { "TCP4" } else { "TCP6" };
            let head =
                format!("PROXY {family} {} {} 40000 {}\r\n", asked.source, asked.destination, asked.port);
            socket.write_all(head.as_bytes())?;
            tls.over(socket, &name)
        };
        let mut stream = match connect() {
            Ok(stream) => stream,
            Err(_) if asked.tcp => return "tcp 403".to_owned(),
            Err(error) => panic!("{asked:?}: {error}"),
        };
        if asked.tcp {
            let mut answer = [0; 5];
            let echoed = stream
                .write_all(b"hello")
                .and_then(|()| stream.flush())
                .and_then(|()| stream.read_exact(&mut answer));
            return if echoed.is_ok() && &answer == b"hello" { "tcp 200" } else { "tcp 403" }.to_owned();
        }
        let mut headers = asked.headers.clone();
        if let Some(token) = &asked.token {
            headers.push((TOKEN_HEADER.to_owned(), token::header(token)));
        }
        let request = Request {
            method: &asked.method,
            path: asked.path.as_deref().unwrap_or("/"),
            host: &asked.host,
            headers: &headers,
            body: b"",
        };
        client::exchange(&mut stream, &request)
            .map_or_else(|error| format!("{error}"), |response| response.status.to_string())
    }

    fn client(&self, principal: Option<&str>) -> Tls {
        let key = principal.map(str::to_owned);
        let mut clients = self.clients.borrow_mut();
        let make = || {
            let identity = principal.map(|principal| {
                let (chain, key) = self.authority.issue(principal).unwrap();
                let der = pem_to_der(&chain);
                Identity {
                    chain: vec![der],
                    key: rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                }
            });
            Tls::new(&pem_to_der(&self.authority.pem), SERVER, identity).unwrap()
        };
        clients.entry(key).or_insert_with(make).clone()
    }
}

fn pem_to_der(pem: &str) -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Signs certificates of any trust domain.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    fn issue(&self, id: &str) -> anyhow::Result<(String, KeyPair)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key))
    }
}

/// The filter and its guard, as they are rendered.
fn ours(config: &PluginConfig, module: &Path) -> anyhow::Result<Vec<Value>> {
    let layer = if config.protocol == Protocol::Http { Layer::Http } else { Layer::Network };
    let wasm = filter::wasm(layer, &module.to_string_lossy(), &config.encode()?);
    Ok(vec![
        json!({ "name": filter::NAME, "typed_config": serde_json::to_value(wasm)? }),
        serde_json::to_value(filter::guard(layer))?,
    ])
}

fn address(address: SocketAddr) -> Value {
    let ip: IpAddr = address.ip();
    json!({ "socket_address": { "address": ip.to_string(), "port_value": address.port() } })
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    json!({ "name": name, "typed_config": config })
}

fn listener(folder: &Path, place: SocketAddr, protocol: Protocol, filters: Vec<Value>) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name) });
    let tls = json!({
        "common_tls_context": {
            "tls_certificates": [{ "certificate_chain": file("server.crt"), "private_key": file("server.key") }],
            "validation_context": { "trusted_ca": file("ca.crt") },
        },
    });
    let chain = match protocol {
        Protocol::Http => vec![http(filters)],
        Protocol::Tcp => {
            let proxy = json!({ "stat_prefix": "tcp", "cluster": "echo" });
            let proxy = typed("tcp", "filters.network.tcp_proxy.v3.TcpProxy", proxy);
            filters.into_iter().chain([proxy]).collect()
        }
    };
    json!({
        "name": place.to_string(),
        "address": address(place),
        "listener_filters": [
            typed("proxy", "filters.listener.proxy_protocol.v3.ProxyProtocol", json!({})),
            typed("tls", "filters.listener.tls_inspector.v3.TlsInspector", json!({})),
        ],
        "filter_chains": [{
            "filters": chain,
            "transport_socket": typed("tls", "transport_sockets.tls.v3.DownstreamTlsContext", tls),
        }],
    })
}

/// A connection manager that normalizes as ours do, with a token out of a header, and 200 for what gets through.
fn http(filters: Vec<Value>) -> Value {
    let payload = json!({
        "metadata_namespace": "envoy.filters.http.jwt_authn", "key": "payload", "type": "PROTOBUF_VALUE", "encode": "BASE64",
    });
    let rule = json!({ "header": TOKEN_HEADER, "on_header_present": payload, "remove": true });
    let token = json!({ "request_rules": [rule] });
    let token = typed("token", "filters.http.header_to_metadata.v3.Config", token);
    let router = typed("router", "filters.http.router.v3.Router", json!({}));
    let all: Vec<Value> = [token].into_iter().chain(filters).chain([router]).collect();
    let route = json!({
        "match": { "prefix": "/" },
        "direct_response": { "status": 200, "body": { "inline_string": "ok" } },
    });
    let star = json!({ "match": { "path": "*" }, "direct_response": { "status": 200 } });
    let manager = json!({
        "stat_prefix": "http",
        "use_remote_address": true,
        // Else every answer before the end of a request takes a second to close.
        "delayed_close_timeout": "0s",
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "http_filters": all,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route, star] }] },
    });
    typed("http", "filters.network.http_connection_manager.v3.HttpConnectionManager", manager)
}

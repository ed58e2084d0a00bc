//! The module that Envoy loads, in a scripted host: what it asks for, what it answers, and that nothing that a caller
//! or a configuration contains makes it trap.
//!
//! Deliberately absent: what the policies mean (the engine's tests) and what Envoy makes of it (the end-to-end tests).
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod host;

use std::sync::OnceLock;

use host::{CONTINUE, PAUSE, Vm};
use meshward_builder::console::Console;
use meshward_builder::wasm::{self, BuildOptions, Origin};
use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, DefaultAction, DenyResponse, HeaderMode, IdentityMode,
    Match, Pattern, PluginConfig, Protocol, Role, Rule, TrustDomain,
};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

/// The module, built and compiled once.
fn module() -> &'static wasmi::Module {
    static MODULE: OnceLock<wasmi::Module> = OnceLock::new();
    MODULE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let options = BuildOptions {
            origin: Origin::Checkout(None),
            output_dir: folder.path().into(),
            wasm_opt: false,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let built = wasm::build(&options, &mut Console::new(&mut out, &mut err, false))
            .unwrap_or_else(|failure| panic!("{:?}", failure.diagnostics));
        wasmi::Module::new(&wasmi::Engine::default(), std::fs::read(built.path).unwrap()).unwrap()
    })
}

/// A certificate with these URI SANs, as Envoy's property has it: PEM.
fn certificate(uris: &[&str]) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names =
        uris.iter().map(|uri| rcgen::SanType::URI(uri.to_string().try_into().unwrap())).collect();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// Makes `pem` the peer's certificate. Envoy's digest is of the DER; here anything that differs does.
fn present(vm: &mut Vm, pem: &str) {
    let digest: String = pem.bytes().rev().skip(40).take(32).map(|byte| format!("{byte:02x}")).collect();
    let properties = &mut vm.world().properties;
    properties.insert(b"connection\0sha256_peer_certificate_digest".to_vec(), digest.into_bytes());
    properties.insert(b"connection\0peer_certificate".to_vec(), pem.as_bytes().to_vec());
}

fn config(protocol: Protocol) -> PluginConfig {
    let mut config = PluginConfig::deny_all(
        "shop/server",
        Role::Inbound,
        protocol,
        TrustDomain::parse("mesh.local").unwrap(),
    );
    config.revision = "r1".into();
    config
}

fn one(attribute: Attribute, text: &str) -> Match {
    let pattern = Pattern::parse(&attribute, text, "shop").unwrap();
    Match { attribute, negated: false, patterns: vec![pattern] }
}

/// Lets `principal` do what `to` says.
fn allow(principal: &str, to: Vec<Match>) -> AuthorizationPolicy {
    let to = if to.is_empty() { Vec::new() } else { vec![Clause::new(to)] };
    let from = vec![Clause::new(vec![one(Attribute::Principal, principal)])];
    let rule = Rule { from, to, when: Clause::always() };
    AuthorizationPolicy {
        name: "shop/readers".into(),
        action: Action::Allow,
        dry_run: false,
        rules: vec![rule],
        deny_response: None,
    }
}

/// A VM with this configuration, the certificate of `WEB`, and a request for `GET /books/1`.
fn configured(config: &PluginConfig) -> Vm {
    let mut vm = Vm::new(module());
    assert!(vm.configure(&config.encode().unwrap()).unwrap(), "{:?}", vm.world().logs);
    present(&mut vm, &certificate(&[WEB]));
    headers(&mut vm, &[(":method", "GET"), (":authority", "server"), (":path", "/books/1")]);
    vm
}

fn headers(vm: &mut Vm, headers: &[(&str, &str)]) {
    vm.world().headers =
        headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
}

fn http_reader() -> PluginConfig {
    let mut config = config(Protocol::Http);
    let to = vec![one(Attribute::Method, "GET"), one(Attribute::Path, "/books/{*}")];
    config.policies = vec![allow("mesh.local/ns/shop/sa/web", to)];
    config
}

const ALLOWED: &str = "meshward_decisions.verdict.allow.reason.allow_rule.policy.shop/readers.rule.0";

#[test]
fn an_allowed_request_continues_marked_and_counted() {
    let mut vm = configured(&http_reader());
    assert_eq!(vm.request().unwrap(), CONTINUE);
    let world = vm.world();
    assert_eq!(world.state.get(&b"meshward"[..]).map(Vec::as_slice), Some(&b"allow"[..]));
    assert_eq!(world.metric(ALLOWED), 1);
    assert_eq!(world.sent, []);
}

#[test]
fn a_warm_request_costs_four_host_calls() {
    let mut vm = configured(&http_reader());
    for _ in 0..2 {
        assert_eq!(vm.request().unwrap(), CONTINUE);
    }
    let calls: Vec<_> = vm.world().calls.iter().map(|(name, count)| (*name, *count)).collect();
    assert_eq!(calls, [("headers", 1), ("increment_metric", 1), ("property", 1), ("set_property", 1)]);
}

#[test]
fn attributes_that_no_policy_asks_for_are_not_read() {
    let mut config = config(Protocol::Http);
    config.policies = vec![allow("mesh.local/ns/shop/sa/web", Vec::new())];
    let mut vm = configured(&config);
    for _ in 0..2 {
        assert_eq!(vm.request().unwrap(), CONTINUE);
    }
    let calls: Vec<_> = vm.world().calls.keys().copied().collect();
    assert_eq!(calls, ["increment_metric", "property", "set_property"]);
}

#[test]
fn a_denial_names_its_rule_to_the_log_and_not_to_the_client() {
    let mut config = http_reader();
    let mut deny = allow("*", vec![one(Attribute::Path, "/books/secret")]);
    deny.action = Action::Deny;
    deny.name = "shop/secrets".into();
    config.policies.push(deny);
    let mut vm = configured(&config);
    headers(&mut vm, &[(":method", "GET"), (":authority", "server"), (":path", "/books/secret")]);
    assert_eq!(vm.request().unwrap(), PAUSE);
    let world = vm.world();
    assert_eq!(world.state.len(), 0, "only an allowed request is marked");
    let sent = &world.sent[0];
    assert_eq!((sent.status, sent.details.as_str()), (403, "meshward_denied[shop/secrets/0]"));
    assert_eq!(sent.body, b"RBAC: access denied");
    assert!(
        world.logged("GET server /books/secret from spiffe://mesh.local/ns/shop/sa/web"),
        "{:?}",
        world.logs
    );
    assert_eq!(
        world.metric("meshward_decisions.verdict.deny.reason.deny_rule.policy.shop/secrets.rule.0"),
        1
    );
}

#[test]
fn a_custom_answer_is_sent_with_its_type() {
    let mut config = http_reader();
    config.deny_response = Some(DenyResponse {
        status: 451,
        content_type: "application/problem+json".into(),
        body: "{}".into(),
    });
    let mut vm = configured(&config);
    headers(&mut vm, &[(":method", "PUT"), (":authority", "server"), (":path", "/books/1")]);
    assert_eq!(vm.request().unwrap(), PAUSE);
    let sent = &vm.world().sent[0];
    assert_eq!((sent.status, sent.body.as_slice()), (451, &b"{}"[..]));
    let expected = b"\x01\0\0\0\x0c\0\0\0\x18\0\0\0content-type\0application/problem+json\0";
    assert_eq!(sent.headers, expected);
}

#[test]
fn two_readings_of_a_path_are_answered_with_400() {
    for path in ["/books//1", "/books/../admin", "/books/%2e%2e/admin", "/books%2f1", "/books/1#x", "books"] {
        let mut vm = configured(&http_reader());
        headers(&mut vm, &[(":method", "GET"), (":authority", "server"), (":path", path)]);
        assert_eq!(vm.request().unwrap(), PAUSE, "{path}");
        let sent = vm.world().sent[0].clone();
        assert_eq!((sent.status, sent.details.as_str()), (400, "meshward_denied[path]"), "{path}");
    }
}

/// What is refused whatever the policies say: the reason of the denial, and the error that is counted with it.
#[test]
fn certificates_that_are_no_svid_are_refused_counted_and_logged() {
    let two = certificate(&["spiffe://mesh.local/ns/shop/sa/a", WEB]);
    let foreign = certificate(&["spiffe://other.example/ns/shop/sa/web"]);
    let garbage = certificate(&["spiffe://mesh.local/ns//sa/%77eb"]);
    let other_scheme = certificate(&["https://mesh.local/ns/shop/sa/web"]);
    let cases = [
        ("no certificate", None, "no_identity", None),
        ("two URI SANs", Some(two.as_str()), "invalid_identity", Some("several_uris")),
        ("wrong trust domain", Some(&foreign), "foreign_trust_domain", None),
        ("garbage in the SAN", Some(&garbage), "invalid_identity", Some("bad_id")),
        ("another scheme", Some(&other_scheme), "invalid_identity", Some("bad_id")),
        ("no URI SAN", Some(&certificate(&[])), "invalid_identity", Some("no_uri")),
        ("not PEM", Some(&"-".repeat(200)), "invalid_identity", Some("pem")),
    ];
    for (name, pem, reason, error) in cases {
        let mut vm = configured(&http_reader());
        vm.world().properties.clear();
        if let Some(pem) = pem {
            present(&mut vm, pem);
        }
        assert_eq!(vm.request().unwrap(), PAUSE, "{name}");
        let world = vm.world();
        assert_eq!(world.sent[0].details, format!("meshward_denied[{reason}]"), "{name}");
        assert_eq!(world.metric(&format!("meshward_decisions.verdict.deny.reason.{reason}")), 1, "{name}");
        if let Some(error) = error {
            assert_eq!(world.metric(&format!("meshward_identity_errors.error.{error}")), 1, "{name}");
            assert!(world.logged(error), "{name}: {:?}", world.logs);
        }
    }
}

#[test]
fn a_certificate_is_parsed_once_and_a_new_one_is_not_taken_for_it() {
    let mut vm = configured(&http_reader());
    vm.request().unwrap();
    assert_eq!(vm.world().calls["property"], 2, "digest and certificate");
    vm.request().unwrap();
    assert_eq!(vm.world().calls["property"], 1, "digest alone");
    present(&mut vm, &certificate(&["spiffe://mesh.local/ns/shop/sa/other"]));
    assert_eq!(vm.request().unwrap(), PAUSE, "another caller is not the one before");
    present(&mut vm, &certificate(&[WEB]));
    assert_eq!(vm.request().unwrap(), CONTINUE);
}

#[test]
fn a_flood_of_certificates_takes_no_memory() {
    let mut vm = configured(&http_reader());
    let pem = certificate(&[WEB]);
    let flood = |vm: &mut Vm, range: std::ops::Range<u32>| {
        for number in range {
            present(vm, &pem);
            let digest = format!("{number:064x}").into_bytes();
            vm.world().properties.insert(b"connection\0sha256_peer_certificate_digest".to_vec(), digest);
            assert_eq!(vm.request().unwrap(), CONTINUE);
        }
    };
    flood(&mut vm, 0..500);
    let memory = vm.memory();
    flood(&mut vm, 500..2_000);
    assert_eq!(vm.memory(), memory);
}

#[test]
fn headers_that_are_no_text_are_only_bytes() {
    let mut config = config(Protocol::Http);
    let header = Attribute::Header { name: "x-user".into(), mode: HeaderMode::Joined };
    config.policies = vec![allow("*", vec![one(header, "a*")])];
    let mut vm = configured(&config);
    let request = |vm: &mut Vm, value: &[u8], path: &[u8]| {
        vm.world().headers = vec![
            (b":method".to_vec(), b"G\xffT".to_vec()),
            (b":authority".to_vec(), b"\xc3(".to_vec()),
            (b":path".to_vec(), path.to_vec()),
            (b"x-user".to_vec(), value.to_vec()),
            (b"\xff\0name".to_vec(), b"\0\n\r".to_vec()),
        ];
        vm.request().unwrap()
    };
    assert_eq!(request(&mut vm, b"a\xff\xfe b", b"/\xf0\x90"), CONTINUE);
    assert_eq!(request(&mut vm, b"\xff\xfe", b"/\xf0\x90\nforged line"), PAUSE);
    let (_, line) = vm.world().logs.last().unwrap().clone();
    assert!(line.contains(r"G\xffT \xc3( /\xf0\x90\x0aforged line"), "{line}");
    assert_eq!(
        request(&mut vm, &vec![b'a'; 1 << 20], &vec![b'/'; 1 << 20]),
        CONTINUE,
        "no path rule, no guard"
    );
}

#[test]
fn configurations_that_make_no_sense_are_refused_and_what_was_there_stays() {
    let good = http_reader().encode().unwrap();
    let mut vm = configured(&http_reader());
    let cases = [
        ("none", Vec::new(), "the magic is missing"),
        ("JSON", b"{\"policies\":[]}".to_vec(), "the magic is missing"),
        ("cut off", good[..good.len() / 2].to_vec(), "damaged"),
        (
            "another version",
            {
                let mut other = good.clone();
                other[8] = 0xee;
                other
            },
            "version",
        ),
    ];
    for (name, bytes, reason) in cases {
        assert!(!vm.configure(&bytes).unwrap(), "{name}");
        assert!(vm.world().logged("configuration refused"), "{name}");
        assert!(vm.world().logs.last().unwrap().1.contains(reason), "{name}: {:?}", vm.world().logs.last());
    }
    assert_eq!(vm.world().metric("meshward_configurations.result.rejected"), 4);
    assert_eq!(vm.request().unwrap(), CONTINUE, "the one in force stays");
}

#[test]
fn no_cut_or_flipped_configuration_traps() {
    let good = http_reader().encode().unwrap();
    let mut vm = Vm::new(module());
    for length in 0..good.len() {
        let _ = vm.configure(&good[..length]).unwrap();
    }
    for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = good.clone();
        damaged[at] ^= 1 << bit;
        let _ = vm.configure(&damaged).unwrap();
    }
}

#[test]
fn without_a_configuration_everything_is_refused() {
    let mut vm = Vm::new(module());
    assert!(!vm.configure(b"").unwrap());
    present(&mut vm, &certificate(&[WEB]));
    assert_eq!(vm.request().unwrap(), PAUSE);
    assert_eq!(vm.world().sent[0].details, "meshward_denied[no_configuration]");
}

#[test]
fn every_vm_says_the_same_about_a_configuration() {
    let good = http_reader().encode().unwrap();
    for _ in 0..3 {
        let mut vm = Vm::new(module());
        assert!(vm.configure(&good).unwrap());
        // Nothing but the configuration is asked for, so nothing else can make a difference between two VMs.
        let calls: Vec<_> = vm.world().calls.keys().copied().collect();
        assert_eq!(calls, ["buffer", "define_metric", "increment_metric", "log"]);
    }
}

#[test]
fn a_host_that_fails_gets_a_refusal_and_never_a_trap() {
    let names =
        ["property", "headers", "header", "set_property", "define_metric", "increment_metric", "log", "now"];
    for name in names {
        // `InternalFailure`, a status of Envoy's that the SDK does not know, and nonsense.
        for status in [10, 12, -1] {
            let mut vm = configured(&http_reader());
            vm.world().broken.insert(name, status);
            let action = vm.request().unwrap();
            let counts = ["define_metric", "increment_metric", "log", "now", "header"].contains(&name);
            assert_eq!(action, if counts { CONTINUE } else { PAUSE }, "{name} {status}");
        }
    }
    let mut vm = configured(&config(Protocol::Http));
    vm.world().broken.insert("send_local_response", 10);
    assert_eq!(vm.request().unwrap(), PAUSE, "what cannot be answered is held back");
}

#[test]
fn denials_are_logged_ten_times_a_second_and_counted_always() {
    let mut vm = configured(&config(Protocol::Http));
    let denied = |vm: &mut Vm| vm.world().logs.iter().filter(|(_, line)| line.starts_with("denied")).count();
    vm.world().now = 5_000_000_000;
    for _ in 0..100 {
        assert_eq!(vm.request().unwrap(), PAUSE);
    }
    assert_eq!(denied(&mut vm), 10);
    vm.world().now = 6_000_000_000;
    vm.request().unwrap();
    assert_eq!(denied(&mut vm), 11);
    assert!(vm.world().logged("(90 denials before it were not logged)"), "{:?}", vm.world().logs.last());
    assert_eq!(vm.world().metric("meshward_decisions.verdict.deny.reason.default_deny"), 101);
}

#[test]
fn dry_run_and_audit_are_counted_and_change_nothing() {
    let mut config = config(Protocol::Http);
    config.default_action = DefaultAction::Allow;
    let mut shadow = allow("*", Vec::new());
    (shadow.action, shadow.dry_run, shadow.name) = (Action::Deny, true, "shop/shadow.v1".into());
    let mut audit = allow("*", Vec::new());
    (audit.action, audit.name) = (Action::Audit, "shop/audit".into());
    config.policies = vec![shadow, audit];
    let mut vm = configured(&config);
    assert_eq!(vm.request().unwrap(), CONTINUE);
    assert_eq!(vm.world().metric("meshward_shadow.verdict.deny.policy.shop/shadow_v1.rule.0"), 1);
    assert_eq!(vm.world().metric("meshward_audit.policy.shop/audit.rule.0"), 1);
    assert_eq!(vm.world().metric("meshward_decisions.verdict.allow.reason.default_allow"), 1);
}

#[test]
fn addresses_ports_and_tokens_are_read_when_policies_ask() {
    let mut config = config(Protocol::Http);
    config.identity = IdentityMode::Optional;
    let to = vec![
        one(Attribute::SourceIp, "10.1.0.0/16"),
        one(Attribute::DestinationIp, "fd00::1"),
        one(Attribute::DestinationPort, "15001"),
        one(Attribute::Sni, "*.mesh.local"),
        one(Attribute::RequestPrincipal, "issuer/subject"),
        one(Attribute::Claim("[a][b]".into()), "c"),
        one(Attribute::Claim("[groups]".into()), "admin"),
    ];
    config.policies = vec![allow("*", Vec::new())];
    config.policies[0].rules[0].from.clear();
    config.policies[0].rules[0].to = vec![Clause::new(to)];
    let token = "metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0payload";
    let properties = [
        ("source\0address".into(), "10.1.2.3:40000"),
        ("destination\0address".into(), "[fd00::1]:15001"),
        ("connection\0requested_server_name".into(), "a.mesh.local"),
        (format!("{token}\0iss"), "issuer"),
        (format!("{token}\0sub"), "subject"),
        (format!("{token}\0a\0b"), "c"),
        // As Envoy lays out a list: a count, the lengths of each, then each with NULs behind it and its empty value.
        (format!("{token}\0groups"), "\x02\0\0\0\x05\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0other\0\0admin\0\0"),
        // What tells a list from an object: there is something under a number.
        (format!("{token}\0groups\0000000"), "other"),
    ];
    for missing in 0..=properties.len() {
        let mut vm = configured(&config);
        vm.world().properties.clear();
        for (_, (path, value)) in properties.iter().enumerate().filter(|(at, _)| *at != missing) {
            vm.world().properties.insert(path.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        let expected = if missing == properties.len() { CONTINUE } else { PAUSE };
        assert_eq!(vm.request().unwrap(), expected, "without {:?}", properties.get(missing));
    }
}

#[test]
fn a_connection_is_decided_at_its_first_bytes() {
    let mut config = config(Protocol::Tcp);
    config.policies = vec![allow("mesh.local/ns/shop/sa/web", Vec::new())];
    let mut vm = configured(&config);
    let context = vm.context().unwrap();
    assert_eq!(vm.downstream_data(context, 10).unwrap(), CONTINUE);
    assert_eq!(vm.world().state.get(&b"meshward"[..]).map(Vec::as_slice), Some(&b"allow"[..]));
    vm.world().calls.clear();
    assert_eq!(vm.downstream_data(context, 10).unwrap(), CONTINUE);
    assert_eq!(vm.world().calls.len(), 0, "what follows is not decided again");
    vm.delete(context).unwrap();
    assert_eq!(vm.world().metric(ALLOWED), 1);
}

#[test]
fn a_refused_connection_is_closed_and_none_of_its_bytes_go_on() {
    let mut vm = configured(&config(Protocol::Tcp));
    let context = vm.context().unwrap();
    assert_eq!(vm.downstream_data(context, 10).unwrap(), PAUSE);
    assert_eq!(vm.downstream_data(context, 10).unwrap(), PAUSE);
    let world = vm.world();
    assert_eq!(world.closed, [2], "the caller's side, once");
    let state = String::from_utf8(world.state[&b"meshward"[..]].clone()).unwrap();
    assert_eq!(state, "meshward_denied[default_deny]");
    assert!(world.logged("denied from spiffe://mesh.local/ns/shop/sa/web"), "{:?}", world.logs);
}

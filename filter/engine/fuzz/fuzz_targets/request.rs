//! Requests with any bytes in them, against policies of all kinds: the index answers what the interpreter answers.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use meshward_engine::config::{
    AcceptedPeers, Action, Attribute, AuthorizationPolicy, Clause, HeaderMode, IdentityMode, Match,
    PathParams, PluginConfig, Protocol, Role, Rule, TrustDomain,
};
use meshward_engine::oracle;
use meshward_engine::pattern::Pattern;
use meshward_engine::policy::Policy;
use meshward_engine::request::{Field, Peer, Request};
use meshward_engine::spiffe::SpiffeIdRef;

const PATHS: [&str; 12] = [
    "/",
    "/a*",
    "/a/*",
    "*/b",
    "*.php",
    "/{*}",
    "/a/{*}/b",
    "/a/{**}",
    "/{**}/b",
    "/{*}/{**}",
    "/admin",
    "/a/{**}/b/c",
];

static POLICIES: LazyLock<Vec<(PluginConfig, Policy)>> = LazyLock::new(|| {
    [PathParams::Strip, PathParams::Keep, PathParams::Reject]
        .map(|path_params| {
            let domain = TrustDomain::parse("td").unwrap();
            let mut config = PluginConfig::deny_all("a/b", Role::Inbound, Protocol::Http, domain);
            config.accepted_peers = AcceptedPeers::AnyTrustDomain;
            config.identity = IdentityMode::Optional;
            config.path_guard.path_params = path_params;
            let one = |attribute: &Attribute, text: &str, negated| {
                let pattern = Pattern::parse(attribute, text, "a").unwrap();
                Match { attribute: attribute.clone(), negated, patterns: vec![pattern] }
            };
            let header = |mode| Attribute::Header { name: "x".into(), mode };
            let mut number = 0;
            let mut add = |matches: Vec<Match>| {
                number += 1;
                let action = [Action::Allow, Action::Deny, Action::Audit][number % 3];
                let rule = Rule { from: vec![], to: vec![Clause::new(matches)], when: Clause::always() };
                let name = format!("a/p{number}").into();
                let policy = AuthorizationPolicy {
                    name,
                    action,
                    dry_run: number % 7 == 0,
                    rules: vec![rule],
                    deny_response: None,
                };
                config.policies.push(policy);
            };
            for path in PATHS {
                for principal in ["td/ns/a/sa/b", "*", "td/*", "*/b", "spiffe://*/ns/*/sa/b"] {
                    add(vec![
                        one(&Attribute::Path, path, false),
                        one(&Attribute::Principal, principal, false),
                    ]);
                }
                add(vec![one(&Attribute::Path, path, true), one(&Attribute::Method, "GET", false)]);
            }
            for value in ["a", "a*", "*a", "*", "a,b"] {
                for mode in [HeaderMode::Joined, HeaderMode::Any, HeaderMode::All] {
                    add(vec![one(&header(mode), value, false), one(&Attribute::Host, "*.example", false)]);
                    add(vec![one(&header(mode), value, true), one(&Attribute::Host, "A*", false)]);
                }
            }
            let policy = Policy::compile(&config).unwrap();
            (config, policy)
        })
        .into()
});

fuzz_target!(|bytes: &[u8]| {
    // Parts of a request, one after the other, with a zero byte between; a zero byte in a part is written as 1 2.
    let mut parts = bytes.split(|byte| *byte == 0);
    let mut next = || parts.next();
    let (path, id, method, authority) = (next(), next(), next(), next());
    let headers: Vec<Field> = parts.map(|value| Field { name: "x", value }).collect();
    let peer = match id {
        None | Some(b"") => Peer::Absent,
        Some(id) => SpiffeIdRef::parse(id).map_or(Peer::Invalid, Peer::Verified),
    };
    let request = Request { path, peer, method, authority, headers: &headers, ..Request::EMPTY };
    for (config, policy) in POLICIES.iter() {
        assert_eq!(policy.decide(&request), oracle::decide(config, &request), "{request:?}");
        let _ = policy.explain(&request);
    }
});

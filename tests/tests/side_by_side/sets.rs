//! Policies, and what is asked of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use meshward_builder::diagnostic::Source;
use meshward_builder::mesh::document;
use meshward_builder::policy::{self, Names, Workload};
use meshward_engine::config::{
    AcceptedPeers, Action, Attribute, AuthorizationPolicy, Clause, DefaultAction, HeaderMode, IdentityMode,
    Match, PathParams, Pattern, PluginConfig, Protocol, Role, Rule, TrustDomain,
};
use meshward_tests::tools;
use serde_json::{Value, json};

/// One configuration with its requests.
pub struct Set {
    pub name: String,
    pub config: PluginConfig,
    /// Istio's own RBAC for it; else it is said by `native_rbac`.
    pub native: Option<Vec<Value>>,
    pub requests: Vec<Asked>,
}

/// One request or connection.
#[derive(Clone, Debug)]
pub struct Asked {
    pub tcp: bool,
    pub principal: Option<String>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub sni: Option<String>,
    pub method: String,
    pub path: Option<String>,
    pub host: String,
    pub headers: Vec<(String, String)>,
    pub token: Option<Value>,
}

/// Istio's semantics, as `policy eval` has them without a Mesh.
fn config() -> PluginConfig {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let mut config = PluginConfig::deny_all("a/server", Role::Inbound, Protocol::Http, domain);
    config.accepted_peers = AcceptedPeers::AnyTrustDomain;
    config.identity = IdentityMode::Optional;
    config.default_action = DefaultAction::Allow;
    // Native RBAC knows nothing of path parameters.
    config.path_guard.path_params = PathParams::Keep;
    config
}

fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("MESHWARD_VECTORS")
        .map_or_else(|_| tools::workspace().join("../shared/vectors"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    tools::skipped(
        "Istio's cases side by side",
        &format!("no vectors in {} (set MESHWARD_VECTORS)", folder.display()),
    );
    None
}

/// The policies of some texts that are for a workload.
fn compiled(
    texts: &[&str],
    namespace: &str,
    labels: &BTreeMap<String, String>,
    aliases: &[String],
) -> policy::Compiled {
    let sources: Vec<_> = texts.iter().map(|text| Source::new("policy.yaml", *text)).collect();
    let mut mistakes = Vec::new();
    let documents: Vec<_> =
        sources.iter().flat_map(|source| document::parse(source, &mut mistakes)).collect();
    let policies = policy::load(&documents, namespace, &mut mistakes);
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    let names = Names {
        root_namespace: "istio-system",
        trust_domain: "cluster.local",
        trust_domain_aliases: aliases,
        port: None,
    };
    policy::compile_for(&policies, Workload { service: None, namespace, labels }, &names)
}

/// The PROXY protocol says where a connection came from, and a filter of ours takes that for the peer, as it must; to
/// native RBAC the direct peer is whoever wrote it. So `ipBlocks` are asked as `remoteIpBlocks`.
fn with_one_address(mut config: PluginConfig) -> PluginConfig {
    let one = |one: &Match| {
        let attribute =
            if one.attribute == Attribute::SourceIp { &Attribute::RemoteIp } else { &one.attribute };
        Match { attribute: attribute.clone(), ..one.clone() }
    };
    let clause = |clause: &Clause| Clause::new(clause.matches().iter().map(one).collect());
    for rule in config.policies.iter_mut().flat_map(|policy| &mut policy.rules) {
        *rule = Rule {
            from: rule.from.iter().map(clause).collect(),
            to: rule.to.iter().map(clause).collect(),
            when: clause(&rule.when),
        };
    }
    config
}

/// Istio's integration tests.
pub fn istio() -> Option<Vec<Set>> {
    let text = std::fs::read_to_string(vectors()?.join("authz/authz_vectors.json")).unwrap();
    let sets: Vec<Value> = serde_json::from_str(&text).unwrap();
    let set = |set: &Value| {
        let texts: Vec<&str> =
            set["policies"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let labels: BTreeMap<String, String> =
            serde_json::from_value(set["target"]["labels"].clone()).unwrap();
        let compiled = compiled(&texts, set["target"]["namespace"].as_str().unwrap(), &labels, &[]);
        let config = PluginConfig { policies: compiled.policies, ..config() };
        let requests = set["cases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| istios_request(&case["request"], compiled.remote_ip));
        Set {
            name: format!("istio: {}", set["name"].as_str().unwrap()),
            requests: requests.collect(),
            config: with_one_address(config),
            native: None,
        }
    };
    Some(sets.iter().map(set).collect())
}

fn istios_request(request: &Value, original_client: bool) -> Asked {
    let text = |name: &str| request[name].as_str().map(str::to_owned);
    let headers = request["headers"].as_object().unwrap();
    Asked {
        tcp: request["method"].is_null(),
        principal: text("principal"),
        source: text(if original_client { "remote_ip" } else { "source_ip" }).unwrap().parse().unwrap(),
        destination: text("destination_ip").unwrap().parse().unwrap(),
        port: u16::try_from(request["port"].as_u64().unwrap()).unwrap(),
        sni: text("sni"),
        method: text("method").unwrap_or_else(|| "GET".to_owned()),
        path: text("path"),
        host: text("host").unwrap_or_else(|| "b".to_owned()),
        headers: headers
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect(),
        token: None,
    }
}

/// Policies of Istio's generator that say something that a request can meet, by file, with their workload's labels and
/// trust domain aliases. Left out: `custom-*` (an error with us), dry-run and AUDIT alone (they decide nothing), `-full-`
/// but for its service accounts (its other rule contradicts itself), `multiple-policies` (several files of RBAC).
const PAIRS: [(&str, &[&str], &[&str]); 12] = [
    ("allow-empty-rule", &[], &["-out"]),
    ("allow-nil-rule", &[], &["-out"]),
    ("allow-path", &[], &["-out"]),
    ("allow-host-before-111", &[], &["-out"]),
    ("allow-full-rule", &[], &["-out"]),
    ("deny-empty-rule", &[], &["-out"]),
    ("deny-and-allow", &[], &["-out1", "-out2"]),
    ("single-policy", &[], &["-out"]),
    ("trust-domains", &[], &["-out"]),
    ("simple-policy-td-aliases", &["some-td"], &["-out"]),
    ("simple-policy-multiple-td-aliases", &["some-td", "foobar"], &["-out"]),
    ("simple-policy-principal-with-wildcard", &["foobar"], &["-out"]),
];

/// What Istio writes for its own policies.
pub fn istios_generator() -> Option<Vec<Set>> {
    let folder = vectors()?.join("authz/rbac-pairs/http");
    Some(PAIRS.iter().filter_map(|pair| pair_of(&folder, pair)).collect())
}

fn pair_of(folder: &Path, (name, aliases, outs): &(&str, &[&str], &[&str])) -> Option<Set> {
    let read = |suffix: &str| std::fs::read_to_string(folder.join(format!("{name}{suffix}.yaml")));
    let Ok(text) = read("-in") else { return None };
    let labels =
        BTreeMap::from([("app".to_owned(), "httpbin".to_owned()), ("version".to_owned(), "v1".to_owned())]);
    let aliases: Vec<String> = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    let mut compiled = compiled(&[&text], "foo", &labels, &aliases);
    if *name == "allow-full-rule" {
        // Both addresses in one rule: see `with_one_address`; the rule cannot hold anyway.
        compiled.policies[0].rules.truncate(1);
    }
    let mut filters: Vec<Value> =
        outs.iter().map(|out| serde_yaml::from_str(&read(out).unwrap()).unwrap()).collect();
    for filter in &mut filters {
        // Its second rule has a template in a negation that Envoy refuses beside the rest; it never holds.
        if *name == "allow-full-rule" {
            let policies =
                filter.pointer_mut("/typedConfig/rules/policies").unwrap().as_object_mut().unwrap();
            policies.retain(|name, _| name.ends_with("rule[0]"));
        }
    }
    let principals = [
        None,
        Some("spiffe://cluster.local/ns/foo/sa/bar"),
        Some("spiffe://cluster.local/ns/rule/sa/a"),
        Some("spiffe://cluster.local/ns/my-ns/sa/my-sa"),
        Some("spiffe://cluster.local/ns/my-ns/x/sa/my-sa/y"),
        Some("spiffe://cluster.local/ns/foo/sa/sa-only"),
        Some("spiffe://some-td/ns/rule/sa/a"),
        Some("spiffe://td1/ns/foo/sa/httpbin"),
        Some("spiffe://foobar/ns/foo/sa/bar"),
        Some("spiffe://other/ns/foo/sa/bar"),
        Some("spiffe://example.com/ns/foo/sa/bar"),
        Some("spiffe://bad.example.com/ns/foo/sa/bar"),
    ];
    let mut requests = Vec::new();
    for principal in principals {
        for (method, path, host) in [
            ("GET", "/", "example.com"),
            ("POST", "/exact", "foo.suffix.com"),
            ("GET", "/prefix/a", "exact.com"),
            ("GET", "/a/suffix", "prefix.com"),
            ("GET", "/path/template/x", "h"),
            ("GET", "/a/b/path/template", "h"),
        ] {
            requests.push(Asked {
                principal: principal.map(str::to_owned),
                method: method.into(),
                path: Some(path.into()),
                host: host.into(),
                ..anything()
            });
        }
    }
    let config = PluginConfig { policies: compiled.policies, ..config() };
    Some(Set { name: format!("generator: {name}"), config, native: Some(filters), requests })
}

fn anything() -> Asked {
    Asked {
        tcp: false,
        principal: None,
        source: IpAddr::from([10, 0, 0, 1]),
        destination: IpAddr::from([10, 0, 0, 2]),
        port: 8080,
        sni: None,
        method: "GET".into(),
        path: None,
        host: "a".into(),
        headers: Vec::new(),
        token: None,
    }
}

/// The same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Words of policies. Left out: namespaces and accounts in IDs of another form than `/ns/n/sa/a`, where Istio's
/// expressions match in the middle of any path; patterns by segments, header modes, which Istio does not have.
fn attribute(random: &mut Random) -> (Attribute, &'static [&'static str]) {
    let header = |name: &str| Attribute::Header { name: name.into(), mode: HeaderMode::Any };
    match random.below(17) {
        0..3 => (
            Attribute::Principal,
            &["*", "td/ns/a/sa/b", "td/ns/a/*", "*/sa/b", "td/*", "t*", "other/ns/b/sa/a", "*b"],
        ),
        3..6 => (
            Attribute::Path,
            &[
                "*",
                "/",
                "/a",
                "/a*",
                "/a/*",
                "*b",
                "*/b",
                "/{*}",
                "/a/{*}",
                "/{**}/b",
                "/a/{**}",
                "/a/{*}/{**}",
                "/a/{**}/b",
            ],
        ),
        6 => (Attribute::Method, &["GET", "P*", "*T", "*", "DELETE"]),
        7 => (Attribute::Host, &["A.example", "*.example", "a*", "*", "b:80", "*:80"]),
        8 => (Attribute::Namespace, &["a", "*", "a*", "*b", "b"]),
        9 => (Attribute::ServiceAccount, &["b", "a/b", "b/a"]),
        10 => (Attribute::TrustDomain, &["td", "other", "t*", "*r", "*"]),
        11 => (Attribute::RemoteIp, &["10.0.0.0/8", "10.0.0.1", "fd00::/8", "0.0.0.0/0", "::/0"]),
        12 => (Attribute::DestinationPort, &["8080", "443", "0"]),
        13 => (header("x-role"), &["admin", "ad*", "*in", "*", "a,b"]),
        14 => {
            (header([":authority", ":method", ":path"][random.below(3)]), &["a", "GET", "/a*", "*", "/a?b=c"])
        }
        15 => (
            Attribute::RequestPrincipal,
            &["*", "https://i/s", "https://i/*", "*/s", "htt*", "*s", "https://i/x/s"],
        ),
        _ => match random.below(4) {
            0 => (Attribute::Sni, &["a.example", "*.example", "a*", "*"]),
            1 => (Attribute::DestinationIp, &["10.0.0.0/8", "10.0.0.2", "fd00::2"]),
            2 => (Attribute::Claim("[groups]".into()), &["admin", "ad*", "*", "1"]),
            _ => (Attribute::Claim("[a][b]".into()), &["x", "*", "x*"]),
        },
    }
}

fn a_match(random: &mut Random) -> Match {
    let (attribute, words) = attribute(random);
    let count = 1 + random.below(3);
    let patterns = (0..count).map(|_| Pattern::parse(&attribute, random.pick(words), "a").unwrap()).collect();
    Match { attribute, negated: random.one_in(4), patterns }
}

fn is_of_from(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
            | Attribute::RemoteIp
            | Attribute::RequestPrincipal
    )
}

fn is_of_to(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Path | Attribute::Method | Attribute::Host | Attribute::DestinationPort)
}

fn a_rule(random: &mut Random) -> Rule {
    let mut rule = Rule::any();
    let (mut from, mut to, mut when) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..1 + random.below(3) {
        let one = a_match(random);
        match () {
            () if is_of_from(&one.attribute) && !random.one_in(5) => from.push(one),
            () if is_of_to(&one.attribute) => to.push(one),
            () => when.push(one),
        }
    }
    let mut clauses = |mut matches: Vec<Match>| {
        let rest = if matches.len() > 1 && random.one_in(3) { matches.split_off(1) } else { Vec::new() };
        let both = [matches, rest].into_iter().filter(|matches| !matches.is_empty());
        both.map(Clause::new).collect::<Vec<_>>()
    };
    rule.from = clauses(from);
    rule.to = clauses(to);
    rule.when = Clause::new(when);
    rule
}

fn a_policy(random: &mut Random, number: usize) -> AuthorizationPolicy {
    let action = if random.one_in(3) { Action::Deny } else { Action::Allow };
    let count = usize::from(action == Action::Deny) + random.below(3);
    AuthorizationPolicy {
        name: format!("a/p{number}").into(),
        action,
        dry_run: false,
        rules: (0..count).map(|_| a_rule(random)).collect(),
        deny_response: None,
    }
}

fn a_request(random: &mut Random) -> Asked {
    let ids = [
        "spiffe://td/ns/a/sa/b",
        "spiffe://td/ns/b/sa/b",
        "spiffe://td/ns/a/sa/a",
        "spiffe://other/ns/b/sa/a",
        "spiffe://t/ns/ab/sa/b",
        "spiffe://td/x",
    ];
    let tokens = [
        json!({"iss": "https://i", "sub": "s"}),
        json!({"iss": "https://i/x", "sub": "s", "groups": "admin"}),
        json!({"iss": "https://i", "sub": "x/s", "groups": ["other", "admin"]}),
        json!({"groups": ["admin", 1], "a": {"b": "x"}}),
        json!({"iss": "i", "groups": [], "a": {"b": ["y", "xx"]}}),
        json!({"groups": 1, "a": "x"}),
    ];
    let four = random.one_in(2);
    let address = |random: &mut Random, four: bool| -> IpAddr {
        let text =
            if four { ["10.0.0.1", "10.0.0.2", "192.0.2.1"] } else { ["fd00::1", "fd00::2", "2001:db8::1"] };
        random.pick(&text).parse().unwrap()
    };
    let mut headers = Vec::new();
    for _ in 0..random.below(3) {
        headers.push(("x-role".to_owned(), random.pick(&["admin", "a", "b", "", "xin"]).to_owned()));
    }
    Asked {
        tcp: random.one_in(5),
        principal: (!random.one_in(5)).then(|| random.pick(&ids).to_owned()),
        source: address(random, four),
        destination: address(random, four),
        port: random.pick(&[8080, 443, 1]),
        sni: random.pick(&[None, Some("a.example"), Some("b.example"), Some("x")]).map(str::to_owned),
        method: random.pick(&["GET", "POST", "PUT", "DELETE"]).to_owned(),
        path: Some(
            random
                .pick(&[
                    "/",
                    "/a",
                    "/a/",
                    "/a/b",
                    "/ab",
                    "/a/x/b",
                    "/a/b/c",
                    "/b",
                    "/a?b=c",
                    "/a/b?x=//",
                    "/a/%41",
                    "/x/b",
                    "/a;x/b",
                ])
                .to_owned(),
        ),
        host: random.pick(&["a", "a.example", "A.EXAMPLE", "b:80", "x.example:80"]).to_owned(),
        headers,
        token: (!random.one_in(3)).then(|| tokens[random.below(tokens.len())].clone()),
    }
}

/// Claims of every kind of JSON, told apart as native RBAC does, which sees them whole.
pub fn claims() -> Vec<Set> {
    let values = [
        json!("admin"),
        json!(["admin"]),
        json!(["other", "admin"]),
        json!([]),
        json!(["0"]),
        json!(["0", "00"]),
        json!({ "admin": "" }),
        json!({ "admin": "", "0": "" }),
        json!({ "0": "" }),
        json!({ "admin": "admin" }),
        json!({}),
        json!([["admin"]]),
        json!(1),
        json!(1.1),
        json!(true),
        json!(null),
        json!("ädmin"),
    ];
    let set = |pattern: &str, negated: bool| {
        let attribute = Attribute::Claim("[groups]".into());
        let patterns = vec![Pattern::parse(&attribute, pattern, "a").unwrap()];
        let rule = Rule { when: Clause::new(vec![Match { attribute, negated, patterns }]), ..Rule::any() };
        let policy = AuthorizationPolicy {
            name: "a/p".into(),
            action: Action::Allow,
            dry_run: false,
            rules: vec![rule],
            deny_response: None,
        };
        let asked = |value: &Value| Asked {
            path: Some("/".into()),
            token: Some(json!({ "iss": "i", "groups": value })),
            ..anything()
        };
        Set {
            name: format!("claims: {}{pattern}", if negated { "not " } else { "" }),
            config: PluginConfig { policies: vec![policy], ..config() },
            native: None,
            requests: values.iter().map(asked).collect(),
        }
    };
    ["admin", "*", "0", "ad*", "*n"]
        .iter()
        .flat_map(|pattern| [set(pattern, false), set(pattern, true)])
        .collect()
}

/// Sets of up to four policies over few words, so that much matches.
pub fn generated(sets: usize, requests: usize) -> Vec<Set> {
    let mut random = Random(7);
    let set = |number: usize, random: &mut Random| {
        let policies = (0..1 + random.below(4)).map(|number| a_policy(random, number)).collect();
        Set {
            name: format!("generated {number}"),
            config: PluginConfig { policies, ..config() },
            native: None,
            requests: (0..requests).map(|_| a_request(random)).collect(),
        }
    };
    (0..sets).map(|number| set(number, &mut random)).collect()
}

//! The index agrees with the interpreter, on generated policies and requests over few words, so that much matches.
//!
//! 5,000 policy sets by default; `MESHWARD_CASES=2000000 cargo test --release -p meshward-engine agree` for more.

use super::*;
use crate::config::{AcceptedPeers, AuthorizationPolicy, PathGuard, Revoked, Role, Selector, TrustDomain};
use crate::policy::Policy;

/// Requests for each policy set.
const REQUESTS: usize = 16;

/// A generator of our own: the same cases everywhere, and fast enough for millions of them.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const METHODS: [&str; 5] = ["GET", "*", "P*", "*T", "POST"];
const HOSTS: [&str; 6] = ["a.Example", "*.example", "A*", "*", "b:80", "*:80"];
const DOMAINS: [&str; 3] = ["td", "old", "other"];
const PRINCIPALS: [&str; 14] = [
    "*",
    "td/ns/a/sa/b",
    "cluster.local/ns/a/sa/b",
    "old/ns/b/sa/a",
    "other/ns/a/sa/b",
    "td/ns/a/*",
    "td/*",
    "t*",
    "*/sa/b",
    "*b",
    "spiffe://td/ns/*/sa/b",
    "spiffe://*/ns/a/sa/*",
    "spiffe://other/*/a/sa/*",
    "td/x",
];
const PATHS: [&str; 20] = [
    "*",
    "/",
    "/a",
    "/a/b",
    "/a*",
    "/a/*",
    "*b",
    "*/b",
    "/{*}",
    "/a/{*}",
    "/{*}/b",
    "/{**}",
    "/a/{**}",
    "/{**}/b",
    "/a/{*}/{**}",
    "/{*}/{*}",
    "/a/{**}/b",
    "/a/{*}/b",
    "/b",
    "/ab",
];
const REQUEST_PATHS: [&str; 24] = [
    "/", "/a", "/a/", "/a/b", "/ab", "/a/a/b", "/a/b/b", "/b/b", "/a?b=c", "/a/b?x", "/a/é", "/a/x|y/b",
    "/a;x/b", "/a/b;p=q", "/b", "/a/a/a/b", "/a//b", "/a/../b", "*", "", "x", "/a/%2fb", "/;/b", "/a/|/b",
];
const IDS: [&str; 12] = [
    "spiffe://td/ns/a/sa/b",
    "spiffe://td/ns/b/sa/b",
    "spiffe://td/ns/a/sa/a",
    "spiffe://old/ns/a/sa/b",
    "spiffe://old/ns/b/sa/a",
    "spiffe://other/ns/a/sa/b",
    "spiffe://td/ns/a/x/sa/b/y",
    "spiffe://td/x",
    "spiffe://td/ns/a",
    "spiffe://td/sa/b",
    "spiffe://t/ns/ab/sa/b",
    "spiffe://other/x/a/sa/b",
];

fn attribute(random: &mut Random) -> Attribute {
    let header = |random: &mut Random| Attribute::Header {
        name: random.pick(&["x-a", ":path", ":method", "x-b", ":authority"]).into(),
        mode: [HeaderMode::Joined, HeaderMode::Any, HeaderMode::All][random.below(3)],
    };
    match random.below(22) {
        0..5 => Attribute::Principal,
        5..9 => Attribute::Path,
        9..11 => Attribute::Method,
        11 => Attribute::Namespace,
        12 => Attribute::ServiceAccount,
        13 => Attribute::TrustDomain,
        14 => [Attribute::SourceIp, Attribute::RemoteIp, Attribute::DestinationIp][random.below(3)].clone(),
        15 => Attribute::RequestPrincipal,
        16 => Attribute::Host,
        17 => Attribute::DestinationPort,
        18 => Attribute::Sni,
        19 => [Attribute::Claim("[a]".into()), Attribute::Metadata("f[k]".into())][random.below(2)].clone(),
        _ => header(random),
    }
}

fn pattern(random: &mut Random, attribute: &Attribute) -> Pattern {
    let text = match attribute {
        Attribute::Principal => random.pick(&PRINCIPALS),
        Attribute::Path => random.pick(&PATHS),
        Attribute::Method => random.pick(&METHODS),
        Attribute::Host => random.pick(&HOSTS),
        Attribute::Namespace => random.pick(&["a", "*", "a*", "*b", "a*b", "b"]),
        Attribute::TrustDomain => random.pick(&["td", "*", "o*", "*r", "o*r"]),
        Attribute::ServiceAccount => random.pick(&["a/b", "b/a", "b"]),
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => random.pick(&[
            "10.0.0.1",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "fd00::/8",
            "fd00::1",
            "10.0.0.0/31",
            "::ffff:10.0.0.0/120",
        ]),
        Attribute::DestinationPort => random.pick(&["80", "0", "443"]),
        _ => random.pick(&["a", "*", "a*", "*a", "b", "a,b", "i/s", "/a", "GET"]),
    };
    Pattern::parse(attribute, text, "a").unwrap()
}

fn clause(random: &mut Random) -> Clause {
    let matches = (0..1 + random.below(3)).map(|_| {
        let attribute = attribute(random);
        let count = if random.one_in(40) { 12 } else { 1 + random.below(3) };
        let patterns = (0..count).map(|_| pattern(random, &attribute)).collect();
        Match { attribute, negated: random.one_in(6), patterns }
    });
    Clause::new(matches.collect())
}

fn rule(random: &mut Random) -> Rule {
    let clauses = |random: &mut Random| {
        let count = [0, 1, 1, 1, 2, 3][random.below(6)];
        (0..count).map(|_| clause(random)).collect()
    };
    let when = if random.one_in(4) { clause(random) } else { Clause::always() };
    Rule { from: clauses(random), to: clauses(random), when }
}

fn config(random: &mut Random) -> PluginConfig {
    let domain = |text: &str| TrustDomain::parse(text).unwrap();
    let protocol = if random.one_in(5) { Protocol::Tcp } else { Protocol::Http };
    let mut config = PluginConfig::deny_all("a/b", Role::Inbound, protocol, domain("td"));
    if random.one_in(2) {
        config.trust_domain_aliases.push(domain("old"));
    }
    config.accepted_peers = match random.below(4) {
        0 => AcceptedPeers::OwnAnd(vec![]),
        1 => AcceptedPeers::OwnAnd(vec![domain(random.pick(&DOMAINS))]),
        _ => AcceptedPeers::AnyTrustDomain,
    };
    config.identity = if random.one_in(3) { IdentityMode::Required } else { IdentityMode::Optional };
    config.default_action = if random.one_in(2) { DefaultAction::Allow } else { DefaultAction::Deny };
    config.path_guard = PathGuard {
        mode: [GuardMode::Never, GuardMode::Never, GuardMode::WhenPathsMatter, GuardMode::Always]
            [random.below(4)],
        path_params: [PathParams::Strip, PathParams::Keep, PathParams::Reject][random.below(3)],
    };
    if random.one_in(10) {
        config.revoked = Revoked {
            serials: (0..random.below(2)).map(|_| vec![1]).collect(),
            ids: (0..random.below(3)).map(|_| random.pick(&IDS).into()).collect(),
        };
    }
    // Few rules often, and now and then so many that they are filed under pairs.
    let rules = if random.one_in(20) { 40 } else { 3 };
    config.policies = (0..random.below(6))
        .map(|_| {
            let action = [Action::Allow, Action::Allow, Action::Deny, Action::Audit][random.below(4)];
            let fewest = usize::from(action == Action::Deny);
            AuthorizationPolicy {
                name: random.pick(&["a/p", "a/q", "a-b/p", "b/p", "a/p-1"]).into(),
                action,
                dry_run: random.one_in(4),
                rules: (0..fewest + random.below(rules)).map(|_| rule(random)).collect(),
                deny_response: None,
            }
        })
        .collect();
    config.selectors = (0..random.below(3))
        .map(|_| Selector { rules: (0..random.below(3)).map(|_| rule(random)).collect() })
        .collect();
    config
}

fn fields<'a>(random: &mut Random, names: &[&'a str]) -> Vec<Field<'a>> {
    let values = ["a", "b", "", "ab", "a,b", "\u{fc}"];
    (0..random.below(4))
        .map(|_| Field { name: random.pick(names), value: random.pick(&values).as_bytes() })
        .collect()
}

fn maybe<'a>(random: &mut Random, from: &[&'a str]) -> Option<&'a [u8]> {
    (!random.one_in(6)).then(|| random.pick(from).as_bytes())
}

fn address(random: &mut Random) -> Option<IpAddr> {
    let text = random.pick(&["10.0.0.1", "10.0.0.2", "11.0.0.1", "::ffff:10.0.0.1", "fd00::1", "::1", ""]);
    text.parse().ok()
}

/// Calls `check` with some requests.
fn requests(random: &mut Random, mut check: impl FnMut(&Request)) {
    for _ in 0..REQUESTS {
        let headers = fields(random, &["x-a", "x-b"]);
        let claims = fields(random, &["[a]", "[b]"]);
        let metadata = fields(random, &["f[k]", "[a]"]);
        let peer = match random.below(12) {
            0 => Peer::Absent,
            1 => Peer::Invalid,
            _ => Peer::Verified(SpiffeIdRef::parse(random.pick(&IDS).as_bytes()).unwrap()),
        };
        check(&Request {
            peer,
            serial: maybe(random, &["\u{1}", "\u{2}"]),
            source_ip: address(random),
            remote_ip: address(random),
            destination_ip: address(random),
            destination_port: [None, Some(80), Some(443), Some(0)][random.below(4)],
            sni: maybe(random, &["a", "b", "", "ab"]),
            method: maybe(random, &["GET", "POST", "PUT", ""]),
            path: maybe(random, &REQUEST_PATHS),
            authority: maybe(random, &["a.example", "A.EXAMPLE", "b:80", "x", ""]),
            headers: &headers,
            request_principal: maybe(random, &["i/s", "a", "b", ""]),
            claims: &claims,
            metadata: &metadata,
        });
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how many cases is the caller's to say; the engine reads no environment"
)]
fn the_index_and_the_interpreter_agree() {
    let cases = std::env::var("MESHWARD_CASES").map_or(5_000, |cases| cases.parse().unwrap());
    let seed = std::env::var("MESHWARD_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut reasons = std::collections::BTreeMap::new();
    for case in 0..cases {
        let mut random = Random(seed ^ (case as u64) << 20);
        let config = config(&mut random);
        let policy = Policy::compile(&config).unwrap();
        requests(&mut random, |request| {
            let decision = policy.decide(request);
            assert_eq!(decision, decide(&config, request), "case {case}\n{config:#?}\n{request:#?}");
            *reasons.entry(decision.reason.as_str()).or_insert(0u64) += 1;
            let mut selected = vec![false; config.selectors.len()];
            policy.selects(request, |number| selected[number] = true);
            let expected: Vec<bool> =
                (0..selected.len()).map(|number| selects(&config, number, request)).collect();
            assert_eq!(selected, expected, "case {case}\n{config:#?}\n{request:#?}");
        });
        // The wire says the same.
        if case % 16 == 0 {
            assert_eq!(PluginConfig::decode(&config.encode().unwrap()), Ok(config));
        }
    }
    // A generator that makes nothing match would prove nothing.
    let least = u64::try_from(cases).unwrap() / 20;
    for reason in ["allow_rule", "deny_rule", "no_allow_rule", "default_allow", "default_deny", "path"] {
        assert!(reasons.get(reason).is_some_and(|count| *count >= least), "{reason}: {reasons:?}");
    }
}

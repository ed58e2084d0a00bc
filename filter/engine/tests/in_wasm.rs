//! The engine with 32-bit pointers, in V8: the same answers as on the host. The same tests run natively too.
//!
//! `tests/tests/engine_in_wasm.rs` compiles this for wasm32-unknown-unknown and runs it in Node; by hand it is
//! `cargo test -p meshward-engine --features oracle --test in_wasm`.

use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, Match, Pattern, PluginConfig, Protocol, Role, Rule,
    TrustDomain,
};
use meshward_engine::oracle;
use meshward_engine::policy::Policy;
use meshward_engine::rate_limit::{Rate, RateError};
use meshward_engine::request::{Peer, Request};
use meshward_engine::spiffe::SpiffeIdRef;
use wasm_bindgen_test::wasm_bindgen_test;

/// Numbers that are the same in every run and on every machine (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % bound as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const PRINCIPALS: [&str; 7] = [
    "*",
    "td/ns/a/sa/b",
    "td/ns/a/*",
    "*/sa/b",
    "spiffe://td/ns/*/sa/b",
    "old/ns/a/sa/a",
    "cluster.local/ns/b/sa/b",
];
const METHODS: [&str; 4] = ["GET", "P*", "*T", "*"];
const PATHS: [&str; 8] = ["*", "/a", "/a/*", "*/b", "/a/{*}", "/{*}/b", "/a/{**}", "/{**}/b"];
const CALLERS: [&str; 5] = [
    "spiffe://td/ns/a/sa/b",
    "spiffe://td/ns/a/sa/a",
    "spiffe://td/ns/b/sa/b",
    "spiffe://old/ns/a/sa/a",
    "spiffe://td/x",
];
const CALLED: [&str; 8] = ["/", "/a", "/a/b", "/a/b?c=d", "/a//b", "/c/b", "/a/x/y/b", "/a/%2fb"];

fn one(attribute: Attribute, text: &str, negated: bool) -> Clause {
    let patterns = vec![Pattern::parse(&attribute, text, "a").unwrap()];
    Clause::new(vec![Match { attribute, negated, patterns }])
}

fn rule(numbers: &mut Numbers) -> Rule {
    let negated = numbers.below(6) == 0;
    let mut rule = Rule::any();
    if numbers.below(5) > 0 {
        rule.from.push(one(Attribute::Principal, numbers.pick(&PRINCIPALS), negated));
    }
    if numbers.below(3) > 0 {
        rule.to.push(one(Attribute::Path, numbers.pick(&PATHS), false));
    }
    if numbers.below(3) == 0 {
        rule.to.push(one(Attribute::Method, numbers.pick(&METHODS), false));
    }
    rule
}

fn configuration(numbers: &mut Numbers) -> PluginConfig {
    let domain = |name| TrustDomain::parse(name).unwrap();
    let mut config = PluginConfig::deny_all("a/w", Role::Inbound, Protocol::Http, domain("td"));
    config.trust_domain_aliases = vec![domain("old")];
    for number in 0..numbers.below(6) {
        config.policies.push(AuthorizationPolicy {
            name: format!("a/p{number}").into(),
            action: [Action::Allow, Action::Allow, Action::Deny, Action::Audit][numbers.below(4)],
            dry_run: numbers.below(5) == 0,
            rules: (0..=numbers.below(4)).map(|_| rule(numbers)).collect(),
            deny_response: None,
        });
    }
    config
}

#[wasm_bindgen_test(unsupported = test)]
fn the_index_agrees_with_the_interpreter() {
    let mut numbers = Numbers(7);
    let (mut allowed, mut denied) = (0, 0);
    for _ in 0..500 {
        let config = configuration(&mut numbers);
        let policy = Policy::compile(&config).unwrap();
        for _ in 0..20 {
            let caller = numbers.pick(&CALLERS);
            let request = Request {
                peer: Peer::Verified(SpiffeIdRef::parse(caller.as_bytes()).unwrap()),
                method: Some(numbers.pick(&["GET", "POST", "PUT"]).as_bytes()),
                path: Some(numbers.pick(&CALLED).as_bytes()),
                ..Request::EMPTY
            };
            let decision = policy.decide(&request);
            assert_eq!(decision, oracle::decide(&config, &request), "{config:?}\n{request:?}");
            if decision.is_allowed() { allowed += 1 } else { denied += 1 }
        }
    }
    assert!(
        allowed > 1000 && denied > 1000,
        "{allowed} allowed, {denied} denied: too few of one to say anything"
    );
}

#[wasm_bindgen_test(unsupported = test)]
fn a_configuration_survives_the_wire() {
    let mut numbers = Numbers(11);
    for _ in 0..200 {
        let config = configuration(&mut numbers);
        let bytes = config.encode().unwrap();
        assert_eq!(PluginConfig::decode(&bytes).unwrap(), config);
        // Cut off anywhere it is refused, and never a panic.
        let end = numbers.below(bytes.len());
        assert!(PluginConfig::decode(&bytes[..end]).is_err());
    }
}

#[wasm_bindgen_test(unsupported = test)]
fn spiffe_ids_are_read_to_the_letter() {
    for good in ["spiffe://td/x", "spiffe://a.b-c_1/ns/a/sa/b"] {
        assert!(SpiffeIdRef::parse(good.as_bytes()).is_ok(), "{good}");
    }
    for bad in [
        "",
        "spiffe://",
        "spiffe://TD/x",
        "spiffe://td/",
        "spiffe://td//x",
        "spiffe://td/../x",
        "spiffe://td:1/x",
        "http://td/x",
    ] {
        assert!(SpiffeIdRef::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

/// `usize` has 32 bits in wasm; what counts time must not.
#[wasm_bindgen_test(unsupported = test)]
fn rates_count_in_64_bits() {
    const SECOND: u64 = 1_000_000_000;
    // 136 years from empty to full, and one second more per token than the clock can hold.
    assert_eq!(Rate::new(1, SECOND, u32::MAX).unwrap().burst(), u32::MAX);
    assert_eq!(Rate::new(1, 2 * SECOND, u32::MAX), Err(RateError::TooSlow));
    assert_eq!(Rate::new(u32::MAX, 1, 1), Err(RateError::TooFast));
}

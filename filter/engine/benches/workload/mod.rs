//! Policies and requests to measure with: deterministic, of any number.

use meshward_engine::config::{
    Action, Attribute, AuthorizationPolicy, Clause, Match, PluginConfig, Protocol, Role, Rule, TrustDomain,
};
use meshward_engine::pattern::Pattern;
use meshward_engine::request::{Peer, Request};
use meshward_engine::spiffe::SpiffeIdRef;

/// What the rules compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One exact principal a rule, a method, an exact path.
    Exact,
    /// Principals exact, by prefix, by suffix and by segments; one or several methods; templates, prefixes and exact
    /// paths. Every tenth policy is a DENY.
    Mixed,
}

/// Rules of each policy.
pub const RULES: usize = 3;

/// One value of many.
pub fn spread(number: usize, salt: u64, of: usize) -> usize {
    let mut z = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt << 32);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((z ^ z >> 31) % of as u64).unwrap_or(0)
}

/// The texts of one rule, from which the request that it allows is made as well.
#[derive(Clone, Debug)]
pub struct RuleTexts {
    /// As in a policy, and one that it matches.
    pub principal: (String, String),
    /// As in a policy; the first is what the request has.
    pub methods: Vec<&'static str>,
    /// As in a policy, and one that it matches.
    pub path: (String, String),
}

/// Rule `rule` of policy `policy`.
pub fn rule_texts(kind: Kind, policy: usize, rule: usize) -> RuleTexts {
    let number = policy * RULES + rule;
    let (namespace, account) = (format!("team-{}", number % 200), format!("svc-{number}"));
    let id = format!("cluster.local/ns/{namespace}/sa/{account}");
    let resource = format!("/api/v1/resource-{number}");
    if kind == Kind::Exact {
        return RuleTexts {
            principal: (id.clone(), id),
            methods: vec!["GET"],
            path: (resource.clone(), resource),
        };
    }
    let principal = match spread(number, 1, 10) {
        0..6 => id.clone(),
        6 => format!("cluster.local/ns/{namespace}/*"),
        7 => format!("spiffe://cluster.local/ns/*/sa/{account}"),
        8 => format!("*/sa/{account}"),
        _ => "*".to_owned(),
    };
    let path = match spread(number, 2, 10) {
        0..3 => (format!("{resource}/items/{{*}}"), format!("{resource}/items/42")),
        3..5 => (format!("/api/{{*}}/resource-{number}/{{**}}"), format!("{resource}/a/b")),
        5..7 => (format!("{resource}/*"), format!("{resource}/x")),
        7 => (format!("*/report-{number}"), format!("/api/v2/report-{number}")),
        8 => ("/api/v1/health/{*}".to_owned(), "/api/v1/health/live".to_owned()),
        _ => (resource.clone(), resource),
    };
    let methods = match spread(number, 3, 3) {
        0 => vec!["GET"],
        1 => vec!["GET", "HEAD"],
        _ => vec!["POST", "PUT", "PATCH"],
    };
    RuleTexts { principal: (principal, id), methods, path }
}

/// Whether a policy is a DENY.
pub fn denies(kind: Kind, policy: usize) -> bool {
    kind == Kind::Mixed && policy % 10 == 9
}

/// A configuration of `count` policies of [`RULES`] rules.
pub fn config(kind: Kind, count: usize) -> PluginConfig {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let mut config = PluginConfig::deny_all("shop/api", Role::Inbound, Protocol::Http, domain);
    let is = |attribute: Attribute, texts: &[&str]| {
        let patterns = texts.iter().map(|text| Pattern::parse(&attribute, text, "shop").unwrap()).collect();
        Match { attribute, negated: false, patterns }
    };
    config.policies = (0..count)
        .map(|policy| AuthorizationPolicy {
            name: format!("shop/policy-{policy}").into(),
            action: if denies(kind, policy) { Action::Deny } else { Action::Allow },
            dry_run: false,
            rules: (0..RULES)
                .map(|rule| {
                    let texts = rule_texts(kind, policy, rule);
                    let from = Clause::new(vec![is(Attribute::Principal, &[&texts.principal.0])]);
                    let to = Clause::new(vec![
                        is(Attribute::Method, &texts.methods),
                        is(Attribute::Path, &[&texts.path.0]),
                    ]);
                    Rule { from: vec![from], to: vec![to], when: Clause::always() }
                })
                .collect(),
            deny_response: None,
        })
        .collect();
    config
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Call {
    /// SPIFFE ID.
    pub id: String,
    /// `:method`.
    pub method: &'static str,
    /// `:path`.
    pub path: String,
}

impl Call {
    /// As the engine sees it.
    pub fn request(&self) -> Request<'_> {
        Request {
            peer: Peer::Verified(SpiffeIdRef::parse(self.id.as_bytes()).unwrap()),
            method: Some(self.method.as_bytes()),
            path: Some(self.path.as_bytes()),
            ..Request::EMPTY
        }
    }
}

/// `number` calls: half are what some rule describes, half ask for what is another's.
pub fn calls(kind: Kind, policies: usize, number: usize) -> Vec<Call> {
    (0..number)
        .map(|call| {
            let texts = |salt| rule_texts(kind, spread(call, salt, policies), spread(call, salt + 1, RULES));
            let mine = texts(10);
            let path = if call % 2 == 0 { mine.path.1.clone() } else { texts(20).path.1 };
            Call { id: format!("spiffe://{}", mine.principal.1), method: mine.methods[0], path }
        })
        .collect()
}

//! What the evaluation order, attribution and each way out of it do.

use super::*;
use crate::config::{
    AcceptedPeers, Attribute, AuthorizationPolicy, DefaultAction, IdentityMode, Match, Role, TrustDomain,
};
use crate::decision::{Shadow, ShadowAllow};
use crate::request::Peer;
use crate::spiffe::SpiffeIdRef;

fn config() -> PluginConfig {
    let td = TrustDomain::parse("td").unwrap();
    PluginConfig::deny_all("web/shop", Role::Inbound, Protocol::Http, td)
}

fn one(attribute: Attribute, text: &str) -> Match {
    let pattern = Pattern::parse(&attribute, text, "own").unwrap();
    Match { attribute, negated: false, patterns: vec![pattern] }
}

fn rule(from: &str, method: &str, path: &str) -> Rule {
    Rule {
        from: vec![Clause::new(vec![one(Attribute::Principal, from)])],
        to: vec![Clause::new(vec![one(Attribute::Method, method), one(Attribute::Path, path)])],
        when: Clause::always(),
    }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy { name: name.into(), action, dry_run: false, rules, deny_response: None }
}

fn request<'a>(peer: &'a str, method: &'a str, path: &'a str) -> Request<'a> {
    Request {
        peer: SpiffeIdRef::parse(peer.as_bytes()).map_or(Peer::Absent, Peer::Verified),
        method: Some(method.as_bytes()),
        path: Some(path.as_bytes()),
        ..Request::EMPTY
    }
}

fn decide(config: &PluginConfig, request: &Request) -> (Reason, Option<RuleRef>) {
    let decision = Policy::compile(config).unwrap().decide(request);
    (decision.reason, decision.rule)
}

const SHOP: &str = "spiffe://td/ns/a/sa/shop";

#[test]
fn deny_before_allow_before_default() {
    let mut config = config();
    assert_eq!(decide(&config, &request(SHOP, "GET", "/")), (Reason::DefaultDeny, None));
    config.default_action = DefaultAction::Allow;
    assert_eq!(decide(&config, &request(SHOP, "GET", "/")), (Reason::DefaultAllow, None));
    config.policies = vec![
        policy("web/allow", Action::Allow, vec![rule("td/ns/a/sa/shop", "GET", "/books/{*}")]),
        policy("web/deny", Action::Deny, vec![rule("*", "*", "/books/secret")]),
    ];
    let rule = |policy| Some(RuleRef { policy, rule: 0 });
    assert_eq!(decide(&config, &request(SHOP, "GET", "/books/1?x=y")), (Reason::AllowRule, rule(0)));
    assert_eq!(decide(&config, &request(SHOP, "GET", "/books/secret")), (Reason::DenyRule, rule(1)));
    assert_eq!(decide(&config, &request(SHOP, "PUT", "/books/1")), (Reason::NoAllowRule, None));
    assert_eq!(
        decide(&config, &request("spiffe://td/ns/a/sa/b", "GET", "/books/1")),
        (Reason::NoAllowRule, None)
    );
}

#[test]
fn who_is_refused_before_the_policies() {
    let mut config = config();
    config.policies = vec![policy("web/all", Action::Allow, vec![Rule::any()])];
    let allowed = (Reason::AllowRule, Some(RuleRef { policy: 0, rule: 0 }));
    assert_eq!(decide(&config, &request(SHOP, "GET", "/")), allowed);
    assert_eq!(decide(&config, &request("", "GET", "/")), (Reason::NoIdentity, None));
    let other = request("spiffe://other/ns/a/sa/shop", "GET", "/");
    assert_eq!(decide(&config, &other), (Reason::ForeignTrustDomain, None));
    let invalid = Request { peer: Peer::Invalid, ..request(SHOP, "GET", "/") };
    assert_eq!(decide(&config, &invalid), (Reason::InvalidIdentity, None));
    config.revoked.serials = vec![vec![1, 2]];
    let with_serial = |serial| Request { serial, ..request(SHOP, "GET", "/") };
    assert_eq!(decide(&config, &with_serial(Some(&[1, 2]))), (Reason::Revoked, None));
    assert_eq!(decide(&config, &with_serial(None)), (Reason::Revoked, None));
    assert_eq!(decide(&config, &with_serial(Some(&[1, 3]))), allowed);
    config.revoked.ids = vec![SHOP.into()];
    assert_eq!(decide(&config, &with_serial(Some(&[1, 3]))), (Reason::Revoked, None));
    config.identity = IdentityMode::Optional;
    config.accepted_peers = AcceptedPeers::AnyTrustDomain;
    assert_eq!(decide(&config, &request("", "GET", "/")), allowed);
    assert_eq!(decide(&config, &invalid), (Reason::InvalidIdentity, None));
}

#[test]
fn the_path_guard_comes_first_when_paths_matter() {
    let mut config = config();
    config.policies = vec![policy("web/all", Action::Allow, vec![Rule::any()])];
    assert!(Policy::compile(&config).unwrap().decide(&request(SHOP, "GET", "/a//b")).is_allowed());
    config.policies.push(policy("web/one", Action::Deny, vec![rule("*", "*", "/secret")]));
    let decision = Policy::compile(&config).unwrap().decide(&request(SHOP, "GET", "/a//secret"));
    assert_eq!((decision.status(), decision.reason.as_str()), (400, "path"));
    assert_eq!(decide(&config, &request(SHOP, "GET", "/secret;x=1")).0, Reason::DenyRule);
}

#[test]
fn dry_run_and_audit_change_nothing() {
    let mut config = config();
    let mut deny = policy("web/deny", Action::Deny, vec![Rule::any()]);
    deny.dry_run = true;
    let mut allow = policy("web/allow", Action::Allow, vec![rule("nobody", "*", "*")]);
    allow.dry_run = true;
    config.policies = vec![deny, allow, policy("web/audit", Action::Audit, vec![Rule::any()])];
    config.default_action = DefaultAction::Allow;
    let decision = Policy::compile(&config).unwrap().decide(&request(SHOP, "GET", "/"));
    assert_eq!(decision.reason, Reason::DefaultAllow);
    assert_eq!(decision.audit, Some(RuleRef { policy: 2, rule: 0 }));
    let shadow = Shadow { deny: Some(RuleRef { policy: 0, rule: 0 }), allow: Some(ShadowAllow::Missed) };
    assert_eq!(decision.shadow, shadow);
}

#[test]
fn attribution_is_lexicographic() {
    let mut config = config();
    let never = rule("nobody", "GET", "/");
    let mut rules = vec![never; 11];
    rules[2] = Rule::any();
    rules[10] = Rule::any();
    config.policies =
        vec![policy("web/b", Action::Allow, vec![Rule::any()]), policy("web/a", Action::Allow, rules)];
    assert_eq!(decide(&config, &request(SHOP, "GET", "/")).1, Some(RuleRef { policy: 1, rule: 10 }));
}

#[test]
fn aliases_of_the_trust_domain() {
    let mut config = config();
    config.trust_domain_aliases = vec![TrustDomain::parse("old").unwrap()];
    for text in ["cluster.local/ns/a/sa/shop", "td/ns/a/sa/*", "old/ns/a/sa/shop", "spiffe://td/ns/*/sa/shop"]
    {
        config.policies = vec![policy("web/a", Action::Allow, vec![rule(text, "GET", "*")])];
        for domain in ["td", "old"] {
            let peer = format!("spiffe://{domain}/ns/a/sa/shop");
            assert_eq!(decide(&config, &request(&peer, "GET", "/")).0, Reason::AllowRule, "{text} {peer}");
        }
    }
    // As in Istio, what is shorter than a whole principal means the one trust domain.
    config.policies = vec![policy("web/a", Action::Allow, vec![rule("td/ns/a/*", "GET", "*")])];
    assert_eq!(decide(&config, &request("spiffe://old/ns/a/sa/shop", "GET", "/")).0, Reason::NoAllowRule);
}

#[test]
fn on_tcp_http_fields_narrow_allow_and_widen_deny() {
    let mut config = config();
    config.protocol = Protocol::Tcp;
    let connection = Request { method: None, path: None, ..request(SHOP, "", "") };
    config.policies = vec![policy("web/a", Action::Allow, vec![rule("td/*", "GET", "/")])];
    assert_eq!(decide(&config, &connection).0, Reason::NoAllowRule);
    assert!(!Policy::compile(&config).unwrap().needs().path);
    config.policies = vec![policy("web/a", Action::Deny, vec![rule("td/*", "GET", "/")])];
    assert_eq!(decide(&config, &connection).0, Reason::DenyRule);
}

#[test]
fn nonsense_is_refused_with_its_place() {
    let mut config = config();
    let port = Match { attribute: Attribute::DestinationPort, negated: false, patterns: vec![Pattern::Any] };
    let wrong = Rule { from: vec![], to: vec![Clause::new(vec![port])], when: Clause::always() };
    config.policies = vec![policy("web/a", Action::Allow, vec![Rule::any(), wrong])];
    let error = Policy::compile(&config).unwrap_err().to_string();
    assert_eq!(error, "policy `web/a` rule 1: a value is not of the kind that its field takes");
    config.policies = vec![policy("web/a", Action::Deny, vec![])];
    assert!(Policy::compile(&config).is_err());
}

#[test]
fn selectors_share_the_language() {
    let mut config = config();
    let selector = |rules| crate::config::Selector { rules };
    config.selectors =
        vec![selector(vec![rule("td/*", "GET", "/a*")]), selector(vec![]), selector(vec![Rule::any()])];
    let policy = Policy::compile(&config).unwrap();
    let selected = |path| {
        let mut numbers = Vec::new();
        policy.selects(&request(SHOP, "GET", path), |number| numbers.push(number));
        numbers
    };
    assert_eq!(selected("/ab"), [0, 2]);
    assert_eq!(selected("/b"), [2]);
}

#[test]
fn a_denial_names_what_came_nearest() {
    let mut config = config();
    config.policies = vec![
        policy("web/others", Action::Allow, vec![rule("td/ns/x/sa/x", "GET", "/books/*")]),
        policy("web/readers", Action::Allow, vec![Rule::any(), rule("td/ns/a/sa/shop", "GET", "/books/*")]),
    ];
    config.policies[1].rules[0].from = vec![Clause::new(vec![one(Attribute::Principal, "td/nobody")])];
    let policy = Policy::compile(&config).unwrap();
    let explanation = policy.explain(&request(SHOP, "DELETE", "/books/1"));
    assert_eq!(
        explanation.summary,
        "no rule of an ALLOW policy matches; nearest: policy `web/readers` rule 1 matched principals, paths and failed \
         methods: DELETE is not in [GET]"
    );
    let miss = explanation.nearest_miss.unwrap();
    assert_eq!(miss.rule, RuleRef { policy: 1, rule: 1 });
    assert_eq!(miss.failed, [("methods".to_owned(), "DELETE is not in [GET]".to_owned())]);
    let summary = |request: &Request| policy.explain(request).summary;
    assert_eq!(summary(&request(SHOP, "GET", "/books/1")), "allowed by policy `web/readers` rule 1");
    let foreign = request("spiffe://other/a", "GET", "/books/1");
    assert_eq!(summary(&foreign), "the caller's trust domain is not accepted: spiffe://other/a");
    assert_eq!(summary(&request(SHOP, "GET", "//")), "the path could be read in two ways: empty_segment");
}

#[test]
fn what_holds_because_nothing_is_there_is_not_near() {
    let mut config = config();
    let somewhere = one(Attribute::SourceIp, "10.0.0.1");
    let mut other = rule("td/nobody", "GET", "/other");
    other.from = vec![Clause::new(vec![Match { negated: true, ..somewhere }])];
    let mut books = rule("td/ns/x/sa/x", "DELETE", "/books/*");
    books.to = vec![Clause::new(vec![one(Attribute::Path, "/books/*")])];
    config.policies = vec![policy("web/a", Action::Allow, vec![other, books])];
    let explanation = Policy::compile(&config).unwrap().explain(&request(SHOP, "DELETE", "/books/1"));
    assert_eq!(explanation.nearest_miss.unwrap().rule, RuleRef { policy: 0, rule: 1 });
}

#[test]
fn of_many_rules_one_that_names_the_caller_is_near() {
    let mut config = config();
    let other = |number: u32| {
        let rule = rule(&format!("td/ns/x/sa/x{number}"), "GET", &format!("/x{number}"));
        policy(&format!("web/a{number:04}"), Action::Allow, vec![rule])
    };
    config.policies = (0..2_000).map(other).collect();
    config.policies.push(policy("web/z", Action::Allow, vec![rule("td/ns/a/sa/shop", "GET", "/books/*")]));
    let policy = Policy::compile(&config).unwrap();
    let request = request(SHOP, "DELETE", "/books/1");
    let near = policy.explain(&request).nearest_miss;
    assert_eq!(near.as_ref().unwrap().rule, RuleRef { policy: 2_000, rule: 0 });
    assert_eq!(near, policy.nearest_miss(&policy.decide(&request), &request));
}

#[test]
fn an_absent_value_is_said_to_be_absent() {
    let mut config = config();
    let header = Attribute::Header { name: "x-team".into(), mode: crate::config::HeaderMode::Joined };
    let mut wanted = one(header, "a*");
    wanted.patterns.extend((0..7).map(|number| Pattern::Exact(number.to_string().into())));
    let mut rule = Rule::any();
    rule.when = Clause::new(vec![wanted]);
    config.policies = vec![policy("web/a", Action::Allow, vec![rule])];
    let explanation = Policy::compile(&config).unwrap().explain(&request(SHOP, "GET", "/"));
    let why = "the request has none, which is not in [a*, 0, 1, 2, 3, … 3 more]";
    assert_eq!(
        explanation.nearest_miss.unwrap().failed,
        [("request.headers[x-team]".to_owned(), why.to_owned())]
    );
}

#[test]
fn no_byte_evades_a_template_that_denies() {
    let mut config = config();
    config.policies = vec![
        policy("web/a", Action::Allow, vec![Rule::any()]),
        policy("web/d", Action::Deny, vec![rule("*", "*", "/admin/{**}")]),
    ];
    let policy = Policy::compile(&config).unwrap();
    assert_eq!(policy.decide(&request(SHOP, "GET", "/admin/x")).reason, Reason::DenyRule);
    let evading = policy.decide(&request(SHOP, "GET", "/admin/x|"));
    assert_eq!((evading.reason.as_str(), evading.status()), ("path", 400));
    assert!(policy.decide(&request(SHOP, "GET", "/books?q=|")).is_allowed());
}

//! A configuration made ready to decide: [`Policy::compile`] once, [`Policy::decide`] per request.
//!
//! Order of evaluation, SEMANTICS 4.1: path guard, identity, AUDIT and dry-run (reported only), DENY, ALLOW, default.
//!
//! Attribution: when several rules of one action match, the one reported is the first in the order of Istio's names
//! `ns[<ns>]-policy[<name>]-rule[<i>]`, compared as text; so `rule[10]` comes before `rule[2]`, as in Envoy.

use crate::config::{
    Action, Attribute, Clause, ConfigError, DenyResponse, GuardMode, HeaderMode, Match, PluginConfig,
    Protocol, Rule, Text,
};
use crate::decision::{Decision, Reason, RuleRef};
use crate::oracle;
use crate::pattern::Pattern;
use crate::request::Request;

/// What a policy wants to know of a request. What is not asked for need not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The peer's certificate; asked for by every inbound configuration.
    pub peer: bool,
    /// The certificate's serial number.
    pub serial: bool,
    /// Address of the direct peer.
    pub source_ip: bool,
    /// Address of the original client.
    pub remote_ip: bool,
    /// Local address.
    pub destination_ip: bool,
    /// Local port.
    pub destination_port: bool,
    /// Server name of the TLS handshake.
    pub sni: bool,
    /// `:method`.
    pub method: bool,
    /// `:path`.
    pub path: bool,
    /// `:authority`.
    pub authority: bool,
    /// `<iss>/<sub>` of the token.
    pub request_principal: bool,
    /// Names of headers, in lower case, sorted.
    pub headers: Vec<Text>,
    /// Paths of claims, `[a][b]`, sorted.
    pub claims: Vec<Text>,
    /// Metadata, `filter[key]`, sorted.
    pub metadata: Vec<Text>,
}

/// A configuration made ready to decide.
#[derive(Debug)]
pub struct Policy {
    config: PluginConfig,
    needs: Attributes,
}

impl Policy {
    /// Checks and indexes a configuration. Pure and deterministic: the same in every VM.
    pub fn compile(config: &PluginConfig) -> Result<Self, ConfigError> {
        for policy in &config.policies {
            if policy.action == Action::Deny && policy.rules.is_empty() {
                let problem = "it denies and has no rules, so it would never match";
                return Err(ConfigError::Policy { policy: policy.name.clone(), problem });
            }
            check_rules(&policy.name, &policy.rules)?;
            policy.deny_response.as_ref().map_or(Ok(()), check_response)?;
        }
        for (number, selector) in config.selectors.iter().enumerate() {
            check_rules(&Text::from(["selector ", &number.to_string()].concat()), &selector.rules)?;
        }
        config.deny_response.as_ref().map_or(Ok(()), check_response)?;
        Ok(Self { config: config.clone(), needs: needs(config) })
    }

    /// Which attributes a caller has to read.
    #[must_use]
    pub fn needs(&self) -> &Attributes {
        &self.needs
    }

    /// Decides. Total, and without allocation.
    #[must_use]
    pub fn decide(&self, request: &Request) -> Decision {
        oracle::decide(&self.config, request)
    }

    /// Calls `selected` with the number of every selector whose rules match, in rising order.
    pub fn selects(&self, request: &Request, mut selected: impl FnMut(usize)) {
        for number in 0..self.config.selectors.len() {
            if oracle::selects(&self.config, number, request) {
                selected(number);
            }
        }
    }

    /// `namespace/name` of the policy that a rule belongs to.
    #[must_use]
    pub fn name(&self, rule: RuleRef) -> &str {
        usize::try_from(rule.policy)
            .ok()
            .and_then(|at| self.config.policies.get(at))
            .map_or("", |policy| &policy.name)
    }

    /// The custom answer to a denied HTTP request, if there is one.
    ///
    /// Denied by a rule: its policy's. Let through by no ALLOW policy: that of the first of them that has one. Else
    /// the configuration's own. A path that is refused is answered with 400 and never with a custom response.
    #[must_use]
    pub fn deny_response(&self, decision: &Decision) -> Option<&DenyResponse> {
        let policies = &self.config.policies;
        let of_policy = match decision.reason {
            Reason::AllowRule | Reason::DefaultAllow | Reason::Path(_) => return None,
            Reason::DenyRule => {
                let at = usize::try_from(decision.rule?.policy).ok()?;
                policies.get(at).and_then(|policy| policy.deny_response.as_ref())
            }
            Reason::NoAllowRule => policies
                .iter()
                .filter(|policy| policy.action == Action::Allow && !policy.dry_run)
                .filter(|policy| policy.deny_response.is_some())
                .min_by_key(|policy| policy.name.split_once('/'))
                .and_then(|policy| policy.deny_response.as_ref()),
            _ => None,
        };
        of_policy.or(self.config.deny_response.as_ref())
    }

    /// Hash of the policy, as the builder wrote it.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.config.revision
    }
}

/// A principal pattern under all names of our own trust domain (Istio's `ReplaceTrustDomainAliases`).
///
/// A pattern whose trust domain is written out, and is ours, an alias, or `cluster.local` (which in Istio stands for
/// ours), is repeated for each of our names. A pattern that leaves the trust domain open matches them anyway.
#[must_use]
pub fn principal_with_aliases(config: &PluginConfig, pattern: &Pattern) -> Vec<Pattern> {
    let (Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Segments(text)) = pattern else {
        return vec![pattern.clone()];
    };
    let Some((domain, rest)) = text.split_once('/') else { return vec![pattern.clone()] };
    let names = || [&config.trust_domain].into_iter().chain(&config.trust_domain_aliases);
    if domain != "cluster.local" && !names().any(|name| name.as_str() == domain) {
        return vec![pattern.clone()];
    }
    names()
        .map(|name| {
            let text = Text::from([name.as_str(), "/", rest].concat());
            match pattern {
                Pattern::Prefix(_) => Pattern::Prefix(text),
                Pattern::Segments(_) => Pattern::Segments(text),
                _ => Pattern::Exact(text),
            }
        })
        .collect()
}

fn check_rules(policy: &Text, rules: &[Rule]) -> Result<(), ConfigError> {
    for (rule, content) in (0u32..).zip(rules) {
        for clause in clauses(content) {
            for one in clause.matches() {
                check_match(one).map_err(|problem| ConfigError::Rule {
                    policy: policy.clone(),
                    rule,
                    problem,
                })?;
            }
        }
    }
    Ok(())
}

fn clauses(rule: &Rule) -> impl Iterator<Item = &Clause> {
    rule.from.iter().chain(&rule.to).chain([&rule.when])
}

fn check_match(one: &Match) -> Result<(), &'static str> {
    if one.patterns.is_empty() {
        return Err("a field has no values");
    }
    for pattern in &one.patterns {
        let fits = match &one.attribute {
            Attribute::Principal => is_string(pattern) || matches!(pattern, Pattern::Segments(_)),
            Attribute::Namespace | Attribute::TrustDomain => {
                is_string(pattern) || matches!(pattern, Pattern::Glob(_))
            }
            Attribute::ServiceAccount => matches!(pattern, Pattern::ServiceAccount { .. }),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => match pattern {
                Pattern::Cidr { address, prefix } => *prefix <= if address.is_ipv4() { 32 } else { 128 },
                _ => false,
            },
            Attribute::DestinationPort => matches!(pattern, Pattern::Port(_)),
            Attribute::Path => match pattern {
                Pattern::Template(text) => crate::pattern::check_template(text).is_ok(),
                other => is_string(other),
            },
            Attribute::Host
            | Attribute::Method
            | Attribute::RequestPrincipal
            | Attribute::Header { mode: HeaderMode::Joined | HeaderMode::Any | HeaderMode::All, .. }
            | Attribute::Sni
            | Attribute::Claim(_)
            | Attribute::Metadata(_) => is_string(pattern),
        };
        if !fits {
            return Err("a value is not of the kind that its field takes");
        }
    }
    Ok(())
}

fn is_string(pattern: &Pattern) -> bool {
    matches!(pattern, Pattern::Any | Pattern::Exact(_) | Pattern::Prefix(_) | Pattern::Suffix(_))
}

fn check_response(response: &DenyResponse) -> Result<(), ConfigError> {
    if (400..600).contains(&response.status) {
        Ok(())
    } else {
        Err(ConfigError::Other("the status of a deny response is from 400 to 599"))
    }
}

fn needs(config: &PluginConfig) -> Attributes {
    let mut needs =
        Attributes { peer: true, serial: !config.revoked.serials.is_empty(), ..Attributes::default() };
    let http = config.protocol == Protocol::Http;
    needs.path = http && config.path_guard.mode == GuardMode::Always;
    let rules = config.policies.iter().flat_map(|policy| &policy.rules);
    let rules = rules.chain(config.selectors.iter().flat_map(|selector| &selector.rules));
    for one in rules.flat_map(clauses).flat_map(Clause::matches) {
        if !http && one.attribute.is_http_only() {
            continue;
        }
        match &one.attribute {
            Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain => {}
            Attribute::SourceIp => needs.source_ip = true,
            Attribute::RemoteIp => needs.remote_ip = true,
            Attribute::RequestPrincipal => needs.request_principal = true,
            Attribute::Host => needs.authority = true,
            Attribute::DestinationPort => needs.destination_port = true,
            Attribute::Method => needs.method = true,
            Attribute::Path => needs.path = true,
            Attribute::Header { name, .. } => match &**name {
                ":method" => needs.method = true,
                ":path" => needs.path = true,
                ":authority" => needs.authority = true,
                _ => needs.headers.push(name.clone()),
            },
            Attribute::DestinationIp => needs.destination_ip = true,
            Attribute::Sni => needs.sni = true,
            Attribute::Claim(path) => needs.claims.push(path.clone()),
            Attribute::Metadata(path) => needs.metadata.push(path.clone()),
        }
    }
    for names in [&mut needs.headers, &mut needs.claims, &mut needs.metadata] {
        names.sort();
        names.dedup();
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AcceptedPeers, AuthorizationPolicy, DefaultAction, IdentityMode, Role, TrustDomain};
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
        for text in
            ["cluster.local/ns/a/sa/shop", "td/ns/a/*", "old/ns/a/sa/shop", "spiffe://td/ns/*/sa/shop"]
        {
            config.policies = vec![policy("web/a", Action::Allow, vec![rule(text, "GET", "*")])];
            for domain in ["td", "old"] {
                let peer = format!("spiffe://{domain}/ns/a/sa/shop");
                assert_eq!(
                    decide(&config, &request(&peer, "GET", "/")).0,
                    Reason::AllowRule,
                    "{text} {peer}"
                );
            }
        }
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
        let port =
            Match { attribute: Attribute::DestinationPort, negated: false, patterns: vec![Pattern::Any] };
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
}

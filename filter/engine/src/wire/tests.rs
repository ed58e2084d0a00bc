//! What is written is read; what is damaged is refused.

use core::net::IpAddr;

use super::*;
use crate::config::*;

fn sample() -> PluginConfig {
    let td = TrustDomain::parse("example.org").unwrap();
    let mut config = PluginConfig::deny_all("web/shop", Role::Inbound, Protocol::Http, td);
    config.accepted_peers = AcceptedPeers::OwnAnd(vec![TrustDomain::parse("partner.example").unwrap()]);
    config.revoked =
        Revoked { serials: vec![vec![1, 2, 3]], ids: vec!["spiffe://example.org/ns/a/sa/b".into()] };
    let is = |attribute, patterns| Match { attribute, negated: false, patterns };
    let readers = Clause::new(vec![is(
        Attribute::Principal,
        vec![
            Pattern::Exact("example.org/ns/a/sa/b".into()),
            Pattern::Any,
            Pattern::Segments("td/ns/*/sa/ü".into()),
        ],
    )]);
    let get = Clause::new(vec![
        is(Attribute::Method, vec![Pattern::Exact("GET".into())]),
        is(Attribute::Path, vec![Pattern::Template("/a/{*}".into()), Pattern::Prefix("/ö".into())]),
        Match { attribute: Attribute::DestinationPort, negated: true, patterns: vec![Pattern::Port(80)] },
    ]);
    let when = Clause::new(vec![
        is(
            Attribute::Header { name: "x-a".into(), mode: HeaderMode::Any },
            vec![Pattern::Suffix("/ü".into()), Pattern::Glob("ä".into())],
        ),
        is(Attribute::SourceIp, vec![Pattern::Cidr { address: IpAddr::from([10, 0, 0, 0]), prefix: 8 }]),
        is(Attribute::RemoteIp, vec![Pattern::Cidr { address: IpAddr::from([1u16; 8]), prefix: 64 }]),
        is(
            Attribute::ServiceAccount,
            vec![Pattern::ServiceAccount { namespace: "a".into(), name: "b".into() }],
        ),
        is(Attribute::Claim("[a][b]".into()), vec![Pattern::Any]),
    ]);
    let rule = Rule { from: vec![readers.clone()], to: vec![get.clone(), Clause::always()], when };
    let response =
        DenyResponse { status: 404, content_type: "application/problem+json".into(), body: "{}".into() };
    config.policies = vec![
        AuthorizationPolicy {
            name: "web/readers".into(),
            action: Action::Allow,
            dry_run: false,
            rules: vec![rule.clone(), Rule::any()],
            deny_response: Some(response.clone()),
        },
        AuthorizationPolicy {
            name: "web/other".into(),
            action: Action::Deny,
            dry_run: true,
            rules: vec![rule],
            deny_response: Some(response),
        },
    ];
    config.selectors = vec![Selector { rules: vec![Rule { from: vec![], to: vec![get], when: readers }] }];
    config
}

#[test]
fn round_trip() {
    let config = sample();
    let bytes = config.encode().unwrap();
    assert_eq!(PluginConfig::decode(&bytes), Ok(config));
}

#[test]
fn damage_is_refused() {
    let bytes = sample().encode().unwrap();
    assert_eq!(PluginConfig::decode(b"{}"), Err(ConfigError::NotOurs));
    assert_eq!(PluginConfig::decode(b""), Err(ConfigError::NotOurs));
    let mut other = bytes.clone();
    other[MAGIC.len()] = 99;
    assert_eq!(PluginConfig::decode(&other), Err(ConfigError::Version { found: 99, expected: VERSION }));
    for length in MAGIC.len() + 1..bytes.len() {
        assert!(matches!(PluginConfig::decode(&bytes[..length]), Err(ConfigError::Damaged(_))), "{length}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(PluginConfig::decode(&longer), Err(ConfigError::Damaged(_))));
}

#[test]
fn no_byte_that_is_changed_makes_a_panic() {
    let bytes = sample().encode().unwrap();
    for at in 0..bytes.len() {
        for change in [1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let _ = PluginConfig::decode(&changed);
        }
    }
}

//! Limits of whole requests: keys, overrides, shadow mode, and what callers are told.

use super::config::*;
use super::*;
use crate::request::{Field, Peer};
use crate::shared_words::Memory;
use crate::spiffe::SpiffeIdRef;

const SECOND: u64 = 1_000_000_000;
const SEED: Seed = Seed([1, 2]);

fn window(requests: u32, seconds: u64, burst: u32) -> Window {
    Window { name: "w".into(), requests, period: seconds * SECOND, burst }
}

fn limit(key: Vec<KeyPart>, windows: Vec<Window>) -> RateLimit {
    RateLimit {
        name: "shop/limits/0".into(),
        selector: None,
        stage: Stage::AfterAuthorization,
        scope: Scope::Sidecar,
        key,
        windows,
        overrides: vec![],
        cost: 1,
        shadow: false,
        answer: RateAnswer { status: 429, headers: HeaderMode::Always, problem: true },
    }
}

fn limits(rates: Vec<RateLimit>) -> Limits {
    Limits::compile(LimitsConfig { rates, ..LimitsConfig::NONE }, 4).unwrap()
}

fn caller(id: &'static str) -> Request<'static> {
    Request { peer: Peer::Verified(SpiffeIdRef::parse(id.as_bytes()).unwrap()), ..Request::EMPTY }
}

/// Asks once, and says whether it was admitted.
fn ask(limits: &Limits, words: &Memory, now: u64, request: &Request<'_>, selected: &[u32]) -> RateVerdict {
    let subject = Subject { request, destination: None, selected, replicas: 1 };
    limits.rate(words, SEED, now, Stage::AfterAuthorization, &subject).unwrap()
}

fn admitted(limits: &Limits, words: &Memory, request: &Request<'_>) -> usize {
    (0..20).filter(|_| ask(limits, words, SECOND, request, &[]).refused.is_none()).count()
}

#[test]
fn sidecars_share_what_is_said_for_the_service() {
    let shared = RateLimit { scope: Scope::Service, ..limit(vec![], vec![window(8, 1, 10)]) };
    let limits = limits(vec![shared]);
    let asked = |words: &Memory, now, replicas| {
        let subject = Subject { request: &Request::EMPTY, destination: None, selected: &[], replicas };
        limits.rate(words, SEED, now, Stage::AfterAuthorization, &subject).unwrap()
    };
    let admitted = |words: &Memory, now, replicas| {
        (0..20).filter(|_| asked(words, now, replicas).refused.is_none()).count()
    };
    for (replicas, burst) in [(0, 10), (1, 10), (3, 3), (4, 2), (20, 1), (u32::MAX, 1)] {
        assert_eq!(admitted(&Memory::default(), SECOND, replicas), burst, "{replicas}");
    }
    let words = Memory::default();
    assert_eq!(admitted(&words, SECOND, 4), 2);
    // A quarter of 8 per second; and what is told is the share.
    assert_eq!(admitted(&words, 2 * SECOND, 4), 2);
    let headers = limits.headers(&asked(&words, 2 * SECOND, 4));
    let told = |name| headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str());
    assert_eq!(told("x-ratelimit-limit"), Some("2, 2;w=1;name=\"w\""));
    // Fewer sidecars than before: what was spent stays spent, and the rest comes at the new rate.
    assert_eq!(admitted(&words, 2 * SECOND, 1), 2);
    assert_eq!(admitted(&words, 3 * SECOND, 1), 8);
}

#[test]
fn each_identity_has_its_own_bucket_and_those_without_share_one() {
    let (limits, words) =
        (limits(vec![limit(vec![KeyPart::Identity], vec![window(1, 60, 5)])]), Memory::default());
    assert_eq!(admitted(&limits, &words, &caller("spiffe://td/ns/a/sa/b")), 5);
    assert_eq!(admitted(&limits, &words, &caller("spiffe://td/ns/a/sa/c")), 5);
    assert_eq!(admitted(&limits, &words, &Request::EMPTY), 5);
    assert_eq!(admitted(&limits, &words, &Request { peer: Peer::Invalid, ..Request::EMPTY }), 0);
}

#[test]
fn keys_combine_and_values_cannot_be_shifted_from_one_part_to_the_next() {
    let key = vec![KeyPart::Header("a".into()), KeyPart::Header("b".into())];
    let (limits, words) = (limits(vec![limit(key, vec![window(1, 60, 1)])]), Memory::default());
    let ask =
        |fields: &[Field<'_>]| admitted(&limits, &words, &Request { headers: fields, ..Request::EMPTY });
    let field = |name: &'static str, value: &'static [u8]| Field { name, value };
    assert_eq!(ask(&[field("a", b"xy"), field("b", b"z")]), 1);
    assert_eq!(ask(&[field("a", b"x"), field("b", b"yz")]), 1);
    assert_eq!(ask(&[field("a", b"xy")]), 1);
    assert_eq!(ask(&[field("a", b"x"), field("a", b"y")]), 1, "a repeated header is all its values");
    assert_eq!(ask(&[field("b", b"z"), field("a", b"xy")]), 0, "the order among headers does not matter");
    assert_eq!(ask(&[]), 1);
}

#[test]
fn an_ipv6_client_is_its_network() {
    let (limits, words) =
        (limits(vec![limit(vec![KeyPart::ClientAddress], vec![window(1, 60, 1)])]), Memory::default());
    let from =
        |ip: &str| admitted(&limits, &words, &Request { remote_ip: ip.parse().ok(), ..Request::EMPTY });
    assert_eq!((from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::9"), from("2001:db8:1:3::1")), (1, 0, 1));
    assert_eq!((from("10.0.0.1"), from("10.0.0.2")), (1, 1));
}

#[test]
fn an_override_replaces_the_windows_or_lifts_them() {
    let one = RateLimit {
        overrides: vec![
            Override { selector: 1, windows: vec![window(1, 60, 7)] },
            Override { selector: 2, windows: vec![] },
        ],
        ..limit(vec![KeyPart::Identity], vec![window(1, 60, 2)])
    };
    let (limits, request) = (limits(vec![one]), caller("spiffe://td/ns/a/sa/b"));
    for (selected, expected) in [(&[][..], 2), (&[1][..], 7), (&[2][..], 20), (&[1, 2][..], 7)] {
        let words = Memory::default();
        let admitted =
            (0..20).filter(|_| ask(&limits, &words, SECOND, &request, selected).refused.is_none()).count();
        assert_eq!(admitted, expected, "{selected:?}");
    }
}

#[test]
fn what_one_limit_refuses_costs_nothing_with_the_others() {
    let mut second = limit(vec![], vec![window(1, 60, 1)]);
    second.name = "shop/limits/1".into();
    let limits = limits(vec![limit(vec![], vec![window(1, 60, 3)]), second]);
    let words = Memory::default();
    let request = Request::EMPTY;
    assert_eq!(ask(&limits, &words, SECOND, &request, &[]).refused, None);
    for _ in 0..10 {
        assert_eq!(ask(&limits, &words, SECOND, &request, &[]).refused, Some(1));
    }
    // A minute later the second has one token again; the first must still have the two that were never used.
    let verdict = ask(&limits, &words, 61 * SECOND, &request, &[]);
    assert_eq!(verdict.asked.iter().map(|asked| asked.level.remaining).collect::<Vec<_>>(), [2, 0]);
}

#[test]
fn shadow_limits_count_and_never_refuse() {
    let one = RateLimit { shadow: true, ..limit(vec![], vec![window(1, 60, 1)]) };
    let (limits, words) = (limits(vec![one]), Memory::default());
    let verdicts: Vec<_> = (0..3).map(|_| ask(&limits, &words, SECOND, &Request::EMPTY, &[])).collect();
    assert!(verdicts.iter().all(|verdict| verdict.refused.is_none()));
    assert_eq!(verdicts.iter().map(|verdict| verdict.shadow.len()).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn a_refusal_says_when_to_come_back_and_then_it_passes() {
    let minute = Window { name: "minute".into(), ..window(6, 60, 6) };
    let second = Window { name: "second".into(), ..window(1, 1, 6) };
    let (limits, words) = (limits(vec![limit(vec![], vec![second, minute])]), Memory::default());
    let mut refusals = 0;
    for tenth in 10..300 {
        let now = tenth * SECOND / 10;
        let verdict = ask(&limits, &words, now, &Request::EMPTY, &[]);
        let headers = limits.headers(&verdict);
        let get = |name: &str| headers.iter().find(|(one, _)| *one == name).map(|(_, value)| value.as_str());
        assert!(get("ratelimit-policy").unwrap().contains("\"minute\";q=6;w=60"), "{headers:?}");
        if verdict.refused.is_none() {
            assert_eq!(get("retry-after"), None);
            continue;
        }
        refusals += 1;
        let seconds: u64 = get("retry-after").unwrap().parse().unwrap();
        assert!(seconds >= 1);
        assert_eq!(get("x-envoy-ratelimited"), Some("true"));
        assert_eq!(get("x-ratelimit-remaining"), Some("0"), "{headers:?}");
        assert!(
            limits.problem(&verdict).unwrap().ends_with("\"minute\"]}"),
            "the minute is always among them"
        );
        let later = Memory::default();
        clone_into(&words, &later);
        assert_eq!(
            ask(&limits, &later, now + seconds * SECOND, &Request::EMPTY, &[]).refused,
            None,
            "{headers:?}"
        );
        let sooner = Memory::default();
        clone_into(&words, &sooner);
        if seconds > 1 {
            let early = ask(&limits, &sooner, now + (seconds - 1) * SECOND, &Request::EMPTY, &[]);
            assert_eq!(early.refused, Some(0), "it need not wait so long: {headers:?}");
        }
    }
    assert!(refusals > 100);
}

fn clone_into(from: &Memory, to: &Memory) {
    use crate::shared_words::{Region, SharedWords, Slot};
    for slot in Slot::all(Region::RateLimit) {
        if let Some((word, 1..)) = from.load(slot) {
            to.replace(slot, 0, &word).unwrap();
        }
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let refused =
        |rates: Vec<RateLimit>| Limits::compile(LimitsConfig { rates, ..LimitsConfig::NONE }, 1).is_err();
    assert!(!refused(vec![limit(vec![], vec![window(1, 1, 1)])]));
    assert!(refused(vec![limit(vec![], vec![])]));
    assert!(refused(vec![limit(vec![], vec![window(0, 1, 1)])]));
    assert!(refused(vec![RateLimit { cost: 2, ..limit(vec![], vec![window(1, 1, 1)]) }]));
    assert!(refused(vec![RateLimit { selector: Some(1), ..limit(vec![], vec![window(1, 1, 1)]) }]));
    assert!(refused(vec![limit(vec![KeyPart::Template(vec![1])], vec![window(1, 1, 1)])]));
    let override_with_more = Override { selector: 0, windows: vec![window(1, 1, 1), window(1, 1, 1)] };
    assert!(refused(vec![RateLimit {
        overrides: vec![override_with_more],
        ..limit(vec![], vec![window(1, 1, 1)])
    }]));
}

#[test]
fn outcomes_of_answers() {
    use crate::circuit_breaker::Outcome;
    let failures = Failures { statuses: vec![(500, 599)], grpc: 1 << 13 | 1 << 14 };
    for (status, grpc, expected) in [
        (200, None, Outcome::Success),
        (503, None, Outcome::Failure),
        (404, None, Outcome::Success),
        (429, None, Outcome::Throttled),
        (200, Some(0), Outcome::Success),
        (200, Some(14), Outcome::Failure),
        (200, Some(8), Outcome::Throttled),
        (200, Some(5), Outcome::Success),
        (200, Some(4000), Outcome::Success),
    ] {
        assert_eq!(outcome(&failures, status, grpc), expected, "{status} {grpc:?}");
    }
}

#[test]
fn breakers_and_bulkheads_are_for_the_destinations_that_they_name() {
    let settings = BreakerSettings {
        consecutive_failures: 1,
        failure_permille: 0,
        slow_permille: 0,
        window: 10,
        min_requests: 1,
        backoff: 1,
        max_backoff: 1,
        jitter_permille: 0,
        probes: 1,
        probe_timeout: 1,
    };
    let breaker = |name: &str, destinations: Vec<Text>| Breaker {
        name: name.into(),
        selector: None,
        destinations,
        key: vec![KeyPart::Destination],
        settings: settings.clone(),
        failures: Failures { statuses: vec![], grpc: 0 },
        slow_call: 0,
        honour_retry_after: false,
        fallback: None,
        shadow: false,
    };
    let bulkhead = ConcurrencyLimit {
        name: "c".into(),
        selector: None,
        destinations: vec!["books".into()],
        key: vec![],
        limit: 1,
        shadow: false,
    };
    let config = LimitsConfig {
        breakers: vec![breaker("named", vec!["books".into(), "shop".into()]), breaker("any", vec![])],
        concurrency: vec![bulkhead],
        ..LimitsConfig::NONE
    };
    let limits = Limits::compile(config, 0).unwrap();
    assert!(limits.needs_destination());
    let subject = |destination| Subject { request: &Request::EMPTY, destination, selected: &[], replicas: 1 };
    let named = |destination: Option<&'static [u8]>| {
        let subject = subject(destination);
        let (number, _, key) = limits.breaker(SEED, &subject).unwrap();
        (number, key, limits.concurrency(SEED, &subject).count())
    };
    let (books, shop) = (named(Some(b"books")), named(Some(b"shop")));
    assert_eq!((books.0, books.2, shop.0, shop.2), (0, 1, 0, 0));
    assert_ne!(books.1, shop.1, "one for each destination");
    assert_eq!((named(Some(b"other")).0, named(None).0), (1, 1));
}

#[test]
fn a_global_limit_is_asked_of_the_service_and_counted_here_without_it() {
    let config = LimitsConfig {
        rates: vec![RateLimit {
            scope: Scope::Global(OnFailure::Local),
            ..limit(
                vec![
                    KeyPart::Identity,
                    KeyPart::ServiceAccount,
                    KeyPart::Method,
                    KeyPart::ClientAddress,
                    KeyPart::Header("x".into()),
                ],
                vec![window(100, 60, 100)],
            )
        }],
        service: Some(RateLimitService { cluster: "rls".into(), domain: "shop".into(), timeout: 20 }),
        ..LimitsConfig::NONE
    };
    let limits = Limits::compile(config.clone(), 0).unwrap();
    let request = Request {
        remote_ip: Some("10.0.0.1".parse().unwrap()),
        headers: &[Field { name: "x", value: b"a%\xff b_" }],
        ..caller("spiffe://td/ns/a/sa/b")
    };
    let subject = Subject { request: &request, destination: None, selected: &[], replicas: 4 };
    let words = Memory::default();
    // Where limits are asked here it is passed over.
    let here = limits.rate(&words, SEED, 0, Stage::AfterAuthorization, &subject).unwrap();
    assert_eq!(here, RateVerdict::default());
    let global = &limits.global(SEED, &subject, 0).unwrap();
    assert_eq!(limits.global(SEED, &subject, 1), None);
    assert_eq!((global.cost, global.most), (1, 5));
    let question = limits.ask(global, &subject, 3).unwrap();
    let mut entries = Vec::new();
    let mut texts = Vec::new();
    rls::fields(&question, &mut |_, _, descriptor| {
        let _ = rls::fields(descriptor, &mut |number, _, entry| {
            if number == 1 {
                texts.clear();
                rls::fields(entry, &mut |_, _, text| texts.push(String::from_utf8(text.to_vec()).unwrap()))
                    .unwrap();
                entries.push((texts[0].clone(), texts[1].clone()));
            }
        });
    })
    .unwrap();
    let entries: Vec<_> = entries.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        entries,
        [
            ("limit", "shop/limits/0"),
            ("identity", "spiffe://td/ns/a/sa/b"),
            ("serviceAccount", "a/b/"),
            ("method", ""),
            ("clientAddress", "10.0.0.1"),
            ("x", "a%25%ff%20b%5f,"),
        ]
    );
    let count = (0..200)
        .filter(|_| limits.local(&words, SEED, 0, global, &subject).unwrap().refused.is_none())
        .count();
    assert_eq!(count, 25, "a quarter of it");
    let refused = limits.told(global, 0, Some(Wait::new(30 * SECOND)), Wait::new(30 * SECOND));
    assert_eq!(refused.refused, Some(0));
    assert!(limits.headers(&refused).contains(&("retry-after", "30".to_owned())));

    for bad in [
        LimitsConfig { service: None, ..config.clone() },
        LimitsConfig {
            rates: vec![RateLimit { windows: vec![window(1, 7, 1)], ..config.rates[0].clone() }],
            ..config.clone()
        },
        LimitsConfig {
            rates: vec![RateLimit { stage: Stage::BeforeAuthorization, ..config.rates[0].clone() }],
            ..config
        },
    ] {
        assert!(Limits::compile(bad, 0).is_err());
    }
}

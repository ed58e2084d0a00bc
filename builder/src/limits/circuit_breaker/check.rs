//! A CircuitBreakerPolicy's YAML → [`CircuitBreakerPolicy`], with every mistake at its place.

use meshward_engine::config::{DenyResponse, Text};
use meshward_engine::limits::config::{BreakerSettings, Failures, KeyPart};

use super::super::key::{self, Key, KeySpec};
use super::super::rate_limit::model::ModeSpec;
use super::super::rules::Reader;
use super::super::target;
use super::model::{
    BackoffSpec, BreakerSpec, ConcurrencySpec, FailuresSpec, FallbackSpec, SideSpec, StatusRange,
};
use super::{Breaker, Bulkhead, CircuitBreakerPolicy, Scope, Side, model};
use crate::diagnostic::{Diagnostic, nearest};
use crate::mesh::document::{Document, Spanned};
use crate::policy::authorization::Rule;

/// Linkerd's values, which have been in the field for long (SEMANTICS).
mod defaults {
    pub const SECOND: u64 = 1_000_000_000;
    pub const CONSECUTIVE_FAILURES: u32 = 7;
    /// "More than 20 of 100" in a language of "at least".
    pub const FAILURE_PERMILLE: u16 = 201;
    pub const SLOW_PERMILLE: u16 = 500;
    pub const WINDOW: u64 = 10 * SECOND;
    pub const MIN_REQUESTS: u32 = 5;
    pub const MIN_BACKOFF: u64 = SECOND;
    pub const MAX_BACKOFF: u64 = 60 * SECOND;
    pub const JITTER_PERMILLE: u16 = 500;
    pub const PROBE_TIMEOUT: u64 = 30 * SECOND;
    pub const PATIENCE: u64 = 5 * SECOND;
    pub const STATUSES: (u16, u16) = (500, 599);
    /// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS. Not Linkerd's PERMISSION_DENIED: that is what a callee's policy
    /// answers, and a caller that may not call is no failure of the callee.
    pub const GRPC: u32 = 1 << 4 | 1 << 13 | 1 << 14 | 1 << 15;
}

/// By number.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `whole`: nothing was set aside while reading.
pub(super) fn policy(
    document: &Document,
    written: model::CircuitBreakerPolicy,
    whole: bool,
    namespace: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> CircuitBreakerPolicy {
    let model::CircuitBreakerSpec { selector, target_refs, breakers, concurrency, envoy } = written.spec;
    let head = target::head(document, &written.metadata, selector, target_refs, namespace, mistakes);
    let headers = target::repeated_headers(document, &written.metadata, mistakes);
    let names = breakers.iter().flat_map(|list| &list.value).map(|breaker| &breaker.name);
    target::names(document, names, mistakes);
    let names = concurrency.iter().flat_map(|list| &list.value).map(|bulkhead| &bulkhead.name);
    target::names(document, names, mistakes);
    let mut reader = Reader { document, whole, namespace: &head.namespace, headers, mistakes };
    if whole && breakers.is_none() && concurrency.is_none() && envoy.is_none() {
        let help = "say `breakers`, `concurrency` or `envoy`, or take the policy out";
        reader.error("nothing", "this policy says nothing", &head.name.span, help);
    }
    for (field, empty) in [
        ("breakers", breakers.as_ref().filter(|list| list.is_empty()).map(|list| &list.span)),
        ("concurrency", concurrency.as_ref().filter(|list| list.is_empty()).map(|list| &list.span)),
    ] {
        if let Some(span) = empty.filter(|_| whole) {
            reader.error("empty-list", format!("`{field}` is there and has no entries"), span, "take it out");
        }
    }
    let breakers = breakers.map(|list| list.value).unwrap_or_default();
    let concurrency = concurrency.map(|list| list.value).unwrap_or_default();
    CircuitBreakerPolicy {
        breakers: breakers.into_iter().map(|written| breaker(&mut reader, written)).collect(),
        concurrency: concurrency.into_iter().map(|written| bulkhead(&mut reader, written)).collect(),
        envoy,
        head,
    }
}

/// What breakers and bulkheads share.
struct Common<'a> {
    name: &'a Spanned<String>,
    side: Side,
    destinations: Option<Spanned<Vec<Spanned<String>>>>,
    rule: Option<Rule>,
    /// `None`: as the kind of limit has it.
    key: Option<Spanned<Vec<Spanned<KeySpec>>>>,
}

/// Outbound there is one caller, the workload itself, and inbound one destination.
fn scope(reader: &mut Reader<'_>, common: Common<'_>, default: &[KeyPart]) -> Scope {
    let Common { name, side, destinations, rule, key } = common;
    if let Some(list) = destinations.as_ref().filter(|_| side == Side::Inbound) {
        let help = "take it out, or say `side: outbound`";
        reader.error("only-outbound", "what comes in has one destination, the workload", &list.span, help);
    }
    if let Some(list) = destinations.as_ref().filter(|list| list.is_empty() && reader.whole) {
        let help = "name services, or leave it out to mean all that the workload calls";
        reader.error("empty-list", "`destinations` is there and has no entries", &list.span, help);
    }
    let of_callers = rule.iter().flat_map(Rule::matches).find(|one| !one.attribute.is_http_only());
    if let Some(one) = of_callers.filter(|_| side == Side::Outbound) {
        let message =
            format!("`{}` looks at the caller, and outbound that is the workload itself", one.field);
        let help =
            "select the workload by `selector`, and compare `hosts`, `methods`, `paths` or headers here";
        reader.error("only-inbound", message, &one.span, help);
    }
    for part in key.iter().flat_map(|list| &list.value) {
        let of_callers =
            matches!(part.value, KeySpec::Identity | KeySpec::ServiceAccount | KeySpec::Namespace);
        if of_callers && side == Side::Outbound {
            let help = "take it out, or say `side: inbound`";
            reader.error(
                "only-inbound",
                "outbound there is one caller, the workload itself",
                &part.span,
                help,
            );
        }
        if matches!(part.value, KeySpec::Destination) && side == Side::Inbound {
            let help = "take it out, or say `side: outbound`";
            reader.error("only-outbound", "inbound there is one destination, the workload", &part.span, help);
        }
    }
    let key = match key {
        Some(_) => key::key(reader, key),
        None => default.iter().cloned().map(Key::Part).collect(),
    };
    Scope { name: name.clone(), side, destinations: destinations.map(|list| list.value), rule, key }
}

fn side(written: Option<SideSpec>, default: Side) -> Side {
    match written {
        Some(SideSpec::Outbound) => Side::Outbound,
        Some(SideSpec::Inbound) => Side::Inbound,
        None => default,
    }
}

fn bulkhead(reader: &mut Reader<'_>, written: Spanned<ConcurrencySpec>) -> Bulkhead {
    let Spanned { value: written, span } = written;
    let rule = reader.rule(&span, written.from, written.to, written.when);
    let common = Common {
        name: &written.name,
        side: side(written.side, Side::Inbound),
        destinations: written.destinations,
        rule,
        key: written.key,
    };
    Bulkhead {
        scope: scope(reader, common, &[]),
        limit: reader.at_least_one("limit", &written.limit).unwrap_or(1),
        shadow: written.mode == Some(ModeSpec::Shadow),
    }
}

fn breaker(reader: &mut Reader<'_>, written: Spanned<BreakerSpec>) -> Breaker {
    let Spanned { value: written, span } = written;
    let settings = settings(reader, &written);
    let slow = written.slow_calls.as_ref();
    let threshold = slow.and_then(|slow| reader.duration("threshold", &slow.threshold));
    let patience = written.patience.as_ref().and_then(|text| reader.duration("patience", text));
    if let (Some(patience), Some(_)) = (&written.patience, &slow) {
        let help = "take it out";
        let message = "with `slowCalls` its `threshold` is the patience as well";
        reader.error("two-thresholds", message, &patience.span, help);
    }
    let side = side(written.side, Side::Outbound);
    let rule = reader.rule(&span, written.from, written.to, written.when);
    let common =
        Common { name: &written.name, side, destinations: written.destinations, rule, key: written.key };
    let default = match side {
        Side::Outbound => [KeyPart::Destination],
        Side::Inbound => [KeyPart::Identity],
    };
    Breaker {
        scope: scope(reader, common, &default),
        settings,
        failures: failures(reader, written.failures.map(|failures| failures.value).unwrap_or_default()),
        slow_call: threshold.or(patience).unwrap_or(defaults::PATIENCE),
        honour_retry_after: written.honour_retry_after.unwrap_or(false),
        fallback: written.fallback.and_then(|fallback| self::fallback(reader, fallback.value)),
        shadow: written.mode == Some(ModeSpec::Shadow),
    }
}

fn settings(reader: &mut Reader<'_>, written: &BreakerSpec) -> BreakerSettings {
    let said = written.consecutive_failures.is_some()
        || written.failure_ratio.is_some()
        || written.slow_calls.is_some();
    let row = written.consecutive_failures.as_ref();
    let consecutive_failures = row.map(|row| reader.at_least_one("consecutiveFailures", row).unwrap_or(1));
    let failure_permille =
        written.failure_ratio.as_ref().map(|ratio| permille(reader, "failureRatio", ratio));
    let slow_permille = written.slow_calls.as_ref().map_or(0, |slow| {
        slow.ratio.as_ref().map_or(defaults::SLOW_PERMILLE, |ratio| permille(reader, "ratio", ratio))
    });
    if failure_permille.is_none() && slow_permille == 0 && said {
        for (field, span) in [
            ("window", written.window.as_ref().map(|one| &one.span)),
            ("minRequests", written.min_requests.as_ref().map(|one| &one.span)),
        ] {
            if let Some(span) = span.filter(|_| reader.whole) {
                let help = "take it out, or say a ratio";
                reader.error("no-ratio", format!("`{field}` is of ratios, and there is none"), span, help);
            }
        }
    }
    let unsaid = |default: u64| if said { 0 } else { default };
    let time = |reader: &mut Reader<'_>, field: &str, text: Option<&Spanned<String>>, default: u64| {
        text.and_then(|text| reader.duration(field, text)).unwrap_or(default)
    };
    let none = BackoffSpec::default();
    let backoff = written.backoff.as_ref().map_or(&none, |backoff| &backoff.value);
    let min = time(reader, "min", backoff.min.as_ref(), defaults::MIN_BACKOFF);
    let max = time(reader, "max", backoff.max.as_ref(), defaults::MAX_BACKOFF.max(min));
    if let Some(text) = backoff.max.as_ref().filter(|_| max < min) {
        let help = "write a longer `max`, or a shorter `min`";
        reader.error("backoff", "`max` is shorter than `min`", &text.span, help);
    }
    let jitter = backoff.jitter.as_ref();
    if let Some(jitter) = jitter.filter(|jitter| !(0.0..=1.0).contains(&jitter.value)) {
        reader.error("ratio", "`jitter` is from 0 to 1", &jitter.span, "0.5 adds up to half");
    }
    BreakerSettings {
        consecutive_failures: consecutive_failures
            .unwrap_or_else(|| unsaid(defaults::CONSECUTIVE_FAILURES.into()) as u32),
        failure_permille: failure_permille
            .unwrap_or_else(|| unsaid(defaults::FAILURE_PERMILLE.into()) as u16),
        slow_permille,
        window: time(reader, "window", written.window.as_ref(), defaults::WINDOW),
        min_requests: written
            .min_requests
            .as_ref()
            .and_then(|number| reader.at_least_one("minRequests", number))
            .unwrap_or(defaults::MIN_REQUESTS),
        backoff: min,
        max_backoff: max.max(min),
        jitter_permille: jitter.map_or(defaults::JITTER_PERMILLE, |jitter| thousandths(jitter.value)),
        probes: written.probes.as_ref().map_or(1, |number| match u8::try_from(number.value) {
            Ok(probes) if probes > 0 => probes,
            _ => {
                reader.error("probes", "`probes` is 1 to 255", &number.span, "1 is usual");
                1
            }
        }),
        probe_timeout: time(reader, "probeTimeout", written.probe_timeout.as_ref(), defaults::PROBE_TIMEOUT),
    }
}

fn permille(reader: &mut Reader<'_>, field: &str, ratio: &Spanned<f64>) -> u16 {
    if !(0.001..=1.0).contains(&ratio.value) {
        let help = "0.5 is half of the requests";
        reader.error("ratio", format!("`{field}` is more than 0 and at most 1"), &ratio.span, help);
    }
    thousandths(ratio.value).max(1)
}

/// Of a number from 0 to 1.
fn thousandths(ratio: f64) -> u16 {
    (ratio.clamp(0.0, 1.0) * 1000.0).round() as u16
}

fn failures(reader: &mut Reader<'_>, written: FailuresSpec) -> Failures {
    let statuses = written.statuses.map(|list| {
        list.iter()
            .map(|range| match range.value {
                StatusRange(first, last) => (first, last),
            })
            .collect()
    });
    let grpc = written.grpc.map(|list| {
        list.iter().fold(0, |bits, name| match GRPC.iter().position(|known| *known == name.value) {
            Some(number @ 1..) => bits | 1 << number,
            _ => {
                let help = match nearest(name, GRPC.into_iter().skip(1)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "write its name, like `UNAVAILABLE`".to_owned(),
                };
                reader.error(
                    "grpc-status",
                    format!("`{}` is no gRPC failure", name.value),
                    &name.span,
                    &help,
                );
                bits
            }
        })
    });
    Failures {
        statuses: statuses.unwrap_or_else(|| vec![defaults::STATUSES]),
        grpc: grpc.unwrap_or(defaults::GRPC),
    }
}

fn fallback(reader: &mut Reader<'_>, written: FallbackSpec) -> Option<DenyResponse> {
    let status = written.status.as_ref().map_or(503, |status| status.value);
    if let Some(written) = written.status.filter(|status| !(200..600).contains(&status.value)) {
        let help = "write a number from 200 to 599; 503 is what clients expect";
        reader.error(
            "invalid-status",
            format!("{} is no status of an answer", written.value),
            &written.span,
            help,
        );
        return None;
    }
    let content_type = written.content_type.as_ref().map_or("text/plain", |kind| kind.value.as_str());
    if let Some(kind) = written.content_type.as_ref()
        && (kind.is_empty() || kind.bytes().any(|byte| !(0x20..0x7f).contains(&byte)))
    {
        reader.error("content-type", "this is no content type", &kind.span, "for example `application/json`");
    }
    let body = written.body.as_ref().map_or("", |body| body.value.as_str());
    Some(DenyResponse { status, content_type: Text::from(content_type), body: Text::from(body) })
}

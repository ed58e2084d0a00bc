//! Envoy's own tests of token buckets, local rate limits, shares and headers, as vectors.
//!
//! Out of scope, and why: `limitador_vectors` and `expiring_window_vectors` are fixed windows that start with the
//! first request (a caller gets twice the limit around a window's end, which is what GCRA is for): with `scope: global`
//! they are the service's own, which counts; `config_errors` are Envoy's 50 ms floor of its fill timer, which we do not
//! have, and duplicate descriptors, which have no
//! counterpart. Of the token buckets, `allow_partial` and `reset` have none either: a request is admitted whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use std::collections::BTreeMap;

use meshward_engine::limits::headers::{Quota, ratelimit, x_ratelimit};
use meshward_engine::rate_limit::{Rate, Wait};
use serde_json::Value;

mod vectors;

const MILLISECOND: u64 = 1_000_000;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn rate(bucket: &Value) -> Rate {
    let of = |name: &str| number(&bucket[name]);
    let count = |name: &str| u32::try_from(of(name)).unwrap();
    Rate::new(count("tokens_per_fill"), of("fill_interval_ms") * MILLISECOND, count("max_tokens")).unwrap()
}

#[test]
fn token_buckets() {
    let Some(all) = vectors::read("ratelimit/token_bucket_vectors.json") else { return };
    let (mut done, mut skipped) = (0, Vec::new());
    for vector in all.as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let steps = vector["steps"].as_array().unwrap();
        if steps.iter().any(|step| step["allow_partial"] == true || step.get("reset_to").is_some()) {
            skipped.push(name);
            continue;
        }
        // Fill per second as requests per period, in whole nanoseconds.
        let interval = (1e9_f64 / vector["fill_per_second"].as_f64().unwrap()).round() as u64;
        let rate = Rate::new(1, interval, number(&vector["capacity"]) as u32).unwrap();
        let mut full_at = 0;
        for step in steps {
            let now = number(&step["at_ms"]) * MILLISECOND;
            let asked = number(&step["consume"]) as u32;
            let result = rate.take(full_at, now, asked);
            let consumed = if let Ok(after) = result {
                full_at = after;
                asked
            } else {
                0
            };
            assert_eq!(u64::from(consumed), number(&step["expect_consumed"]), "{name}: {step}");
            if let Some(next) = step.get("expect_next_token_ms") {
                assert_eq!(
                    rate.wait_for(full_at, now, 1).nanoseconds(),
                    number(next) * MILLISECOND,
                    "{name}: {step}"
                );
            }
        }
        done += 1;
    }
    println!("{done} vectors, out of scope: {skipped:?}");
    assert!(done >= 5);
}

/// A request takes from the descriptors that match and the default bucket. Ours from all or none; Envoy gives nothing
/// back when a later one refuses, which none of its tests show.
#[test]
fn local_rate_limits() {
    let Some(all) = vectors::read("ratelimit/local_ratelimit_vectors.json") else { return };
    let mut differs = Vec::new();
    for vector in all.as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let share = vector.get("share_factor").map_or(1.0, |share| share.as_f64().unwrap());
        let cost = (1.0_f64 / share).round() as u32;
        let mut stored: BTreeMap<String, u64> = BTreeMap::new();
        for step in vector["steps"].as_array().unwrap() {
            let now = number(&step["at_ms"]) * MILLISECOND;
            let none = Vec::new();
            let asked = step.get("descriptors").map_or(&none, |d| d.as_array().unwrap());
            let mut buckets: Vec<(String, Rate, u32)> = Vec::new();
            for (at, descriptor) in asked.iter().enumerate() {
                for configured in vector["descriptors"].as_array().unwrap() {
                    if matches(configured, descriptor) {
                        let hits = step.get("hits").map_or(1, |hits| number(&hits[at]) as u32);
                        buckets.push((
                            descriptor.to_string(),
                            rate(&configured["token_bucket"]),
                            hits * cost,
                        ));
                    }
                }
            }
            if !vector["default_bucket"].is_null() {
                buckets.push(("default".into(), rate(&vector["default_bucket"]), cost));
            }
            let full = |stored: &BTreeMap<String, u64>, key: &str| stored.get(key).copied().unwrap_or(0);
            if let Some(expected) = step.get("expect") {
                let taken: Result<Vec<u64>, Wait> = buckets
                    .iter()
                    .map(|(key, rate, cost)| rate.take(full(&stored, key), now, *cost))
                    .collect();
                let got = if taken.is_ok() { "allow" } else { "deny" };
                if got != expected {
                    differs.push(format!("{name}: {step}"));
                    break;
                }
                for ((key, ..), after) in buckets.iter().zip(taken.unwrap_or_default()) {
                    stored.insert(key.clone(), after);
                }
            }
            for left in ["remaining", "remaining_after"].iter().filter_map(|name| step.get(*name)) {
                let least =
                    buckets.iter().map(|(key, rate, _)| rate.remaining(full(&stored, key), now)).min();
                if !buckets.is_empty() && least != Some(number(left) as u32) {
                    differs.push(format!("{name}: {step}"));
                }
            }
        }
    }
    assert!(differs.is_empty(), "{differs:#?}");
}

fn matches(configured: &Value, descriptor: &Value) -> bool {
    let (entries, given) = (configured["entries"].as_array().unwrap(), descriptor.as_array().unwrap());
    entries.len() == given.len()
        && entries.iter().zip(given).all(|(one, other)| {
            one["key"] == other["key"] && (one.get("value").is_none() || one["value"] == other["value"])
        })
}

/// A share of `membership` sidecars: the tokens of each, at least one.
#[test]
fn shares() {
    let Some(all) = vectors::read("ratelimit/share_provider_vectors.json") else { return };
    for vector in all.as_array().unwrap() {
        let tokens = u32::try_from(number(&vector["tokens_per_fill_in"])).unwrap();
        let replicas = u32::try_from(number(&vector["membership"])).unwrap();
        let share = meshward_engine::limits::config::share(tokens, replicas);
        assert_eq!(u64::from(share), number(&vector["expect"]), "{vector}");
    }
}

#[test]
fn headers() {
    let Some(all) = vectors::read("ratelimit/ratelimit_header_vectors.json") else { return };
    for vector in all.as_array().unwrap() {
        if let Some(statuses) = vector.get("statuses") {
            let quotas: Vec<Quota<'_>> = statuses.as_array().unwrap().iter().map(quota).collect();
            let mut headers = Vec::new();
            x_ratelimit(&quotas, &mut headers);
            let headers: BTreeMap<&str, &str> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(serde_json::json!(headers), vector["expect"], "{vector}");
            continue;
        }
        let rate = rate(&vector["config"]);
        let mut full_at = 0;
        for step in vector["steps"].as_array().unwrap() {
            let now = number(&step["at_ms"]) * MILLISECOND;
            let taken = rate.take(full_at, now, 1);
            assert_eq!(taken.is_ok(), step["status"] == 200, "{step}");
            full_at = taken.unwrap_or(full_at);
            // As `Limits::headers` has it: 0 as long as something is left.
            let reset = rate.wait_for(full_at, now, 1).seconds();
            let quota = Quota {
                name: "",
                limit: rate.burst(),
                window: None,
                remaining: rate.remaining(full_at, now),
                reset,
            };
            let mut headers = Vec::new();
            x_ratelimit(&[quota], &mut headers);
            let headers: BTreeMap<&str, &str> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(serde_json::json!(headers), step["headers"], "{step}");
        }
    }
}

fn quota(status: &Value) -> Quota<'_> {
    let seconds = match status["unit"].as_str().unwrap() {
        "SECOND" => Some(1),
        "MINUTE" => Some(60),
        "HOUR" => Some(3600),
        "DAY" => Some(86_400),
        "WEEK" => Some(604_800),
        "MONTH" => Some(2_592_000),
        "YEAR" => Some(31_536_000),
        _ => None,
    };
    Quota {
        name: status["name"].as_str().unwrap(),
        limit: number(&status["limit"]) as u32,
        window: seconds.map(|seconds| (number(&status["limit"]), seconds)),
        remaining: number(&status["remaining"]) as u32,
        reset: number(&status["reset_s"]),
    }
}

/// The draft's examples of what we write: a quoted name, `q` and `w`, `r` and `t`. Other parameters (`pk`, `qu`) are
/// for others; three examples are of older drafts (names without quotes, `burst`, `q` in `RateLimit`).
#[test]
fn the_draft_examples_that_have_our_parameters_are_written_the_same() {
    let Some(all) = vectors::read("ratelimit/draft_examples.json") else { return };
    let mut same = 0;
    for example in all.as_array().unwrap() {
        let (field, value) = (example["field"].as_str().unwrap(), example["value"].as_str().unwrap());
        let policy = field == "RateLimit-Policy";
        let Some(quotas) = parse(value, if policy { ["q", "w"] } else { ["r", "t"] }) else { continue };
        let quotas: Vec<Quota<'_>> = quotas
            .iter()
            .map(|(name, first, second)| Quota {
                name,
                limit: 1,
                window: policy.then_some((*first, *second)),
                remaining: if policy { 0 } else { *first as u32 },
                reset: *second,
            })
            .collect();
        let mut headers = Vec::new();
        ratelimit(&quotas, &mut headers);
        let name = field.to_ascii_lowercase();
        let written = headers.iter().find(|(one, _)| *one == name).map(|(_, value)| value.replace(", ", ","));
        assert_eq!(written, Some(value.replace(", ", ",")));
        same += 1;
    }
    println!("{same} of {} examples", all.as_array().unwrap().len());
    assert!(same >= 20, "{same}");
}

/// Items with exactly these two parameters.
fn parse<'a>(value: &'a str, names: [&str; 2]) -> Option<Vec<(&'a str, u64, u64)>> {
    value
        .split(',')
        .map(|item| {
            let mut parts = item.trim().split(';');
            let name = parts.next()?.strip_prefix('"')?.strip_suffix('"')?;
            let mut parameter =
                |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
            let found = (name, parameter(names[0])?, parameter(names[1])?);
            parts.next().is_none().then_some(found)
        })
        .collect()
}

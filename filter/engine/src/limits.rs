//! The limits of one place, made ready: which buckets, breakers and counters a request touches, and what they say.
//!
//! Deliberately absent: the clock and the shared words (arguments), and the rules that say which request a limit is
//! for: the index of [`crate::policy::Policy::selects`] answers them for all limits at once.

use alloc::vec::Vec;
use core::hash::Hasher;

use crate::circuit_breaker;
use crate::concurrency;
use crate::config::ConfigError;
use crate::pattern::Text;
use crate::policy::Attributes;
use crate::rate_limit::{Nanoseconds, Rate, Wait};
use crate::rate_limit_table::{self, Bucket, Level};
use crate::request::Request;
use crate::shared_words::{SharedWords, Unavailable};

pub mod config;
pub mod headers;
pub(crate) mod wire;

use config::{Breaker, ConcurrencyLimit, KeyPart, LimitsConfig, Override, RateLimit, Scope, Stage, Window};

/// Seed of the hashes: random, the same in all workers, and never shown to a caller, who could otherwise look for keys
/// that share a slot with somebody else's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u64; 2]);

impl core::fmt::Debug for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Seed([redacted])")
    }
}

/// The limits, ready to be asked.
#[derive(Debug)]
pub struct Limits {
    config: LimitsConfig,
    rates: Vec<Vec<Rate>>,
    overrides: Vec<Vec<Vec<Rate>>>,
}

/// What is known of one request besides [`Request`].
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The request or connection.
    pub request: &'a Request<'a>,
    /// The cluster that Envoy has chosen, for [`KeyPart::Destination`].
    pub destination: Option<&'a [u8]>,
    /// Numbers of the selectors that match, in rising order, as [`crate::policy::Policy::selects`] gives them.
    pub selected: &'a [u32],
    /// How many sidecars share what is said for the service, see [`LimitsConfig::replicas`].
    pub replicas: u32,
}

/// What the rate limits said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateVerdict {
    /// The limit that refuses, by its position.
    pub refused: Option<usize>,
    /// Limits in shadow mode that would have refused.
    pub shadow: Vec<usize>,
    /// What was asked and what is left, for the headers: of the refusing limit alone if there is one.
    pub asked: Vec<Asked>,
}

/// One window that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Position of the limit.
    pub limit: usize,
    /// Position of the override whose windows counted, if one did.
    pub by_override: Option<usize>,
    /// Position of the window in the limit, or the override.
    pub window: usize,
    /// What is left.
    pub level: Level,
    /// The most at once, here.
    pub burst: u32,
    /// How many sidecars share the window.
    pub sidecars: u32,
}

impl Limits {
    /// Checks the limits. `selectors` is how many there are.
    pub fn compile(config: LimitsConfig, selectors: usize) -> Result<Self, ConfigError> {
        let (mut all_rates, mut all_overrides) = (Vec::new(), Vec::new());
        for limit in &config.rates {
            let known = known(limit.selector, &limit.key, selectors);
            let known = known && limit.overrides.iter().all(|one| is_below(one.selector, selectors));
            check(known, "a rate limit selects by rules that are not there")?;
            check(!limit.windows.is_empty() && limit.cost > 0, "a rate limit needs a window and a cost")?;
            check((400..600).contains(&limit.answer.status), "a rate limit answers with an error")?;
            all_rates.push(rates(&limit.windows, limit.cost)?);
            let same = |one: &Override| one.windows.is_empty() || one.windows.len() == limit.windows.len();
            check(limit.overrides.iter().all(same), "an override has as many windows as its limit, or none")?;
            let overrides = limit.overrides.iter().map(|one| rates(&one.windows, limit.cost));
            all_overrides.push(overrides.collect::<Result<_, _>>()?);
        }
        for limit in &config.concurrency {
            let known = known(limit.selector, &limit.key, selectors);
            check(
                known && limit.limit > 0,
                "a concurrency limit selects by rules that are not there, or is 0",
            )?;
        }
        for breaker in &config.breakers {
            let known = known(breaker.selector, &breaker.key, selectors);
            check(known, "a breaker selects by rules that are not there")?;
            breaker.settings.fault().map_or(Ok(()), |fault| Err(ConfigError::Other(fault)))?;
        }
        Ok(Self { config, rates: all_rates, overrides: all_overrides })
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.config.is_empty()
    }

    /// What was compiled.
    #[must_use]
    pub fn config(&self) -> &LimitsConfig {
        &self.config
    }

    /// Adds what the keys need to what the policies need. Sorts nothing.
    pub(crate) fn needs(config: &LimitsConfig, needs: &mut Attributes) {
        config.has_key(&mut |part| {
            match part {
                KeyPart::ClientAddress => needs.remote_ip = true,
                KeyPart::Method => needs.method = true,
                KeyPart::Header(name) => needs.headers.push(name.clone()),
                KeyPart::Identity | KeyPart::ServiceAccount | KeyPart::Namespace => needs.peer = true,
                KeyPart::Template(_) | KeyPart::Destination => {}
            }
            false
        });
    }

    /// Whether a key asks for the cluster that Envoy has chosen.
    #[must_use]
    pub fn needs_destination(&self) -> bool {
        self.config.has_key(&mut |part| *part == KeyPart::Destination)
            || self.config.concurrency.iter().any(|limit| !limit.destinations.is_empty())
            || self.config.breakers.iter().any(|one| !one.destinations.is_empty())
    }

    /// Whether a limit is said for the service, so that the number of its sidecars matters.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.config.rates.iter().any(|limit| limit.scope == Scope::Service)
    }

    /// Whether there is a rate limit of that stage.
    #[must_use]
    pub fn has_stage(&self, stage: Stage) -> bool {
        self.config.rates.iter().any(|limit| limit.stage == stage)
    }

    /// Asks the rate limits of a stage. A request that one of them refuses costs nothing with the others.
    ///
    /// # Errors
    /// The shared words are out of reach: nothing was counted, and the request should be refused.
    pub fn rate(
        &self,
        words: &dyn SharedWords,
        seed: Seed,
        now: Nanoseconds,
        stage: Stage,
        subject: &Subject<'_>,
    ) -> Result<RateVerdict, Unavailable> {
        let mut verdict = RateVerdict::default();
        let mut taken: Vec<(Vec<Bucket>, Vec<Level>)> = Vec::new();
        for (number, limit) in self.config.rates.iter().enumerate() {
            if limit.stage != stage || !subject.is_selected(limit.selector) {
                continue;
            }
            let by_override = limit.overrides.iter().position(|one| subject.is_selected(Some(one.selector)));
            let rates = match by_override {
                Some(at) => self.overrides.get(number).and_then(|overrides| overrides.get(at)),
                None => self.rates.get(number),
            };
            let buckets = buckets(seed, limit, rates.map_or(&[][..], |rates| rates), subject);
            let mut levels = Vec::with_capacity(buckets.len());
            let admitted = rate_limit_table::take(words, now, &buckets, limit.cost, &mut levels)?;
            let sidecars = if limit.scope == Scope::Service { subject.replicas.max(1) } else { 1 };
            let asked = buckets.iter().zip(&levels).enumerate().map(|(window, (bucket, level))| Asked {
                limit: number,
                by_override,
                window,
                level: *level,
                burst: bucket.rate.burst(),
                sidecars,
            });
            if admitted {
                verdict.asked.extend(asked);
                taken.push((buckets, levels));
            } else if limit.shadow {
                verdict.shadow.push(number);
            } else {
                verdict.refused = Some(number);
                verdict.asked = asked.collect();
                for (buckets, levels) in &taken {
                    rate_limit_table::give_back(words, buckets, levels)?;
                }
                return Ok(verdict);
            }
        }
        Ok(verdict)
    }

    /// The concurrency limits that a request must enter, each with its counter.
    pub fn concurrency<'a>(
        &'a self,
        seed: Seed,
        subject: &'a Subject<'_>,
    ) -> impl Iterator<Item = (usize, &'a ConcurrencyLimit, concurrency::Key)> {
        self.config
            .concurrency
            .iter()
            .enumerate()
            .filter(|(_, limit)| subject.is_selected(limit.selector) && subject.goes_to(&limit.destinations))
            .map(move |(number, limit)| {
                let hash = subject.hash(seed, &limit.name, b'c', 0, limit.key.iter());
                (number, limit, concurrency::Key::new(hash))
            })
    }

    /// The breaker of a request: the first that selects it.
    #[must_use]
    pub fn breaker(
        &self,
        seed: Seed,
        subject: &Subject<'_>,
    ) -> Option<(usize, &Breaker, circuit_breaker::Key)> {
        let mut breakers = self.config.breakers.iter().enumerate();
        let (number, breaker) = breakers
            .find(|(_, one)| subject.is_selected(one.selector) && subject.goes_to(&one.destinations))?;
        let hash = subject.hash(seed, &breaker.name, b'b', 0, breaker.key.iter());
        Some((number, breaker, circuit_breaker::Key::new(hash)))
    }

    /// The window that was asked.
    #[must_use]
    pub fn window(&self, asked: &Asked) -> Option<&Window> {
        let limit = self.config.rates.get(asked.limit)?;
        let windows = match asked.by_override {
            Some(at) => &limit.overrides.get(at)?.windows,
            None => &limit.windows,
        };
        windows.get(asked.window)
    }
}

impl Subject<'_> {
    fn is_selected(&self, selector: Option<u32>) -> bool {
        selector.is_none_or(|number| self.selected.binary_search(&number).is_ok())
    }

    fn goes_to(&self, destinations: &[Text]) -> bool {
        destinations.is_empty() || destinations.iter().any(|one| Some(one.as_bytes()) == self.destination)
    }

    /// A hash of a limit's name and the values of some key parts.
    fn hash<'a>(
        &self,
        seed: Seed,
        name: &str,
        kind: u8,
        window: usize,
        parts: impl Iterator<Item = &'a KeyPart>,
    ) -> u64 {
        let mut text = Vec::with_capacity(160);
        write_text(&mut text, name.as_bytes());
        text.extend([kind, window as u8]);
        for part in parts {
            self.write_part(&mut text, part);
        }
        keyed(seed, &text)
    }

    fn write_part(&self, key: &mut Vec<u8>, part: &KeyPart) {
        let identity = self.request.identity();
        match part {
            KeyPart::Identity => write_option(key, identity.map(|id| id.as_str().as_bytes())),
            KeyPart::ServiceAccount => {
                write_option(key, identity.and_then(|id| id.namespace()).map(str::as_bytes));
                write_option(key, identity.and_then(|id| id.service_account()).map(str::as_bytes));
            }
            KeyPart::Namespace => {
                write_option(key, identity.and_then(|id| id.namespace()).map(str::as_bytes))
            }
            KeyPart::ClientAddress => match self.request.remote_ip {
                Some(core::net::IpAddr::V4(ip)) => write_option(key, Some(&ip.octets())),
                // A site has a /64 at least: its addresses are one client, or a flood would have a bucket for each.
                Some(core::net::IpAddr::V6(ip)) => write_option(key, ip.octets().get(..8)),
                None => write_option(key, None),
            },
            KeyPart::Method => write_option(key, self.request.method),
            KeyPart::Template(selectors) => {
                let first = selectors.iter().position(|selector| self.is_selected(Some(*selector)));
                key.extend(first.map_or(u32::MAX, |at| at as u32).to_le_bytes());
            }
            KeyPart::Header(name) => {
                for field in self.request.headers.iter().filter(|field| *field.name == **name) {
                    write_option(key, Some(field.value));
                }
                write_option(key, None);
            }
            KeyPart::Destination => write_option(key, self.destination),
        }
    }
}

fn buckets(seed: Seed, limit: &RateLimit, rates: &[Rate], subject: &Subject<'_>) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::with_capacity(rates.len());
    for (window, rate) in rates.iter().enumerate() {
        let rate = match limit.scope {
            Scope::Sidecar => *rate,
            Scope::Service => rate.share(subject.replicas, limit.cost),
        };
        let key = subject.hash(seed, &limit.name, b'k', window, limit.key.iter());
        let owner = limit.key.iter().filter(|part| part.is_owner());
        let owner = subject.hash(seed, &limit.name, b'o', window, owner);
        let key = rate_limit_table::Key::new(key, owner);
        let key = buckets.first().map_or(key, |first| key.in_slot_of(first.key));
        buckets.push(Bucket { key, rate });
    }
    buckets
}

/// SipHash-2-4: with a seed that nobody knows, nobody can look for collisions.
#[expect(
    deprecated,
    reason = "the hash that std names today has no seed of ours; this one is stable, and its code small"
)]
fn keyed(seed: Seed, text: &[u8]) -> u64 {
    let Seed([first, second]) = seed;
    // In one piece: the code of a hash with many small writes is ten times as large.
    let mut hasher = core::hash::SipHasher::new_with_keys(first, second);
    hasher.write(text);
    hasher.finish()
}

/// Length first, so that no value can continue into the next.
#[inline(never)]
fn write_text(key: &mut Vec<u8>, text: &[u8]) {
    key.extend((text.len() as u32).to_le_bytes());
    key.extend_from_slice(text);
}

fn write_option(key: &mut Vec<u8>, text: Option<&[u8]>) {
    key.push(u8::from(text.is_some()));
    write_text(key, text.unwrap_or_default());
}

fn check(holds: bool, problem: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Other(problem)) }
}

fn is_below(selector: u32, selectors: usize) -> bool {
    usize::try_from(selector).is_ok_and(|selector| selector < selectors)
}

fn known(selector: Option<u32>, key: &[KeyPart], selectors: usize) -> bool {
    let of_part = |part: &KeyPart| match part {
        KeyPart::Template(templates) => templates.iter().all(|one| is_below(*one, selectors)),
        _ => true,
    };
    selector.is_none_or(|selector| is_below(selector, selectors)) && key.iter().all(of_part)
}

fn rates(windows: &[Window], cost: u32) -> Result<Vec<Rate>, ConfigError> {
    let rate = |window: &Window| {
        check(cost <= window.burst, "a request costs more than the burst: it would never pass")?;
        Rate::new(window.requests, window.period, window.burst)
            .map_err(|_| ConfigError::Other("a window of a rate limit is out of range"))
    };
    windows.iter().map(rate).collect()
}

/// How an answer counts for a breaker.
#[must_use]
pub fn outcome(failures: &config::Failures, status: u16, grpc: Option<u32>) -> circuit_breaker::Outcome {
    use circuit_breaker::Outcome;
    /// RESOURCE_EXHAUSTED of gRPC's status codes.
    const EXHAUSTED: u32 = 8;
    let failed = failures.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status));
    match grpc {
        Some(EXHAUSTED) => Outcome::Throttled,
        Some(code) if code < 32 && failures.grpc & (1 << code) != 0 => Outcome::Failure,
        _ if failed => Outcome::Failure,
        _ if status == 429 => Outcome::Throttled,
        _ => Outcome::Success,
    }
}

/// The longest of some waits.
#[must_use]
pub fn longest_wait(asked: &[Asked]) -> Wait {
    asked.iter().map(|asked| asked.level.wait).max().unwrap_or(Wait::new(0))
}

#[cfg(test)]
mod tests;

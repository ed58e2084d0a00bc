//! The limits of one place, made ready: which buckets, breakers and counters a request touches, and what they say.
//!
//! Deliberately absent: the clock and the shared words (arguments), and the rules that say which request a limit is
//! for: the index of [`crate::policy::Policy::selects`] answers them for all limits at once.

use alloc::string::String;
use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::IpAddr;

use crate::circuit_breaker;
use crate::concurrency;
use crate::config::ConfigError;
use crate::lease;
use crate::pattern::Text;
use crate::policy::Attributes;
use crate::rate_limit::{Nanoseconds, Rate, Wait};
use crate::rate_limit_table::{self, Bucket, Level};
use crate::request::Request;
use crate::rls;
use crate::shared_words::{SharedWords, Unavailable};
use crate::text::{decimal, push_address};

pub mod config;
pub mod headers;
pub(crate) mod wire;

use config::{
    Breaker, ConcurrencyLimit, KeyPart, LimitsConfig, OnFailure, Override, RateLimit, Scope, Stage, Window,
};

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
    /// Of each breaker, see [`Limits::breaker_bases`].
    bases: Vec<u32>,
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

/// A limit of [`Scope::Global`] that a request must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global<'a> {
    /// Position of the limit.
    pub limit: usize,
    /// Position of the override whose window counts, if one does.
    pub by_override: Option<usize>,
    /// What is said for all.
    pub window: &'a Window,
    /// Where this sidecar's lease of it is.
    pub key: lease::Key,
    /// Tokens of this request.
    pub cost: u32,
    /// The most of one lease: a twentieth of the budget, so that what one sidecar holds is little to the others.
    pub most: u32,
    /// What becomes of the request while the service cannot be asked. [`OnFailure::Closed`] never in shadow mode.
    pub on_failure: OnFailure,
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
            let global = matches!(limit.scope, Scope::Global(_));
            all_rates.push(rates(&limit.windows, limit.cost, global)?);
            let same = |one: &Override| one.windows.is_empty() || one.windows.len() == limit.windows.len();
            check(limit.overrides.iter().all(same), "an override has as many windows as its limit, or none")?;
            if global {
                let asks = config.service.as_ref().is_some_and(|service| service.timeout > 0);
                check(asks && limit.stage == Stage::AfterAuthorization, "nobody counts a global limit")?;
            }
            let overrides = limit.overrides.iter().map(|one| rates(&one.windows, limit.cost, global));
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
        let bases = config.breakers.iter().map(base).collect();
        Ok(Self { config, rates: all_rates, overrides: all_overrides, bases })
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
        self.config.rates.iter().any(|limit| limit.scope != Scope::Sidecar)
    }

    /// Whether there is a rate limit of that stage.
    #[must_use]
    pub fn has_stage(&self, stage: Stage) -> bool {
        self.config.rates.iter().any(|limit| limit.stage == stage)
    }

    /// The first global limit of a request, at the position `from` or behind it.
    #[must_use]
    pub fn global(&self, seed: Seed, subject: &Subject<'_>, from: usize) -> Option<Global<'_>> {
        for (number, limit) in self.config.rates.iter().enumerate().skip(from) {
            let Scope::Global(on_failure) = limit.scope else { continue };
            if !subject.is_selected(limit.selector) {
                continue;
            }
            let by_override = subject.override_of(limit);
            let windows = match by_override {
                Some(at) => limit.overrides.get(at).map(|one| &one.windows),
                None => Some(&limit.windows),
            };
            // Who is not limited has none.
            let Some(window) = windows.and_then(|windows| windows.first()) else { continue };
            return Some(Global {
                limit: number,
                by_override,
                window,
                key: lease::Key::new(subject.hash(seed, &limit.name, b'g', 0, &limit.key)),
                cost: limit.cost,
                most: (window.requests / 20).max(limit.cost),
                on_failure: match on_failure {
                    OnFailure::Closed if limit.shadow => OnFailure::Open,
                    _ => on_failure,
                },
            });
        }
        None
    }

    /// The question to the service for a lease of `hits`, ready to be sent.
    #[must_use]
    pub fn ask(&self, global: &Global<'_>, subject: &Subject<'_>, hits: u32) -> Option<Vec<u8>> {
        let limit = self.config.rates.get(global.limit)?;
        let mut descriptor = Vec::new();
        rls::entry(&mut descriptor, "limit", limit.name.as_bytes());
        for part in &limit.key {
            let mut made = Vec::new();
            let (name, value) = subject.part(part, &mut made);
            // What is absent is empty, and not left out: else a caller could fill its place with another part.
            rls::entry(&mut descriptor, name, value.unwrap_or_default());
        }
        let domain = &self.config.service.as_ref()?.domain;
        rls::request(domain, descriptor, (global.window.requests, global.window.period), hits)
    }

    /// What the service said of a global limit, as a verdict. `wait`: it refuses; `next`: the window's end.
    #[must_use]
    pub fn told(&self, global: &Global<'_>, remaining: u32, wait: Option<Wait>, next: Wait) -> RateVerdict {
        let shadow = self.config.rates.get(global.limit).is_some_and(|limit| limit.shadow);
        let asked = Asked {
            limit: global.limit,
            by_override: global.by_override,
            window: 0,
            level: Level::told(remaining, wait.unwrap_or(Wait::new(0)), next),
            burst: global.window.requests,
            sidecars: 1,
        };
        RateVerdict {
            refused: wait.filter(|_| !shadow).map(|_| global.limit),
            shadow: wait.filter(|_| shadow).map(|_| global.limit).into_iter().collect(),
            asked: if wait.is_some() && shadow { Vec::new() } else { vec![asked] },
        }
    }

    /// A global limit counted here, as the sidecar's share of it.
    ///
    /// # Errors
    /// As [`Self::rate`].
    pub fn local(
        &self,
        words: &dyn SharedWords,
        seed: Seed,
        now: Nanoseconds,
        global: &Global<'_>,
        subject: &Subject<'_>,
    ) -> Result<RateVerdict, Unavailable> {
        self.rate_of(words, seed, now, &|number, _| number == global.limit, subject)
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
        let here =
            |_: usize, limit: &RateLimit| limit.stage == stage && !matches!(limit.scope, Scope::Global(_));
        self.rate_of(words, seed, now, &here, subject)
    }

    fn rate_of(
        &self,
        words: &dyn SharedWords,
        seed: Seed,
        now: Nanoseconds,
        wanted: &dyn Fn(usize, &RateLimit) -> bool,
        subject: &Subject<'_>,
    ) -> Result<RateVerdict, Unavailable> {
        let mut verdict = RateVerdict::default();
        let mut taken: Vec<(Vec<Bucket>, Vec<Level>)> = Vec::new();
        for (number, limit) in self.config.rates.iter().enumerate() {
            if !wanted(number, limit) || !subject.is_selected(limit.selector) {
                continue;
            }
            let by_override = subject.override_of(limit);
            let rates = match by_override {
                Some(at) => self.overrides.get(number).and_then(|overrides| overrides.get(at)),
                None => self.rates.get(number),
            };
            let buckets = buckets(seed, limit, rates.map_or(&[][..], |rates| rates), subject);
            let mut levels = Vec::with_capacity(buckets.len());
            let admitted = rate_limit_table::take(words, now, &buckets, limit.cost, &mut levels)?;
            let sidecars = if limit.scope == Scope::Sidecar { 1 } else { subject.replicas.max(1) };
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
                let hash = subject.hash(seed, &limit.name, b'c', 0, &limit.key);
                (number, limit, concurrency::Key::new(hash))
            })
    }

    /// For each breaker a number that stays the same as long as its name and its key do.
    #[must_use]
    pub fn breaker_bases(&self) -> &[u32] {
        &self.bases
    }

    /// The breaker of a request: the first that selects it. Its key is labelled by breaker and destination.
    #[must_use]
    pub fn breaker(
        &self,
        seed: Seed,
        subject: &Subject<'_>,
    ) -> Option<(usize, &Breaker, circuit_breaker::Key)> {
        let mut breakers = self.config.breakers.iter().enumerate();
        let (number, breaker) = breakers
            .find(|(_, one)| subject.is_selected(one.selector) && subject.goes_to(&one.destinations))?;
        let hash = subject.hash(seed, &breaker.name, b'b', 0, &breaker.key);
        let base = self.bases.get(number).copied().unwrap_or_default();
        let destination = subject.destination.filter(|_| breaker.key.contains(&KeyPart::Destination));
        let label = mix(base, destination.unwrap_or_default());
        Some((number, breaker, circuit_breaker::Key::new(hash).labelled(label)))
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

    fn override_of(&self, limit: &RateLimit) -> Option<usize> {
        limit.overrides.iter().position(|one| self.is_selected(Some(one.selector)))
    }

    /// A part of a key: its name and its value, in `made` if it is not there as it is. `None`: the request has none.
    #[inline(never)]
    fn part<'a>(&'a self, part: &'a KeyPart, made: &'a mut Vec<u8>) -> (&'a str, Option<&'a [u8]>) {
        let identity = self.request.identity();
        let namespace = identity.and_then(|id| id.namespace());
        match part {
            KeyPart::Identity => ("identity", identity.map(|id| id.as_str().as_bytes())),
            KeyPart::Namespace => ("namespace", namespace.map(str::as_bytes)),
            KeyPart::Method => ("method", self.request.method),
            KeyPart::Destination => ("destination", self.destination),
            KeyPart::ServiceAccount => {
                for name in [namespace, identity.and_then(|id| id.service_account())] {
                    made.extend_from_slice(name.unwrap_or_default().as_bytes());
                    made.push(b'/');
                }
                ("serviceAccount", Some(made))
            }
            KeyPart::ClientAddress => {
                if let Some(address) = self.client() {
                    let mut text = String::new();
                    push_address(&mut text, address);
                    *made = text.into_bytes();
                }
                ("clientAddress", Some(made))
            }
            KeyPart::Template(selectors) => {
                let first = selectors.iter().position(|selector| self.is_selected(Some(*selector)));
                if let Some(first) = first {
                    *made = decimal(first as u64).into_bytes();
                }
                ("path", Some(made))
            }
            KeyPart::Header(name) => {
                for field in self.request.headers.iter().filter(|field| *field.name == **name) {
                    made.extend_from_slice(field.value);
                    made.push(b',');
                }
                (name, Some(made))
            }
        }
    }

    /// The original client's address, as far as it tells it from others.
    fn client(&self) -> Option<IpAddr> {
        self.request.remote_ip.map(|ip| match ip {
            IpAddr::V4(_) => ip,
            // A site has a /64 at least: its addresses are one client, or a flood would have a bucket for each.
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        })
    }

    /// A hash of a limit's name and the values of key parts: all of them, or those that say whose requests they are.
    fn hash(&self, seed: Seed, name: &str, kind: u8, window: usize, parts: &[KeyPart]) -> u64 {
        let mut text = Vec::with_capacity(160);
        write_text(&mut text, name.as_bytes());
        text.extend_from_slice(&[kind, window as u8]);
        for part in parts.iter().filter(|part| kind != OWNER || part.is_owner()) {
            let mut made = Vec::new();
            let (_, value) = self.part(part, &mut made);
            text.push(u8::from(value.is_some()));
            write_text(&mut text, value.unwrap_or_default());
        }
        keyed(seed, &text)
    }
}

/// The kind of hash that says whose bucket it is.
const OWNER: u8 = b'o';

fn buckets(seed: Seed, limit: &RateLimit, rates: &[Rate], subject: &Subject<'_>) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::with_capacity(rates.len());
    for (window, rate) in rates.iter().enumerate() {
        let rate = match limit.scope {
            Scope::Sidecar => *rate,
            Scope::Service | Scope::Global(_) => rate.share(subject.replicas, limit.cost),
        };
        let key = subject.hash(seed, &limit.name, b'k', window, &limit.key);
        let owner = subject.hash(seed, &limit.name, OWNER, window, &limit.key);
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

/// FNV-1a, for what needs no secrecy.
#[inline(never)]
fn mix(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn base(breaker: &Breaker) -> u32 {
    breaker.key.iter().fold(mix(0x811c_9dc5, breaker.name.as_bytes()), |hash, part| {
        let (kind, name): (u8, &[u8]) = match part {
            KeyPart::Identity => (0, &[]),
            KeyPart::ServiceAccount => (1, &[]),
            KeyPart::Namespace => (2, &[]),
            KeyPart::ClientAddress => (3, &[]),
            KeyPart::Method => (4, &[]),
            KeyPart::Template(_) => (5, &[]),
            KeyPart::Header(name) => (6, name.as_bytes()),
            KeyPart::Destination => (7, &[]),
        };
        mix(mix(hash, &[kind]), name)
    })
}

/// Length first, so that no value can continue into the next.
#[inline(never)]
fn write_text(key: &mut Vec<u8>, text: &[u8]) {
    key.extend((text.len() as u32).to_le_bytes());
    key.extend_from_slice(text);
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

fn rates(windows: &[Window], cost: u32, global: bool) -> Result<Vec<Rate>, ConfigError> {
    let rate = |window: &Window| {
        check(cost <= window.burst, "a request costs more than the burst: it would never pass")?;
        let can_be_asked = windows.len() == 1 && rls::unit(window.period).is_some();
        check(!global || can_be_asked, "a global limit has one window, of a length that the protocol knows")?;
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

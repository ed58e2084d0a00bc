//! Limits as numbers and texts, in the order in which they are read.
//!
//! Why not serde: its code for these structures is ten times as large, and the module has a budget. A list is its
//! length and its items; a choice is its number. Deliberately absent: whether the limits make sense
//! ([`super::Limits::compile`] says that).

use alloc::vec::Vec;

use super::config::{
    Breaker, BreakerSettings, ConcurrencyLimit, Failures, HeaderMode, KeyPart, LimitsConfig, OnFailure,
    Override, RateAnswer, RateLimit, RateLimitService, Scope, Stage, Window,
};
use crate::config::DenyResponse;
use crate::pattern::Text;

/// What is written.
#[derive(Debug, Default)]
pub struct Written<'a> {
    pub numbers: Vec<u64>,
    pub texts: Vec<&'a str>,
}

/// Writes the limits.
pub fn write(config: &LimitsConfig) -> Written<'_> {
    let mut out = Written::default();
    out.list(&config.rates, |out, limit| {
        out.texts.push(&limit.name);
        out.selector(limit.selector);
        out.numbers.push(u64::from(limit.stage == Stage::BeforeAuthorization));
        out.numbers.push(match limit.scope {
            Scope::Sidecar => 0,
            Scope::Service => 1,
            Scope::Global(OnFailure::Open) => 2,
            Scope::Global(OnFailure::Closed) => 3,
            Scope::Global(OnFailure::Local) => 4,
        });
        out.key(&limit.key);
        out.list(&limit.windows, Written::window);
        out.list(&limit.overrides, |out, one| {
            out.numbers.push(one.selector.into());
            out.list(&one.windows, Written::window);
        });
        let headers = match limit.answer.headers {
            HeaderMode::Never => 0,
            HeaderMode::Refused => 1,
            HeaderMode::Always => 2,
        };
        let (shadow, problem) = (limit.shadow.into(), limit.answer.problem.into());
        out.numbers.extend([limit.cost.into(), shadow, limit.answer.status.into(), headers, problem]);
    });
    out.list(&config.concurrency, |out, limit| {
        out.texts.push(&limit.name);
        out.selector(limit.selector);
        out.names(&limit.destinations);
        out.key(&limit.key);
        out.numbers.extend([u64::from(limit.limit), limit.shadow.into()]);
    });
    out.list(&config.breakers, |out, breaker| {
        out.texts.push(&breaker.name);
        out.selector(breaker.selector);
        out.names(&breaker.destinations);
        out.key(&breaker.key);
        let BreakerSettings {
            consecutive_failures,
            failure_permille,
            slow_permille,
            window,
            min_requests,
            backoff,
            max_backoff,
            jitter_permille,
            probes,
            probe_timeout,
        } = breaker.settings;
        out.numbers.extend([
            consecutive_failures.into(),
            failure_permille.into(),
            slow_permille.into(),
            window,
        ]);
        out.numbers.extend([
            min_requests.into(),
            backoff,
            max_backoff,
            jitter_permille.into(),
            probes.into(),
        ]);
        out.numbers.extend([probe_timeout, breaker.failures.grpc.into(), breaker.slow_call]);
        out.numbers.extend([u64::from(breaker.honour_retry_after), breaker.shadow.into()]);
        out.list(&breaker.failures.statuses, |out, (first, last)| {
            out.numbers.extend([u64::from(*first), u64::from(*last)]);
        });
        out.numbers.push(breaker.fallback.as_ref().map_or(0, |fallback| fallback.status.into()));
        if let Some(fallback) = &breaker.fallback {
            out.texts.extend([&*fallback.content_type, &*fallback.body]);
        }
    });
    out.numbers.extend([u64::from(config.replicas), u64::from(config.service.is_some())]);
    if let Some(service) = &config.service {
        out.numbers.push(service.timeout.into());
        out.texts.extend([&*service.cluster, &*service.domain]);
    }
    out
}

impl<'a> Written<'a> {
    fn list<T>(&mut self, items: &'a [T], write: impl Fn(&mut Self, &'a T)) {
        self.numbers.push(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }

    fn selector(&mut self, selector: Option<u32>) {
        self.numbers.push(selector.map_or(0, |number| u64::from(number) + 1));
    }

    fn names(&mut self, names: &'a [Text]) {
        self.list(names, |out, name| out.texts.push(name));
    }

    fn window(&mut self, window: &'a Window) {
        self.texts.push(&window.name);
        self.numbers.extend([window.requests.into(), window.period, window.burst.into()]);
    }

    fn key(&mut self, key: &'a [KeyPart]) {
        self.list(key, |out, part| match part {
            KeyPart::Identity => out.numbers.push(0),
            KeyPart::ServiceAccount => out.numbers.push(1),
            KeyPart::Namespace => out.numbers.push(2),
            KeyPart::ClientAddress => out.numbers.push(3),
            KeyPart::Method => out.numbers.push(4),
            KeyPart::Destination => out.numbers.push(5),
            KeyPart::Header(name) => {
                out.numbers.push(6);
                out.texts.push(name);
            }
            KeyPart::Template(selectors) => {
                out.numbers.push(7);
                out.list(selectors, |out, selector| out.numbers.push((*selector).into()));
            }
        });
    }
}

/// Reads what [`write`] wrote. `None`: it is damaged.
pub fn read(numbers: &[u64], texts: &[&str]) -> Option<LimitsConfig> {
    let mut from = Reader { numbers: numbers.iter(), texts: texts.iter(), damaged: false };
    let config = LimitsConfig {
        rates: from.list(Reader::rate),
        concurrency: from.list(Reader::concurrency),
        breakers: from.list(Reader::breaker),
        replicas: from.u32(),
        service: from.service(),
    };
    let whole = !from.damaged && from.numbers.next().is_none() && from.texts.next().is_none();
    whole.then_some(config)
}

/// Reading goes on after damage, with zeroes, and is thrown away at the end.
struct Reader<'a> {
    numbers: core::slice::Iter<'a, u64>,
    texts: core::slice::Iter<'a, &'a str>,
    damaged: bool,
}

impl Reader<'_> {
    #[inline(never)]
    fn number(&mut self, max: u64) -> u64 {
        match self.numbers.next() {
            Some(number) if *number <= max => *number,
            _ => {
                self.damaged = true;
                0
            }
        }
    }

    fn long(&mut self) -> u64 {
        self.number(u64::MAX)
    }

    fn u32(&mut self) -> u32 {
        self.number(u32::MAX.into()) as u32
    }

    fn u16(&mut self) -> u16 {
        self.number(u16::MAX.into()) as u16
    }

    fn flag(&mut self) -> bool {
        self.number(1) == 1
    }

    #[inline(never)]
    fn text(&mut self) -> Text {
        let text = self.texts.next();
        self.damaged |= text.is_none();
        Text::from(text.copied().unwrap_or_default())
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        for _ in 0..self.long() {
            // An invented length ends with the numbers.
            if self.damaged {
                break;
            }
            items.push(read(self));
        }
        items
    }

    fn selector(&mut self) -> Option<u32> {
        self.u32().checked_sub(1)
    }

    #[inline(never)]
    fn windows(&mut self) -> Vec<Window> {
        self.list(|from| {
            let name = from.text();
            Window { name, requests: from.u32(), period: from.long(), burst: from.u32() }
        })
    }

    #[inline(never)]
    fn key(&mut self) -> Vec<KeyPart> {
        self.list(|from| match from.number(7) {
            1 => KeyPart::ServiceAccount,
            2 => KeyPart::Namespace,
            3 => KeyPart::ClientAddress,
            4 => KeyPart::Method,
            5 => KeyPart::Destination,
            6 => KeyPart::Header(from.text()),
            7 => KeyPart::Template(from.list(Self::u32)),
            _ => KeyPart::Identity,
        })
    }

    fn rate(&mut self) -> RateLimit {
        RateLimit {
            name: self.text(),
            selector: self.selector(),
            stage: if self.flag() { Stage::BeforeAuthorization } else { Stage::AfterAuthorization },
            scope: match self.number(4) {
                1 => Scope::Service,
                2 => Scope::Global(OnFailure::Open),
                3 => Scope::Global(OnFailure::Closed),
                4 => Scope::Global(OnFailure::Local),
                _ => Scope::Sidecar,
            },
            key: self.key(),
            windows: self.windows(),
            overrides: self.list(|from| Override { selector: from.u32(), windows: from.windows() }),
            cost: self.u32(),
            shadow: self.flag(),
            answer: RateAnswer {
                status: self.u16(),
                headers: match self.number(2) {
                    0 => HeaderMode::Never,
                    1 => HeaderMode::Refused,
                    _ => HeaderMode::Always,
                },
                problem: self.flag(),
            },
        }
    }

    fn service(&mut self) -> Option<RateLimitService> {
        self.flag().then(|| RateLimitService {
            timeout: self.u32(),
            cluster: self.text(),
            domain: self.text(),
        })
    }

    fn concurrency(&mut self) -> ConcurrencyLimit {
        ConcurrencyLimit {
            name: self.text(),
            selector: self.selector(),
            destinations: self.list(Self::text),
            key: self.key(),
            limit: self.u32(),
            shadow: self.flag(),
        }
    }

    fn breaker(&mut self) -> Breaker {
        let (name, selector) = (self.text(), self.selector());
        let (destinations, key) = (self.list(Self::text), self.key());
        let settings = BreakerSettings {
            consecutive_failures: self.u32(),
            failure_permille: self.u16(),
            slow_permille: self.u16(),
            window: self.long(),
            min_requests: self.u32(),
            backoff: self.long(),
            max_backoff: self.long(),
            jitter_permille: self.u16(),
            probes: self.number(u8::MAX.into()) as u8,
            probe_timeout: self.long(),
        };
        let grpc = self.u32();
        let (slow_call, honour_retry_after, shadow) = (self.long(), self.flag(), self.flag());
        let statuses = self.list(|from| (from.u16(), from.u16()));
        let fallback = match self.u16() {
            0 => None,
            status => Some(DenyResponse { status, content_type: self.text(), body: self.text() }),
        };
        let failures = Failures { statuses, grpc };
        Breaker {
            name,
            selector,
            destinations,
            key,
            settings,
            failures,
            slow_call,
            honour_retry_after,
            fallback,
            shadow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LimitsConfig {
        let window = |burst| Window { name: "minute".into(), requests: 5, period: u64::MAX, burst };
        let key = vec![
            KeyPart::Identity,
            KeyPart::ServiceAccount,
            KeyPart::Namespace,
            KeyPart::ClientAddress,
            KeyPart::Method,
            KeyPart::Template(vec![2, 3]),
            KeyPart::Header("x-tenant".into()),
            KeyPart::Destination,
        ];
        let rate = |stage, headers| RateLimit {
            name: "shop/limits/0".into(),
            selector: Some(0),
            stage,
            scope: if stage == Stage::BeforeAuthorization {
                Scope::Service
            } else {
                Scope::Global(OnFailure::Local)
            },
            key: key.clone(),
            windows: vec![window(1), window(2)],
            overrides: vec![Override { selector: 7, windows: vec![] }],
            cost: 3,
            shadow: true,
            answer: RateAnswer { status: 429, headers, problem: true },
        };
        let settings = BreakerSettings {
            consecutive_failures: 7,
            failure_permille: 500,
            slow_permille: 800,
            window: 10,
            min_requests: 5,
            backoff: 1,
            max_backoff: 60,
            jitter_permille: 500,
            probes: 2,
            probe_timeout: 30,
        };
        let breaker = |fallback| Breaker {
            name: "shop/breaker/0".into(),
            selector: None,
            destinations: vec!["c".into()],
            key: vec![],
            settings: settings.clone(),
            failures: Failures { statuses: vec![(500, 599), (408, 408)], grpc: u32::MAX },
            slow_call: 9,
            honour_retry_after: true,
            fallback,
            shadow: false,
        };
        let fallback = DenyResponse { status: 503, content_type: "text/plain".into(), body: "later".into() };
        LimitsConfig {
            rates: vec![
                rate(Stage::BeforeAuthorization, HeaderMode::Never),
                rate(Stage::AfterAuthorization, HeaderMode::Refused),
                rate(Stage::AfterAuthorization, HeaderMode::Always),
            ],
            concurrency: vec![ConcurrencyLimit {
                name: "shop/flight/0".into(),
                selector: Some(u32::MAX - 1),
                destinations: vec!["a".into(), "b".into()],
                key,
                limit: 4,
                shadow: false,
            }],
            breakers: vec![breaker(None), breaker(Some(fallback))],
            replicas: 3,
            service: Some(RateLimitService { cluster: "rls".into(), domain: "shop".into(), timeout: 20 }),
        }
    }

    #[test]
    fn limits_are_read_as_they_were_written() {
        for config in [sample(), LimitsConfig::NONE] {
            let written = write(&config);
            assert_eq!(read(&written.numbers, &written.texts), Some(config));
        }
    }

    #[test]
    fn whatever_is_cut_off_added_or_too_large_is_damage() {
        let config = sample();
        let Written { numbers, texts } = write(&config);
        for length in 0..numbers.len() {
            assert_eq!(read(&numbers[..length], &texts), None, "{length}");
        }
        assert_eq!(read(&numbers, &texts[1..]), None);
        assert_eq!(read(&[&numbers[..], &[0]].concat(), &texts), None);
        for at in 0..numbers.len() {
            let mut changed = numbers.clone();
            changed[at] = u64::MAX;
            // No panic, and no time or memory for an invented length.
            let _ = read(&changed, &texts);
        }
    }
}

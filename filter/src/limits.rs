//! Rate limits and concurrency limits of one configuration, and what they leave behind: answers, counters, a log line.
//!
//! The engine decides; breakers are in `breaker.rs`. When the shared words cannot be had, rate and concurrency limits
//! refuse: a limit that cannot count must not let everything through.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use meshward_engine::circuit_breaker::State;
use meshward_engine::concurrency::{self, BEAT, Member, Place};
use meshward_engine::config::Role;
use meshward_engine::limits::config::{LimitsConfig, Stage};
use meshward_engine::limits::headers::Header;
use meshward_engine::limits::{Asked, Limits, RateVerdict, Seed, Subject};
use meshward_engine::policy::Policy;
use meshward_engine::request::Request;
use meshward_engine::stats;

use crate::breaker::Call;
use crate::dispatch::Action;
use crate::global::Passage;
use crate::host::{self, Counter, Gauge, HostBytes, Level, LocalResponse};
use crate::shared::{self, Host};
use crate::vm::PerVm;

/// gRPC status RESOURCE_EXHAUSTED, what a refused gRPC caller gets.
const RESOURCE_EXHAUSTED: u8 = 8;

/// This VM among those that count requests in flight, and when it last said that it is alive. It belongs to the VM, not
/// to a configuration: requests in flight outlive one.
static MEMBER: PerVm<Option<(Member, u64)>> = PerVm::new(None);

/// The limits of one configuration.
pub struct Guards {
    pub limits: Limits,
    pub seed: Seed,
    pub role: Role,
    /// The root context of this configuration.
    pub root: u32,
    needs_destination: bool,
    counters: Counters,
    /// For each rate limit.
    saturation: Vec<Saturation>,
    /// Second of the last log lines of refusals, and a bit for each limit that has had its line in it.
    logged: Cell<(u64, u64)>,
    /// How many sidecars share what is said for the service, and the second in which that was read.
    replicas: Cell<(u64, u32)>,
    /// 0: the rate limit service answers. Else it does not, and is tried again then.
    pub retry_at: Cell<u64>,
}

/// How full a limit was in a second, and where that is told.
#[derive(Default)]
struct Saturation {
    second: Cell<u64>,
    percent: Cell<u32>,
    gauge: Cell<Option<Gauge>>,
}

/// What became of a request with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Allowed,
    Refused,
    /// Let pass by a limit in shadow mode that would have refused.
    Shadowed,
}

/// An answer in place of the upstream's, in a box: few requests have one, and all carry its place.
pub type Refused = Box<Refusal>;

/// See [`Refused`].
pub struct Refusal {
    pub status: u16,
    pub grpc_status: Option<u8>,
    pub details: String,
    pub body: Vec<u8>,
    pub headers: Vec<Header>,
    pub content_type: Option<String>,
}

/// What one request or connection holds until it ends.
pub struct Holding {
    places: Vec<Place>,
    pub call: Option<Call>,
    /// For the response.
    headers: Vec<Header>,
    pub passage: Passage,
}

/// What is read for the limits alone.
#[derive(Default)]
pub struct Extra {
    selected: Vec<u32>,
    destination: Option<HostBytes>,
    replicas: u32,
}

impl Guards {
    /// Takes limits that are compiled. The words are created here, see [`shared::prepare`].
    pub fn new(limits: Limits, role: Role, root: u32) -> Self {
        let config = limits.config();
        let seed = if limits.is_empty() { Ok(Seed([0, 0])) } else { shared::prepare(config) };
        if !(config.concurrency.is_empty() && config.breakers.is_empty()) {
            // Without the beat the counters would be given up while requests are in flight; `enter` beats too. And gauges
            // tell of breakers that nobody asks any more.
            let _ = host::set_tick_period(core::time::Duration::from_nanos(BEAT));
        }
        let seed = seed.unwrap_or_else(|_| {
            host::log(Level::Error, "shared data is out of reach: rate limits refuse everything");
            Seed([0, 0])
        });
        let counters = Counters::new(config);
        let saturation = config.rates.iter().map(|_| Saturation::default()).collect();
        let needs_destination = limits.needs_destination();
        let replicas = Cell::new((0, config.replicas));
        let logged = Cell::default();
        let retry_at = Cell::new(0);
        Self { limits, seed, role, root, needs_destination, counters, saturation, logged, replicas, retry_at }
    }

    /// Reads what the limits need besides the request. Nothing when there are no limits.
    pub fn extra(&self, policy: &Policy, request: &Request<'_>) -> Extra {
        let mut extra = Extra::default();
        if !self.limits.is_empty() {
            extra.replicas = self.replicas();
            policy.selects(request, |number| extra.selected.extend(u32::try_from(number)));
            if self.needs_destination {
                extra.destination = host::property("xds\0cluster_name").ok().flatten();
            }
        }
        extra
    }

    /// How many sidecars share: as the configuration has it, unless the file that the listener reads says otherwise.
    fn replicas(&self) -> u32 {
        let (read, replicas) = self.replicas.get();
        if !self.limits.is_shared() {
            return replicas;
        }
        let second = seconds();
        if read == second {
            return replicas;
        }
        let said = host::property("filter_state\0meshward.replicas").ok().flatten();
        let said = said.and_then(|text| core::str::from_utf8(&text).ok()?.trim().parse().ok());
        let replicas = said.filter(|number| *number > 0).unwrap_or(self.limits.config().replicas);
        self.replicas.set((second, replicas));
        replicas
    }

    /// The limits before authorization.
    pub fn before(&self, request: &Request<'_>, extra: &Extra) -> Result<(), Refused> {
        if !self.limits.has_stage(Stage::BeforeAuthorization) {
            return Ok(());
        }
        self.rate(Stage::BeforeAuthorization, &extra.subject(request)).map(drop)
    }

    /// All limits of a request that is authorized. What it holds is given back when `holding` is dropped.
    ///
    /// False: it waits for a global limit, and is to come again.
    pub fn enter(
        &self,
        request: &Request<'_>,
        extra: &Extra,
        holding: &mut Holding,
    ) -> Result<bool, Refused> {
        if self.limits.is_empty() {
            return Ok(true);
        }
        let subject = extra.subject(request);
        // Global ones first: what they took can be given back.
        if self.limits.config().service.is_some() {
            let entered = self.enter_global(&subject, &mut holding.passage);
            if matches!(entered, Ok(false)) {
                holding.passage.resumes = true;
                return Ok(false);
            }
            entered.inspect_err(|_| holding.passage.give_back())?;
        }
        let asked = self.rate(Stage::AfterAuthorization, &subject);
        let asked = asked.inspect_err(|_| holding.passage.give_back())?;
        holding.passage.asked.extend(asked);
        let asked = core::mem::take(&mut holding.passage.asked);
        holding.headers = self.limits.headers(&RateVerdict { asked, ..RateVerdict::default() });
        self.enter_concurrency(&subject, holding)?;
        holding.call = Call::start(self, &subject)?;
        Ok(true)
    }

    fn rate(&self, stage: Stage, subject: &Subject<'_>) -> Result<Vec<Asked>, Refused> {
        if !self.limits.has_stage(stage) {
            return Ok(Vec::new());
        }
        let verdict = host::monotonic()
            .ok()
            .and_then(|now| self.limits.rate(&Host, self.seed, now, stage, subject).ok())
            .ok_or_else(|| Refusal::unavailable("meshward_rate_limited[unavailable]"))?;
        self.settle(verdict, subject)
    }

    /// What follows from a verdict: counters and the log; and what is left, or the answer.
    pub fn settle(&self, verdict: RateVerdict, subject: &Subject<'_>) -> Result<Vec<Asked>, Refused> {
        for number in &verdict.shadow {
            self.counters.count(Kind::Rate, *number, self.rate_name(*number), Fate::Shadowed);
        }
        self.show_saturation(&verdict);
        let Some(number) = verdict.refused else {
            let mut last = None;
            for asked in verdict.asked.iter().filter(|asked| last.replace(asked.limit) != Some(asked.limit)) {
                self.counters.count(Kind::Rate, asked.limit, self.rate_name(asked.limit), Fate::Allowed);
            }
            return Ok(verdict.asked);
        };
        let name = self.rate_name(number);
        self.counters.count(Kind::Rate, number, name, Fate::Refused);
        self.log("rate limited: ", name, number, subject);
        let problem = self.limits.problem(&verdict);
        Err(Box::new(Refusal {
            status: self.limits.config().rates.get(number).map_or(429, |limit| limit.answer.status),
            grpc_status: Some(RESOURCE_EXHAUSTED),
            details: ["meshward_rate_limited[", name, "]"].concat(),
            content_type: problem.is_some().then(|| "application/problem+json".to_owned()),
            body: problem.map_or_else(|| b"rate limit exceeded".to_vec(), String::into_bytes),
            headers: self.limits.headers(&verdict),
        }))
    }

    fn enter_concurrency(&self, subject: &Subject<'_>, holding: &mut Holding) -> Result<(), Refused> {
        for (number, limit, key) in self.limits.concurrency(self.seed, subject) {
            let entered =
                with_member(|member| concurrency::enter(&Host, member, key, limit.limit).ok()).flatten();
            let fate = match entered {
                Some(Some(place)) => {
                    holding.places.push(place);
                    Fate::Allowed
                }
                Some(None) | None if limit.shadow => Fate::Shadowed,
                Some(None) | None => Fate::Refused,
            };
            self.counters.count(Kind::Concurrency, number, &limit.name, fate);
            if fate == Fate::Refused {
                self.log("too many requests in flight: ", &limit.name, number, subject);
                return Err(Box::new(Refusal {
                    status: 503,
                    grpc_status: Some(RESOURCE_EXHAUSTED),
                    details: ["meshward_too_many_in_flight[", &limit.name, "]"].concat(),
                    body: b"too many requests in flight".to_vec(),
                    headers: vec![("x-envoy-overloaded", "true".into()), ("retry-after", "1".into())],
                    content_type: None,
                }));
            }
        }
        Ok(())
    }

    /// Counts what a breaker did with a request.
    pub fn count_breaker(&self, number: usize, name: &str, fate: Fate) {
        self.counters.count(Kind::Breaker, number, name, fate);
    }

    /// The gauge of each limit that was asked: up at once, down with the next second.
    fn show_saturation(&self, verdict: &RateVerdict) {
        let second = seconds();
        for asked in &verdict.asked {
            let Some(shown) = self.saturation.get(asked.limit) else { continue };
            let used = asked.burst.saturating_sub(asked.level.remaining);
            let percent = (u64::from(used) * 100 / u64::from(asked.burst.max(1))) as u32;
            if shown.second.replace(second) == second && percent <= shown.percent.get() {
                continue;
            }
            shown.percent.set(percent);
            if shown.gauge.get().is_none() {
                let name = stats::name(stats::SATURATION, &[("policy", self.rate_name(asked.limit))]);
                shown.gauge.set(host::define_gauge(&name).ok());
            }
            if let Some(gauge) = shown.gauge.get() {
                host::record(gauge, percent.into());
            }
        }
    }

    /// A line for a limit's first refusal of a second: the rest is counted.
    pub fn log(&self, what: &str, name: &str, number: usize, subject: &Subject<'_>) {
        let second = seconds();
        let (last, lines) = self.logged.get();
        let lines = if last == second { lines } else { 0 };
        let bit = 1 << (number % 64);
        self.logged.set((second, lines | bit));
        if lines & bit == 0 {
            let caller = subject.request.identity();
            let caller = caller.as_ref().map_or("a caller without an identity", |id| id.as_str());
            host::log(Level::Info, &[what, name, " refuses ", caller].concat());
        }
    }

    fn rate_name(&self, number: usize) -> &str {
        self.limits.config().rates.get(number).map_or("", |limit| &limit.name)
    }
}

/// For what is done once in a second.
fn seconds() -> u64 {
    host::monotonic().map_or(0, |now| now / 1_000_000_000)
}

/// Says that this VM is alive, if it counts anything.
pub fn beat() {
    if MEMBER.with(|member| member.is_some()) == Some(true) {
        let _ = with_member(|_| ());
    }
}

/// Runs `work` with this VM's membership, which is renewed when it is due.
fn with_member<T>(work: impl FnOnce(&Member) -> T) -> Option<T> {
    let now = host::monotonic().ok()?;
    let with = |member: &mut Option<(Member, u64)>| {
        match member {
            Some((one, last)) if now.saturating_sub(*last) >= BEAT => {
                one.beat(&Host, now).ok()?;
                *last = now;
            }
            Some(_) => {}
            None => *member = Some((Member::join(&Host, now).ok()?, now)),
        }
        member.as_ref().map(|(one, _)| work(one))
    };
    MEMBER.with(with).flatten()
}

impl Extra {
    fn subject<'a>(&'a self, request: &'a Request<'a>) -> Subject<'a> {
        Subject {
            request,
            destination: self.destination.as_deref(),
            selected: &self.selected,
            replicas: self.replicas,
        }
    }
}

impl Holding {
    /// `id`: Envoy's number for the request or connection.
    pub fn new(id: u32) -> Self {
        Self { places: Vec::new(), call: None, headers: Vec::new(), passage: Passage::new(id) }
    }

    /// The response's headers have come: the caller is told what is left.
    pub fn add_headers(&mut self) {
        for (name, value) in self.headers.drain(..) {
            let _ = host::add_response_header(name, &value);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        for place in self.places.drain(..) {
            let _ = concurrency::leave(&Host, place);
        }
    }
}

impl Refusal {
    pub fn unavailable(details: &str) -> Refused {
        Box::new(Self {
            status: 503,
            grpc_status: None,
            details: details.to_owned(),
            body: Vec::new(),
            headers: vec![("retry-after", "1".into())],
            content_type: None,
        })
    }

    /// Answers the request with it.
    pub fn send(&self) -> Action {
        let mut headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.extend(self.content_type.as_deref().map(|kind| ("content-type", kind)));
        let response = LocalResponse {
            status: self.status,
            grpc_status: self.grpc_status,
            details: &self.details,
            body: &self.body,
            headers: &headers,
        };
        if host::send_local_response(&response).is_err() {
            host::log(Level::Error, "a refused request cannot be answered; it is held back");
        }
        Action::Pause
    }
}

/// What a counter is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rate,
    Concurrency,
    Breaker,
}

/// A counter for each limit and fate, defined when first needed.
struct Counters([Vec<[Cell<Option<Counter>>; 3]>; 3]);

impl Counters {
    fn new(config: &LimitsConfig) -> Self {
        let numbers = [config.rates.len(), config.concurrency.len(), config.breakers.len()];
        Self(numbers.map(|number| (0..number).map(|_| Default::default()).collect()))
    }

    fn count(&self, kind: Kind, number: usize, name: &str, fate: Fate) {
        let (base, label, column) = match (kind, fate) {
            (Kind::Rate, Fate::Allowed) => (stats::RATE_LIMITS, "allow", 0),
            (Kind::Rate, Fate::Refused) => (stats::RATE_LIMITS, "deny", 1),
            (Kind::Rate, Fate::Shadowed) => (stats::RATE_LIMITS, "shadow_deny", 2),
            (Kind::Concurrency, Fate::Allowed) => (stats::CONCURRENCY, "allow", 0),
            (Kind::Concurrency, Fate::Refused) => (stats::CONCURRENCY, "deny", 1),
            (Kind::Concurrency, Fate::Shadowed) => (stats::CONCURRENCY, "shadow_deny", 2),
            (Kind::Breaker, Fate::Allowed) => (stats::BREAKERS, "allow", 0),
            (Kind::Breaker, Fate::Refused) => (stats::BREAKERS, "deny", 1),
            (Kind::Breaker, Fate::Shadowed) => (stats::BREAKERS, "shadow_deny", 2),
        };
        let row = self.0.get(kind as usize).and_then(|rows| rows.get(number));
        let Some(cell) = row.and_then(|row| row.get(column)) else { return };
        if cell.get().is_none() {
            cell.set(host::define_counter(&stats::name(base, &[("verdict", label), ("policy", name)])).ok());
        }
        if let Some(counter) = cell.get() {
            host::increment(counter);
        }
    }
}

/// A state's name, for logs and counters.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    }
}

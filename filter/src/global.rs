//! Global limits: leases asked of a rate limit service over gRPC, and the requests that wait for one.
//!
//! A request waits only when there is nothing here to spend; a lease that runs low is renewed in the background. While
//! the service does not answer nobody waits for it: the first who did have waited for the timeout, the others get what
//! the limit says for that case, until a call in the background has an answer again.
//!
//! INVARIANT: every call ends in [`Guards::finish`]: Envoy ends it with its timeout at the latest. A call belongs to a root
//! context, as those who wait for it do, and not to the request that made it, which may end before.

use alloc::vec::Vec;

use meshward_engine::lease::{self, Said, Taken};
use meshward_engine::limits::config::OnFailure;
use meshward_engine::limits::{Asked, Global, RateVerdict, Subject};
use meshward_engine::rate_limit::Wait;
use meshward_engine::{rls, stats};

use crate::host::{self, Level};
use crate::limits::{Guards, Refusal, Refused};
use crate::shared::Host;
use crate::vm::PerVm;

/// How often a service that does not answer is tried.
const RETRY: u64 = 500_000_000;
/// So often a request waits for a lease that others have used up before it; then it is as if the service did not answer.
const MOST_TURNS: u8 = 16;

/// Calls of this VM that are under way.
static CALLS: PerVm<Vec<Call>> = PerVm::new(Vec::new());

struct Call {
    token: u32,
    root: u32,
    key: lease::Key,
    hits: u32,
    cost: u32,
    period: u64,
    /// When the window ends in which it was asked, as far as the clock tells.
    until: u64,
    /// Requests and connections.
    waiting: Vec<u32>,
}

/// How far a request has come with its global limits.
#[derive(Default)]
pub struct Passage {
    /// Envoy's number for the request or connection.
    id: u32,
    /// Authorization has let it through, and it has waited for a lease.
    pub resumes: bool,
    /// The position of the limit that it has come to, and how often it has waited.
    next: usize,
    turns: u8,
    /// What it has taken: of which lease, how much, of which window.
    leased: Vec<(lease::Key, u32, u64)>,
    /// What the limits have said.
    pub asked: Vec<Asked>,
}

impl Passage {
    pub fn new(id: u32) -> Self {
        Self { id, ..Self::default() }
    }

    /// Another limit has refused the request: it has cost nothing.
    pub fn give_back(&mut self) {
        let now = host::monotonic().unwrap_or(u64::MAX);
        for (key, cost, until) in self.leased.drain(..) {
            let _ = lease::give_back(&Host, now, key, cost, until);
        }
    }
}

impl Guards {
    /// Passes the global limits of a request, or waits: then it is false, and [`Self::finish`] names it later.
    #[inline(never)]
    pub fn enter_global(&self, subject: &Subject<'_>, passage: &mut Passage) -> Result<bool, Refused> {
        let now = host::monotonic().map_err(|_| unavailable())?;
        while let Some(one) = self.limits.global(self.seed, subject, passage.next) {
            let verdict = match lease::take(&Host, now, one.key, one.cost) {
                Ok(Taken::Admitted { left, low, until }) => {
                    passage.leased.push((one.key, one.cost, until));
                    if low {
                        self.ask(&one, subject, now, passage.id, false);
                    }
                    self.limits.told(&one, left, None, Wait::new(until.saturating_sub(now)))
                }
                Ok(Taken::Refused(wait)) => self.limits.told(&one, 0, Some(wait), wait),
                Ok(Taken::Empty) => {
                    let may_wait = self.retry_at.get() == 0 && passage.turns < MOST_TURNS;
                    let asks = may_wait || self.is_due(now);
                    if asks && self.ask(&one, subject, now, passage.id, may_wait) && may_wait {
                        passage.turns += 1;
                        return Ok(false);
                    }
                    self.without(&one, subject, now)?
                }
                Err(_) => self.without(&one, subject, now)?,
            };
            passage.asked.extend(self.settle(verdict, subject)?);
            passage.next = one.limit + 1;
        }
        Ok(true)
    }

    /// What a limit says for the case that the service cannot be asked.
    fn without(&self, one: &Global<'_>, subject: &Subject<'_>, now: u64) -> Result<RateVerdict, Refused> {
        match one.on_failure {
            OnFailure::Open => Ok(RateVerdict::default()),
            OnFailure::Closed => Err(unavailable()),
            OnFailure::Local => {
                self.limits.local(&Host, self.seed, now, one, subject).map_err(|_| unavailable())
            }
        }
    }

    /// Asks for a lease, or joins the call that is under way, for the request or connection `id`. False: it cannot be asked.
    fn ask(&self, one: &Global<'_>, subject: &Subject<'_>, now: u64, id: u32, waits: bool) -> bool {
        let asked = CALLS.with(|calls| {
            let own = |call: &&mut Call| call.key == one.key && call.root == self.root;
            if let Some(call) = calls.iter_mut().find(own) {
                if waits {
                    call.waiting.push(id);
                }
                return Some(());
            }
            let service = self.limits.config().service.as_ref()?;
            let hits = lease::size(&Host, now, one.key, one.cost, one.most).ok()?;
            let message = self.limits.ask(one, subject, hits)?;
            let token = host::grpc_call(self.root, &service.cluster, &message, service.timeout);
            // What follows is about the request again.
            let _ = host::become_context(id);
            let period = one.window.period;
            let of_clock = host::now().ok()?.as_nanos() as u64 % period;
            calls.push(Call {
                token: token.ok()?,
                root: self.root,
                key: one.key,
                hits,
                cost: one.cost,
                period,
                until: now.saturating_add(period - of_clock),
                waiting: if waits { vec![id] } else { Vec::new() },
            });
            Some(())
        });
        let asked = asked.flatten().is_some();
        if !asked {
            self.is_down(now);
        }
        asked
    }

    /// Whether a service that does not answer is to be tried again; not again then for a while.
    fn is_due(&self, now: u64) -> bool {
        let due = (1..=now).contains(&self.retry_at.get());
        if due {
            self.retry_at.set(now.saturating_add(RETRY));
        }
        due
    }

    fn is_down(&self, now: u64) {
        count("error");
        if self.retry_at.replace(now.saturating_add(RETRY)) == 0 {
            host::log(Level::Error, "the rate limit service does not answer, or does not know the domain");
        }
    }

    /// A call has ended: with these bytes, or without an answer. Who has waited for it.
    pub fn finish(&self, token: u32, answer: Option<&[u8]>) -> Vec<u32> {
        let call = CALLS.with(|calls| {
            let at = calls.iter().position(|call| call.token == token && call.root == self.root)?;
            Some(calls.swap_remove(at))
        });
        let (Some(call), Ok(now)) = (call.flatten(), host::monotonic()) else { return Vec::new() };
        let Some(answer) = answer.and_then(rls::answer) else {
            self.is_down(now);
            return call.waiting;
        };
        if self.retry_at.replace(0) > 0 {
            host::log(Level::Info, "the rate limit service answers again");
        }
        count(if answer.over_limit { "over_limit" } else { "ok" });
        // The service says in whole seconds when its window ends, the clock exactly, if the two agree. A service that does
        // not say it may have windows that begin when they like: then a lease is for a short time.
        let left = answer.reset.unwrap_or(call.period / 16);
        let until = call.until.min(now.saturating_add(left));
        let (tokens, more) = if answer.over_limit {
            // That there are not so many need not mean that there is none.
            let none = call.hits <= call.cost || answer.remaining.is_some();
            (0, Some(if none { 0 } else { call.cost }))
        } else {
            (call.hits, answer.remaining)
        };
        let kept = lease::answered(&Host, now, call.key, tokens, Said { until, more });
        if kept.is_err() {
            host::log(Level::Error, "shared data is out of reach: a lease is lost");
        }
        call.waiting
    }
}

/// The root context is gone, and its calls with it.
pub fn forget(root: u32) {
    CALLS.with(|calls| {
        while let Some(at) = calls.iter().position(|call| call.root == root) {
            calls.swap_remove(at);
        }
    });
}

fn count(result: &str) {
    if let Ok(counter) = host::define_counter(&stats::name(stats::RATE_LIMIT_CALLS, &[("result", result)])) {
        host::increment(counter);
    }
}

fn unavailable() -> Refused {
    Refusal::unavailable("meshward_rate_limited[service_unavailable]")
}

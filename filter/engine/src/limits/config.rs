//! Limits as they are on the wire: part of [`crate::config::PluginConfig`].
//!
//! Which requests a limit is for is a *selector*: a position in [`crate::config::PluginConfig::selectors`], whose
//! rules are those of an AuthorizationPolicy. All times are nanoseconds.

use alloc::vec::Vec;

pub use crate::circuit_breaker::Settings as BreakerSettings;
use crate::config::DenyResponse;
use crate::pattern::Text;

/// All limits of one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Rate limits, each asked on its own; a request is refused if one refuses.
    pub rates: Vec<RateLimit>,
    /// Requests in flight.
    pub concurrency: Vec<ConcurrencyLimit>,
    /// Circuit breakers; the first that selects a request is its breaker.
    pub breakers: Vec<Breaker>,
    /// How many sidecars share what is said for the service; 0 is 1.
    pub replicas: u32,
    /// Who counts what is said for the whole mesh.
    pub service: Option<RateLimitService>,
}

/// A service that speaks [`crate::rls`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitService {
    /// Envoy's cluster of it.
    pub cluster: Text,
    /// Its name for this set of budgets.
    pub domain: Text,
    /// How long to wait for an answer, in milliseconds; at least 1.
    pub timeout: u32,
}

impl LimitsConfig {
    /// No limits.
    pub const NONE: Self =
        Self { rates: Vec::new(), concurrency: Vec::new(), breakers: Vec::new(), replicas: 1, service: None };

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.concurrency.is_empty() && self.breakers.is_empty()
    }

    /// Whether a part of a key is so.
    pub(crate) fn has_key(&self, is_it: &mut dyn FnMut(&KeyPart) -> bool) -> bool {
        self.rates.iter().any(|limit| limit.key.iter().any(&mut *is_it))
            || self.concurrency.iter().any(|limit| limit.key.iter().any(&mut *is_it))
            || self.breakers.iter().any(|breaker| breaker.key.iter().any(&mut *is_it))
    }
}

/// One limit of a RateLimitPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// `namespace/policy/limit`: what the state is kept under. A policy that is loaded again under this name finds it.
    pub name: Text,
    /// Which requests; `None`: all.
    pub selector: Option<u32>,
    /// When it is asked.
    pub stage: Stage,
    /// Whose budget it is.
    pub scope: Scope,
    /// What makes a bucket of its own. Empty: one for all.
    pub key: Vec<KeyPart>,
    /// Every one must have room. At least one.
    pub windows: Vec<Window>,
    /// Other windows for some callers; the first that matches.
    pub overrides: Vec<Override>,
    /// Tokens of one request, at least 1.
    pub cost: u32,
    /// Counted and reported, never refused.
    pub shadow: bool,
    /// The answer when it refuses.
    pub answer: RateAnswer,
}

/// When a limit is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before authorization: denied requests cost too. Against floods.
    BeforeAuthorization,
    /// After it: a denied request costs its caller nothing.
    AfterAuthorization,
}

/// Whose budget a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This sidecar's.
    Sidecar,
    /// The service's: this sidecar has a share of it, see [`LimitsConfig::replicas`].
    Service,
    /// That of all sidecars that ask the same service, which counts; see [`LimitsConfig::service`]. One window, of a
    /// period that the protocol has.
    Global(OnFailure),
}

/// What becomes of requests while the service cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// They pass.
    Open,
    /// They are refused.
    Closed,
    /// They are counted here, against the sidecar's share, as with [`Scope::Service`].
    Local,
}

/// A rate with a burst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What callers are shown in `RateLimit-Policy`: printable ASCII without `"` and `\`.
    pub name: Text,
    /// Requests in a period.
    pub requests: u32,
    /// In nanoseconds.
    pub period: u64,
    /// At most so many at once.
    pub burst: u32,
}

/// Other windows for some callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// For which requests.
    pub selector: u32,
    /// As many as the limit has, or none: unlimited.
    pub windows: Vec<Window>,
}

/// What tells buckets (or breakers, or counters) apart. What is absent is a value of its own, shared by all who lack it:
/// leaving a header out is no way around a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The caller's SPIFFE ID.
    Identity,
    /// Its namespace and service account.
    ServiceAccount,
    /// Its namespace.
    Namespace,
    /// Address of the original client.
    ClientAddress,
    /// Method of the request.
    Method,
    /// Which of these selectors is the first that matches: path templates.
    Template(Vec<u32>),
    /// A header, its name in lower case. A repeated header is all its values.
    Header(Text),
    /// The cluster that Envoy has chosen.
    Destination,
}

impl KeyPart {
    /// Whether the value is the caller itself, rather than something that the caller writes.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        matches!(self, Self::Identity | Self::ServiceAccount | Self::Namespace | Self::ClientAddress)
    }
}

/// What a refused caller gets, and which headers an admitted one gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAnswer {
    /// 400 to 599, usually 429.
    pub status: u16,
    /// `x-ratelimit-*` and `RateLimit`: on which answers.
    pub headers: HeaderMode,
    /// Body of RFC 9457, problem type `quota-exceeded`.
    pub problem: bool,
}

/// On which answers the limit is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeaderMode {
    /// On none (`retry-after` is there all the same).
    Never,
    /// On refusals.
    Refused,
    /// On all.
    Always,
}

/// Most requests in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyLimit {
    /// `namespace/policy/limit`.
    pub name: Text,
    /// Which requests; `None`: all.
    pub selector: Option<u32>,
    /// Only requests to these clusters; none named: to any.
    pub destinations: Vec<Text>,
    /// What makes a counter of its own. Empty: one for all.
    pub key: Vec<KeyPart>,
    /// At least 1.
    pub limit: u32,
    /// Counted and reported, never refused.
    pub shadow: bool,
}

/// One circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// `namespace/policy/breaker`.
    pub name: Text,
    /// Which requests; `None`: all.
    pub selector: Option<u32>,
    /// Only requests to these clusters; none named: to any.
    pub destinations: Vec<Text>,
    /// What makes a breaker of its own. Empty: one for all.
    pub key: Vec<KeyPart>,
    /// When it opens, and for how long.
    pub settings: BreakerSettings,
    /// What is a failure.
    pub failures: Failures,
    /// An answer whose headers come later than this is slow; 0: none is.
    pub slow_call: u64,
    /// The callee's own `retry-after` on an answer that opens it makes it stay open for at least so long.
    pub honour_retry_after: bool,
    /// Answer while it is open, in place of a bare 503.
    pub fallback: Option<DenyResponse>,
    /// Counted and reported, never refused.
    pub shadow: bool,
}

/// What is a failure. A stream that ends without an answer (reset, timeout, no connection) always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// HTTP statuses, ranges with both ends.
    pub statuses: Vec<(u16, u16)>,
    /// gRPC statuses 0 to 31, a bit each.
    pub grpc: u32,
}

/// One sidecar's share of a number of tokens, of so many sidecars: rounded down, at least 1. No sidecars are one.
#[must_use]
pub fn share(tokens: u32, replicas: u32) -> u32 {
    tokens.checked_div(replicas).unwrap_or(tokens).max(1)
}

//! `meshward status`: what every sidecar says of itself, by its admin interface.
//!
//! Where sidecars are is [`local`] (those of `meshward up`) and [`cluster`] (pods); [`read`] asks one and makes a
//! [`Workload`] of the answers; [`text`] shows it to people. Deliberately absent: memory. What is shown is what is now; what
//! was, a monitoring system has from the same counters.

use serde::Serialize;

pub mod cluster;
pub mod local;
pub mod read;
pub mod stats;
pub mod text;

/// The admin interface of one Envoy.
pub trait Admin {
    /// The answer to a GET.
    ///
    /// # Errors
    /// Nobody answers, or not with 200; in words.
    fn get(&self, path: &str) -> Result<String, String>;
}

/// One sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// `namespace/name`, or what is known of it when it does not answer.
    pub workload: String,
    /// An address, or `pod/name`.
    pub at: String,
    /// Envoy's own word (`live`, `draining`, …), or `down`, or, in a cluster, `unreachable`.
    pub state: String,
    /// Why it is down, or what could not be asked.
    pub problem: Option<String>,
    pub envoy: Option<String>,
    pub uptime_seconds: Option<u64>,
    pub filters: Vec<Filter>,
    /// Configurations that it did not take since it started: what was in force stayed.
    pub updates_refused: u64,
    /// Times that a trapped filter was started again.
    pub vm_reloads: u64,
    /// Requests that the guard refused because the filter had not seen them.
    pub guard_refused: u64,
    pub certificates: Vec<Certificate>,
    /// What came without TLS; none where it is not let in.
    pub plaintext: Option<u64>,
    pub breakers: Vec<Breaker>,
    pub limits: Vec<Limit>,
}

/// A configuration of the filter that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// `inbound` or `outbound`; none when the configuration is of another version than this command.
    pub role: Option<&'static str>,
    pub revision: Option<String>,
    /// File name of the module.
    pub module: String,
    /// RFC 3339; none where it is part of a listener.
    pub since: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// URIs and DNS names.
    pub names: Vec<String>,
    /// Whether it is what others are judged by.
    pub authority: bool,
    /// RFC 3339.
    pub expires: String,
    /// Negative when it has expired.
    pub seconds_left: i64,
}

/// One breaker of a policy, with its state for each destination that it has been for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breaker {
    /// `namespace/policy/breaker`.
    pub breaker: String,
    pub states: Vec<State>,
    pub refused: u64,
    /// What it would have refused, in shadow mode.
    pub shadow_refused: u64,
    /// Failures that were not kept: no place for their key.
    pub untracked: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    pub destination: Option<String>,
    /// `closed`, `half_open`, or `open`: the worst of its keys.
    pub state: &'static str,
    /// Keys (callers, routes, …) in that state.
    pub open: u64,
    pub half_open: u64,
    /// Of the last change; RFC 3339.
    pub since: Option<String>,
    /// Of the last change.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// `namespace/policy/limit`.
    pub limit: String,
    /// `rate` or `concurrency`.
    pub kind: &'static str,
    /// Of a rate limit: how much of its burst the caller nearest to it has used, in the last second with requests.
    pub saturation_percent: Option<u64>,
    pub allowed: u64,
    pub refused: u64,
    pub shadow_refused: u64,
}

impl Workload {
    /// One that does not answer.
    pub fn down(workload: &str, at: &str, why: String) -> Self {
        Self {
            workload: workload.to_owned(),
            at: at.to_owned(),
            state: "down".to_owned(),
            problem: Some(why),
            envoy: None,
            uptime_seconds: None,
            filters: Vec::new(),
            updates_refused: 0,
            vm_reloads: 0,
            guard_refused: 0,
            certificates: Vec::new(),
            plaintext: None,
            breakers: Vec::new(),
            limits: Vec::new(),
        }
    }

    /// Whether `--check` fails for it: it is not live, could not be asked everything, has no configuration in force, a
    /// certificate has expired, or a breaker is not closed.
    pub fn is_well(&self) -> bool {
        let closed = |breaker: &Breaker| breaker.states.iter().all(|state| state.state == "closed");
        self.state == "live"
            && self.problem.is_none()
            && self.certificates.iter().all(|certificate| certificate.seconds_left > 0)
            && self.breakers.iter().all(closed)
    }
}

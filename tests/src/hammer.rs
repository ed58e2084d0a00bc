//! Load for rate limits: as many requests as a few connections can carry, counted by status and key.
//!
//! The promise that is held against it: never more than `burst + rate × time`. The time is taken around all requests,
//! so that what is counted against a limit is never too little.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use crate::{Connection, TestMesh};

/// Connections that are open, by mutual TLS, as one caller.
pub struct Hammer<S> {
    connections: Vec<Connection<S>>,
    to: String,
}

/// How long a connection goes on.
#[derive(Clone, Copy, Debug)]
pub enum For {
    Time(Duration),
    Requests(usize),
}

/// What came back.
#[derive(Debug, Default)]
pub struct Outcome {
    pub statuses: BTreeMap<u16, usize>,
    /// Asked and admitted (200), by key.
    pub keys: BTreeMap<String, (usize, usize)>,
    pub elapsed: Duration,
    /// Answers that close their connection.
    pub closed: usize,
}

impl Outcome {
    /// Requests that were let through.
    pub fn admitted(&self) -> usize {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    pub fn sent(&self) -> usize {
        self.statuses.values().sum()
    }

    /// The most that may have been admitted.
    pub fn promise(&self, burst: u32, per_second: f64) -> f64 {
        f64::from(burst) + per_second * self.elapsed.as_secs_f64()
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (key, (asked, admitted)) in other.keys {
            let known = self.keys.entry(key).or_default();
            known.0 += asked;
            known.1 += admitted;
        }
        self.closed += other.closed;
    }
}

/// Opens that many connections.
///
/// # Errors
/// A handshake fails.
pub fn hammer(
    mesh: &TestMesh,
    from: &str,
    to: &str,
    connections: usize,
) -> anyhow::Result<Hammer<impl Read + Write + Send + use<>>> {
    let connections = (0..connections).map(|_| mesh.connect(from, to)).collect::<anyhow::Result<_>>()?;
    Ok(Hammer { connections, to: to.to_owned() })
}

impl<S: Read + Write + Send> Hammer<S> {
    /// Sends on all connections at once. `key` gives the value of `x-tenant` for the n-th request of a connection.
    ///
    /// # Errors
    /// A connection breaks: a request got no answer.
    pub fn run(
        &mut self,
        duration: For,
        key: impl Fn(usize, usize) -> String + Sync,
    ) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let (to, key) = (&*self.to, &key);
        let outcomes: Vec<anyhow::Result<Outcome>> = std::thread::scope(|scope| {
            let one = |(number, connection)| {
                scope.spawn(move || on_one(connection, to, duration, began, |turn| key(number, turn)))
            };
            let workers: Vec<_> = self.connections.iter_mut().enumerate().map(one).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, anyhow::Result<Outcome>>| {
                worker.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            };
            workers.into_iter().map(join).collect()
        });
        let mut all = Outcome::default();
        for outcome in outcomes {
            all.add(outcome?);
        }
        all.elapsed = began.elapsed();
        Ok(all)
    }
}

fn on_one<S: Read + Write>(
    connection: &mut Connection<S>,
    to: &str,
    duration: For,
    began: Instant,
    key: impl Fn(usize) -> String,
) -> anyhow::Result<Outcome> {
    let mut own = Outcome::default();
    for turn in 0.. {
        let over = match duration {
            For::Time(time) => began.elapsed() >= time,
            For::Requests(most) => turn >= most,
        };
        if over {
            break;
        }
        let value = key(turn);
        let headers = [("x-tenant", value.as_bytes())];
        let answer = connection.request("GET", to, "/", &headers);
        let (status, closes) = answer.with_context(|| format!("request {turn}"))?;
        *own.statuses.entry(status).or_default() += 1;
        own.closed += usize::from(closes);
        let known = own.keys.entry(value).or_default();
        known.0 += 1;
        known.1 += usize::from(status == 200);
    }
    Ok(own)
}

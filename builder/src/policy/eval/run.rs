//! Lines in, lines out: streamed, one request in memory at a time.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use meshward_engine::config::{GuardMode, Protocol};
use meshward_engine::decision::{Decision, Reason, Shadow};
use meshward_engine::limits::config::Stage;
use meshward_engine::limits::{RateVerdict, Seed, Subject};
use meshward_engine::path_guard;
use meshward_engine::policy::Policy;
use meshward_engine::rate_limit::{Nanoseconds, Wait};
use meshward_engine::request::{Peer, Request};

use super::answer::Limited;
use super::replay::Said;
use super::request::{self, Ends, Line, Object};
use super::{Evaluator, Paths, answer};
use crate::policy::listener;

/// Any will do: what it decides is which keys share a slot, and that shall be the same in every run.
const SEED: Seed = Seed([0, 0]);

/// Longest line that is read, in bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests answered, unreadable ones included.
    pub answered: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
}

/// Answers every line of `input`. Blank lines are passed over.
///
/// # Errors
/// The input or the output fails. A reader of the output that left early is no error: the run ends.
pub fn run(evaluator: &Evaluator, input: impl Read, output: &mut dyn Write) -> io::Result<Summary> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut output = BufWriter::with_capacity(1 << 16, output);
    let mut summary = Summary::default();
    let mut line = Vec::new();
    let mut number = 0u64;
    loop {
        line.clear();
        if input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let too_long = line.len() as u64 == LONGEST_LINE && !line.ends_with(b"\n");
        if too_long {
            input.skip_until(b'\n')?;
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        summary.answered += 1;
        let answered = if too_long {
            Err(format!("longer than {LONGEST_LINE} bytes"))
        } else {
            evaluator.answer(&line, &mut output)
        };
        let written = answered.unwrap_or_else(|error| {
            summary.unreadable += 1;
            let place = format!("line {number}: {error}");
            answer::write_error(&mut output, &request::id_of(&line), &place)
        });
        // Whoever writes one line and waits for its answer gets it.
        let written = match written {
            Ok(()) if input.buffer().is_empty() => output.flush(),
            other => other,
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(summary),
            other => other?,
        }
    }
    // What is still to be heard of when the last line is read.
    let heard = evaluator.replay.hear(&evaluator.limits, Nanoseconds::MAX, &mut output);
    match heard.and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(summary),
        other => other.map(|()| summary),
    }
}

impl Evaluator {
    /// Answers one line. The outer error is about the line, the inner about the output.
    pub(super) fn answer(&self, line: &[u8], output: &mut impl Write) -> Result<io::Result<()>, String> {
        let Object(line): Object<Line<'_>> =
            serde_json::from_slice(line).map_err(|error| in_words(&error))?;
        let protocol = match line.protocol {
            Some(request::Protocol::Http) => Protocol::Http,
            Some(request::Protocol::Tcp) => Protocol::Tcp,
            None => self.protocol,
        };
        let now = line.time.map(|time| time.0);
        if line.outcome.is_some() {
            self.replay.check(now)?;
        }
        if let Some(now) = now
            && let Err(error) = self.replay.hear(&self.limits, now, output)
        {
            return Ok(Err(error));
        }
        let policy = if protocol == Protocol::Http { &self.http } else { &self.tcp };
        let needs = policy.needs();
        let sent = line.path.as_ref().filter(|_| protocol == Protocol::Http).map(|path| path.bytes());
        let path = match sent.map(|path| self.path(path)).transpose() {
            Ok(path) => path,
            Err(fault) => {
                let shadow = Shadow::default();
                let decision = Decision { reason: Reason::Path(fault), rule: None, audit: None, shadow };
                let limited = Limited::default();
                return Ok(answer::write(output, &line.id.0, policy, &decision, None, &limited));
            }
        };
        let (mut headers, mut claims, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
        line.headers(needs, &mut headers);
        line.claims(needs, &mut claims);
        line.metadata(needs, &mut metadata);
        let request_principal = if needs.request_principal { line.request_principal() } else { None };
        let source = line.source.as_ref().map(|source| &source.0);
        let source_ip = source.and_then(|source| source.ip);
        let destination = line.destination.as_ref().map(|destination| &destination.0);
        let to = self.callee(destination.and_then(|destination| destination.service.as_deref()))?;
        let request = Request {
            peer: line.peer(),
            serial: None,
            source_ip,
            remote_ip: source.and_then(|source| source.remote_ip).or(source_ip),
            destination_ip: destination.and_then(|destination| destination.ip),
            destination_port: self.port(destination.and_then(|destination| destination.port)),
            sni: line.sni.as_ref().map(|sni| sni.bytes()),
            method: line.method.as_ref().map(|method| method.bytes()),
            path: path.as_deref(),
            authority: line.authority(),
            headers: &headers,
            request_principal: request_principal.as_deref(),
            claims: &claims,
            metadata: &metadata,
        };
        let mut limited = self.rate(policy, Stage::BeforeAuthorization, now, &request);
        if limited.refused.is_some() {
            return Ok(answer::write_limited(output, &line.id.0, &Shadow::default(), policy, &limited));
        }
        let mut decision = policy.decide(&request);
        // Where PeerAuthentications differ by port, the identity is asked for here: behind the path, before all policies.
        let no_identity = request.peer == Peer::Absent && self.strict.is_at(request.destination_port);
        if no_identity && !matches!(decision.reason, Reason::Path(_)) {
            let shadow = Shadow::default();
            decision = Decision { reason: Reason::NoIdentity, rule: None, audit: None, shadow };
        }
        if decision.is_allowed() {
            let shadow = std::mem::take(&mut limited.shadow);
            limited = self.rate(policy, Stage::AfterAuthorization, now, &request);
            limited.shadow.splice(0..0, shadow);
            if limited.refused.is_some() {
                return Ok(answer::write_limited(output, &line.id.0, &decision.shadow, policy, &limited));
            }
        }
        let ends = line.outcome.as_ref().filter(|_| decision.is_allowed() && protocol == Protocol::Http);
        if let (Some(now), Some(Object(ends))) = (now, ends) {
            let id = &line.id.0;
            let said = match self.breaker(policy, (id, now), &request, to, ends, output) {
                Ok(said) => said,
                Err(error) => return Ok(Err(error)),
            };
            match said {
                Said::Pass => {}
                Said::Shadow(breaker) => limited.shadow.push(&breaker.name),
                Said::Refuse(breaker, wait) => {
                    let open = (breaker, wait);
                    return Ok(answer::write_open(output, id, &decision, policy, &limited, open));
                }
            }
        }
        let nearest = if self.explains { policy.nearest_miss(&decision, &request) } else { None };
        Ok(answer::write(output, &line.id.0, policy, &decision, nearest.as_ref(), &limited))
    }

    /// The rate limits of a stage. Without a time they are not asked, and nothing is spent.
    fn rate(
        &self,
        policy: &Policy,
        stage: Stage,
        now: Option<Nanoseconds>,
        request: &Request<'_>,
    ) -> Limited<'_> {
        let Some(now) =
            now.filter(|_| self.limits.has_stage(stage) || !self.limits.config().concurrency.is_empty())
        else {
            return Limited::default();
        };
        let mut selected = Vec::new();
        policy.selects(request, |number| selected.extend(u32::try_from(number)));
        let replicas = self.limits.config().replicas;
        let subject = Subject { request, destination: None, selected: &selected, replicas };
        let (mut verdict, counted) = self.global(now, stage, SEED, &subject);
        if verdict.refused.is_none() {
            // Words in memory are never out of reach.
            let here = self.limits.rate(&self.spent, SEED, now, stage, &subject).unwrap_or_default();
            verdict.refused = here.refused;
            verdict.shadow.extend(here.shadow);
            if here.refused.is_some() {
                verdict.asked.clear();
            }
            verdict.asked.extend(here.asked);
        }
        if verdict.refused.is_some() {
            let mut budgets = self.budgets.borrow_mut();
            for (budget, cost) in counted {
                budgets.entry(budget).and_modify(|(_, spent)| *spent = spent.saturating_sub(cost));
            }
        }
        let mut limited = Limited::new(&self.limits, &verdict);
        if stage == Stage::AfterAuthorization && verdict.refused.is_none() {
            let all = &self.limits.config().concurrency;
            let asked = self.limits.concurrency(SEED, &subject);
            limited.undecided = asked.filter_map(|(number, ..)| Some(&*all.get(number)?.name)).collect();
        }
        limited
    }

    /// The global limits, as one service counts them that everybody asks for every request: in windows that end with the
    /// clock's. And what was counted.
    fn global(
        &self,
        now: Nanoseconds,
        stage: Stage,
        seed: Seed,
        subject: &Subject<'_>,
    ) -> (RateVerdict, Vec<(u64, u32)>) {
        let (mut verdict, mut counted) = (RateVerdict::default(), Vec::new());
        if stage == Stage::BeforeAuthorization {
            return (verdict, counted);
        }
        let mut budgets = self.budgets.borrow_mut();
        let mut next = 0;
        while let Some(one) = self.limits.global(seed, subject, next) {
            next = one.limit + 1;
            let period = one.window.period;
            let (window, end) = (now / period, Wait::new(period - now % period));
            let (counting, spent) = budgets.entry(one.key.print()).or_insert((window, 0));
            // A clock that goes back counts on in the window that was.
            if window > *counting {
                (*counting, *spent) = (window, 0);
            }
            let after = spent.saturating_add(one.cost);
            let told = if after <= one.window.requests {
                *spent = after;
                counted.push((one.key.print(), one.cost));
                self.limits.told(&one, one.window.requests - after, None, end)
            } else {
                self.limits.told(&one, 0, Some(end), end)
            };
            verdict.shadow.extend(told.shadow);
            if told.refused.is_some() {
                return (RateVerdict { shadow: verdict.shadow, ..told }, counted);
            }
            verdict.asked.extend(told.asked);
        }
        (verdict, counted)
    }

    /// The breaker of a request that is let through otherwise.
    fn breaker(
        &self,
        policy: &Policy,
        (id, now): (&serde_json::Value, Nanoseconds),
        request: &Request<'_>,
        destination: Option<&str>,
        ends: &Ends,
        output: &mut impl Write,
    ) -> io::Result<Said<'_>> {
        let mut selected = Vec::new();
        policy.selects(request, |number| selected.extend(u32::try_from(number)));
        let replicas = self.limits.config().replicas;
        let destination = destination.map(str::as_bytes);
        let subject = Subject { request, destination, selected: &selected, replicas };
        self.replay.ask(&self.limits, (id, SEED, now), &subject, ends, output)
    }

    /// The service that a request goes to, outbound: with one callee every request goes to it, as in the sidecar.
    fn callee<'a>(&'a self, named: Option<&'a str>) -> Result<Option<&'a str>, String> {
        match (&self.callees, named) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err("`destination.service` is of `--side outbound`".to_owned()),
            (Some(callees), Some(name)) if callees.iter().any(|callee| callee == name) => Ok(Some(name)),
            (Some(callees), None) if callees.len() == 1 => Ok(callees.first().map(String::as_str)),
            (Some(callees), Some(name)) => {
                Err(format!("the workload does not call `{name}`; it calls: {}", callees.join(", ")))
            }
            (Some(callees), None) => {
                Err(format!("`destination.service` must say which it goes to: {}", callees.join(", ")))
            }
        }
    }

    /// The port that the filter sees.
    fn port(&self, port: Option<u16>) -> Option<u16> {
        match (self.ports, port) {
            (Some(map), None) => Some(map.listener),
            (Some(map), Some(port)) if port == map.application => Some(map.listener),
            _ => port,
        }
    }

    /// The path that the rules see.
    fn path<'a>(&self, path: &'a [u8]) -> Result<Cow<'a, [u8]>, path_guard::PathFault> {
        match self.paths {
            Paths::Sent => listener::normalize(path),
            Paths::Seen => {
                let guarded = match self.guard.mode {
                    GuardMode::Always => true,
                    GuardMode::WhenPathsMatter => self.http.needs().path,
                    GuardMode::Never => false,
                };
                if guarded {
                    path_guard::check(path, self.guard.path_params)?;
                }
                Ok(listener::decode_unreserved(path))
            }
        }
    }
}

/// serde_json's words, without Rust's names and the place in a line that is a line of its own.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.rsplit_once(" at line ").map_or(text.as_str(), |(words, _)| words);
    let words = match words.split_once(", expected ") {
        Some((problem, "u16")) => format!("{problem}, expected a whole number from 0 to 65535"),
        Some((problem, "f32" | "f64")) => format!("{problem}, expected a number"),
        Some((problem, "a map")) => format!("{problem}, expected an object"),
        _ if words == "expected ident" || words == "expected value" => "this is not JSON".to_owned(),
        _ => words.to_owned(),
    };
    format!("{words} (column {})", error.column())
}

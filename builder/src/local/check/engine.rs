//! `meshward policy test`: the file of checks that `up --check` sends for real, asked of the filter's engine instead.
//!
//! What a sidecar would do before the policies (the edge's routes, what the listener makes of a path) is done here, too;
//! what only a handshake decides is left out, and said to be. An answer that the application gives is not looked at.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::model::{Expect, Message, Way};
use super::odd::Certificate;
use super::{Check, Checks};
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::{EdgeRoute, Resolved, Service};
use crate::policy::eval::{Answered, Evaluator, Paths};
use crate::policy::listener;

pub mod report;

/// One check, and what became of it.
#[derive(Clone, Debug)]
pub struct Outcome<'a> {
    pub check: &'a Check,
    pub verdict: Verdict,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    AsExpected(Answered),
    /// What is not as expected, a sentence each.
    Other(Answered, Vec<String>),
    /// Not for policies to answer; why.
    LeftOut(&'static str),
}

impl Outcome<'_> {
    pub fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Other(..))
    }
}

/// Asks every check, in order: rate limits keep what those before have spent.
///
/// # Errors
/// A request that cannot be read, each at its place.
pub fn run<'a>(checks: &'a Checks, mesh: &Resolved) -> Result<Vec<Outcome<'a>>, Failure> {
    let mut evaluators = BTreeMap::new();
    for check in &checks.checks {
        if let (false, Some(service)) = (evaluators.contains_key(&check.to), mesh.service(&check.to)) {
            evaluators.insert(check.to.clone(), Evaluator::of_service(mesh, service, Paths::Sent, false)?);
        }
    }
    let (mut outcomes, mut mistakes) = (Vec::new(), Vec::new());
    for check in &checks.checks {
        let (Some(evaluator), Some(caller)) = (evaluators.get(&check.to), mesh.service(&check.from)) else {
            continue;
        };
        match ask(check, caller, mesh, evaluator) {
            Ok(verdict) => outcomes.push(Outcome { check, verdict }),
            Err(why) => {
                // Where in a line that nobody wrote is of no use.
                let why = why.split(" (column ").next().unwrap_or_default();
                let place = check.request.as_ref().map_or(&check.span, |request| &request.span);
                let message = format!("the check `{}` is no request: {why}", check.name);
                mistakes.push(
                    Diagnostic::error("unreadable-request", message)
                        .at(&checks.source, place.clone())
                        .help("`request` has the fields of `meshward policy eval`: see its `--help`"),
                );
            }
        }
    }
    if mistakes.is_empty() { Ok(outcomes) } else { Err(mistakes.into()) }
}

fn ask(check: &Check, caller: &Service, mesh: &Resolved, evaluator: &Evaluator) -> Result<Verdict, String> {
    let principal = match check.certificate {
        Certificate::Own => mesh.spiffe_id(caller),
        // TLS lets them in, and the filter takes them for no X509-SVID.
        Certificate::TwoUris | Certificate::IsCa => "no X509-SVID".to_owned(),
        _ => return Ok(Verdict::LeftOut("the handshake decides it: `meshward up --check` sends it")),
    };
    let (method, mut path, host, headers) = match &check.message {
        Message::Http { method, path, host, headers, .. } => {
            (method.as_str(), path.clone(), host.clone(), headers.clone())
        }
        Message::Mcp { .. } => ("POST", "/mcp".to_owned(), check.to.clone(), Vec::new()),
        Message::Postgres { .. } | Message::Tcp { .. } => {
            let request = json!({ "protocol": "tcp", "source": { "principal": principal } });
            return judge(check, evaluator, request);
        }
    };
    let callee = mesh.service(&check.to);
    if check.way == Way::Sidecar && !callee.is_some_and(|callee| is_name_of(&host, callee)) {
        return Ok(Verdict::LeftOut(
            "the caller's routes decide where this Host leads: `meshward up --check` sends it",
        ));
    }
    if check.way == Way::Edge {
        match through_the_edge(caller, &check.to, &host, &path) {
            Route::To(rewritten) => path = rewritten,
            Route::Elsewhere(service) => {
                let wrong = format!("the edge leads this to `{service}`, and not to `{}`", check.to);
                return Ok(Verdict::Other(of_the_edge(404), vec![wrong]));
            }
            Route::Answered(status) => {
                let answered = of_the_edge(status);
                let wrong = compare(&check.expect, &answered);
                return Ok(verdict(answered, wrong));
            }
        }
    }
    let mut all = Map::new();
    for (name, value) in headers {
        all.insert(name, value.into());
    }
    let mut request = json!({
        "protocol": "http",
        "source": { "principal": principal },
        "method": method,
        "path": path,
        "host": host,
        "headers": all,
    });
    // What a caller's sidecar says.
    if let (false, Some(callee)) = (check.way == Way::Direct, callee) {
        merge(&mut request, &json!({ "sni": callee.fqdn() }));
    }
    judge(check, evaluator, request)
}

fn judge(check: &Check, evaluator: &Evaluator, mut request: Value) -> Result<Verdict, String> {
    let at = check.at.map_or_else(|| "0s".to_owned(), |at| at.to_envoy());
    merge(&mut request, &json!({ "id": check.name, "time": at }));
    if let Some(also) = &check.request {
        merge(&mut request, &Value::Object(also.value.clone()));
    }
    let answered = evaluator.ask(&request)?;
    let wrong = compare(&check.expect, &answered);
    Ok(verdict(answered, wrong))
}

fn verdict(answered: Answered, wrong: Vec<String>) -> Verdict {
    if wrong.is_empty() { Verdict::AsExpected(answered) } else { Verdict::Other(answered, wrong) }
}

/// Objects field by field; anything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// What the mesh itself answers when it refuses.
const REFUSALS: [u16; 4] = [400, 403, 429, 503];

/// What is expected and is not so.
fn compare(expect: &Expect, answered: &Answered) -> Vec<String> {
    let decided = answered.decided();
    let mut wrong = Vec::new();
    let by_application = expect.decided.as_deref().is_some_and(|decided| decided.starts_with("allow"));
    let shown = if answered.is_allowed() {
        "it is allowed".to_owned()
    } else {
        format!("it is refused with {}", answered.status)
    };
    match expect.status {
        Some(status) if !answered.is_allowed() && status != answered.status => {
            wrong.push(format!("status {status} is expected, and {shown}"));
        }
        Some(status) if answered.is_allowed() && REFUSALS.contains(&status) && !by_application => {
            wrong.push(format!("status {status} is expected, and {shown}"));
        }
        _ => {}
    }
    if expect.refused && answered.is_allowed() {
        wrong.push(format!("a refusal is expected, and {shown}"));
    }
    // An answer of the application's, which only gives one when it was asked.
    if expect.status.is_none() && expect.contains.is_some() && !answered.is_allowed() {
        wrong.push(format!("an answer is expected, and {shown}"));
    }
    if let Some(part) = expect.decided.as_deref().filter(|part| !decided.contains(*part)) {
        wrong.push(format!("`{part}` is expected to decide, and `{decided}` does"));
    }
    wrong
}

/// Whether a Host, whatever its port, is one by which callers name the service.
fn is_name_of(host: &str, service: &Service) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let Service { name: short, namespace, .. } = service;
    [short.clone(), format!("{short}.{namespace}"), format!("{short}.{namespace}.svc"), service.fqdn()]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

enum Route {
    /// To the service that is meant, with this path.
    To(String),
    Elsewhere(String),
    /// The edge answers itself.
    Answered(u16),
}

/// What the routes that `render` writes for the edge do with a request.
fn through_the_edge(edge: &Service, to: &str, host: &str, path: &str) -> Route {
    let Ok(normal) = listener::normalize(path.as_bytes()) else { return Route::Answered(400) };
    let normal = String::from_utf8_lossy(&normal).into_owned();
    let (path, query) = match normal.find('?') {
        Some(at) => normal.split_at(at),
        None => (normal.as_str(), ""),
    };
    let routes = edge.edge.iter().flat_map(|edge| &edge.routes);
    let below = |route: &EdgeRoute| match path.strip_prefix(route.prefix.as_str()) {
        Some(_) if route.prefix == "/" => true,
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let of_host =
        |route: &&EdgeRoute| route.host.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(name));
    let Some(route) = routes.filter(of_host).find(|route| below(route)) else { return Route::Answered(404) };
    if route.service != to {
        return Route::Elsewhere(route.service.clone());
    }
    let prefix = if route.prefix == "/" { "" } else { route.prefix.as_str() };
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let path = match route.rewrite.as_deref() {
        None => path.to_owned(),
        Some(rewrite) => {
            let path = format!("{}{rest}", rewrite.trim_end_matches('/'));
            if path.is_empty() { "/".to_owned() } else { path }
        }
    };
    Route::To(format!("{path}{query}"))
}

fn of_the_edge(status: u16) -> Answered {
    Answered::refusal(status, if status == 404 { "no_route" } else { "path" })
}

#[cfg(test)]
mod tests;

//! One HTTP request: read, decide, continue or answer here.

use alloc::rc::Rc;

use meshward_engine::decision::Decision;
use meshward_engine::request::Request;

use crate::attributes::{Connection, Headers, Metadata};
use crate::dispatch::Action;
use crate::host::{self, LocalResponse};
use crate::limits::{Extra, Holding};
use crate::report;
use crate::root::Active;

/// The context of one request.
pub struct Http {
    active: Option<Rc<Active>>,
    holding: Holding,
}

impl Http {
    pub fn new(active: Option<Rc<Active>>, id: u32) -> Self {
        Self { active, holding: Holding::new(id) }
    }

    pub fn on_request_headers(&mut self) -> Action {
        match &self.active {
            Some(active) => decide(active, &mut self.holding),
            None => refuse_unknown(),
        }
    }

    /// What it has waited for has come.
    pub fn resume(&mut self) -> Action {
        self.on_request_headers()
    }

    /// The response's headers have come; `end_of_stream`: and nothing follows.
    pub fn on_response_headers(&mut self, end_of_stream: bool) {
        self.holding.add_headers();
        if let (Some(active), Some(call)) = (&self.active, self.holding.call.take()) {
            self.holding.call = call.on_headers(active, end_of_stream);
        }
    }

    /// The stream has ended, one way or another.
    pub fn on_log(&mut self) {
        if let (Some(active), Some(call)) = (&self.active, self.holding.call.take()) {
            call.on_end(active);
        }
    }
}

/// Refuses a request that no configuration is there for.
pub fn refuse_unknown() -> Action {
    refuse(report::UNCONFIGURED)
}

fn decide(active: &Active, holding: &mut Holding) -> Action {
    let needs = active.policy.needs();
    let identities = &active.identities;
    let identity = if needs.peer { identities.current() } else { identities.nobody() };
    let connection = Connection::read(needs);
    let headers = Headers::read(needs);
    let metadata = Metadata::read(needs);
    let view = headers.view(needs);
    let request = Request {
        method: view.method,
        path: view.path,
        authority: view.authority,
        headers: &view.fields,
        request_principal: metadata.request_principal(),
        claims: &metadata.claims(needs),
        metadata: &metadata.others(needs),
        ..connection.request(&identity, needs)
    };
    let extra = active.guards.extra(&active.policy, &request);
    if holding.passage.resumes {
        // It has waited, and goes on from there.
        return enter(active, &request, &extra, holding);
    }
    if let Err(refusal) = active.guards.before(&request, &extra) {
        return refusal.send();
    }
    let decision = active.policy.decide(&request);
    report::count(active, &decision);
    if decision.is_allowed() {
        return enter(active, &request, &extra, holding);
    }
    if let Some(line) = report::admit_line(active, &identity) {
        // The policies may have asked for less than a reader of the log wants to know.
        let all = Headers::read_all();
        let view = all.view(needs);
        let shown = [view.method, view.authority, view.path];
        report::log_denial(line, active, &request, &identity, &shown);
    }
    answer(active, &decision)
}

/// Passes the limits, or waits for one.
fn enter(active: &Active, request: &Request<'_>, extra: &Extra, holding: &mut Holding) -> Action {
    match active.guards.enter(request, extra, holding) {
        Ok(true) => proceed(),
        Ok(false) => Action::Pause,
        Err(refusal) => refusal.send(),
    }
}

/// Lets the request through: says so to the guard behind this filter, which refuses whatever does not say it.
fn proceed() -> Action {
    match host::set_property(report::PROPERTY, report::ALLOW) {
        Ok(()) => Action::Continue,
        Err(_) => refuse(report::UNCONFIGURED),
    }
}

fn answer(active: &Active, decision: &Decision) -> Action {
    let details = report::details(&active.policy, decision);
    let custom = active.policy.deny_response(decision);
    let content_type = custom.map(|response| [("content-type", &*response.content_type)]);
    send(&LocalResponse {
        status: custom.map_or_else(|| decision.status(), |response| response.status),
        grpc_status: None,
        details: &details,
        body: custom.map_or_else(|| report::body(decision), |response| response.body.as_bytes()),
        headers: content_type.as_ref().map_or(&[], |header| &header[..]),
    })
}

fn refuse(details: &str) -> Action {
    send(&LocalResponse { status: 403, grpc_status: None, details, body: report::BODY, headers: &[] })
}

/// Whatever becomes of the answer, the request goes no further.
fn send(response: &LocalResponse<'_>) -> Action {
    if host::send_local_response(response).is_err() {
        host::log(host::Level::Error, "a refused request cannot be answered; it is held back");
    }
    Action::Pause
}

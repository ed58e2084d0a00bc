//! One TCP connection: decided when its first bytes come, since the peer's certificate is not known before, and no
//! byte goes further until then.

use alloc::rc::Rc;

use crate::attributes::{Connection, Metadata};
use crate::dispatch::Action;
use crate::host;
use crate::limits::Holding;
use crate::report;
use crate::root::Active;

/// The context of one connection.
pub struct Tcp {
    active: Option<Rc<Active>>,
    state: State,
    /// Held until the connection ends.
    holding: Holding,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Undecided,
    Allowed,
    Refused,
}

impl Tcp {
    pub fn new(active: Option<Rc<Active>>, id: u32) -> Self {
        Self { active, state: State::Undecided, holding: Holding::new(id) }
    }

    /// Bytes of the caller. There is no `on_new_connection`: to pause there would hold up the handshake, and the
    /// certificate would never come.
    pub fn on_downstream_data(&mut self) -> Action {
        if self.state == State::Undecided && !self.holding.passage.resumes {
            self.decide();
        }
        if self.state == State::Allowed { Action::Continue } else { Action::Pause }
    }

    /// What it has waited for has come.
    pub fn resume(&mut self) -> Action {
        self.decide();
        if self.state == State::Allowed { Action::Continue } else { Action::Pause }
    }

    fn decide(&mut self) {
        self.state = match self.active.as_ref().map(|active| is_allowed(active, &mut self.holding)) {
            Some(Some(true)) => State::Allowed,
            // It waits.
            Some(None) => State::Undecided,
            Some(Some(false)) | None => {
                refuse();
                State::Refused
            }
        };
    }
}

/// `None`: it waits for a limit.
fn is_allowed(active: &Active, holding: &mut Holding) -> Option<bool> {
    let needs = active.policy.needs();
    let identity = active.identities.current();
    let connection = Connection::read(needs);
    let metadata = Metadata::read(needs);
    let others = metadata.others(needs);
    let mut request = connection.request(&identity, needs);
    request.metadata = &others;
    let extra = active.guards.extra(&active.policy, &request);
    let enter = |holding: &mut Holding| match active.guards.enter(&request, &extra, holding) {
        Ok(true) => Some(host::set_property(report::PROPERTY, report::ALLOW).is_ok()),
        Ok(false) => None,
        Err(refusal) => Some(say(&refusal.details)),
    };
    if holding.passage.resumes {
        return enter(holding);
    }
    if let Err(refusal) = active.guards.before(&request, &extra) {
        return Some(say(&refusal.details));
    }
    let decision = active.policy.decide(&request);
    report::count(active, &decision);
    if decision.is_allowed() {
        return enter(holding);
    }
    if let Some(line) = report::admit_line(active, &identity) {
        report::log_denial(line, active, &request, &identity, &[]);
    }
    Some(say(&report::details(&active.policy, &decision)))
}

/// Says for the access log why the connection is refused. Anything but the word for "allowed" is refused by the guard
/// behind this filter.
fn say(details: &str) -> bool {
    let _ = host::set_property(report::PROPERTY, details.as_bytes());
    false
}

fn refuse() {
    if host::close_downstream().is_err() {
        host::log(host::Level::Error, "a refused connection cannot be closed; its bytes are held back");
    }
}

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
    pub fn new(active: Option<Rc<Active>>) -> Self {
        Self { active, state: State::Undecided, holding: Holding::default() }
    }

    /// Bytes of the caller. There is no `on_new_connection`: to pause there would hold up the handshake, and the
    /// certificate would never come.
    pub fn on_downstream_data(&mut self) -> Action {
        if self.state == State::Undecided {
            self.state = match &self.active {
                Some(active) if is_allowed(active, &mut self.holding) => State::Allowed,
                _ => {
                    refuse();
                    State::Refused
                }
            };
        }
        if self.state == State::Allowed { Action::Continue } else { Action::Pause }
    }
}

fn is_allowed(active: &Active, holding: &mut Holding) -> bool {
    let needs = active.policy.needs();
    let identity = active.identities.current();
    let connection = Connection::read(needs);
    let metadata = Metadata::read(needs);
    let others = metadata.others(needs);
    let mut request = connection.request(&identity, needs);
    request.metadata = &others;
    let extra = active.guards.extra(&active.policy, &request);
    if let Err(refusal) = active.guards.before(&request, &extra) {
        return say(&refusal.details);
    }
    let decision = active.policy.decide(&request);
    report::count(active, &decision);
    if decision.is_allowed() {
        return match active.guards.enter(&request, &extra, holding) {
            Ok(()) => host::set_property(report::PROPERTY, report::ALLOW).is_ok(),
            Err(refusal) => say(&refusal.details),
        };
    }
    if let Some(line) = report::admit_line(active, &identity) {
        report::log_denial(line, active, &request, &identity, &[]);
    }
    say(&report::details(&active.policy, &decision))
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

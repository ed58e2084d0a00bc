//! `meshward policy diff`: what two meshes answer to the same requests, by the filter's own engine.
//!
//! A workload that only one of them has refuses everything in the other: nobody is there. Rate limits are not asked, since
//! a request alone has no time.

use std::collections::BTreeMap;

use meshward_engine::config::Role;
use serde_json::Value;

use crate::compile::plugin_config;
use crate::diagnostic::{Diagnostic, Failure};
use crate::mesh::{Resolved, Service};
use crate::policy::eval::{Answered, Evaluator, Paths};

pub mod report;
mod requests;

/// What to ask.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Made of the policies' constants, so many of each workload.
    Generated(usize),
    /// These, of every workload.
    Given(Vec<Value>),
}

/// Which way an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Refused before, allowed now.
    Widened,
    /// Allowed before, refused now.
    Narrowed,
    /// The same verdict, by another rule or with another status.
    Moved,
}

/// Requests to one workload whose answer changed in one way.
#[derive(Clone, Debug)]
pub struct Change {
    pub workload: String,
    pub way: Way,
    pub was: Answered,
    pub now: Answered,
    /// How many of those asked.
    pub count: usize,
    /// The first of them, as `policy eval` reads it.
    pub example: Value,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub changes: Vec<Change>,
    pub asked: usize,
    /// How many requests the policies' constants make.
    pub possible: usize,
    /// Workloads of both, of the new mesh alone, of the old alone.
    pub both: usize,
    pub new: Vec<String>,
    pub gone: Vec<String>,
    /// The two meshes' rate limits and breakers differ, which is not looked at.
    pub limits_differ: bool,
}

impl Report {
    pub fn count(&self, way: Way) -> usize {
        self.changes.iter().filter(|change| change.way == way).map(|change| change.count).sum()
    }
}

/// Asks both.
///
/// # Errors
/// A configuration that the engine refuses; a request that cannot be read.
pub fn compare(old: &Resolved, new: &Resolved, ask: &Ask) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut workloads: BTreeMap<String, (Option<&Service>, Option<&Service>)> = BTreeMap::new();
    let name = |service: &Service| format!("{}/{}", service.namespace, service.name);
    // The edge lets everybody in and decides nothing.
    for service in old.services.iter().filter(|service| !service.is_edge()) {
        workloads.entry(name(service)).or_default().0 = Some(service);
    }
    for service in new.services.iter().filter(|service| !service.is_edge()) {
        workloads.entry(name(service)).or_default().1 = Some(service);
    }
    for (name, (before, after)) in workloads {
        match (before, after) {
            (Some(_), Some(_)) => report.both += 1,
            (None, _) => report.new.push(name.clone()),
            (_, None) => report.gone.push(name.clone()),
        }
        let sides: Vec<(&Resolved, &Service)> =
            [before.map(|service| (old, service)), after.map(|service| (new, service))]
                .into_iter()
                .flatten()
                .collect();
        let configs = sides
            .iter()
            .map(|(mesh, service)| plugin_config(mesh, service, Role::Inbound))
            .collect::<Result<Vec<_>, _>>()?;
        if let [before, after] = configs.as_slice() {
            report.limits_differ |= before.limits != after.limits;
        }
        let generated;
        let requests = match (ask, sides.first()) {
            (Ask::Generated(most), Some((_, service))) => {
                let meshes: Vec<&Resolved> = sides.iter().map(|(mesh, _)| *mesh).collect();
                let made = requests::of(&configs, &meshes, service, *most);
                report.possible = report.possible.saturating_add(made.possible);
                generated = made.requests;
                &generated
            }
            (Ask::Given(requests), _) => requests,
            (Ask::Generated(_), None) => continue,
        };
        let evaluator = |mesh: &Resolved, service: Option<&Service>| {
            service.map(|service| Evaluator::of_service(mesh, service, Paths::Sent, true)).transpose()
        };
        let (before, after) = (evaluator(old, before)?, evaluator(new, after)?);
        report.asked += requests.len();
        report.changes.extend(changes(&name, before.as_ref(), after.as_ref(), requests)?);
    }
    report.changes.sort_by(|a, b| (a.way, &a.workload).cmp(&(b.way, &b.workload)));
    Ok(report)
}

fn changes(
    workload: &str,
    before: Option<&Evaluator>,
    after: Option<&Evaluator>,
    requests: &[Value],
) -> Result<Vec<Change>, Failure> {
    let mut changes: BTreeMap<(String, String, u16, u16), Change> = BTreeMap::new();
    for request in requests {
        let ask = |evaluator: Option<&Evaluator>| match evaluator {
            Some(evaluator) => evaluator.ask(request).map_err(|why| {
                let message = format!("the request {request} cannot be read: {why}");
                Failure::from(
                    Diagnostic::error("unreadable-request", message)
                        .help("write it as `meshward policy eval` takes it: see its `--help`"),
                )
            }),
            None => Ok(Answered::refusal(503, "no_such_workload")),
        };
        let (was, now) = (ask(before)?, ask(after)?);
        let way = match (was.is_allowed(), now.is_allowed()) {
            (false, true) => Way::Widened,
            (true, false) => Way::Narrowed,
            _ if was.decided() == now.decided() && was.status == now.status => continue,
            // Refused by a workload that is not there any more, or not yet.
            _ if before.is_none() || after.is_none() => continue,
            _ => Way::Moved,
        };
        let key = (was.decided(), now.decided(), was.status, now.status);
        let change = changes.entry(key).or_insert_with(|| Change {
            workload: workload.to_owned(),
            way,
            was,
            now,
            count: 0,
            example: request.clone(),
        });
        change.count += 1;
    }
    Ok(changes.into_values().collect())
}

#[cfg(test)]
mod tests;

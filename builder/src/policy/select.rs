//! Which policies are for which workload: those of its namespace and of the root namespace whose target fits.
//!
//! A union without override, as in Istio: a policy of the root namespace cannot be taken back by a namespace's.

use std::collections::BTreeMap;

use super::authorization::{AuthorizationPolicy, Target};
use super::check::Policies;

/// What selection looks at.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The service's name, which `targetRefs` compare; `None` matches no `targetRefs`.
    pub service: Option<&'a str>,
    pub namespace: &'a str,
    pub labels: &'a BTreeMap<String, String>,
}

/// The policies for a workload, in the order of the files.
pub fn select<'a>(
    policies: &'a Policies,
    workload: Workload<'a>,
    root_namespace: &'a str,
) -> impl Iterator<Item = &'a AuthorizationPolicy> {
    policies
        .authorization
        .iter()
        .filter(move |policy| policy.namespace == workload.namespace || policy.namespace == root_namespace)
        .filter(move |policy| target_fits(&policy.target, &workload))
}

/// Whether a target's labels or services are the workload's. Namespaces are compared elsewhere.
pub fn target_fits(target: &Target, workload: &Workload<'_>) -> bool {
    match target {
        Target::Labels { labels, .. } => {
            labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
        }
        Target::Services(services) => {
            workload.service.is_some_and(|name| services.iter().any(|service| service.value == name))
        }
    }
}

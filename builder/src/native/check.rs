//! Documents → [`Settings`]: names of services, and values that Envoy takes and that do something.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::model::{
    ConnectionPool, DestinationRule, EnvoySpec, HttpPool, OutlierDetection, Retries, TcpPool,
};
use super::settings::{Callers, Settings};
use crate::diagnostic::{Diagnostic, nearest};
use crate::mesh::document::{Document, Spanned};
use crate::mesh::{Resolved, Service, read};
use crate::policy::authorization::Target;
use crate::policy::check::{identity, labels};

/// Envoy's reasons to send a request again, HTTP's and gRPC's.
const RETRY_ON: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "envoy-ratelimited",
    "retriable-4xx",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// Of those, what needs more than its name.
const RETRY_ON_NEEDING_MORE: [&str; 2] = ["retriable-headers", "http3-post-connect-failure"];

/// A DestinationRule. Mistakes are appended.
pub fn destination_rule(
    document: &Document,
    mesh: &Resolved,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Settings> {
    let before = mistakes.len();
    let written: DestinationRule = read::document(document, mistakes)?;
    let namespace = identity(document, &written.metadata, &mesh.namespace, mistakes);
    let spec = written.spec;
    let mut check = Check { document, mistakes };
    let host = check.host(mesh, &spec.host, &namespace);
    let policy = spec.traffic_policy.map(|policy| policy.value).unwrap_or_default();
    check.pool(policy.connection_pool.as_ref());
    check.outlier(policy.outlier_detection.as_ref());
    let exported = check.export_to(spec.export_to, &namespace);
    let (target, namespaces) = match &spec.workload_selector {
        // As in Istio: a selector looks at the rule's own namespace.
        Some(_) => {
            (labels(document, spec.workload_selector.as_ref(), mistakes), Some(vec![namespace.clone()]))
        }
        None => (Target::Labels { labels: BTreeMap::new(), span: 0..0 }, exported),
    };
    let host = host?;
    (mistakes.len() == before).then(|| Settings {
        source: Arc::clone(&document.source),
        title: format!("DestinationRule {namespace}/{}", written.metadata.name.value),
        name: written.metadata.name,
        callers: Callers { target, namespaces },
        destinations: Some(vec![host]),
        connection_pool: policy.connection_pool,
        outlier_detection: policy.outlier_detection,
        retries: None,
        timeout: None,
    })
}

/// The part `envoy` of another policy, whose `title`, `name` and `callers` are given.
pub fn envoy_spec(
    document: &Document,
    mesh: &Resolved,
    head: (String, Spanned<String>, Callers),
    written: EnvoySpec,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Settings> {
    let before = mistakes.len();
    let mut check = Check { document, mistakes };
    check.pool(written.connection_pool.as_ref());
    check.outlier(written.outlier_detection.as_ref());
    check.retries(written.retries.as_ref(), written.connection_pool.as_ref());
    let destinations = written.destinations.map(|list| check.services(mesh, list));
    let (title, name, callers) = head;
    (mistakes.len() == before).then(|| Settings {
        source: Arc::clone(&document.source),
        title,
        name,
        callers,
        destinations,
        connection_pool: written.connection_pool,
        outlier_detection: written.outlier_detection,
        retries: written.retries,
        timeout: written.timeout,
    })
}

/// Names of services; those that the mesh does not have are mistakes.
pub fn services(
    document: &Document,
    mesh: &Resolved,
    list: Spanned<Vec<Spanned<String>>>,
    mistakes: &mut Vec<Diagnostic>,
) -> Vec<String> {
    Check { document, mistakes }.services(mesh, list)
}

struct Check<'a> {
    document: &'a Document,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    fn error(&mut self, code: &'static str, message: impl Into<String>, span: &Range<usize>, help: &str) {
        self.mistakes.push(self.document.error(code, message, span).help(help));
    }

    fn unknown<'a>(&mut self, name: &str, span: &Range<usize>, known: impl Iterator<Item = &'a str>) {
        let help = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "name a service of the Mesh: only their sidecars can do this".to_owned(),
        };
        self.error("unknown-service", format!("the mesh has no service `{name}`"), span, &help);
    }

    /// The service behind a DestinationRule's host.
    fn host(&mut self, mesh: &Resolved, host: &Spanned<String>, namespace: &str) -> Option<String> {
        let full = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc"));
        let written = full.unwrap_or(host);
        let is = |service: &&Service| match written.split_once('.') {
            Some((name, namespace)) => service.name == name && service.namespace == namespace,
            None => service.name == written && service.namespace == namespace && full.is_none(),
        };
        let found = mesh.services.iter().filter(|service| !service.is_edge()).find(is);
        if found.is_none() {
            let names: Vec<String> = mesh
                .services
                .iter()
                .flat_map(|service| [service.name.clone(), format!("{}.{}", service.name, service.namespace)])
                .collect();
            self.unknown(host, &host.span, names.iter().map(String::as_str));
        }
        found.map(|service| service.name.clone())
    }

    fn services(&mut self, mesh: &Resolved, list: Spanned<Vec<Spanned<String>>>) -> Vec<String> {
        if list.is_empty() {
            let help = "leave it out to mean all that the workload calls, or name services";
            self.error("empty-list", "`destinations` is there and has no entries", &list.span, help);
        }
        for name in list.value.iter().filter(|name| mesh.service(name).is_none_or(Service::is_edge)) {
            let known = mesh.services.iter().map(|service| service.name.as_str());
            self.unknown(name, &name.span, known);
        }
        list.value.into_iter().map(|name| name.value).collect()
    }

    /// The namespaces whose callers are meant; `None`: all.
    fn export_to(
        &mut self,
        written: Option<Spanned<Vec<Spanned<String>>>>,
        own: &str,
    ) -> Option<Vec<String>> {
        let written = written?;
        if written.iter().any(|name| name.value == "*") {
            return None;
        }
        let of = |name: &Spanned<String>| if name.value == "." { own.to_owned() } else { name.value.clone() };
        Some(written.iter().map(of).collect())
    }

    fn positive(&mut self, field: &str, written: Option<&Spanned<u32>>) {
        if let Some(zero) = written.filter(|number| number.value == 0) {
            let help = "leave it out for no limit of your own";
            self.error("zero", format!("with `{field}: 0` nothing would ever pass"), &zero.span, help);
        }
    }

    fn percent(&mut self, field: &str, written: Option<&Spanned<u32>>) {
        if let Some(much) = written.filter(|number| number.value > 100) {
            self.error("percent", format!("`{field}` is a part of 100"), &much.span, "write 0 to 100");
        }
    }

    fn pool(&mut self, written: Option<&Spanned<ConnectionPool>>) {
        let Some(pool) = written else { return };
        if let Some(Spanned { value: TcpPool { max_connections, connect_timeout: _ }, .. }) = &pool.tcp {
            self.positive("maxConnections", max_connections.as_ref());
        }
        if let Some(Spanned { value: http, .. }) = &pool.http {
            let HttpPool {
                http1_max_pending_requests, http2_max_requests, max_requests_per_connection, ..
            } = http;
            self.positive("http1MaxPendingRequests", http1_max_pending_requests.as_ref());
            self.positive("http2MaxRequests", http2_max_requests.as_ref());
            self.positive("maxRequestsPerConnection", max_requests_per_connection.as_ref());
        }
    }

    fn outlier(&mut self, written: Option<&Spanned<OutlierDetection>>) {
        let Some(outlier) = written else { return };
        self.percent("maxEjectionPercent", outlier.max_ejection_percent.as_ref());
        self.percent("minHealthPercent", outlier.min_health_percent.as_ref());
        if let Some(local) = &outlier.consecutive_local_origin_failures
            && outlier.split_external_local_origin_errors.as_ref().is_none_or(|split| !split.value)
        {
            let message = "without `splitExternalLocalOriginErrors: true` nothing counts `consecutiveLocalOriginFailures`";
            let help = "set it, or leave this out: failed connections then count as 5xx";
            self.error("no-effect", message, &local.span, help);
        }
    }

    fn retries(&mut self, written: Option<&Spanned<Retries>>, pool: Option<&Spanned<ConnectionPool>>) {
        let Some(retries) = written else { return };
        if retries.attempts.value == 0 || retries.attempts.value > 10 {
            let help = "1 or 2 is usual: every try is load on a callee that is ill already";
            self.error("retry-attempts", "`attempts` is 1 to 10", &retries.attempts.span, help);
        }
        for reason in retries.retry_on.iter().flat_map(|list| &list.value) {
            if RETRY_ON_NEEDING_MORE.contains(&reason.value.as_str()) {
                let message = format!("`{}` needs settings that are not here", reason.value);
                self.error("retry-on", message, &reason.span, "take it out");
            } else if !RETRY_ON.contains(&reason.value.as_str()) {
                let help = match nearest(reason, RETRY_ON) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("Envoy has `{}`", RETRY_ON.join("`, `")),
                };
                let message = format!("Envoy has no reason `{}` to send a request again", reason.value);
                self.error("retry-on", message, &reason.span, &help);
            }
        }
        if let Some(budget) = &retries.budget
            && let Some(percent) = budget.percent.as_ref().filter(|part| !(0.0..=100.0).contains(&part.value))
        {
            self.error("percent", "`percent` is a part of 100", &percent.span, "20 is Envoy's own");
        }
        let limit = pool.and_then(|pool| pool.http.as_ref()?.max_retries.as_ref());
        if let Some(limit) = limit {
            let message = "`maxRetries` counts for nothing beside `retries`, which have a budget";
            self.error(
                "no-effect",
                message,
                &limit.span,
                "keep `retries.budget` (20 of 100, and 3, when not said)",
            );
        }
    }
}

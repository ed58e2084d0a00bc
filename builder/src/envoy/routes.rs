//! Which request goes to which cluster.

use super::types::{
    DirectResponse, HeaderMatcher, InlineString, Route, RouteAction, RouteConfiguration, RouteMatch,
    StringMatcher, VirtualHost,
};
use super::{cluster, native};
use crate::mesh::model::Outside;
use crate::mesh::{Edge, EdgeRoute, Resolved, Service};
use crate::native::for_call;

/// No limit for the whole of a request: streams (gRPC, server-sent events of MCP) may be long. `stream_idle_timeout`
/// ends what stands still.
const NO_TIMEOUT: &str = "0s";

/// Paths of the health listener. Exact ones: there is nothing else to reach through it.
pub const READY_PATH: &str = "/healthz/ready";
pub const METRICS_PATH: &str = "/metrics";

/// The path of an application's probe on the health listener.
pub fn probe_path(probe: &str) -> String {
    format!("/healthz/{probe}")
}

fn everything() -> RouteMatch {
    RouteMatch { prefix: Some("/".to_owned()), ..RouteMatch::default() }
}

fn to(cluster: &str) -> RouteAction {
    RouteAction { cluster: cluster.to_owned(), timeout: NO_TIMEOUT.into(), ..RouteAction::default() }
}

fn route(matcher: RouteMatch, action: RouteAction) -> Route {
    Route { matcher, route: Some(action), direct_response: None }
}

fn configuration(name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration { name: name.to_owned(), virtual_hosts, ignore_port_in_host_matching: true }
}

fn host(name: &str, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: name.to_owned(), domains, routes }
}

/// Everything to the application.
pub fn inbound() -> RouteConfiguration {
    let all = host("application", vec!["*".to_owned()], vec![route(everything(), to(cluster::APPLICATION))]);
    configuration("inbound", vec![all])
}

/// By host name: each callee under its name and the names that Kubernetes' DNS would know it by. With a single callee
/// any other host does as well; with several an unknown one is a 404 that says which there are.
pub fn outbound(mesh: &Resolved, caller: &Service, callees: &[&Service]) -> RouteConfiguration {
    let action = |callee: &Service| to_callee(mesh, caller, callee);
    let named =
        |callee: &&Service| host(&callee.name, domains(callee), vec![route(everything(), action(callee))]);
    let mut hosts: Vec<_> = callees.iter().map(named).collect();
    let any = vec!["*".to_owned()];
    hosts.push(match callees {
        // The callee's policies shall see its own name, and not this listener's address.
        [only] => {
            let action = RouteAction { host_rewrite_literal: Some(only.name.clone()), ..action(only) };
            host("any-host", any, vec![route(everything(), action)])
        }
        _ => host("unknown-host", any, vec![unknown_host(mesh, callees)]),
    });
    configuration("outbound", hosts)
}

/// The same for what was caught on its way to somebody: a host that is no callee's is no callee's, even of a single one.
pub fn captured(
    mesh: &Resolved,
    caller: &Service,
    callees: &[&Service],
    outside: Outside,
) -> RouteConfiguration {
    let named = |callee: &&Service| {
        let mut domains = domains(callee);
        // In another namespace the bare name is somebody else's.
        domains.retain(|domain| *domain != callee.name || callee.namespace == caller.namespace);
        host(&callee.name, domains, vec![route(everything(), to_callee(mesh, caller, callee))])
    };
    let mut hosts: Vec<_> = callees.iter().map(named).collect();
    hosts.push(match outside {
        Outside::Pass => {
            host("outside", vec!["*".to_owned()], vec![route(everything(), to(cluster::PASSED))])
        }
        Outside::Refuse => host("unknown-host", vec!["*".to_owned()], vec![unknown_host(mesh, callees)]),
    });
    configuration("captured", hosts)
}

fn domains(callee: &Service) -> Vec<String> {
    let Service { name, namespace, .. } = callee;
    vec![name.clone(), format!("{name}.{namespace}"), format!("{name}.{namespace}.svc"), callee.fqdn()]
}

fn to_callee(mesh: &Resolved, caller: &Service, callee: &Service) -> RouteAction {
    let call = for_call(mesh, caller, callee);
    RouteAction {
        timeout: call.timeout.map_or(NO_TIMEOUT.into(), |timeout| timeout.to_envoy().into()),
        retry_policy: Some(native::retry_policy(call)),
        ..to(&callee.name)
    }
}

fn unknown_host(mesh: &Resolved, callees: &[&Service]) -> Route {
    let names = callees.iter().map(|callee| callee.name.as_str()).collect::<Vec<_>>().join(", ");
    let body = if names.is_empty() {
        format!("meshward: this service calls nobody in the mesh {}; see `calls` in mesh.yaml\n", mesh.name)
    } else {
        format!("meshward: no callee has this Host; this service calls: {names}\n")
    };
    Route {
        matcher: everything(),
        route: None,
        direct_response: Some(DirectResponse { status: 404, body: InlineString { inline_string: body } }),
    }
}

/// By path, and by host where a route names one. No route: 404.
pub fn edge(mesh: &Resolved, service: &Service, edge: &Edge) -> RouteConfiguration {
    let mut names: Vec<&str> = edge.routes.iter().filter_map(|route| route.host.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let for_host = |name: Option<&str>| {
        let fits = |route: &&EdgeRoute| route.host.is_none() || route.host.as_deref() == name;
        let routes = edge.routes.iter().filter(fits);
        routes.flat_map(|route| edge_route(mesh, service, route)).collect::<Vec<_>>()
    };
    let mut hosts: Vec<_> =
        names.into_iter().map(|name| host(name, vec![name.to_owned()], for_host(Some(name)))).collect();
    hosts.push(host("any-host", vec!["*".to_owned()], for_host(None)));
    configuration("edge", hosts)
}

fn edge_route(mesh: &Resolved, edge: &Service, written: &EdgeRoute) -> Vec<Route> {
    let callee = mesh.service(&written.service);
    let action = |rewrite: Option<String>| RouteAction {
        prefix_rewrite: rewrite,
        ..callee.map_or_else(|| to(&written.service), |callee| to_callee(mesh, edge, callee))
    };
    let prefix = written.prefix.clone();
    match (prefix.as_str(), written.rewrite.as_deref()) {
        ("/", None) => vec![route(everything(), action(None))],
        // `/` in front of a new prefix: `/x` becomes `/new/x`.
        ("/", Some(rewrite)) => {
            let rewrite = format!("{}/", rewrite.trim_end_matches('/'));
            vec![route(everything(), action(Some(rewrite)))]
        }
        // Taking the prefix off needs its slash to go too: `/api/x` becomes `/x`, not `//x`.
        (_, Some("/")) => {
            let below = RouteMatch { prefix: Some(format!("{prefix}/")), ..RouteMatch::default() };
            let itself = RouteMatch { path: Some(prefix), ..RouteMatch::default() };
            vec![route(below, action(Some("/".to_owned()))), route(itself, action(Some("/".to_owned())))]
        }
        (_, rewrite) => {
            let matcher = RouteMatch { path_separated_prefix: Some(prefix), ..RouteMatch::default() };
            vec![route(matcher, action(rewrite.map(str::to_owned)))]
        }
    }
}

/// Readiness of the sidecar, metrics, and the probes of the application: GET on exact paths, nothing else.
pub fn health(service: &Service) -> RouteConfiguration {
    let exact = |path: String, action: RouteAction| {
        let get = HeaderMatcher { name: ":method", string_match: StringMatcher::Exact("GET".to_owned()) };
        route(RouteMatch { path: Some(path), headers: vec![get], ..RouteMatch::default() }, action)
    };
    let admin = |path: &str| RouteAction { prefix_rewrite: Some(path.to_owned()), ..to(cluster::ADMIN) };
    let mut routes = vec![
        exact(READY_PATH.to_owned(), admin("/ready")),
        exact(METRICS_PATH.to_owned(), admin("/stats/prometheus")),
    ];
    for (name, probe) in service.probes.named() {
        if let Some(path) = &probe.path {
            let action = RouteAction { prefix_rewrite: Some(path.clone()), ..to(cluster::APPLICATION) };
            routes.push(exact(probe_path(name), action));
        }
    }
    configuration("health", vec![host("health", vec!["*".to_owned()], routes)])
}

//! Services: their names, ports, callees, the edge's routes, the container.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::document::{Node, Spanned};
use super::super::model::{
    CallSpec, ContainerSpec, EdgeRouteSpec, EdgeSpec, ProbeSpec, ProbesSpec, Protocol, ServiceSpec,
};
use super::check::Check;
use super::{Call, Edge, EdgeRoute, Local, Service, ports};
use crate::diagnostic::nearest;

pub(super) fn resolve(check: &mut Check<'_>, namespace: &str, specs: Vec<ServiceSpec>) -> Vec<Service> {
    let names = Names::of(&specs, &check.document.root);
    if specs.is_empty() && names.set_aside.is_empty() {
        let span = check.document.root.get("spec").map_or(0..0, |spec| spec.span.start..spec.span.start);
        check.error(&span, "no-services", "a mesh needs a service", None);
    }
    let mut seen: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut accounts: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut edge: Option<Range<usize>> = None;
    let mut services = Vec::with_capacity(specs.len());
    for spec in specs {
        check.dns_label("a service's name", &spec.name);
        if let Some(first) = seen.get(&spec.name.value) {
            let help = format!("the first is at {}; names are unique in the mesh", check.line(first));
            let message = format!("there are two services `{}`", spec.name.value);
            check.error(&spec.name.span, "duplicate-service", message, help);
        } else {
            seen.insert(spec.name.value.clone(), spec.name.span.clone());
        }
        if let Some(written) = &spec.edge {
            if let Some(first) = &edge {
                let help = format!("the first is at {}", check.line(first));
                check.error(&written.span, "second-edge", "a mesh has one edge at most", help);
            } else {
                edge = Some(written.span.clone());
            }
        }
        let service = one(check, namespace, &names, spec);
        let account = (service.namespace.clone(), service.service_account.clone());
        if let Some(other) = accounts.get(&account).filter(|other| **other != service.name) {
            let message = format!(
                "`{}` and `{other}` share an identity: what one may, the other may too",
                service.name
            );
            let help = "give each service a service account of its own".to_owned();
            check.warning(&service.name_span.span, "shared-identity", message, help);
        } else {
            accounts.insert(account, service.name.clone());
        }
        services.push(service);
    }
    services
}

/// What other entries say about a callee: enough to check a call against.
struct Names {
    /// Name → (protocol, port, is the edge).
    known: BTreeMap<String, (Protocol, Option<u16>, bool)>,
    /// Names in entries that could not be read: they exist, but nothing more can be said of them.
    set_aside: Vec<String>,
}

impl Names {
    fn of(specs: &[ServiceSpec], root: &Node) -> Self {
        let protocol =
            |spec: &ServiceSpec| spec.protocol.as_ref().map_or(Protocol::Http, |protocol| protocol.value);
        let facts = |spec: &ServiceSpec| {
            (protocol(spec), spec.port.as_ref().map(|port| port.value), spec.edge.is_some())
        };
        let known: BTreeMap<_, _> = specs.iter().map(|spec| (spec.name.value.clone(), facts(spec))).collect();
        let written = root.get("spec").and_then(|spec| spec.get("services")).map_or(&[][..], Node::items);
        let set_aside = written
            .iter()
            .filter_map(|service| service.get("name")?.as_str())
            .filter(|name| !known.contains_key(*name))
            .map(str::to_owned)
            .collect();
        Self { known, set_aside }
    }

    /// The callee's facts. `None` and a mistake when it is unknown; `None` alone when nothing can be said.
    fn callee(&self, check: &mut Check<'_>, name: &Spanned<String>) -> Option<(Protocol, Option<u16>, bool)> {
        if let Some(facts) = self.known.get(&name.value) {
            return Some(*facts);
        }
        if !self.set_aside.contains(&name.value) {
            let all = self.known.keys().chain(&self.set_aside).map(String::as_str);
            let help = match nearest(name, all) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "add it to `spec.services`, or correct the name".to_owned(),
            };
            check.error(
                &name.span,
                "unknown-service",
                format!("service `{}` is not defined", name.value),
                help,
            );
        }
        None
    }
}

/// The tree of the service whose name is written at `name`.
fn written_at<'a>(root: &'a Node, name: &Range<usize>) -> Option<&'a Node> {
    let services = root.get("spec")?.get("services")?.items();
    services.iter().find(|service| service.get("name").is_some_and(|node| node.span == *name))
}

fn one(check: &mut Check<'_>, namespace: &str, names: &Names, spec: ServiceSpec) -> Service {
    if let Some(namespace) = &spec.namespace {
        check.dns_label("a namespace", namespace);
    }
    if let Some(account) = &spec.service_account {
        check.service_account(account);
    }
    let port = application_port(check, &spec);
    let protocol = spec.protocol.as_ref().map_or(Protocol::Http, |protocol| protocol.value);
    let mut calls = calls(check, names, &spec, port);
    let edge = spec.edge.as_ref().map(|written| edge(check, names, &spec, written, &mut calls));
    if let Some(container) = &spec.container {
        self::container(check, container, protocol);
    }
    let probes = probes(check, &spec, protocol);
    let local = spec.local.map(|local| {
        if local.command.first().is_none_or(String::is_empty) {
            let message = format!("the local command of `{}` is empty", spec.name.value);
            check.error(&spec.name.span, "empty-command", message, None);
        }
        Local { command: local.command, env: local.env }
    });
    if let Some(file) = &spec.replicas_file {
        replicas_file(check, file);
    }
    let name = spec.name.value;
    let mut labels = BTreeMap::from([("app".to_owned(), name.clone())]);
    for (key, value) in &spec.labels {
        check.label(key, value);
        if key == "app" && value.value != name {
            let help = format!("leave it out, or write `app: {name}`");
            let message = "the label `app` is the service's name: Kubernetes Services select by it";
            check.error(&value.span, "invalid-label", message, help);
        }
        labels.insert(key.clone(), value.value.clone());
    }
    Service {
        namespace: spec.namespace.map_or_else(|| namespace.to_owned(), |namespace| namespace.value),
        service_account: spec.service_account.map_or_else(|| name.clone(), |account| account.value),
        protocol,
        port,
        labels,
        calls,
        edge,
        replicas: spec.replicas.map_or(1, |replicas| replicas.value),
        replicas_file: spec.replicas_file.map(|file| file.value),
        container: spec.container.map(|container| container.value),
        probes,
        local,
        name_span: Spanned::new((), spec.name.span),
        name,
    }
}

/// Envoy reads it by `%FILE_CONTENT(file:folder)%`, where these would mean something else.
fn replicas_file(check: &mut Check<'_>, file: &Spanned<String>) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    let in_a_folder =
        file.rsplit_once('/').is_some_and(|(folder, name)| folder.len() > 1 && !name.is_empty());
    if !file.starts_with('/') || !in_a_folder || !file.chars().all(good) {
        let message = format!("`{}` is no file that a sidecar can follow", file.value);
        let help = "write the whole path in the sidecar's container, of letters, digits, `-`, `_` and `.`: \
                    `/etc/podinfo/replicas`"
            .to_owned();
        check.error(&file.span, "invalid-path", message, help);
    }
}

/// The container's probes, or those of a pod that somebody else writes.
fn probes(check: &mut Check<'_>, spec: &ServiceSpec, protocol: Protocol) -> ProbesSpec {
    let Some(own) = &spec.probes else {
        return spec.container.as_ref().map(|container| container.value.probes.clone()).unwrap_or_default();
    };
    if spec.container.is_some() || spec.edge.is_some() {
        let help = "a container's probes are `container.probes`; an edge has the sidecar's".to_owned();
        check.error(&own.span, "invalid-probe", "these are the probes of pods that are yours", help);
    }
    for probe in [&own.readiness, &own.liveness, &own.startup].into_iter().flatten() {
        self::probe(check, probe, protocol);
        if probe.exec.is_some() {
            let help = "leave it out: a command runs in the pod, and meets no sidecar".to_owned();
            check.error(&probe.span, "invalid-probe", "only paths come by the sidecar", help);
        }
    }
    own.value.clone()
}

fn application_port(check: &mut Check<'_>, spec: &ServiceSpec) -> Option<u16> {
    match (&spec.port, &spec.edge) {
        (Some(port), Some(_)) => {
            let help = "leave `port` out; the port that the world sees is `edge.port`".to_owned();
            check.error(&port.span, "edge-port", "an edge has no application, and so no port of one", help);
        }
        // A port that could not be read is a mistake already told.
        (None, None)
            if written_at(&check.document.root, &spec.name.span)
                .is_some_and(|it| it.get("port").is_some()) => {}
        (None, None) => {
            let message = format!("`{}` has no port", spec.name.value);
            let help = "add `port:`, the one that the application listens on".to_owned();
            check.error(&spec.name.span, "missing-field", message, help);
        }
        (Some(port), None) => listen_port(check, port),
        (None, Some(_)) => {}
    }
    if let (Some(edge), Some(container)) = (&spec.edge, &spec.container) {
        let help = "move the application to a service of its own, and route to it".to_owned();
        check.error(
            &container.span,
            "edge-container",
            "an edge has no application, and so no container",
            help,
        );
        let _ = edge;
    }
    if let (Some(edge), Some(protocol)) = (&spec.edge, &spec.protocol)
        && protocol.value == Protocol::Tcp
    {
        let help = format!("leave `protocol` out, or `edge` ({})", check.line(&edge.span));
        check.error(&protocol.span, "edge-protocol", "an edge speaks HTTP", help);
    }
    spec.port.as_ref().map(|port| port.value)
}

fn listen_port(check: &mut Check<'_>, port: &Spanned<u16>) {
    if port.value == 0 {
        check.error(&port.span, "invalid-port", "0 is no port to listen on", None);
    } else if ports::RESERVED.contains(&port.value) {
        let message = format!("port {} is the sidecar's own", port.value);
        let help = format!("any other than {}", ports::RESERVED.map(|port| port.to_string()).join(", "));
        check.error(&port.span, "reserved-port", message, help);
    }
}

fn calls(check: &mut Check<'_>, names: &Names, spec: &ServiceSpec, own_port: Option<u16>) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut loopback: BTreeMap<u16, String> = BTreeMap::new();
    if let Some(port) = own_port {
        loopback.insert(port, "the application itself".to_owned());
    }
    for CallSpec { service, port } in &spec.calls {
        if service.value == spec.name.value {
            let message = format!("`{}` calls itself: that needs no mesh", service.value);
            check.error(&service.span, "self-call", message, "take it out of `calls`".to_owned());
            continue;
        }
        if calls.iter().any(|call| call.service == service.value) {
            check.error(&service.span, "duplicate-call", format!("`{}` is there twice", service.value), None);
            continue;
        }
        let Some((protocol, callee_port, is_edge)) = names.callee(check, service) else { continue };
        if is_edge {
            let help = "call the services behind it".to_owned();
            let message =
                format!("`{}` is the edge: it is the way in, and has no service of its own", service.value);
            check.error(&service.span, "call-of-edge", message, help);
            continue;
        }
        let local = match (protocol, port) {
            (Protocol::Tcp, _) => port.as_ref().map(|port| port.value).or(callee_port),
            (Protocol::Http, Some(port)) => {
                let help = format!("take `port` out: HTTP callees are all behind port {}", ports::OUTBOUND);
                let message = format!("`{}` speaks HTTP and needs no port of its own here", service.value);
                check.error(&port.span, "http-call-port", message, help);
                None
            }
            (Protocol::Http, None) => None,
        };
        if let Some(number) = local {
            let span = port.as_ref().map_or(&service.span, |port| &port.span);
            if let Some(port) = port {
                listen_port(check, port);
            }
            if let Some(other) = loopback.get(&number) {
                let message = format!("port {number} of this pod's loopback is taken by {other}");
                let help = format!(
                    "choose another: `{{service: {}, port: {}}}`",
                    service.value,
                    number.wrapping_add(1000)
                );
                check.error(span, "port-conflict", message, help);
            } else {
                loopback.insert(number, format!("`{}`", service.value));
            }
        }
        calls.push(Call { service: service.value.clone(), port: local });
    }
    calls
}

fn edge(
    check: &mut Check<'_>,
    names: &Names,
    spec: &ServiceSpec,
    written: &Spanned<EdgeSpec>,
    calls: &mut Vec<Call>,
) -> Edge {
    if let Some(port) = &written.port {
        listen_port(check, port);
    }
    if written.routes.is_empty() {
        let help = "add one: `- {prefix: /, service: …}`".to_owned();
        check.error(&written.span, "edge-without-routes", "the edge has no route: nobody gets in", help);
    }
    let mut routes: Vec<EdgeRoute> = Vec::new();
    for route in &written.routes {
        let host = route.host.as_ref().map(|host| host.value.as_str());
        let shadow = routes.iter().find(|earlier| {
            (earlier.host.is_none() || earlier.host.as_deref() == host)
                && covers(&earlier.prefix, &route.prefix)
        });
        if let Some(earlier) = shadow {
            let message =
                format!("no request reaches this route: `{}` before it takes them all", earlier.prefix);
            check.error(
                &route.prefix.span,
                "unreachable-route",
                message,
                "put the narrower route first".to_owned(),
            );
        }
        edge_route(check, route);
        let target = &route.service;
        if target.value == spec.name.value {
            check.error(&target.span, "self-call", "the edge routes to itself", None);
        } else if let Some((protocol, _, _)) = names.callee(check, target) {
            if protocol == Protocol::Tcp {
                let message = format!("`{}` does not speak HTTP", target.value);
                check.error(
                    &target.span,
                    "edge-to-tcp",
                    message,
                    "the edge routes to HTTP services only".to_owned(),
                );
            } else if !calls.iter().any(|call| call.service == target.value) {
                calls.push(Call { service: target.value.clone(), port: None });
            }
        }
        routes.push(EdgeRoute {
            prefix: route.prefix.value.clone(),
            host: host.map(str::to_owned),
            service: target.value.clone(),
            rewrite: route.rewrite.as_ref().map(|rewrite| rewrite.value.clone()),
        });
    }
    Edge { port: written.port.as_ref().map_or(ports::EDGE, |port| port.value), routes }
}

/// Whether every path under `inner` lies under `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    outer == "/" || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn edge_route(check: &mut Check<'_>, route: &EdgeRouteSpec) {
    for path in std::iter::once(&route.prefix).chain(&route.rewrite) {
        let whole = path.value == "/";
        let printable =
            path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%' | b'\\'));
        if !path.starts_with('/') || !printable || path.contains("//") {
            let message = format!("`{}` is no path to route by", path.value);
            let help = "start it with `/`; leave query, fragment and percent-encoding out".to_owned();
            check.error(&path.span, "invalid-path", message, help);
        } else if !whole && path.ends_with('/') {
            let bare = path.trim_end_matches('/');
            let message = format!("`{}` would not match `{bare}` itself", path.value);
            check.error(
                &path.span,
                "invalid-path",
                message,
                format!("write `{bare}`: it matches at a `/` only"),
            );
        }
    }
    if let Some(host) = &route.host {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if host.is_empty() || !host.chars().all(good) {
            let help = "a name in lower case, without port".to_owned();
            check.error(&host.span, "invalid-host", format!("`{}` is no host name", host.value), help);
        }
    }
}

fn container(check: &mut Check<'_>, container: &Spanned<ContainerSpec>, protocol: Protocol) {
    check.image(&container.image);
    for name in container.env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) || name.contains(char::is_whitespace) {
            check.error(
                &container.span,
                "invalid-name",
                format!("`{name}` cannot name an environment variable"),
                None,
            );
        }
    }
    for writable in &container.writable {
        if !writable.path.starts_with('/') || writable.path.contains(':') {
            let message = format!("`{}` is no absolute path", writable.path);
            check.error(&writable.span, "invalid-path", message, None);
        }
    }
    if let Some(user) = &container.run_as_user
        && user.value == 0
    {
        let help = "name another user: pods of the mesh run as non-root".to_owned();
        check.error(&user.span, "root-user", "user 0 is root", help);
    }
    let probes = &container.probes;
    for probe in [&probes.readiness, &probes.liveness, &probes.startup].into_iter().flatten() {
        self::probe(check, probe, protocol);
    }
}

fn probe(check: &mut Check<'_>, probe: &Spanned<ProbeSpec>, protocol: Protocol) {
    match (&probe.path, &probe.exec) {
        (Some(path), None) if protocol == Protocol::Tcp => {
            let help = "use `exec`, a command inside the container".to_owned();
            check.error(
                &probe.span,
                "invalid-probe",
                format!("a TCP service has no path `{path}` to GET"),
                help,
            );
        }
        (Some(path), None) => {
            if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
                check.error(&probe.span, "invalid-path", format!("`{path}` is no path to GET"), None);
            }
        }
        (None, Some(command)) if !command.is_empty() => {}
        _ => {
            let help = "either `path: /healthz`, or `exec: [command, argument]`".to_owned();
            check.error(&probe.span, "invalid-probe", "a probe is one path or one command", help);
        }
    }
}

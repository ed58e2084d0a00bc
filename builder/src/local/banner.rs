//! What `up` prints when all is ready: where everything listens, and commands to try.

use std::fmt::Write as _;

use super::run::{POSTGRES_PORT, Running};
use crate::mesh::model::Protocol;
use crate::mesh::{Service, ports};

/// For standard output.
pub fn text(running: &Running) -> String {
    let mesh = &running.mesh;
    let mut text = format!(
        "\nThe mesh `{}` is up: {} services, filter {} ({} bytes).\n\n",
        mesh.name,
        mesh.services.len(),
        running.filter.sha256.get(..12).unwrap_or_default(),
        running.filter.size
    );
    let rows: Vec<[String; 4]> =
        std::iter::once(["SERVICE", "ADDRESS", "APPLICATION", "IDENTITY"].map(str::to_owned))
            .chain(mesh.services.iter().map(|service| {
                [
                    service.name.clone(),
                    running.plan.address(&service.name).to_string(),
                    application(service),
                    mesh.spiffe_id(service),
                ]
            }))
            .collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    for row in &rows {
        let [name, address, application, identity] = row;
        let [first, second, third] = widths;
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name:first$}  {address:second$}  {application:third$}  {identity}");
    }
    let _ = writeln!(
        text,
        "\nEach sidecar, on its service's address: {} inbound (mTLS), {} outbound, {} admin, {} health.\nLogs: {}\n\nTry:",
        ports::INBOUND,
        ports::OUTBOUND,
        ports::ADMIN,
        ports::HEALTH,
        running.state.folder().join("logs").display()
    );
    for (command, comment) in commands(running) {
        let _ = writeln!(text, "  {command:56}  # {comment}");
    }
    text.push_str("\nCtrl-C stops everything.\n");
    text
}

fn application(service: &Service) -> String {
    match (&service.edge, service.port) {
        (Some(edge), _) => format!("edge, http {}", edge.port),
        (None, Some(port)) if service.protocol == Protocol::Tcp => format!("tcp {port}"),
        (None, Some(port)) => format!("http {port}"),
        (None, None) => String::new(),
    }
}

fn commands(running: &Running) -> Vec<(String, String)> {
    let mesh = &running.mesh;
    let mut found = Vec::new();
    for service in &mesh.services {
        let address = running.plan.address(&service.name);
        if let Some(edge) = &service.edge {
            let host = running.plan.edge_also.unwrap_or(address);
            for route in &edge.routes {
                let comment = format!("from outside to {}", route.service);
                found.push((format!("curl http://{host}:{}{}", edge.port, route.prefix), comment));
            }
            continue;
        }
        let mut callees = service.calls.iter().filter_map(|call| Some((call, mesh.service(&call.service)?)));
        let http: Vec<_> = callees
            .clone()
            .filter(|(_, callee)| callee.protocol == Protocol::Http)
            .map(|(_, callee)| callee)
            .collect();
        for callee in &http {
            let host = if http.len() > 1 { format!(" -H 'Host: {}'", callee.name) } else { String::new() };
            let path = path_to_try(running, &callee.name);
            let comment = format!("as {} to {}", service.name, callee.name);
            found.push((format!("curl http://{address}:{}{path}{host}", ports::OUTBOUND), comment));
        }
        if let Some((call, callee)) = callees.find(|(_, callee)| callee.protocol == Protocol::Tcp) {
            let port = call.port.unwrap_or_default();
            let comment = format!("as {} to {}, through both sidecars", service.name, callee.name);
            let command = if callee.port == Some(POSTGRES_PORT) {
                format!("psql -h {address} -p {port} -U {} books", service.name)
            } else {
                format!("nc {address} {port}")
            };
            found.push((command, comment));
        }
    }
    if let Some(service) = mesh.services.first() {
        let address = running.plan.address(&service.name);
        let command = format!("curl 'http://{address}:{}/stats?filter=meshward'", ports::ADMIN);
        found.push((command, format!("what the filter of {} decided", service.name)));
    }
    found
}

/// A path that the edge routes to that service, which is one that exists.
fn path_to_try<'a>(running: &'a Running, callee: &str) -> &'a str {
    running
        .mesh
        .services
        .iter()
        .filter_map(|service| service.edge.as_ref())
        .flat_map(|edge| &edge.routes)
        .find(|route| route.service == callee && route.rewrite.is_none())
        .map_or("/", |route| route.prefix.as_str())
}

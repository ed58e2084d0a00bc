//! Traffic that is led to the sidecar without the application's doing: what may be left out, and what would be ambiguous.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::super::document::Spanned;
use super::super::model::{InterceptionSpec, Protocol};
use super::check::Check;
use super::{INTERCEPTING_USER, Interception, Service, ports};

pub(super) fn resolve(
    check: &mut Check<'_>,
    spec: &Spanned<InterceptionSpec>,
    services: &[Service],
) -> Interception {
    let InterceptionSpec { image, outside, exclude } = &spec.value;
    check.pinned_image(image);
    for port in exclude.inbound_ports.iter().chain(&exclude.outbound_ports) {
        if port.value == 0 {
            check.error(&port.span, "invalid-port", "0 is no port", None);
        }
    }
    for port in &exclude.inbound_ports {
        inbound_port(check, port, services);
    }
    for port in &exclude.outbound_ports {
        if let Some(callee) = services.iter().find(|service| service.port == Some(port.value)) {
            let message = format!(
                "port {} is that of `{}`: what is excluded reaches it without a certificate, and is refused there",
                port.value, callee.name
            );
            let help = "exclude the address of what else has that port (`outboundCidrs`)".to_owned();
            check.warning(&port.span, "excluded-callee", message, help);
        }
    }
    for cidr in &exclude.outbound_cidrs {
        self::cidr(check, cidr);
    }
    for service in services {
        ambiguous(check, service, services, &spec.span);
        let user = service.container.as_ref().and_then(|container| container.run_as_user.as_ref());
        if let Some(user) = user.filter(|user| user.value == INTERCEPTING_USER) {
            let message =
                format!("user {INTERCEPTING_USER} is the sidecar's: what it sends is not intercepted");
            check.error(
                &user.span,
                "sidecar-user",
                message,
                "run the application as another user".to_owned(),
            );
        }
    }
    let ports = |list: &[Spanned<u16>]| list.iter().map(|port| port.value).collect();
    Interception {
        image: image.value.clone(),
        outside: outside.value,
        outbound_ports: ports(&exclude.outbound_ports),
        outbound_cidrs: exclude.outbound_cidrs.iter().map(|cidr| cidr.value.clone()).collect(),
        inbound_ports: ports(&exclude.inbound_ports),
    }
}

fn inbound_port(check: &mut Check<'_>, port: &Spanned<u16>, services: &[Service]) {
    if ports::RESERVED.contains(&port.value) {
        let message = format!("port {} is the sidecar's own, and needs no exclusion", port.value);
        check.error(&port.span, "reserved-port", message, "leave it out".to_owned());
    }
    if let Some(service) = services.iter().find(|service| service.port == Some(port.value)) {
        let message = format!(
            "port {} is the application's of `{}`: excluded, everybody would reach it without a certificate",
            port.value, service.name
        );
        let help = "leave it out; to let plain text in, say so with a PeerAuthentication".to_owned();
        check.error(&port.span, "excluded-application", message, help);
    }
}

/// An IPv4 address, or a block of them.
fn cidr(check: &mut Check<'_>, cidr: &Spanned<String>) {
    let (address, length) = cidr.split_once('/').map_or((cidr.as_str(), None), |(a, l)| (a, Some(l)));
    let good_length = |length: &str| {
        length.len() <= 2
            && length.bytes().all(|b| b.is_ascii_digit())
            && length.parse().is_ok_and(|l: u8| l <= 32)
    };
    if address.parse::<Ipv4Addr>().is_err() || !length.is_none_or(good_length) {
        let message = format!("`{}` is no block of IPv4 addresses", cidr.value);
        let help = "write it like `10.0.0.0/8`; IPv6 is not redirected, but refused".to_owned();
        check.error(&cidr.span, "invalid-cidr", message, help);
    }
}

/// The port is all that says what a captured connection speaks, and with TCP for whom it is.
fn ambiguous(check: &mut Check<'_>, caller: &Service, services: &[Service], span: &Range<usize>) {
    let callees: Vec<(&Service, Option<u16>)> = caller
        .calls
        .iter()
        .filter_map(|call| Some((services.iter().find(|one| one.name == call.service)?, call.port)))
        .collect();
    for (tcp, own) in callees.iter().filter(|(callee, _)| callee.protocol == Protocol::Tcp) {
        let other = callees.iter().find(|(other, _)| other.name != tcp.name && other.port == tcp.port);
        let Some(((other, _), port)) = other.zip(tcp.port) else { continue };
        if other.protocol == Protocol::Http {
            let message = format!(
                "`{}` calls `{}` and `{}`, both at port {port}: caught there, HTTP cannot be told from TCP",
                caller.name, other.name, tcp.name
            );
            check.error(span, "captured-port", message, "give one of them another port".to_owned());
        } else if let Some(own) = own.filter(|own| *own != port) {
            let message = format!(
                "what `{}` sends to port {port} is taken for `{}`: it reaches `{}` at 127.0.0.1:{own} only",
                caller.name, other.name, tcp.name
            );
            check.warning(span, "captured-port", message, "give one of them another port".to_owned());
        }
    }
}

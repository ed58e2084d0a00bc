//! The values of an attribute in a request, in the form in which patterns are compared with them.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::config::{Attribute, HeaderMode};
use crate::pattern::Pattern;
use crate::request::{Field, Request};

/// One value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Text.
    Bytes(&'a [u8]),
    /// Namespace and name of a service account.
    Account(&'a str, &'a str),
    /// An address, IPv4 in its own form.
    Address(IpAddr),
    /// A port.
    Port(u16),
}

impl Value<'_> {
    /// Whether a pattern matches.
    pub fn matches(&self, pattern: &Pattern) -> bool {
        match (self, pattern) {
            (Self::Bytes(bytes), pattern) => pattern.matches(bytes),
            (Self::Account(namespace, name), Pattern::ServiceAccount { namespace: of, name: account }) => {
                **of == **namespace && **account == **name
            }
            (Self::Address(address), pattern) => pattern.matches_address(*address),
            (Self::Port(port), Pattern::Port(wanted)) => port == wanted,
            _ => false,
        }
    }
}

/// Longest host, path with parameters or repeated header that is rewritten without a heap allocation, in bytes.
const SCRATCH: usize = 512;

/// Calls `visit` for every value that the attribute has: none or one, and more only for claims, metadata and headers
/// that are not joined. `strip` is whether paths lose their `;name=value`.
pub fn each(attribute: &Attribute, request: &Request, strip: bool, visit: &mut dyn FnMut(Value)) {
    let identity = request.identity();
    match attribute {
        Attribute::Principal => there(identity.map(|id| id.principal().as_bytes()), visit),
        Attribute::Namespace => there(identity.and_then(|id| id.namespace()).map(str::as_bytes), visit),
        Attribute::TrustDomain => there(identity.map(|id| id.trust_domain().as_bytes()), visit),
        Attribute::ServiceAccount => {
            if let Some(id) = identity
                && let (Some(namespace), Some(account)) = (id.namespace(), id.service_account())
            {
                visit(Value::Account(namespace, account));
            }
        }
        Attribute::SourceIp => address(request.source_ip, visit),
        Attribute::RemoteIp => address(request.remote_ip, visit),
        Attribute::DestinationIp => address(request.destination_ip, visit),
        Attribute::DestinationPort => {
            if let Some(port) = request.destination_port {
                visit(Value::Port(port));
            }
        }
        Attribute::RequestPrincipal => there(request.request_principal, visit),
        Attribute::Host => {
            if let Some(host) = request.authority {
                if host.iter().any(u8::is_ascii_uppercase) {
                    let lower = host.iter().map(u8::to_ascii_lowercase);
                    rewritten(lower, host.len(), visit);
                } else {
                    visit(Value::Bytes(host));
                }
            }
        }
        Attribute::Method => {
            if let Some(method) = request.method {
                visit(Value::Bytes(method));
            }
        }
        Attribute::Path => match request.url_path() {
            Some(path) if strip && path.contains(&b';') => {
                let mut in_params = false;
                let kept = path.iter().copied().filter(|byte| {
                    in_params = *byte == b';' || in_params && *byte != b'/';
                    !in_params
                });
                rewritten(kept, path.len(), visit);
            }
            path => there(path, visit),
        },
        Attribute::Header { name, mode } => header(name, *mode, request, visit),
        Attribute::Sni => there(request.sni, visit),
        Attribute::Claim(name) => named(request.claims, name, visit),
        Attribute::Metadata(name) => named(request.metadata, name, visit),
    }
}

/// A value that counts only when it is not empty.
fn there(value: Option<&[u8]>, visit: &mut dyn FnMut(Value)) {
    if let Some(value) = value
        && !value.is_empty()
    {
        visit(Value::Bytes(value));
    }
}

fn address(address: Option<IpAddr>, visit: &mut dyn FnMut(Value)) {
    if let Some(address) = address {
        visit(Value::Address(address.to_canonical()));
    }
}

fn named(fields: &[Field], name: &str, visit: &mut dyn FnMut(Value)) {
    for field in fields.iter().filter(|field| field.name == name) {
        there(Some(field.value), visit);
    }
}

fn header(name: &str, mode: HeaderMode, request: &Request, visit: &mut dyn FnMut(Value)) {
    let pseudo = match name {
        ":method" => request.method,
        ":path" => request.path,
        ":authority" => request.authority,
        _ => {
            let mut values =
                request.headers.iter().filter(|field| field.name == name).map(|field| field.value);
            let (first, second) = (values.next(), values.next());
            match (first, second) {
                (Some(first), Some(second)) if mode == HeaderMode::Joined => {
                    let all = || [first, second].into_iter().chain(values.clone());
                    let length = all().map(|value| value.len() + 1).sum::<usize>();
                    let joined =
                        all().flat_map(|value| [b','].into_iter().chain(value.iter().copied())).skip(1);
                    rewritten(joined, length, visit);
                }
                _ => {
                    first.into_iter().chain(second).chain(values).for_each(|value| visit(Value::Bytes(value)))
                }
            }
            return;
        }
    };
    if let Some(value) = pseudo {
        visit(Value::Bytes(value));
    }
}

/// Visits bytes that are not in one piece anywhere. `longest` bounds their number.
fn rewritten(bytes: impl Iterator<Item = u8>, longest: usize, visit: &mut dyn FnMut(Value)) {
    if longest > SCRATCH {
        // Only what nobody sends gets here, so that the rest pays nothing for it.
        let all: Vec<u8> = bytes.collect();
        return visit(Value::Bytes(&all));
    }
    let mut scratch = [0; SCRATCH];
    let mut length = 0;
    for (slot, byte) in scratch.iter_mut().zip(bytes) {
        *slot = byte;
        length += 1;
    }
    visit(Value::Bytes(scratch.get(..length).unwrap_or(&[])));
}

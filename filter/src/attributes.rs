//! What the policies ask for, read from Envoy: nothing else, and with the fewest calls.
//!
//! Two headers or more come with the whole header map in one call, which costs less than two single ones.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use meshward_engine::policy::Attributes;
use meshward_engine::request::{Field, Request};

use crate::host::{self, HeaderMap, HostBytes};
use crate::identity::Identity;

/// Attributes of a connection, as Envoy gave them.
#[derive(Debug, Default)]
pub struct Connection {
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    port: Option<u16>,
    sni: Option<HostBytes>,
}

impl Connection {
    /// Reads what `needs` asks for. What Envoy cannot say is absent.
    pub fn read(needs: &Attributes) -> Self {
        let mut connection = Self::default();
        if needs.source_ip || needs.remote_ip {
            connection.source = address("source\0address");
        }
        if needs.destination_ip {
            connection.destination = address("destination\0address");
            connection.port = connection.destination.map(|destination| destination.port());
        } else if needs.destination_port {
            connection.port = number("destination\0port").and_then(|port| u16::try_from(port).ok());
        }
        if needs.sni {
            connection.sni = present("connection\0requested_server_name");
        }
        connection
    }

    /// The part of a request that the connection knows.
    pub fn request<'a>(&'a self, identity: &'a Identity, needs: &Attributes) -> Request<'a> {
        let source: Option<IpAddr> = self.source.map(|source| source.ip());
        Request {
            peer: identity.peer(),
            serial: identity.serial(),
            // One address for both: Envoy shows a filter the trusted client address alone. The listener is rendered
            // so that it is the direct peer wherever a policy speaks of the direct peer.
            source_ip: source.filter(|_| needs.source_ip),
            remote_ip: source.filter(|_| needs.remote_ip),
            destination_ip: self.destination.map(|destination| destination.ip()),
            destination_port: self.port,
            sni: self.sni.as_deref(),
            ..Request::EMPTY
        }
    }
}

/// Headers of a request, as Envoy gave them.
#[derive(Debug, Default)]
pub struct Headers {
    map: Option<HeaderMap>,
    method: Option<HostBytes>,
    path: Option<HostBytes>,
    authority: Option<HostBytes>,
}

/// The headers of a request that the engine sees, borrowed from [`Headers`].
#[derive(Debug, Default)]
pub struct HeaderView<'a> {
    pub method: Option<&'a [u8]>,
    pub path: Option<&'a [u8]>,
    pub authority: Option<&'a [u8]>,
    pub fields: Vec<Field<'a>>,
}

impl Headers {
    /// Reads what `needs` asks for.
    pub fn read(needs: &Attributes) -> Self {
        let pseudo = usize::from(needs.method) + usize::from(needs.path) + usize::from(needs.authority);
        let mut headers = Self::default();
        // A single call joins the values of a repeated header, so named headers always come with the map.
        if pseudo > 1 || !needs.headers.is_empty() {
            headers.map = host::request_headers().ok();
            return headers;
        }
        let single =
            |needed: bool, name: &str| if needed { host::request_header(name).ok().flatten() } else { None };
        headers.method = single(needs.method, ":method");
        headers.path = single(needs.path, ":path");
        headers.authority = single(needs.authority, ":authority");
        headers
    }

    /// Reads all, whether they are needed or not.
    pub fn read_all() -> Self {
        Self { map: host::request_headers().ok(), ..Self::default() }
    }

    /// What of them the policies ask for, and the three that every request has.
    pub fn view<'a>(&'a self, needs: &'a Attributes) -> HeaderView<'a> {
        let Some(map) = &self.map else {
            return HeaderView {
                method: self.method.as_deref(),
                path: self.path.as_deref(),
                authority: self.authority.as_deref(),
                fields: Vec::new(),
            };
        };
        let mut view = HeaderView::default();
        for (name, value) in map.iter() {
            match name {
                b":method" => view.method = Some(value),
                b":path" => view.path = Some(value),
                b":authority" => view.authority = Some(value),
                _ => {
                    let wanted = needs.headers.binary_search_by(|wanted| wanted.as_bytes().cmp(name)).ok();
                    if let Some(name) = wanted.and_then(|at| needs.headers.get(at)) {
                        view.fields.push(Field { name, value });
                    }
                }
            }
        }
        view
    }
}

/// Claims of the validated token and other filters' metadata.
#[derive(Debug, Default)]
pub struct Metadata {
    principal: Option<Vec<u8>>,
    /// Position in `needs.claims`, value.
    claims: Vec<(usize, HostBytes)>,
    /// Position in `needs.metadata`, value.
    others: Vec<(usize, HostBytes)>,
}

/// Where `envoy.filters.http.jwt_authn` puts a validated token when its provider says `payload_in_metadata: payload`,
/// as Istio writes it.
const TOKEN: &str = "metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0payload";

impl Metadata {
    /// Reads what `needs` asks for.
    pub fn read(needs: &Attributes) -> Self {
        let mut metadata = Self::default();
        if needs.request_principal {
            metadata.principal = request_principal();
        }
        metadata.claims = values(&needs.claims, TOKEN);
        metadata.others = values(&needs.metadata, "metadata\0filter_metadata\0");
        metadata
    }

    pub fn request_principal(&self) -> Option<&[u8]> {
        self.principal.as_deref()
    }

    pub fn claims<'a>(&'a self, needs: &'a Attributes) -> Vec<Field<'a>> {
        fields(&needs.claims, &self.claims)
    }

    pub fn others<'a>(&'a self, needs: &'a Attributes) -> Vec<Field<'a>> {
        fields(&needs.metadata, &self.others)
    }
}

/// The values of some properties that can be compared, with their places among the names.
fn values(names: &[meshward_engine::config::Text], base: &str) -> Vec<(usize, HostBytes)> {
    let mut values = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let path = [base, &nul_separated(name)].concat();
        if let Some(value) = present(&path).filter(|value| is_comparable(value, path)) {
            values.push((at, value));
        }
    }
    values
}

/// Whether a value is text or a list. Envoy does not say what a value is: a number comes as 8 bytes, a truth value as one, an
/// object laid out like a list. Nothing of these matches anything, not even `*`, as in Envoy's RBAC.
/// (And no text with a NUL in it, which cannot be told from them.)
fn is_comparable(value: &[u8], mut path: String) -> bool {
    let Some(elements) = host::list(value) else { return is_text(value) };
    // Of a list, and of nothing else, there is a value under a number. Of an object, under its keys: so the number is
    // longer than any of them.
    path.push('\0');
    path.push_str(&"0".repeat(1 + elements.map(<[u8]>::len).max().unwrap_or(0)));
    host::property(&path).is_ok_and(|value| value.is_some())
}

/// Whether a value, or an element of a list, is text.
fn is_text(value: &[u8]) -> bool {
    !value.contains(&0) && value != [1] && core::str::from_utf8(value).is_ok()
}

/// A field for each value, and for each text of a value that is a list.
fn fields<'a>(
    names: &'a [meshward_engine::config::Text],
    values: &'a [(usize, HostBytes)],
) -> Vec<Field<'a>> {
    let mut fields = Vec::new();
    for (at, value) in values {
        let Some(name) = names.get(*at) else { continue };
        match host::list(value) {
            Some(elements) => {
                fields.extend(elements.filter(|value| is_text(value)).map(|value| Field { name, value }));
            }
            None => fields.push(Field { name, value }),
        }
    }
    fields
}

/// Issuer and subject; nothing when one of them is missing or empty.
fn request_principal() -> Option<Vec<u8>> {
    let issuer = present(&[TOKEN, "\0iss"].concat())?;
    let subject = present(&[TOKEN, "\0sub"].concat())?;
    meshward_engine::request::principal_of_token(&issuer, &subject)
}

/// `[a][b]` as `\0a\0b`, and `filter[a]` as `filter\0a`.
fn nul_separated(path: &str) -> String {
    path.chars()
        .filter(|letter| *letter != ']')
        .map(|letter| if letter == '[' { '\0' } else { letter })
        .collect()
}

/// A property that is there and not empty.
fn present(path: &str) -> Option<HostBytes> {
    host::property(path).ok().flatten().filter(|value| !value.is_empty())
}

fn number(path: &str) -> Option<u64> {
    Some(u64::from_le_bytes(<[u8; 8]>::try_from(&*present(path)?).ok()?))
}

/// `1.2.3.4:5` or `[::1]:5`. A socket in the file system has no address.
fn address(path: &str) -> Option<SocketAddr> {
    core::str::from_utf8(&present(path)?).ok()?.parse().ok()
}

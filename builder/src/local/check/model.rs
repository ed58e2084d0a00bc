//! The file of checks: who sends what to whom, and what is to come back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;

use super::odd::Certificate;
use crate::diagnostic::{Diagnostic, Failure, Source, nearest};
use crate::mesh::document::{self, Spanned};
use crate::mesh::model::Protocol as ServiceProtocol;
use crate::mesh::{Resolved, read};
use crate::native::Period;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    pub source: Arc<Source>,
    pub checks: Vec<Check>,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Real sidecars, in `up --check`.
    Sidecars,
    /// The engine, in `policy test`.
    Engine,
}

/// By which way a request goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// As the application does: in plain text to the caller's sidecar, which does the rest.
    #[default]
    Sidecar,
    /// By mutual TLS to the callee's inbound port, without a sidecar: for what no sidecar would send.
    Direct,
    /// From outside, in plain text to the edge.
    Edge,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http,
    /// One JSON-RPC call of the Model Context Protocol.
    Mcp,
    /// One statement for PostgreSQL.
    Postgres,
    /// Bytes.
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    name: String,
    /// The caller.
    from: Spanned<String>,
    /// The callee.
    to: Spanned<String>,
    #[serde(default)]
    through: Option<Spanned<Way>>,
    #[serde(default)]
    certificate: Option<Spanned<Certificate>>,
    #[serde(default)]
    protocol: Option<Spanned<Protocol>>,
    #[serde(default)]
    method: Option<String>,
    /// Sent as it stands.
    #[serde(default)]
    path: Option<Spanned<String>>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    /// MCP: the JSON-RPC method.
    #[serde(default)]
    call: Option<Spanned<String>>,
    /// MCP: its parameters, as JSON.
    #[serde(default)]
    params: Option<Spanned<String>>,
    /// PostgreSQL: the statement, for the database `books`, as the user of the caller's name.
    #[serde(default)]
    query: Option<Spanned<String>>,
    /// TCP: bytes in hexadecimal; white space between them does not matter.
    #[serde(default)]
    send: Option<Spanned<String>>,
    /// Not before this time after the first check.
    #[serde(default)]
    at: Option<Period>,
    /// `policy test`: what no service sends, in the words of `policy eval`.
    #[serde(default)]
    request: Option<Spanned<serde_json::Map<String, serde_json::Value>>>,
    expect: Spanned<Expect>,
}

/// What is to come back. Everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expect {
    /// HTTP and MCP: the status.
    #[serde(default)]
    pub status: Option<u16>,
    /// No answer at all: the handshake fails, or the connection is closed.
    #[serde(default)]
    pub refused: bool,
    /// What the answer (the body, the first value of the first row, the bytes) contains.
    #[serde(default)]
    pub contains: Option<String>,
    /// What the answer does not contain.
    #[serde(default)]
    pub lacks: Option<String>,
    /// What the rule that decided, or the reason, contains.
    #[serde(default)]
    pub decided: Option<String>,
}

/// One check, with nothing left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub from: String,
    pub to: String,
    pub way: Way,
    pub certificate: Certificate,
    pub message: Message,
    pub at: Option<Period>,
    /// What no service sends, for the engine alone.
    pub request: Option<Spanned<serde_json::Map<String, serde_json::Value>>>,
    pub expect: Expect,
    /// The place of `expect`.
    pub span: Range<usize>,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Http { method: String, path: String, host: String, headers: Vec<(String, String)>, body: String },
    Mcp { call: String, params: Option<String> },
    Postgres { query: String },
    Tcp { bytes: Vec<u8> },
}

impl Message {
    /// For the table.
    pub fn summary(&self) -> String {
        match self {
            Self::Http { method, path, .. } => format!("{method} {path}"),
            Self::Mcp { call, params } => match params.as_deref().and_then(tool) {
                Some(tool) => format!("MCP {call} {tool}"),
                None => format!("MCP {call}"),
            },
            Self::Postgres { query } => format!("SQL {query}"),
            Self::Tcp { bytes } => format!("TCP, {} bytes", bytes.len()),
        }
    }
}

fn tool(params: &str) -> Option<String> {
    let params: serde_json::Value = serde_json::from_str(params).ok()?;
    params.get("name")?.as_str().map(str::to_owned)
}

/// The checks of a text.
///
/// # Errors
/// Every mistake in it: bad YAML, services that are not there, fields that do not go together.
pub fn read(source: &Arc<Source>, mesh: &Resolved, whom: For) -> Result<Checks, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        checks: Vec<Spanned<Written>>,
    }
    let mut mistakes = Vec::new();
    let mut checks = Vec::new();
    for root in document::parse_nodes(source)? {
        let Some(file) = read::node::<File>(source, &root, &mut mistakes) else { continue };
        for written in file.checks {
            let mut reader = Reader { source, mesh, whom, mistakes: &mut mistakes };
            checks.extend(reader.check(written));
        }
    }
    if mistakes.is_empty() && checks.is_empty() {
        mistakes.push(
            Diagnostic::error("no-checks", format!("there are no checks in `{}`", source.name))
                .help("write a list under `checks:`; see deploy/checks.yaml"),
        );
    }
    if mistakes.is_empty() { Ok(Checks { source: Arc::clone(source), checks }) } else { Err(mistakes.into()) }
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    mesh: &'a Resolved,
    whom: For,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn check(&mut self, written: Spanned<Written>) -> Option<Check> {
        let before = self.mistakes.len();
        let span = written.span;
        let written = written.value;
        let way = written.through.as_ref().map_or(Way::Sidecar, |way| way.value);
        let certificate =
            written.certificate.as_ref().map_or(Certificate::Own, |certificate| certificate.value);
        if let Some(said) = written.certificate.as_ref().filter(|_| way != Way::Direct) {
            self.wrong(
                "certificate-without-direct",
                "a sidecar sends its own certificate, none that a check names",
                &said.span,
                "add `through: direct`",
            );
        }
        self.service(&written.from);
        self.service(&written.to);
        let callee = self.mesh.service(&written.to.value);
        if way == Way::Sidecar
            && let Some(caller) = self.mesh.service(&written.from.value)
            && !caller.calls.iter().any(|call| call.service == written.to.value)
        {
            let message = format!("the sidecar of `{}` has no way to `{}`", caller.name, written.to.value);
            let help = "add it to the caller's `calls`, or to the check `through: direct`";
            self.wrong("no-route", message, &written.to.span, help);
        }
        if way == Way::Edge
            && self.mesh.service(&written.from.value).is_some_and(|service| !service.is_edge())
        {
            let message = format!("`{}` is not the edge", written.from.value);
            self.wrong("not-an-edge", message, &written.from.span, "name the service with `edge` in `from`");
        }
        let protocol = written.protocol.as_ref().map_or(Protocol::Http, |protocol| protocol.value);
        if let Some(callee) = callee {
            let tcp = matches!(protocol, Protocol::Postgres | Protocol::Tcp);
            if tcp != (callee.protocol == ServiceProtocol::Tcp) {
                let message = format!("`{}` speaks {}", callee.name, if tcp { "HTTP" } else { "TCP" });
                let span = written.protocol.as_ref().map_or(&written.to.span, |protocol| &protocol.span);
                self.wrong(
                    "other-protocol",
                    message,
                    span,
                    format!(
                        "write `protocol: {}`",
                        if tcp { "http` or `protocol: mcp" } else { "tcp` or `protocol: postgres" }
                    ),
                );
            }
        }
        if protocol == Protocol::Postgres && way != Way::Sidecar {
            let message = "PostgreSQL is spoken through the caller's sidecar only";
            self.wrong("other-protocol", message, &span, "write `protocol: tcp` with `send`");
        }
        if let Some(request) = written.request.as_ref().filter(|_| self.whom == For::Sidecars) {
            self.wrong(
                "only-in-policy-test",
                "`request` is what no sidecar sends: `meshward policy test` asks it of the engine",
                &request.span,
                "keep such checks in a file of their own",
            );
        }
        let message = self.message(&written, protocol, &span);
        if written.expect.value == Expect::default() {
            self.wrong(
                "nothing-expected",
                "nothing is expected, so nothing is checked",
                &written.expect.span,
                "write `status`, `refused`, `contains`, `lacks` or `decided`",
            );
        }
        if self.mistakes.len() > before {
            return None;
        }
        Some(Check {
            name: written.name,
            from: written.from.value,
            to: written.to.value,
            way,
            certificate,
            message: message?,
            at: written.at,
            request: written.request,
            span: written.expect.span,
            expect: written.expect.value,
        })
    }

    fn message(&mut self, written: &Written, protocol: Protocol, span: &Range<usize>) -> Option<Message> {
        let for_others = [
            ("path", written.path.as_ref().map(|path| &path.span), protocol == Protocol::Http),
            ("call", written.call.as_ref().map(|call| &call.span), protocol == Protocol::Mcp),
            ("params", written.params.as_ref().map(|params| &params.span), protocol == Protocol::Mcp),
            ("query", written.query.as_ref().map(|query| &query.span), protocol == Protocol::Postgres),
            ("send", written.send.as_ref().map(|send| &send.span), protocol == Protocol::Tcp),
        ];
        for (field, place, fits) in for_others {
            if let Some(place) = place.filter(|_| !fits) {
                self.wrong(
                    "other-protocol",
                    format!("`{field}` belongs to another protocol"),
                    place,
                    "say which with `protocol: http`, `mcp`, `postgres` or `tcp`",
                );
            }
        }
        let missing = |field: &str| format!("the check `{}` has no `{field}`", written.name);
        Some(match protocol {
            Protocol::Http => {
                let Some(path) = &written.path else {
                    self.wrong("missing-field", missing("path"), span, "add `path: /books`");
                    return None;
                };
                // A line break would end the request line and start a second request: then nothing is as written.
                if path.value.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
                    self.wrong(
                        "bad-path",
                        "a request target has no spaces and control characters",
                        &path.span,
                        "write them as %20, %0a",
                    );
                }
                Message::Http {
                    method: written.method.clone().unwrap_or_else(|| "GET".into()),
                    path: path.value.clone(),
                    host: written.host.clone().unwrap_or_else(|| written.to.value.clone()),
                    headers: written
                        .headers
                        .iter()
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect(),
                    body: written.body.clone().unwrap_or_default(),
                }
            }
            Protocol::Mcp => {
                let Some(call) = &written.call else {
                    self.wrong("missing-field", missing("call"), span, "add `call: tools/list`");
                    return None;
                };
                if let Some(params) = &written.params
                    && let Err(error) = serde_json::from_str::<serde_json::Value>(&params.value)
                {
                    self.wrong(
                        "bad-json",
                        format!("`params` is no JSON: {error}"),
                        &params.span,
                        "write it as in `params: '{\"name\": \"list_books\"}'`",
                    );
                }
                Message::Mcp {
                    call: call.value.clone(),
                    params: written.params.as_ref().map(|params| params.value.clone()),
                }
            }
            Protocol::Postgres => {
                let Some(query) = &written.query else {
                    self.wrong("missing-field", missing("query"), span, "add `query: SELECT 1`");
                    return None;
                };
                Message::Postgres { query: query.value.clone() }
            }
            Protocol::Tcp => {
                let Some(send) = &written.send else {
                    self.wrong("missing-field", missing("send"), span, "add `send: \"00 00 00 08\"`");
                    return None;
                };
                let Some(bytes) = hexadecimal(&send.value) else {
                    self.wrong(
                        "bad-bytes",
                        "these are no bytes in hexadecimal",
                        &send.span,
                        "write two digits a byte: `send: \"00 ff\"`",
                    );
                    return None;
                };
                Message::Tcp { bytes }
            }
        })
    }

    fn service(&mut self, name: &Spanned<String>) {
        if self.mesh.service(&name.value).is_some() {
            return;
        }
        let names = self.mesh.services.iter().map(|service| service.name.as_str());
        let help = match nearest(&name.value, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "name a service of the mesh".to_owned(),
        };
        self.wrong("unknown-service", format!("service `{}` is not defined", name.value), &name.span, help);
    }

    fn wrong(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        span: &Range<usize>,
        help: impl Into<String>,
    ) {
        self.mistakes.push(Diagnostic::error(code, message).at(self.source, span.clone()).help(help));
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .map(|letter| letter.to_digit(16)?.try_into().ok())
        .collect::<Option<_>>()?;
    if digits.is_empty() || digits.len() % 2 == 1 {
        return None;
    }
    Some(digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? * 16 + pair.last()?)).collect())
}

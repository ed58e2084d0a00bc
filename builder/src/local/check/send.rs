//! Sending one check, by the way it names, and comparing what comes back.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::evidence::Witness;
use super::model::{Check, Expect, Message, Way};
use super::odd::{self, Certificate};
use super::{Outcome, postgres};
use crate::diagnostic::{Diagnostic, Failure};
use crate::local::client::{self, Identity, Request, Tls, exchange};
use crate::mesh::model::Protocol;
use crate::mesh::{Resolved, ports};
use crate::pki::Ca;

/// Where one service's sidecar runs.
#[derive(Clone, Debug)]
pub struct Place {
    pub address: IpAddr,
    /// What Envoy writes to standard output.
    pub access_log: PathBuf,
}

/// By service.
pub type Places = BTreeMap<String, Place>;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// HTTP: status and body.
    Status(u16, String),
    /// Another protocol: the answer.
    Answer(String),
    /// No answer, and the reason that the connection gave.
    Refused(String),
}

impl Seen {
    /// For the table.
    pub fn summary(&self) -> String {
        match self {
            Self::Status(status, _) => status.to_string(),
            Self::Answer(answer) => format!("`{answer}`"),
            Self::Refused(why) => format!("refused: {why}"),
        }
    }
}

impl Expect {
    /// For the table.
    pub fn summary(&self) -> String {
        match (self.status, self.refused, &self.contains) {
            (Some(status), ..) => status.to_string(),
            (None, true, _) => "refused".to_owned(),
            (None, false, Some(text)) => format!("`{text}`"),
            _ => "an answer".to_owned(),
        }
    }

    /// What is not as expected.
    fn compare(&self, seen: &Seen, decided: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let text = match seen {
            Seen::Status(_, text) | Seen::Answer(text) => text.as_str(),
            Seen::Refused(_) => "",
        };
        let refused = matches!(seen, Seen::Refused(_));
        if refused != self.refused {
            wrong.push(match seen {
                Seen::Refused(why) => {
                    format!("an answer was expected, and the connection was refused: {why}")
                }
                _ => "the connection was to be refused, and was answered".to_owned(),
            });
        }
        if let (Some(expected), Seen::Status(status, _)) = (self.status, seen)
            && *status != expected
        {
            wrong.push(format!("the status is {status}, not {expected}: {}", text.trim()));
        }
        if let Some(part) = self.contains.as_deref().filter(|part| !text.contains(*part)) {
            wrong.push(format!("the answer does not contain `{part}`: {}", text.trim()));
        }
        if let Some(part) = self.lacks.as_deref().filter(|part| text.contains(*part)) {
            wrong.push(format!("the answer contains `{part}`: {}", text.trim()));
        }
        if let Some(part) = self.decided.as_deref().filter(|part| !decided.contains(*part)) {
            wrong.push(format!("decided by `{decided}`, which does not contain `{part}`"));
        }
        wrong
    }
}

/// How the reason of a refused handshake begins.
const ALERT: &str = "TLS alert ";

/// Sends checks of one mesh.
pub struct Sender<'a, F> {
    mesh: &'a Resolved,
    places: &'a Places,
    ca: &'a Ca,
    root: CertificateDer<'static>,
    /// A service's own certificate and key.
    own: F,
}

impl<'a, F: Fn(&str) -> Result<Identity, Diagnostic>> Sender<'a, F> {
    pub fn new(mesh: &'a Resolved, places: &'a Places, ca: &'a Ca, own: F) -> Result<Self, Failure> {
        let root = ca
            .path()
            .last()
            .cloned()
            .ok_or_else(|| Diagnostic::error("ca-unusable", "the CA has no certificate"))?;
        Ok(Self { mesh, places, ca, root, own })
    }

    pub fn carry_out(&self, check: &Check, number: usize) -> Result<Outcome, Failure> {
        let callee = self.place(&check.to)?;
        let admin = SocketAddr::new(callee.address, ports::ADMIN);
        let witness = Witness::before(admin, callee.access_log.clone());
        let seen = self.send(check, number)?;
        // After a refusal there may be nothing to come: a failed handshake leaves no line.
        let mut decided = witness.decided(!matches!(seen, Seen::Refused(_)));
        if let Seen::Refused(why) = &seen
            && decided.is_empty()
            && why.starts_with(ALERT)
        {
            decided = "Envoy: the handshake".to_owned();
        }
        let wrong = check.expect.compare(&seen, &decided);
        Ok(Outcome { check: check.clone(), seen, decided, wrong })
    }

    fn send(&self, check: &Check, number: usize) -> Result<Seen, Failure> {
        let address = self.address(check)?;
        if let Message::Postgres { query } = &check.message {
            let answer = postgres::query(address, &check.from, query);
            return Ok(answer.map_or_else(|error| Seen::Refused(error.to_string()), Seen::Answer));
        }
        let seen = match check.way {
            Way::Sidecar | Way::Edge => {
                client::connect(address).and_then(|mut stream| say(&mut stream, check, number))
            }
            Way::Direct => {
                let tls = self.tls(check)?;
                tls.connect(address).and_then(|mut stream| say(&mut stream, check, number))
            }
        };
        Ok(seen.unwrap_or_else(|error| Seen::Refused(reason(&error))))
    }

    fn address(&self, check: &Check) -> Result<SocketAddr, Diagnostic> {
        let caller = self.place(&check.from)?;
        Ok(match check.way {
            Way::Direct => SocketAddr::new(self.place(&check.to)?.address, ports::INBOUND),
            Way::Edge => {
                let edge = self.mesh.service(&check.from).and_then(|service| service.edge.as_ref());
                SocketAddr::new(caller.address, edge.map_or(0, |edge| edge.port))
            }
            Way::Sidecar => {
                let service = self.mesh.service(&check.from);
                let port = match self.mesh.service(&check.to).map(|callee| callee.protocol) {
                    Some(Protocol::Tcp) => service
                        .and_then(|service| service.calls.iter().find(|call| call.service == check.to))
                        .and_then(|call| call.port)
                        .unwrap_or_default(),
                    _ => ports::OUTBOUND,
                };
                SocketAddr::new(caller.address, port)
            }
        })
    }

    fn tls(&self, check: &Check) -> Result<Tls, Failure> {
        let id = |name: &str| {
            self.mesh.service(name).map(|service| self.mesh.spiffe_id(service)).unwrap_or_default()
        };
        let identity = match check.certificate {
            Certificate::None => None,
            Certificate::Own => Some((self.own)(&check.from)?),
            odd => odd::identity(odd, self.ca, &id(&check.from), OffsetDateTime::now_utc())?,
        };
        Tls::new(&self.root, &id(&check.to), identity)
            .map_err(|error| Diagnostic::error("certificate-unusable", error.to_string()).into())
    }

    fn place(&self, service: &str) -> Result<&Place, Diagnostic> {
        self.places
            .get(service)
            .ok_or_else(|| Diagnostic::error("not-running", format!("no sidecar of `{service}` runs here")))
    }
}

fn say(stream: &mut (impl Read + Write), check: &Check, number: usize) -> io::Result<Seen> {
    match &check.message {
        Message::Http { method, path, host, headers, body } => {
            let request = Request { method, path, host, headers, body: body.as_bytes() };
            let answer = exchange(stream, &request)?;
            Ok(Seen::Status(answer.status, answer.text()))
        }
        Message::Mcp { call, params } => {
            let params = params.as_deref().map(|params| format!(r#","params":{params}"#)).unwrap_or_default();
            let body = format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{call}"{params}}}"#);
            let headers =
                [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let request = Request {
                method: "POST",
                path: "/mcp",
                host: &check.to,
                headers: &headers,
                body: body.as_bytes(),
            };
            let answer = exchange(stream, &request)?;
            Ok(Seen::Status(answer.status, answer.text()))
        }
        Message::Tcp { bytes } => {
            stream.write_all(bytes)?;
            stream.flush()?;
            let mut answer = [0; 1024];
            let length = stream.read(&mut answer)?;
            match answer.get(..length) {
                Some(answer) if length > 0 => Ok(Seen::Answer(answer.escape_ascii().to_string())),
                _ => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed without an answer",
                )),
            }
        }
        // Spoken by its own client, which makes its own connection.
        Message::Postgres { .. } => Err(io::Error::other("no stream is needed")),
    }
}

/// The reason in few words: of a TLS alert only its name.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("received fatal alert: ") {
        Some(alert) => format!("{ALERT}{alert}"),
        None if error.kind() == io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_expectation_can_fail() {
        let expect = Expect {
            status: Some(403),
            contains: Some("denied".into()),
            lacks: Some("book".into()),
            decided: Some("bookapi".into()),
            ..Expect::default()
        };
        assert!(
            expect.compare(&Seen::Status(403, "access denied".into()), "deny default/bookapi/0").is_empty()
        );
        assert_eq!(expect.compare(&Seen::Status(200, "a book".into()), "allow x").len(), 4);
        assert_eq!(expect.compare(&Seen::Refused("closed".into()), "bookapi").len(), 2);
        let refused = Expect { refused: true, ..Expect::default() };
        assert!(refused.compare(&Seen::Refused("closed".into()), "").is_empty());
        assert_eq!(refused.compare(&Seen::Status(200, String::new()), "").len(), 1);
    }
}

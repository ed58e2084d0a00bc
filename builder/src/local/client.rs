//! A client that sends what it is told, byte by byte: over TCP or mutual TLS, as any identity, also a wrong one.
//!
//! No HTTP library: those mend a path before they send it, and the check is whether the mesh does. Answers are read by
//! `httparse`. One request for each connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, SignatureScheme, StreamOwned,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// How long to wait for each answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Who the client says it is.
pub struct Identity {
    /// The certificate first, then what leads to the CA.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// How a client speaks TLS: with which certificate, if any, and to which server alone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

/// Why a TLS client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Usually a file that is no certificate.
    #[error("the CA certificate cannot be used: {0}")]
    Anchor(webpki::Error),
    /// Usually a key of another certificate.
    #[error("the client's certificate and key cannot be used: {0}")]
    Identity(rustls::Error),
}

impl Tls {
    /// Trusts servers that `ca` vouches for and that are `server` (a SPIFFE ID).
    ///
    /// # Errors
    /// A certificate or a key that cannot be used.
    pub fn new(ca: &CertificateDer<'_>, server: &str, identity: Option<Identity>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let anchor = anchor_from_trusted_cert(ca).map_err(TlsError::Anchor)?.to_owned();
        let verifier = SpiffeServer { anchor, server: server.to_owned(), provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Identity)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                config.with_client_auth_cert(identity.chain, identity.key).map_err(TlsError::Identity)?
            }
        };
        Ok(Self { config: Arc::new(config) })
    }

    /// Connects and finishes the handshake. In TLS 1.3 the server may refuse the client's certificate only afterwards.
    ///
    /// # Errors
    /// The connection or the handshake fails.
    pub fn connect(&self, address: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        self.over(connect(address)?, "meshward.invalid")
    }

    /// The same over a connection that is there. `name` is a hint for the server (SNI; with an address none is sent),
    /// none for us: who it must be, the verifier knows.
    ///
    /// # Errors
    /// The name is none, or the handshake fails.
    pub fn over(
        &self,
        socket: TcpStream,
        name: &str,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}

/// A plain connection with [`PATIENCE`].
///
/// # Errors
/// Nobody listens, or nobody answers.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Checks a server as an X.509-SVID: its chain, and that its one URI is the expected SPIFFE ID. No DNS names.
#[derive(Debug)]
struct SpiffeServer {
    anchor: TrustAnchor<'static>,
    server: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SpiffeServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let other = |error: webpki::Error| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(error))))
        };
        let certificate = EndEntityCert::try_from(end_entity).map_err(other)?;
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&self.anchor),
                intermediates,
                now,
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(other)?;
        let mut names = certificate.valid_uri_names();
        if names.next() == Some(self.server.as_str()) && names.next().is_none() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// One request, sent as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    /// The request target, untouched: `/books/../admin`.
    pub path: &'a str,
    pub host: &'a str,
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in order of arrival.
    pub headers: Vec<(String, String)>,
    /// Whole, and without the sizes of a chunked one.
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// The request as it is sent, with its body.
pub fn encode(request: &Request<'_>) -> Vec<u8> {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        request.method, request.path, request.host
    );
    for (name, value) in request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !request.body.is_empty() || matches!(request.method, "POST" | "PUT" | "PATCH") {
        text.push_str(&format!("content-length: {}\r\n", request.body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), request.body].concat()
}

/// Sends the request and reads the answer to its end.
///
/// # Errors
/// The connection breaks, or what comes is no HTTP.
pub fn exchange(stream: &mut (impl Read + Write), request: &Request<'_>) -> io::Result<Response> {
    stream.write_all(&encode(request))?;
    stream.flush()?;
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    match parse(&bytes) {
        // Whole: how the connection ended is of no matter (Envoy may close without TLS's farewell).
        Some(response) => Ok(response),
        None => {
            end?;
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without an answer"))
        }
    }
}

/// A whole answer; none when something is missing.
pub fn parse(bytes: &[u8]) -> Option<Response> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| (header.name.to_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let header =
        |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let body = bytes.get(length..)?;
    let body = if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        dechunk(body)?
    } else {
        let announced = header("content-length").and_then(|value| value.parse().ok());
        match announced {
            Some(announced) => body.get(..announced)?.to_vec(),
            None => body.to_vec(),
        }
    };
    Some(Response { status: head.code?, headers, body })
}

/// The content of a chunked body; none when it is not whole.
fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(bytes).ok()? else {
            return None;
        };
        if size == 0 {
            return Some(body);
        }
        let end = line.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(bytes.get(line..end)?);
        bytes = bytes.get(end..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_half_an_answer_is_none() {
        let whole = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nX-A: b\r\n\r\nno\n";
        let response = parse(whole).unwrap();
        assert_eq!((response.status, response.text().as_str()), (403, "no\n"));
        assert_eq!(response.header("x-a"), Some("b"));
        assert_eq!(parse(&whole[..whole.len() - 1]), None);
        assert_eq!(parse(&whole[..20]), None);
        assert_eq!(parse(b"N"), None);
    }

    #[test]
    fn a_chunked_answer_is_put_together() {
        let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(whole).unwrap().text(), "abcde");
        assert_eq!(parse(&whole[..whole.len() - 7]), None, "cut off in the second chunk");
    }

    #[test]
    fn a_request_is_sent_as_it_stands() {
        struct Pipe(Vec<u8>, io::Cursor<Vec<u8>>);
        impl Read for Pipe {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1.read(buffer)
            }
        }
        impl Write for Pipe {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut pipe = Pipe(Vec::new(), io::Cursor::new(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()));
        let headers = [("x-a".to_owned(), "b".to_owned())];
        let request =
            Request { method: "GET", path: "/a/../b//c%2fd", host: "h", headers: &headers, body: b"" };
        assert_eq!(exchange(&mut pipe, &request).unwrap().status, 200);
        let sent = String::from_utf8(pipe.0).unwrap();
        assert_eq!(sent, "GET /a/../b//c%2fd HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-a: b\r\n\r\n");
    }
}

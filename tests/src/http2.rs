//! HTTP/2 in plain text, with streams that stay open: what gRPC looks like to a sidecar, without gRPC.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::task::JoinHandle;

/// The first bytes of a client of HTTP/2 (RFC 9113, 3.4), as many as tell it from HTTP/1.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How long anything of one stream may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes in flight: a test whose other end is gone ends too.
type Bytes = bytes::Bytes;

/// Serves one connection: every stream gets a 200 at once, then its own data back until it ends. `/do/trailers/14` ends in
/// trailers with that `grpc-status`.
///
/// # Errors
/// No runtime, or the connection breaks.
pub fn serve(socket: TcpStream, seen: &Arc<AtomicUsize>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::from_std(socket)?;
        let mut connection = h2::server::handshake(socket).await.map_err(io::Error::other)?;
        while let Some(stream) = connection.accept().await {
            let (request, mut respond) = stream.map_err(io::Error::other)?;
            let seen = Arc::clone(seen);
            tokio::spawn(async move {
                seen.fetch_add(1, Ordering::SeqCst);
                let code = request.uri().path().strip_prefix("/do/trailers/");
                if let Some(code) = code.and_then(|code| http::HeaderValue::from_str(code).ok()) {
                    let Ok(mut back) = respond.send_response(Response::new(()), false) else { return };
                    let _ = back.send_data(Bytes::from_static(b"so far"), false);
                    let _ = back.send_trailers(
                        [(http::HeaderName::from_static("grpc-status"), code)].into_iter().collect(),
                    );
                    return;
                }
                let mut body = request.into_body();
                let ended = body.is_end_stream();
                let Ok(mut back) = respond.send_response(Response::new(()), ended) else { return };
                while let Some(Ok(data)) = body.data().await {
                    // A caller that has gone is none of a test's business.
                    let _ = body.flow_control().release_capacity(data.len());
                    let _ = back.send_data(data, false);
                }
                if !ended {
                    let _ = back.send_data(Bytes::new(), true);
                }
            });
        }
        Ok(())
    })
}

/// A client's connection.
pub struct Connection {
    send: SendRequest<Bytes>,
    host: String,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Connection {
    /// To an outbound listener, for requests to `host`. On a Tokio runtime.
    ///
    /// # Errors
    /// Nobody listens, or it is no HTTP/2.
    pub async fn open(address: SocketAddr, host: &str) -> anyhow::Result<Self> {
        let socket = tokio::net::TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (send, connection) = h2::client::handshake(socket).await?;
        Ok(Self { send, host: host.to_owned(), driver: tokio::spawn(connection) })
    }

    fn request(&self, method: &str, path: &str) -> anyhow::Result<Request<()>> {
        let uri = format!("http://{}{path}", self.host);
        Ok(Request::builder().version(http::Version::HTTP_2).method(method).uri(uri).body(())?)
    }

    /// One GET: its status. None when the server has said goodbye (GOAWAY) and so never saw the request.
    ///
    /// # Errors
    /// No answer came.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Option<u16>> {
        let request = self.request("GET", path)?;
        let Ok(mut ready) = self.send.clone().ready().await else { return Ok(None) };
        let answer = match ready.send_request(request, true) {
            Ok((answer, _)) => answer,
            Err(error) if said_goodbye(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match tokio::time::timeout(PATIENCE, answer).await.context("no answer in time")? {
            Ok(response) => Ok(Some(response.status().as_u16())),
            Err(error) if said_goodbye(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a stream that stays.
    ///
    /// # Errors
    /// It is not answered with 200.
    pub async fn stream(&mut self, path: &str) -> anyhow::Result<Stream> {
        let request = self.request("POST", path)?;
        let mut ready = self.send.clone().ready().await?;
        let (answer, send) = ready.send_request(request, false)?;
        let response = tokio::time::timeout(PATIENCE, answer).await.context("no answer in time")??;
        if response.status() != 200 {
            bail!("the stream is answered with {}", response.status());
        }
        Ok(Stream { send, receive: response.into_body() })
    }

    /// Whether nothing more goes over it.
    pub fn ended(&self) -> bool {
        self.driver.is_finished()
    }
}

/// The server takes no new requests, and has not looked at this one (RFC 9113, 6.8).
fn said_goodbye(error: &h2::Error) -> bool {
    error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

/// A stream that stays open. It holds its connection.
pub struct Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Stream {
    /// Sends a few bytes and waits until the same come back.
    ///
    /// # Errors
    /// The stream was ended, or something else came.
    pub async fn echo(&mut self, data: &'static [u8]) -> anyhow::Result<()> {
        self.send.send_data(Bytes::from_static(data), false)?;
        let mut back = Vec::new();
        while back.len() < data.len() {
            let piece =
                tokio::time::timeout(PATIENCE, self.receive.data()).await.context("no echo in time")?;
            let Some(piece) = piece else { bail!("the stream was ended") };
            let piece = piece?;
            self.receive.flow_control().release_capacity(piece.len())?;
            back.extend_from_slice(&piece);
        }
        if back != data {
            bail!("other bytes came back");
        }
        Ok(())
    }
}

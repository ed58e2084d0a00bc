//! A rate limit service of the tests: Envoy's protocol over HTTP/2, counted in windows that end with the clock's, as
//! envoyproxy/ratelimit does; it can be slow, it can be gone, and it can say as little as Limitador.
//!
//! Why not the crate `limitador`: it brings some hundred others, and this is all that a sidecar sees of it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use meshward_engine::rls;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub mod real;

/// The service. It is gone when this is dropped, or [`Self::stop`]ped.
pub struct RateLimitService {
    runtime: Runtime,
    serving: Option<JoinHandle<()>>,
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    calls: AtomicUsize,
    delay: AtomicU64,
    /// Says yes or no and nothing else, and does not count what it refuses.
    terse: AtomicBool,
    /// Hits by descriptor and window.
    counted: Mutex<HashMap<(Vec<u8>, u64), u64>>,
    /// Hits that were granted, by window.
    granted: Mutex<BTreeMap<u64, u64>>,
}

impl RateLimitService {
    /// # Errors
    /// No port is to be had.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut service = Self { runtime, serving: None, address, state: Arc::default() };
        service.resume()?;
        Ok(service)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Has it take so long for each answer.
    pub fn slow_down(&self, delay: Duration) {
        self.state.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Has it answer as Limitador does.
    pub fn be_terse(&self) {
        self.state.terse.store(true, Ordering::SeqCst);
    }

    /// What was counted of the windows that have ended or are under way, by window.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn granted(&self) -> BTreeMap<u64, u64> {
        self.state.granted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, and all its connections.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Its connections end with it: they are its children.
            let _ = self.runtime.block_on(serving);
        }
    }

    /// Brings it back, at the same address.
    ///
    /// # Errors
    /// Somebody else has the address.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let listener = self.runtime.block_on(TcpListener::bind(self.address))?;
        self.serving = Some(self.runtime.spawn(serve(listener, Arc::clone(&self.state))));
        Ok(())
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this future, and then they end.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // A caller that goes away is none of a test's business.
            let _ = connection(socket, state).await;
        });
    }
}

async fn connection(socket: TcpStream, state: Arc<State>) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _ = answer(request, respond, &state).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &State,
) -> anyhow::Result<()> {
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    state.calls.fetch_add(1, Ordering::SeqCst);
    let delay = state.delay.load(Ordering::SeqCst);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    // gRPC: a byte that says "not compressed" and four of length before the message.
    let message = bytes.get(5..).context("a whole frame")?;
    let answer = decide(message, state).context("a request of the protocol")?;
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(answer.len())?);
    frame.extend_from_slice(&answer);
    let response = Response::builder().status(200).header("content-type", "application/grpc").body(())?;
    let mut sending = respond.send_response(response, false)?;
    sending.send_data(frame.freeze(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().map_err(|_| anyhow!("a number"))?);
    sending.send_trailers(trailers)?;
    Ok(())
}

/// `RateLimitRequest` → `RateLimitResponse`.
fn decide(message: &[u8], state: &State) -> Option<Vec<u8>> {
    let (mut descriptor, mut hits, mut requests, mut unit) = (Vec::new(), 0, 0, 0);
    rls::fields(message, &mut |number, value, inner| match number {
        2 => {
            descriptor = inner.to_vec();
            let _ = rls::fields(inner, &mut |number, _, limit| {
                if number == 2 {
                    let _ = rls::fields(limit, &mut |number, value, _| {
                        *(if number == 1 { &mut requests } else { &mut unit }) = value;
                    });
                }
            });
        }
        3 => hits = value,
        _ => {}
    })?;
    let seconds = *[1, 60, 3600, 86_400].get(usize::try_from(unit.checked_sub(1)?).ok()?)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let window = now / seconds;
    let mut counted = state.counted.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counted.entry((descriptor, window)).or_default();
    let fits = *count + hits <= requests;
    let terse = state.terse.load(Ordering::SeqCst);
    if fits || !terse {
        // As Redis does it: counted, then compared.
        *count += hits;
    }
    if fits {
        let mut granted = state.granted.lock().unwrap_or_else(PoisonError::into_inner);
        *granted.entry(window).or_default() += hits;
    }
    let code = if fits { 1 } else { 2 };
    let mut answer = vec![0x08, code];
    if !terse {
        let mut status = vec![0x08, code, 0x12, 0, 0x18];
        varint(&mut status, requests.saturating_sub(*count));
        let mut reset = vec![0x08];
        varint(&mut reset, seconds - now % seconds);
        status.extend([0x22, u8::try_from(reset.len()).ok()?]);
        status.extend(reset);
        answer.extend([0x12, u8::try_from(status.len()).ok()?]);
        answer.extend(status);
    }
    Some(answer)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

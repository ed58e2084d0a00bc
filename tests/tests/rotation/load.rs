//! Steady load on real sidecars: HTTP/1, HTTP/2 with streams that stay, TCP with connections that stay.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshward_builder::local::client;
use meshward_tests::{Connection, http2};

/// What was asked, and what failed.
#[derive(Default)]
pub struct Tally {
    pub asked: usize,
    pub refused: usize,
    pub limited: usize,
    pub failed: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.refused += other.refused;
        self.limited += other.limited;
        self.failed.extend(other.failed);
    }

    fn fail(&mut self, what: &str, why: &dyn std::fmt::Debug) {
        self.failed.push(format!("{what} {}: {why:?}", self.asked));
    }
}

/// Ends the load when it goes out of scope: a failure of the test must not leave the askers asking.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A steady pace, not as fast as it goes: late ones are made up for.
struct Pace {
    next: Instant,
    every: Duration,
}

impl Pace {
    fn of(a_second: u32) -> Self {
        Self { next: Instant::now(), every: Duration::from_secs(1) / a_second }
    }

    fn wait(&mut self) -> Duration {
        self.next += self.every;
        self.next.saturating_duration_since(Instant::now())
    }
}

/// HTTP/1.1 on connections that stay open as long as the server lets them. `may_be_refused`: a policy or a
/// rate limit decides, and 403 and 429 are answers, too.
pub fn http1(
    address: SocketAddr,
    path: &str,
    a_second: u32,
    may_be_refused: bool,
    done: &AtomicBool,
) -> Tally {
    let mut tally = Tally::default();
    let mut connection: Option<Connection<_>> = None;
    let mut pace = Pace::of(a_second);
    while !done.load(Ordering::SeqCst) {
        std::thread::sleep(pace.wait());
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::new(client::connect(address).unwrap()),
        };
        tally.asked += 1;
        match open.get("callee", path) {
            Ok((200, closes)) => connection = (!closes).then_some(open),
            Ok((403, closes)) if may_be_refused => {
                tally.refused += 1;
                connection = (!closes).then_some(open);
            }
            Ok((429, closes)) if may_be_refused => {
                tally.limited += 1;
                connection = (!closes).then_some(open);
            }
            other => tally.fail("HTTP/1 request", &other),
        }
    }
    tally
}

/// HTTP/2: requests, and `streams` that stay open to the end, each with an echo every `beat`.
pub fn http2(address: SocketAddr, a_second: u32, streams: usize, beat: Duration, done: &AtomicBool) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let unary = async {
            let mut tally = Tally::default();
            let mut connection = http2::Connection::open(address, "callee").await.unwrap();
            let mut pace = Pace::of(a_second);
            while !done.load(Ordering::SeqCst) {
                tokio::time::sleep(pace.wait()).await;
                tally.asked += 1;
                let mut answer = connection.get("/a").await;
                if matches!(answer, Ok(None)) {
                    // The server had said goodbye before; what it never saw is asked again, elsewhere.
                    connection = http2::Connection::open(address, "callee").await.unwrap();
                    answer = connection.get("/a").await;
                }
                if !matches!(answer, Ok(Some(200))) {
                    tally.fail("HTTP/2 request", &answer);
                }
            }
            tally
        };
        let staying = async {
            let mut tally = Tally::default();
            let mut connection = http2::Connection::open(address, "callee").await.unwrap();
            let mut open = Vec::new();
            for _ in 0..streams {
                open.push(connection.stream("/a").await.unwrap());
            }
            while !done.load(Ordering::SeqCst) {
                tokio::time::sleep(beat).await;
                for stream in &mut open {
                    tally.asked += 1;
                    if let Err(error) = stream.echo(b"ping").await {
                        tally.fail("echo on a stream that stays,", &error);
                    }
                }
                if tally.failed.len() > 100 {
                    break;
                }
            }
            tally
        };
        let (mut tally, staying) = tokio::join!(unary, staying);
        tally.add(staying);
        tally
    })
}

/// TCP: a connection for each question, and one that stays.
pub fn tcp(address: SocketAddr, a_second: u32, done: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut stays = client::connect(address).unwrap();
    let mut pace = Pace::of(a_second);
    let mut echo = |stream: &mut std::net::TcpStream, what: &str| {
        let mut answer = [0; 4];
        let result = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer));
        tally.asked += 1;
        if result.is_err() || answer != *b"ping" {
            tally.fail(what, &result);
        }
    };
    while !done.load(Ordering::SeqCst) {
        std::thread::sleep(pace.wait());
        echo(&mut stays, "echo on the TCP connection that stays,");
        echo(&mut client::connect(address).unwrap(), "echo on a new TCP connection,");
    }
    tally
}

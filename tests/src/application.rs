//! What stands behind a sidecar in a test: answers every request with what arrived, and counts.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{command, http2};

/// A server on a thread; stops taking connections when dropped.
pub struct Application {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1: 200 with the request's head as the body, or what the path commands, see [`crate::command`]. HTTP/2: what
    /// [`crate::http2::serve`] does.
    Http,
    /// The same bytes back.
    Tcp,
}

impl Application {
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(address: SocketAddr, speaks: Speaks) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let application = Self { address, seen: Arc::default(), stopped: Arc::default() };
        let (seen, stopped) = (Arc::clone(&application.seen), Arc::clone(&application.stopped));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || {
                    // A caller that goes away in the middle is none of a test's business.
                    let _ = match speaks {
                        Speaks::Http => http(socket, &seen),
                        Speaks::Tcp => echo(socket, &seen),
                    };
                });
            }
        });
        Ok(application)
    }

    /// Requests (HTTP) or pieces of data (TCP) that have arrived.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread up, which then sees that it is to end.
        drop(TcpStream::connect(self.address));
    }
}

fn echo(mut socket: TcpStream, seen: &AtomicUsize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer)?;
        let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else { return Ok(()) };
        seen.fetch_add(1, Ordering::SeqCst);
        socket.write_all(data)?;
    }
}

fn http(mut socket: TcpStream, seen: &Arc<AtomicUsize>) -> io::Result<()> {
    let mut first = [0; 3];
    // As many bytes as tell `PRI` from any method; a caller sends them at once.
    if socket.peek(&mut first)? == first.len() && http2::PREFACE.starts_with(&first) {
        return http2::serve(socket, seen);
    }
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let Some((head, body)) = head(&bytes) else {
            let length = socket.read(&mut buffer)?;
            let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else { return Ok(()) };
            bytes.extend_from_slice(data);
            continue;
        };
        while bytes.len() < head + body {
            let length = socket.read(&mut buffer)?;
            let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else { return Ok(()) };
            bytes.extend_from_slice(data);
        }
        seen.fetch_add(1, Ordering::SeqCst);
        let answer: Vec<u8> = bytes.drain(..head + body).take(head).collect();
        let path = answer.split(|byte| *byte == b' ').nth(1).and_then(|path| std::str::from_utf8(path).ok());
        if let Some(done) = path.and_then(|path| command::obey(path, &mut socket)) {
            if done? {
                continue;
            }
            return Ok(());
        }
        // In one piece: the second of two would wait for the other side's delayed acknowledgement, 40 ms.
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
        socket.write_all(&[head.as_bytes(), &answer].concat())?;
    }
}

/// Length of a whole head, and of the body that it announces.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).ok()? else { return None };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    Some((head, length.unwrap_or(0)))
}

//! One connection that stays open over many requests, to see what happens to it when a configuration changes.

use std::io::{self, Read, Write};

/// A stream that speaks HTTP/1.1 with keep-alive.
pub struct Connection<S> {
    stream: S,
    left: Vec<u8>,
}

impl<S: Read + Write> Connection<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, left: Vec::new() }
    }

    /// Sends a GET and reads the answer: status, and whether the server wants to close the connection.
    ///
    /// # Errors
    /// The connection was closed, or what came is no HTTP.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<(u16, bool)> {
        self.request("GET", host, path, &[])
    }

    /// The same with any method and headers.
    ///
    /// # Errors
    /// The connection was closed, or what came is no HTTP.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> io::Result<(u16, bool)> {
        self.whole(method, host, path, headers).map(|(status, closes, _)| (status, closes))
    }

    /// The same, with the whole answer as it came.
    ///
    /// # Errors
    /// The connection was closed, or what came is no HTTP.
    pub fn whole(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> io::Result<(u16, bool, Vec<u8>)> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
        for (name, value) in headers {
            request.extend_from_slice(name.as_bytes());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        self.stream.write_all(&request)?;
        self.stream.flush()?;
        loop {
            if let Some((status, closes, length)) = answer(&self.left) {
                return Ok((status, closes, self.left.drain(..length).collect()));
            }
            let mut buffer = [0; 4096];
            let length = self.stream.read(&mut buffer)?;
            match buffer.get(..length) {
                Some(data) if length > 0 => self.left.extend_from_slice(data),
                _ => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
            }
        }
    }
}

/// Status, whether the server closes, and the length of a whole answer; Envoy announces the length of all that the
/// tests ask for.
fn answer(bytes: &[u8]) -> Option<(u16, bool, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).ok()? else { return None };
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let length = head + header("content-length").and_then(|value| value.parse::<usize>().ok()).unwrap_or(0);
    let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    (bytes.len() >= length).then_some((response.code?, closes, length))
}

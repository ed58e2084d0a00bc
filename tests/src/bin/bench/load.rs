//! Requests over 16 connections that are kept alive: one on each, then their answers, then the next.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cases::PATH;

const CONNECTIONS: usize = 16;

/// Sends about so many requests; the number sent. Any answer but 200 is an error.
///
/// Their header `x-key` has `keys` values in turn, from one that another visit has not begun with.
pub fn run(entry: SocketAddr, requests: usize, keys: usize) -> anyhow::Result<usize> {
    static KEY: AtomicUsize = AtomicUsize::new(0);
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(entry)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        connections.push(BufReader::new(stream));
    }
    let request = |key: usize| {
        let key = key % keys;
        format!(
            "GET {PATH} HTTP/1.1\r\nhost: server\r\nuser-agent: bench\r\naccept: */*\r\nx-key: k{key:05}\r\n\r\n"
        )
    };
    let turns = requests.div_ceil(CONNECTIONS);
    for _ in 0..turns {
        for connection in &mut connections {
            let request = request(KEY.fetch_add(1, Ordering::Relaxed));
            connection.get_mut().write_all(request.as_bytes())?;
        }
        for connection in &mut connections {
            answer(connection)?;
        }
    }
    Ok(turns * CONNECTIONS)
}

fn answer(connection: &mut BufReader<TcpStream>) -> anyhow::Result<()> {
    let mut status = String::new();
    connection.read_line(&mut status)?;
    if !status.starts_with("HTTP/1.1 200") {
        bail!("the answer is {status:?}");
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse::<u64>().context("a length")?;
        }
    }
    std::io::copy(&mut connection.by_ref().take(length), &mut std::io::sink())?;
    Ok(())
}

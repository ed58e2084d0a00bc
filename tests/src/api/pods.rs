//! Pods for the API server of the tests: each stands for an address on this machine, to which a port-forward leads.
//!
//! The protocol is Kubernetes' own for WebSockets, `v4.channel.k8s.io`: the first byte of a message is its channel (0 data, 1
//! errors, for one port), and the first message of each names the port. One request and its answer is all that it carries.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Message, Utf8Bytes};

use super::fake::header;

/// The pods, by namespace and name.
pub type Pods = BTreeMap<(String, String), (Value, SocketAddr)>;

/// A request for a port-forward: the namespace and the pod.
pub fn wanted(head: &str) -> Option<(String, String)> {
    let target = head.split(' ').nth(1)?;
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    let rest = path.strip_prefix("/api/v1/namespaces/")?.strip_suffix("/portforward")?;
    let (namespace, pod) = rest.split_once("/pods/")?;
    Some((namespace.to_owned(), pod.to_owned()))
}

/// Speaks it until the answer is there. `None`: somebody has gone.
pub fn forward(mut stream: TcpStream, head: &str, to: SocketAddr) -> Option<()> {
    let key = derive_accept_key(header(head, "sec-websocket-key")?.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {key}\r\n\
         sec-websocket-protocol: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).ok()?;
    let ports = head.split(' ').nth(1)?.rsplit_once("ports=")?.1;
    let port: u16 = ports.parse().ok()?;
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    let [low, high] = port.to_le_bytes();
    for channel in [0, 1] {
        socket.send(Message::binary(vec![channel, low, high])).ok()?;
    }
    let Ok(mut inside) = TcpStream::connect(to) else {
        let error = [&[1], format!("dial tcp4 127.0.0.1:{port}: connection refused").as_bytes()].concat();
        socket.send(Message::binary(error)).ok()?;
        socket.close(None).ok()?;
        // What the client has sent by now must be read: closing over it is a reset, and a reset overtakes the error.
        while socket.read().is_ok() {}
        return None;
    };
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match socket.read().ok()? {
            Message::Binary(bytes) if bytes.first() == Some(&0) => request.extend_from_slice(bytes.get(1..)?),
            Message::Close(_) => return None,
            _ => {}
        }
    }
    inside.write_all(&request).ok()?;
    let mut buffer = [0; 4096];
    loop {
        match inside.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let message = [&[0], buffer.get(..length)?].concat();
                socket.send(Message::binary(message)).ok()?;
            }
            _ => break,
        }
    }
    socket
        .close(Some(tungstenite::protocol::CloseFrame { code: 1000.into(), reason: Utf8Bytes::default() }))
        .ok()
}

//! An application that is ill by command: `/do/<what>/<how much>` as the path.
//!
//! | path | answer |
//! |---|---|
//! | `/do/status/503` | that status |
//! | `/do/retry-after/30` | 503 with that `retry-after` |
//! | `/do/grpc/14` | 200 with that `grpc-status` in the headers |
//! | `/do/slow/300` | 200 after so many milliseconds |
//! | `/do/stream/300` | 200 and an event stream that ends after so many milliseconds |
//! | `/do/half/0` | half of what the headers announce, then the end |
//! | `/do/reset/0` | the connection is closed without a word |
//! | `/do/hang/0` | never, until the caller has gone |

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Does what the path says. `None`: it says nothing. `false`: the connection has ended.
///
/// # Errors
/// The caller has gone.
pub fn obey(path: &str, socket: &mut TcpStream) -> Option<io::Result<bool>> {
    let (what, number) = path.strip_prefix("/do/")?.split_once('/')?;
    let number: u64 = number.parse().ok()?;
    let answer = |socket: &mut TcpStream, status: u64, header: &str| {
        let text = format!("HTTP/1.1 {status} Ill\r\ncontent-length: 2\r\n{header}\r\n\r\nok");
        // An empty header line would end the head.
        socket.write_all(text.replace("\r\n\r\n\r\n", "\r\n\r\n").as_bytes()).map(|()| true)
    };
    Some(match what {
        "status" => answer(socket, number, ""),
        "retry-after" => answer(socket, 503, &format!("retry-after: {number}")),
        "grpc" => answer(socket, 200, &format!("content-type: application/grpc\r\ngrpc-status: {number}")),
        "slow" => {
            std::thread::sleep(Duration::from_millis(number));
            answer(socket, 200, "")
        }
        "stream" => stream(socket, Duration::from_millis(number)),
        "half" => {
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it").map(|()| false)
        }
        "reset" => Ok(false),
        "hang" => {
            // A caller that goes away is seen as the end of what it sends.
            let mut byte = [0; 1];
            while socket.read(&mut byte).is_ok_and(|length| length > 0) {}
            Ok(false)
        }
        _ => return None,
    })
}

fn stream(socket: &mut TcpStream, time: Duration) -> io::Result<bool> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes())?;
    socket.write_all(b"9\r\ndata: 1\n\n\r\n")?;
    std::thread::sleep(time);
    socket.write_all(b"0\r\n\r\n").map(|()| true)
}

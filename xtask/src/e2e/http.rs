//! A client that is nothing but a socket: one request on a connection of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::found;
use crate::fail::Failure;
use crate::process::now;

/// The longest wait for a part of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, taken apart.
pub(super) struct Answer {
    pub(super) status: u16,
    /// As it was sent: lines of names and values.
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_owned(), body: body.to_owned() })
    }

    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.body)
            .map_err(|error| Failure::Unreadable { what: self.body.clone(), why: error.to_string() })
    }
}

/// GET, to the end of the answer.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    send(address, "GET", path, "")
}

/// POST of JSON, to the end of the answer.
pub(super) fn post(address: SocketAddr, path: &str, body: &str) -> Result<Answer, Failure> {
    send(address, "POST", path, body)
}

fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer, Failure> {
    let text =
        ask(address, method, path, body, |_| false).map_err(|error| found(format!("{method} {path}: {error}")))?;
    Answer::parse(&text).ok_or_else(|| found(format!("{method} {path}: no answer of HTTP: {text:?}")))
}

/// GET of a stream without an end: as much of it as `is_enough` wants.
pub(super) fn listen(address: SocketAddr, path: &str, is_enough: impl Fn(&str) -> bool) -> Result<Answer, Failure> {
    let text = ask(address, "GET", path, "", is_enough).map_err(|error| found(format!("GET {path}: {error}")))?;
    Answer::parse(&text).ok_or_else(|| found(format!("GET {path}: no answer of HTTP: {text:?}")))
}

fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    is_enough: impl Fn(&str) -> bool,
) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let begin = now();
    let length = body.len();
    let content = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {length}\r\n")
    };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{content}\r\n{body}");
    socket.write_all(request.as_bytes())?;
    let (mut bytes, mut part) = (Vec::new(), [0; 16 << 10]);
    loop {
        let read = socket.read(&mut part)?;
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes);
        if read == 0 || is_enough(&text) {
            return Ok(text.into_owned());
        }
        if begin.elapsed() > 2 * PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer =
            Answer::parse("HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\r\n{\"a\":1}").expect("HTTP");
        assert_eq!((answer.status, answer.json().expect("JSON")["a"].as_u64()), (503, Some(1)));
        assert!(answer.head.contains("retry-after: 1"));
        assert!(Answer::parse("nonsense").is_none());
    }
}

//! Peers on plain TCP.

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{Log, Seen};

/// How a server on plain TCP treats each connection.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// Reads HTTP/1.1 requests and writes these bytes for each, as they are.
    Answer(Vec<u8>),
    /// The same with one of these for each request, the last of them for all behind.
    Answers(Vec<Vec<u8>>),
    /// As the first, each once this was notified.
    Gate(Arc<Notify>, Vec<u8>),
    /// The same, then ends the connection.
    AnswerThenClose(Vec<u8>),
    /// The same, then leaves it open without a word.
    AnswerThenHang(Vec<u8>),
    /// Writes these bytes, then more and more of the others.
    AnswerThenEndless(Vec<u8>, Vec<u8>),
    /// Writes these bytes before anything was read, and goes on reading.
    Greet(Vec<u8>),
    /// Reads so many bytes at least, writes these bytes, and ends the connection.
    ReadThenWrite(usize, Vec<u8>),
    /// Answers after the head of the request, without reading its body, and ends the connection.
    AnswerEarly(Vec<u8>),
    /// Answers after the head of the request, then neither reads nor ends.
    AnswerEarlyThenHang(Vec<u8>),
    /// Answers after a part of the body; the unread rest makes the end an RST.
    AnswerEarlyThenReset(Vec<u8>),
    /// Reads something, then sends a FIN.
    ReadThenClose,
    /// Reads something, then sends an RST.
    ReadThenReset,
    /// Writes these bytes for each of so many requests, and sends an RST for the next.
    AnswersThenReset(usize, Vec<u8>),
    /// Closes at once.
    Close,
    /// Never reads and never answers.
    NeverRead,
}

/// Serves plain TCP; the n-th connection gets `script(n)`.
pub(crate) fn serve_raw(listener: TcpListener, script: impl Fn(usize) -> Raw + Send + Sync + 'static) -> Log {
    let log = Log::default();
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve_connection(stream, connection, script(connection), Arc::clone(&seen)));
        }
    });
    log
}

pub(super) async fn serve_connection(mut stream: TcpStream, index: usize, script: Raw, log: Log) {
    let mut buffer = BytesMut::new();
    match script {
        Raw::Answer(answer) => {
            while read_http1(&mut stream, &mut buffer, index, &log).await.is_some() {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
        Raw::Answers(answers) => {
            for request in 0.. {
                let answer = &answers[request.min(answers.len() - 1)];
                let request = read_http1(&mut stream, &mut buffer, index, &log).await;
                if request.is_none() || stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
        Raw::Gate(gate, answer) => {
            while read_http1(&mut stream, &mut buffer, index, &log).await.is_some() {
                gate.notified().await;
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
        Raw::ReadThenWrite(least, bytes) => {
            while buffer.len() < least && stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        Raw::AnswerThenClose(answer) => {
            read_http1(&mut stream, &mut buffer, index, &log).await;
            let _ = stream.write_all(&answer).await;
        }
        Raw::AnswerThenHang(answer) => {
            read_http1(&mut stream, &mut buffer, index, &log).await;
            let _ = stream.write_all(&answer).await;
            std::future::pending::<()>().await;
        }
        Raw::AnswerThenEndless(answer, more) => {
            read_http1(&mut stream, &mut buffer, index, &log).await;
            let mut next = stream.write_all(&answer).await;
            while next.is_ok() {
                next = stream.write_all(&more).await;
            }
        }
        Raw::Greet(greeting) => {
            let _ = stream.write_all(&greeting).await;
            while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        Raw::AnswerEarly(answer) => {
            read_head(&mut stream, &mut buffer).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
            // Reading on avoids an RST that would take the answer away.
            while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        Raw::AnswerEarlyThenHang(answer) => {
            read_head(&mut stream, &mut buffer).await;
            let _ = stream.write_all(&answer).await;
            std::future::pending::<()>().await;
        }
        Raw::AnswerEarlyThenReset(answer) => {
            while buffer.len() < 64 << 10 && stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
            let _ = stream.write_all(&answer).await;
        }
        Raw::ReadThenClose => {
            let _ = stream.read_buf(&mut buffer).await;
            let _ = stream.shutdown().await;
            while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        Raw::ReadThenReset => {
            let _ = stream.read_buf(&mut buffer).await;
            stream.set_zero_linger().expect("a TCP socket");
        }
        Raw::AnswersThenReset(answers, answer) => {
            for _ in 0..answers {
                read_http1(&mut stream, &mut buffer, index, &log).await;
                let _ = stream.write_all(&answer).await;
            }
            read_http1(&mut stream, &mut buffer, index, &log).await;
            stream.set_zero_linger().expect("a TCP socket");
        }
        Raw::Close => {}
        Raw::NeverRead => std::future::pending::<()>().await,
    }
}

/// Reads up to the end of a request's head; `None` when the connection ends before.
async fn read_head(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<usize> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            return Some(end + 4);
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn read_http1(stream: &mut TcpStream, buffer: &mut BytesMut, connection: usize, log: &Log) -> Option<()> {
    let end = read_head(stream, buffer).await?;
    let head = buffer.split_to(end);
    let mut lines = std::str::from_utf8(&head).expect("text").trim_end().split("\r\n");
    let mut first = lines.next().expect("a request line").split(' ').map(str::to_owned);
    let (method, target) = (first.next().expect("a method"), first.next().expect("a target"));
    assert_eq!(first.next().as_deref(), Some("HTTP/1.1"));
    let headers: HeaderMap = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"))
        })
        .collect();
    let length: usize = headers["content-length"].to_str().expect("text").parse().expect("a length");
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.split_to(length).freeze();
    log.lock().expect("not poisoned").push(Seen { method, target, headers, body, connection });
    Some(())
}

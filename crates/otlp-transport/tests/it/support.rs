//! Small servers that do exactly what a test tells them, and short names for what came of it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use otlp_payload::{BatchId, Payload};
use otlp_transport::{Cause, Config, ConfigBuilder, Outcome, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Spans that every test payload claims to hold.
pub(crate) const SPANS: usize = 3;

/// A payload of `size` bytes; transports do not look into it.
pub(crate) fn payload_of(size: usize) -> Payload {
    let bytes: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
    Payload::new(BatchId { incarnation: 7, seq: 1 }, UNIX_EPOCH, SPANS, Bytes::from(bytes))
}

pub(crate) fn payload() -> Payload {
    payload_of(2_000)
}

/// Long enough for a busy machine, where a test does not wait for the time-out itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn config(protocol: Protocol, address: SocketAddr) -> ConfigBuilder {
    Config::builder()
        .with_protocol(protocol)
        .with_endpoint(format!("http://{address}"))
        .with_timeout(PATIENCE)
        .with_wall_clock(fixed_clock)
}

/// Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
pub(crate) fn fixed_clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

/// One outcome in one line.
pub(crate) fn summary(outcome: &Outcome) -> String {
    let kind = |cause: &Cause| match cause {
        Cause::Connect(_) => "connect".to_owned(),
        Cause::Timeout(_) => "timeout".to_owned(),
        Cause::Broken(_) => "broken".to_owned(),
        Cause::Unreadable(_) => "unreadable".to_owned(),
        Cause::Http { status, .. } => format!("http {status}"),
        Cause::Grpc { code, .. } => format!("grpc {code}"),
        Cause::Foreign(text) => format!("foreign {text}"),
        Cause::RequestLimit { size, limit } => format!("limit {size} > {limit}"),
        other => format!("{other:?}"),
    };
    match outcome {
        Outcome::Delivered { rejected, message: None } => format!("delivered, {rejected} rejected"),
        Outcome::Delivered { rejected, message: Some(message) } => {
            format!("delivered, {rejected} rejected: {message}")
        }
        Outcome::Retryable { after, cause, possible_duplicate } => {
            let after = after.map_or(String::new(), |after| format!(" after {after:?}"));
            let duplicate = if *possible_duplicate { ", maybe taken" } else { "" };
            format!("retryable{after}: {}{duplicate}", kind(cause))
        }
        Outcome::TooLarge { cause } => format!("too large: {}", kind(cause)),
        Outcome::Permanent { cause } => format!("permanent: {}", kind(cause)),
        other => format!("{other:?}"),
    }
}

/// Runs every row and reports all that differ, by name.
pub(crate) fn report(table: &str, failures: &[String], rows: usize) {
    println!("{table}: {rows} rows");
    assert!(failures.is_empty(), "{table}:\n{}", failures.join("\n"));
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("to a Vec");
    encoder.finish().expect("to a Vec")
}

pub(crate) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut out).expect("gzip");
    out
}

/// A protobuf field with a length in front.
pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out
}

/// A protobuf field that is a number.
pub(crate) fn number(number: u8, value: i64) -> Vec<u8> {
    let mut out = vec![number << 3];
    varint(&mut out, value as u64);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An `ExportTraceServiceResponse` with a partial success.
pub(crate) fn partial_success(rejected: i64, message: &str) -> Vec<u8> {
    field(1, &[number(1, rejected), field(2, message.as_bytes())].concat())
}

/// A `google.rpc.Status` with a `RetryInfo`, if there is a delay.
pub(crate) fn rpc_status(code: i64, message: &str, retry: Option<(i64, i64)>) -> Vec<u8> {
    let mut status = [number(1, code), field(2, message.as_bytes())].concat();
    // Something else among the details, as servers do.
    status.extend(field(3, &[field(1, b"type.googleapis.com/google.rpc.DebugInfo"), field(2, b"\x0a\x01x")].concat()));
    if let Some((seconds, nanos)) = retry {
        let duration = field(1, &[number(1, seconds), number(2, nanos)].concat());
        let any = [field(1, b"type.googleapis.com/google.rpc.RetryInfo"), field(2, &duration)].concat();
        status.extend(field(3, &any));
    }
    status
}

/// A gRPC message with its prefix.
pub(crate) fn frame(flags: u8, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("small");
    [&[flags][..], &length.to_be_bytes(), message].concat().into()
}

pub(crate) type Fields = Vec<(&'static str, String)>;

fn header_map(fields: &Fields) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a header value"))
        })
        .collect()
}

/// What an HTTP/2 server does with each request, once it has read it whole.
#[derive(Clone, Debug)]
pub(crate) enum Grpc {
    /// Headers, body if there is one, trailers if there are any.
    Answer { status: u16, headers: Fields, body: Option<Bytes>, trailers: Option<Fields> },
    /// Headers and nothing behind them.
    HeadersThenHang(u16, Fields),
    /// Informational answers without end.
    Informational,
    /// A body without end.
    Endless,
    /// RST_STREAM instead of an answer.
    Reset(Reason),
    /// Headers, then RST_STREAM.
    HeadersThenReset(Reason),
    /// GOAWAY for the whole connection.
    GoAway(Reason),
    /// The connection is dropped behind the request.
    Drop,
    /// A full success, and a graceful GOAWAY with it.
    LastAnswer,
    /// A status in the headers, without reading the body of the request first.
    Early(Fields),
    /// No answer.
    Hang,
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Which connection it came by, from 0.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

pub(crate) type Log = Arc<Mutex<Vec<Seen>>>;

/// A gRPC answer with a status in its trailers.
pub(crate) fn grpc_answer(body: Option<Bytes>, trailers: Fields) -> Grpc {
    let headers = vec![("content-type", "application/grpc".to_owned())];
    Grpc::Answer { status: 200, headers, body, trailers: Some(trailers) }
}

/// A full success.
pub(crate) fn grpc_ok() -> Grpc {
    grpc_answer(Some(frame(0, &[])), vec![("grpc-status", "0".to_owned())])
}

/// Serves HTTP/2 on `listener` until the runtime ends; the n-th request gets `script(n)`.
pub(crate) fn serve_grpc(listener: TcpListener, script: impl Fn(usize) -> Grpc + Send + Sync + 'static) -> Log {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let script = Arc::new(script);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            stream.set_nodelay(true).expect("a TCP socket");
            tokio::spawn(serve_h2(stream, connection, Arc::clone(&script), Arc::clone(&seen)));
        }
    });
    log
}

/// What a request does to its whole connection.
enum End {
    Drop,
    Graceful,
    GoAway(Reason),
}

async fn serve_h2(
    stream: TcpStream,
    index: usize,
    script: Arc<impl Fn(usize) -> Grpc + Send + Sync + 'static>,
    log: Log,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    loop {
        let (request, respond) = tokio::select! {
            // What the whole connection has to do comes from the task that read the request.
            end = ended.recv() => match end {
                Some(End::GoAway(reason)) => {
                    connection.abrupt_shutdown(reason);
                    continue;
                }
                Some(End::Graceful) => {
                    connection.graceful_shutdown();
                    continue;
                }
                Some(End::Drop) | None => return,
            },
            accepted = connection.accept() => match accepted {
                Some(Ok(accepted)) => accepted,
                _ => return,
            },
        };
        let (script, log, ends) = (Arc::clone(&script), Arc::clone(&log), ends.clone());
        tokio::spawn(async move {
            let number = log.lock().expect("not poisoned").len();
            if let early @ Grpc::Early(_) = script(number) {
                return answer_h2(early, respond).await;
            }
            let number = read_h2(request, index, &log).await;
            match script(number) {
                // The answer side stays open until the connection is gone.
                Grpc::Drop => drop((ends.send(End::Drop), std::future::pending::<()>().await, respond)),
                Grpc::GoAway(reason) => {
                    drop((ends.send(End::GoAway(reason)), std::future::pending::<()>().await, respond))
                }
                Grpc::LastAnswer => {
                    let _ = ends.send(End::Graceful);
                    answer_h2(grpc_ok(), respond).await;
                }
                other => answer_h2(other, respond).await,
            }
        });
    }
}

/// Reads a request whole and says which one it is, from 0.
async fn read_h2(request: Request<RecvStream>, connection: usize, log: &Log) -> usize {
    let (head, mut incoming) = request.into_parts();
    let mut body = BytesMut::new();
    while let Some(Ok(data)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let (method, target) = (head.method.to_string(), head.uri.to_string());
    let mut log = log.lock().expect("not poisoned");
    log.push(Seen { method, target, headers: head.headers, body: body.freeze(), connection });
    log.len() - 1
}

async fn answer_h2(script: Grpc, mut respond: SendResponse<Bytes>) {
    let head = |status: u16, fields: &Fields| {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().expect("a status");
        *response.headers_mut() = header_map(fields);
        response
    };
    match script {
        Grpc::Answer { status, headers, body, trailers } => {
            let ends = body.is_none() && trailers.is_none();
            let Ok(mut stream) = respond.send_response(head(status, &headers), ends) else { return };
            if let Some(body) = body {
                let _ = stream.send_data(body, trailers.is_none());
            }
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(header_map(&trailers));
            }
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
        }
        Grpc::HeadersThenHang(status, headers) => {
            let _stream = respond.send_response(head(status, &headers), false);
            std::future::pending::<()>().await;
        }
        Grpc::Informational => loop {
            let mut response = Response::new(());
            *response.status_mut() = http::StatusCode::EARLY_HINTS;
            if respond.send_informational(response).is_err() {
                return;
            }
            tokio::task::yield_now().await;
        },
        Grpc::Endless => {
            let Ok(mut stream) = respond.send_response(head(200, &vec![]), false) else { return };
            loop {
                stream.reserve_capacity(16 << 10);
                match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(capacity)) => {
                        if stream.send_data(Bytes::from(vec![0; capacity]), false).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        }
        Grpc::Reset(reason) => respond.send_reset(reason),
        Grpc::HeadersThenReset(reason) => {
            if let Ok(mut stream) = respond.send_response(head(200, &vec![]), false) {
                stream.send_reset(reason);
            }
        }
        Grpc::Early(headers) => drop(respond.send_response(head(200, &headers), true)),
        Grpc::Hang => {
            let _respond = respond;
            std::future::pending::<()>().await;
        }
        Grpc::Drop | Grpc::GoAway(_) | Grpc::LastAnswer => unreachable!("done by the connection"),
    }
}

/// What a server on plain TCP does with each connection.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// Reads HTTP/1.1 requests and writes these bytes for each, as they are.
    Answer(Vec<u8>),
    /// The same, then ends the connection.
    AnswerThenClose(Vec<u8>),
    /// The same, then leaves it open without a word.
    AnswerThenHang(Vec<u8>),
    /// Writes these bytes, then more and more of the others.
    AnswerThenEndless(Vec<u8>, Vec<u8>),
    /// Writes these bytes before anything was read, and goes on reading.
    Greet(Vec<u8>),
    /// Answers after the head of the request, without reading its body, and ends the connection.
    AnswerEarly(Vec<u8>),
    /// Reads something, then sends a FIN.
    ReadThenClose,
    /// Reads something, then sends an RST.
    ReadThenReset,
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

async fn serve_connection(mut stream: TcpStream, index: usize, script: Raw, log: Log) {
    let mut buffer = BytesMut::new();
    match script {
        Raw::Answer(answer) => {
            while read_http1(&mut stream, &mut buffer, index, &log).await.is_some() {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
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
        Raw::ReadThenClose => {
            let _ = stream.read_buf(&mut buffer).await;
            let _ = stream.shutdown().await;
            while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
        Raw::ReadThenReset => {
            let _ = stream.read_buf(&mut buffer).await;
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

/// An HTTP/1.1 answer with a length.
pub(crate) fn http_answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A port that refuses for as long as the socket lives: bound, not listening.
pub(crate) fn refused() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// A server on a thread of its own, so that it lives and dies whatever the test's runtime does.
pub(crate) struct Apart {
    runtime: Option<tokio::runtime::Runtime>,
    pub(crate) address: SocketAddr,
    pub(crate) log: Log,
}

impl Apart {
    /// Starts on a free port, or on the one that a former server had.
    pub(crate) fn start(port: Option<u16>, serve: impl FnOnce(TcpListener) -> Log) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime of two threads");
        let (address, log) = runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).await.expect("a free port");
            (listener.local_addr().expect("bound"), serve(listener))
        });
        Self { runtime: Some(runtime), address, log }
    }

    /// Ends with everything that is open, as the kernel does for a process that was killed.
    pub(crate) fn kill(&mut self) {
        self.runtime.take().expect("killed once").shutdown_timeout(PATIENCE);
    }

    /// How many connections came so far, as far as requests came by them.
    pub(crate) fn connections(&self) -> usize {
        let mut seen: Vec<_> = self.log.lock().expect("not poisoned").iter().map(|seen| seen.connection).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }
}

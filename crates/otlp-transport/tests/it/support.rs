//! Small servers with scripted answers, and short names for outcomes.

mod grpc;
mod raw;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use otlp_payload::{BatchId, Payload};
use otlp_transport::{Cause, Config, ConfigBuilder, Outcome, Protocol, RefusalKind};
use tokio::net::TcpListener;

pub(crate) use grpc::{Fields, Grpc, grpc_answer, grpc_ok, serve_grpc, serve_grpc_behind};
pub(crate) use raw::{Raw, serve_raw};

/// Spans that every test payload claims to hold.
pub(crate) const SPANS: usize = 3;

/// A payload of `size` bytes; transports do not look into it.
pub(crate) fn payload_of(size: usize) -> Payload {
    payload_with(SPANS, size)
}

pub(crate) fn payload_with(spans: usize, size: usize) -> Payload {
    let bytes: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
    Payload::new(BatchId { incarnation: 7, seq: 1 }, UNIX_EPOCH, spans, Bytes::from(bytes))
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
        Cause::Credentials(_) => "credentials".to_owned(),
        Cause::Timeout(_) => "timeout".to_owned(),
        Cause::Broken(_) => "broken".to_owned(),
        Cause::Unreadable(_) => "unreadable".to_owned(),
        Cause::Unexpected(_) => "unexpected".to_owned(),
        Cause::Http { status, .. } => format!("http {status}"),
        Cause::Grpc { code, .. } => format!("grpc {code}"),
        Cause::Foreign(text) => format!("foreign {text}"),
        Cause::RequestLimit { size, limit } => format!("limit {size} > {limit}"),
        other => format!("{other:?}"),
    };
    let taken = |possible_duplicate: &bool| if *possible_duplicate { ", maybe taken" } else { "" };
    match outcome {
        Outcome::Delivered { rejected, message: None } => format!("delivered, {rejected} rejected"),
        Outcome::Delivered { rejected, message: Some(message) } => {
            format!("delivered, {rejected} rejected: {message}")
        }
        Outcome::Retryable { after, cause, possible_duplicate } => {
            let after = after.map_or(String::new(), |after| format!(" after {after:?}"));
            format!("retryable{after}: {}{}", kind(cause), taken(possible_duplicate))
        }
        Outcome::AcknowledgedUnreadably { cause } => format!("acknowledged: {}", kind(cause)),
        Outcome::TooLarge { cause, possible_duplicate } => {
            format!("too large: {}{}", kind(cause), taken(possible_duplicate))
        }
        Outcome::CredentialsRenewed { cause, generation } => format!("renewed to {generation}: {}", kind(cause)),
        Outcome::Refused { kind: side, cause, possible_duplicate } => {
            let side = match side {
                RefusalKind::Batch => "batch",
                RefusalKind::Unclear => "unclear",
                RefusalKind::Sender => "sender",
                _ => "unknown",
            };
            format!("{side}: {}{}", kind(cause), taken(possible_duplicate))
        }
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

/// An HTTP/1.1 answer with a length.
pub(crate) fn http_answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
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

/// A server on a thread of its own: it runs also while the test's runtime does not.
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

//! Clients that know nothing of the collector.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use mock_collector::{MockCollector, SpanIds};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tonic::transport::Channel;

/// Longer than anything here takes; a test that reaches it fails.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Long enough for an answer that is on its way, when none may come.
pub(crate) const NEVER: Duration = Duration::from_millis(150);

/// The ids of span number n.
pub(crate) fn ids(n: u8) -> SpanIds {
    ([n; 16], [n; 8])
}

/// A request with spans of these numbers, each in a scope of its own.
pub(crate) fn request(numbers: impl IntoIterator<Item = u8>) -> ExportTraceServiceRequest {
    let span = |n| Span { trace_id: vec![n; 16], span_id: vec![n; 8], name: format!("span {n}"), ..Span::default() };
    let scopes = numbers.into_iter().map(|n| ScopeSpans { spans: vec![span(n)], ..ScopeSpans::default() });
    let resource = ResourceSpans { scope_spans: scopes.collect(), ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }
}

/// A request whose message has exactly this many bytes.
pub(crate) fn request_of(bytes: usize) -> ExportTraceServiceRequest {
    let mut request = request([1]);
    let mut padding = bytes;
    loop {
        request.resource_spans[0].schema_url = "x".repeat(padding);
        match request.encoded_len().checked_sub(bytes) {
            Some(0) => return request,
            Some(over) => padding -= over,
            None => panic!("no request of exactly {bytes} bytes"),
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

pub(crate) async fn tonic_client(collector: &MockCollector) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(collector.grpc_endpoint()).await.expect("the collector listens")
}

/// An HTTP/1.1 connection written by hand.
pub(crate) struct Http {
    stream: TcpStream,
}

#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl HttpAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Http {
    pub(crate) fn connect(collector: &MockCollector) -> Self {
        let address = collector.http_endpoint().replace("http://", "");
        let stream = TcpStream::connect(address).expect("the collector listens");
        stream.set_read_timeout(Some(SOON)).expect("not zero");
        Self { stream }
    }

    /// Reads wait this long from now on.
    pub(crate) fn patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("not zero");
    }

    pub(crate) fn post(&mut self, body: &[u8]) -> io::Result<HttpAnswer> {
        self.send("POST /v1/traces", "content-type: application/x-protobuf\r\n", body)?;
        self.answer()
    }

    pub(crate) fn send(&mut self, line: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat())
    }

    /// The next answer; its body by `content-length`.
    pub(crate) fn answer(&mut self) -> io::Result<HttpAnswer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head in ASCII");
        let status = head[9..12].parse().expect("a status");
        let mut answer = HttpAnswer { status, head, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        answer.body.resize(length, 0);
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    /// Everything until the connection ends.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }
}

/// One call as a bare HTTP/2 client saw it.
#[derive(Debug)]
pub(crate) struct H2Answer {
    pub(crate) response: Result<http::Response<Bytes>, h2::Error>,
    pub(crate) trailers: http::HeaderMap,
    /// How the connection ended, if it did before the client let go of it.
    pub(crate) connection: Option<h2::Error>,
}

/// One call with this framed body, by HTTP/2 without anything above it.
pub(crate) async fn h2_call(
    collector: &MockCollector,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> H2Answer {
    let stream = tokio::net::TcpStream::connect(collector.grpc_endpoint().replace("http://", "")).await;
    let (mut sender, connection) = h2::client::handshake(stream.expect("the collector listens")).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, mut stream) = sender.send_request(request.body(()).expect("valid"), false).expect("ready");
    stream.send_data(body.into(), true).expect("open");
    let mut trailers = http::HeaderMap::new();
    let response = match response.await {
        Err(error) => Err(error),
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            let mut bytes = Vec::new();
            while let Some(chunk) = body.data().await {
                bytes.extend_from_slice(&chunk.expect("a body"));
            }
            trailers = body.trailers().await.expect("trailers").unwrap_or_default();
            Ok(http::Response::from_parts(head, Bytes::from(bytes)))
        }
    };
    drop((sender, stream));
    let connection = connection.await.expect("no panic").err();
    H2Answer { response, trailers, connection }
}

pub(crate) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The five bytes before a gRPC message, and the message.
pub(crate) fn frame(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small");
    [&[compressed][..], &length.to_be_bytes(), message].concat()
}

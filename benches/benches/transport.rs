//! One request until it is acknowledged, over loopback: 512 HTTP server spans, about 340 kB. The sinks run on a thread
//! of their own and discard the bytes that they read. `bare socket` is the floor: the same bytes and an answer of a
//! few.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::UNIX_EPOCH;

use benches::{http_resource, http_spans};
use bytes::{Buf, BufMut, Bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::uri::PathAndQuery;
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::{Cause, Compression, Config, ConfigBuilder, Outcome, Protocol, Transport, connect};
use tokio::runtime::{Builder, Runtime};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder as TonicEncoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const BATCH: usize = 512;
const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

fn send(c: &mut Criterion) {
    let payload = payload();
    let (grpc, http) = (grpc_sink(), http_sink());
    let mut group = c.benchmark_group("transport/send");
    group.throughput(Throughput::Elements(BATCH as u64));

    let runtime = runtime();
    for (name, protocol, sink) in [("grpc", Protocol::Grpc, grpc), ("http", Protocol::HttpProtobuf, http)] {
        let transport = transport(config(protocol, sink));
        group.bench_function(name, |b| b.iter(|| delivered(runtime.block_on(transport.send(&payload)))));
    }

    let channel = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{grpc}")).expect("a URL");
        endpoint.connect().await.expect("the sink listens")
    });
    group.bench_function("tonic, raw codec", |b| b.iter(|| runtime.block_on(tonic_send(&channel, payload.bytes()))));

    let mut stream = TcpStream::connect(http).expect("the sink listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let head = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", payload.bytes().len());
    group.bench_function("bare socket", |b| {
        b.iter(|| {
            stream.write_all(head.as_bytes()).expect("written");
            stream.write_all(payload.bytes()).expect("written");
            assert!(stream.read(&mut [0; 256]).expect("answered") > 0);
        });
    });
    group.finish();
}

fn compressed(c: &mut Criterion) {
    let payload = payload();
    let mut group = c.benchmark_group("transport/gzip");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    let runtime = runtime();
    for (name, protocol, sink) in [("grpc", Protocol::Grpc, grpc_sink()), ("http", Protocol::HttpProtobuf, http_sink())]
    {
        let transport = transport(config(protocol, sink).with_compression(Compression::Gzip));
        group.bench_function(name, |b| b.iter(|| delivered(runtime.block_on(transport.send(&payload)))));
    }
    group.finish();
}

/// The cost of a call to a port on which no process listens: an outage is full of such calls.
fn refused(c: &mut Criterion) {
    let payload = payload();
    // Bound and not listening: the port stays refused.
    let runtime = runtime();
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = socket.local_addr().expect("bound");
    let mut group = c.benchmark_group("transport/refused");
    for (name, protocol) in [("grpc", Protocol::Grpc), ("http", Protocol::HttpProtobuf)] {
        let transport = transport(config(protocol, address));
        group.bench_function(name, |b| {
            b.iter(|| {
                let outcome = runtime.block_on(transport.send(&payload));
                assert!(matches!(outcome.cause(), Some(Cause::Connect(_))), "{outcome:?}");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, send, compressed, refused);
criterion_main!(benches);

fn payload() -> Payload {
    let id = BatchId { incarnation: 1, seq: 0 };
    Encoder::new(&http_resource()).encode(id, UNIX_EPOCH, &http_spans(BATCH))
}

fn config(protocol: Protocol, address: SocketAddr) -> ConfigBuilder {
    Config::builder().with_protocol(protocol).with_endpoint(format!("http://{address}"))
}

fn transport(config: ConfigBuilder) -> Box<dyn Transport> {
    connect(config.build().expect("valid")).expect("valid")
}

fn delivered(outcome: Outcome) {
    assert!(outcome.is_delivered(), "{outcome:?}");
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Reads requests one after the other and answers each with an empty success.
fn http_sink() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || swallow(stream.expect("accepted")));
        }
    });
    address
}

fn swallow(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut buffer = vec![0; 1 << 20];
    let (mut head, mut left) = (Vec::new(), 0);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let mut rest = &buffer[..read];
        if left == 0 {
            head.extend_from_slice(rest);
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
            let length = text.split("content-length: ").nth(1).expect("a length");
            left = length.split("\r\n").next().expect("a line").parse().expect("a number");
            let body = head.len() - end - 4;
            rest = &rest[rest.len() - body..];
            head.clear();
        }
        left -= rest.len();
        if left == 0 && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// The same over HTTP/2, with windows of 1 MiB as servers built on hyper have them.
fn grpc_sink() -> SocketAddr {
    let (sender, port) = std::sync::mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("bound")).expect("the caller waits");
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                stream.set_nodelay(true).expect("a TCP socket");
                tokio::spawn(swallow_h2(stream));
            }
        });
    });
    port.recv().expect("it listens")
}

async fn swallow_h2(stream: tokio::net::TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.expect("HTTP/2");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            let response =
                http::Response::builder().header("content-type", "application/grpc").body(()).expect("valid");
            let mut stream = respond.send_response(response, false).expect("open");
            stream.send_data(Bytes::from_static(&[0; 5]), false).expect("open");
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers).expect("open");
        });
    }
}

async fn tonic_send(channel: &Channel, bytes: &Bytes) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("connected");
    let path = PathAndQuery::from_static(PATH);
    client.unary(Request::new(bytes.clone()), path, Raw).await.expect("delivered");
}

/// Bytes in, bytes out.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl TonicEncoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

//! Peers that count their connections and requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::Protocol;
use crate::duplex::Duplex;

/// A peer in the runtime of the test, so that it has answered once the runtime is idle. It ends with its connections.
pub(super) struct Peer {
    task: JoinHandle<()>,
    /// Answers wait for it.
    gate: Arc<Semaphore>,
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    out: AtomicUsize,
    at_once: AtomicUsize,
    handshakes: AtomicUsize,
    resumed: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Manner {
    Http,
    Grpc,
    /// The peer lets this many requests in at a time.
    Streams(u32),
    /// One request at a time, and no answer.
    Hung,
    /// The end of each connection.
    Close,
}

impl Manner {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Grpc => Self::Grpc,
            Protocol::HttpProtobuf => Self::Http,
        }
    }
}

impl Peer {
    /// Takes everything.
    pub(super) fn healthy(protocol: Protocol) -> Self {
        Self::healthy_at(protocol, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(super) fn healthy_at(protocol: Protocol, address: SocketAddr) -> Self {
        Self::start(Manner::of(protocol), address)
    }

    /// Takes everything, over TLS.
    #[cfg(feature = "_tls")]
    pub(super) fn secured(protocol: Protocol, acceptor: TlsAcceptor) -> Self {
        Self::start_with(Manner::of(protocol), SocketAddr::from(([127, 0, 0, 1], 0)), Some(acceptor))
    }

    pub(super) fn with_streams(streams: u32) -> Self {
        Self::start(Manner::Streams(streams), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(super) fn hung_with_one_stream() -> Self {
        Self::start(Manner::Hung, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// A balancer whose servers are away.
    pub(super) fn closing() -> Self {
        Self::start(Manner::Close, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The peer answers nothing until [`release`](Self::release).
    pub(super) fn hold(self) -> Self {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
        self
    }

    pub(super) fn release(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS);
    }

    fn start(manner: Manner, address: SocketAddr) -> Self {
        Self::start_with(manner, address, None)
    }

    fn start_with(manner: Manner, address: SocketAddr, acceptor: Option<TlsAcceptor>) -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let seen = Arc::new(Seen::default());
        let (counts, open) = (Arc::clone(&seen), Arc::clone(&gate));
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(listener).expect("inside a runtime");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                stream.set_nodelay(true).expect("a TCP socket");
                counts.connections.fetch_add(1, Ordering::SeqCst);
                let (counts, open, acceptor) = (Arc::clone(&counts), Arc::clone(&open), acceptor.clone());
                connections.spawn(async move {
                    counts.open.fetch_add(1, Ordering::SeqCst);
                    if matches!(manner, Manner::Streams(1..)) {
                        // The greeting, which tells the limit, comes behind the first requests.
                        let _ = stream.readable().await;
                        for _ in 0..20 {
                            tokio::task::yield_now().await;
                        }
                    }
                    match acceptor {
                        None => serve(stream, manner, &counts, &open).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                counts.on_handshake(stream.get_ref().1.handshake_kind());
                                serve(stream, manner, &counts, &open).await;
                            }
                        }
                    }
                    counts.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { task, gate, address, seen }
    }

    /// How many connections came.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many requests came.
    pub(super) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// The most requests that were here at once.
    pub(super) fn at_once(&self) -> usize {
        self.seen.at_once.load(Ordering::SeqCst)
    }

    /// How many handshakes were finished, and how many of them resumed a session.
    #[cfg(feature = "_tls")]
    pub(super) fn handshakes(&self) -> (usize, usize) {
        (self.seen.handshakes.load(Ordering::SeqCst), self.seen.resumed.load(Ordering::SeqCst))
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn on_handshake(&self, kind: Option<HandshakeKind>) {
        self.handshakes.fetch_add(1, Ordering::SeqCst);
        self.resumed.fetch_add(usize::from(kind == Some(HandshakeKind::Resumed)), Ordering::SeqCst);
    }

    fn on_request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let out = self.out.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once.fetch_max(out, Ordering::SeqCst);
    }
}

async fn serve(stream: impl Duplex, manner: Manner, seen: &Arc<Seen>, gate: &Arc<Semaphore>) {
    match manner {
        Manner::Close => {}
        Manner::Http => serve_http(stream, seen, gate).await,
        _ => serve_grpc(stream, manner, seen, gate).await,
    }
}

async fn serve_http(mut stream: impl Duplex, seen: &Seen, gate: &Semaphore) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            match buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if matches!(stream.read_buf(&mut buffer).await, Ok(1..)) => {}
                None => return,
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let length: usize = length.expect("a length");
        while buffer.len() < head + length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        buffer.drain(..head + length);
        seen.on_request();
        let _open = gate.acquire().await;
        seen.out.fetch_sub(1, Ordering::SeqCst);
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

async fn serve_grpc(stream: impl Duplex, manner: Manner, seen: &Arc<Seen>, gate: &Arc<Semaphore>) {
    let mut builder = h2::server::Builder::new();
    match manner {
        Manner::Streams(streams) => drop(builder.max_concurrent_streams(streams)),
        Manner::Hung => drop(builder.max_concurrent_streams(1)),
        _ => {}
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (seen, gate) = (Arc::clone(seen), Arc::clone(gate));
        tokio::spawn(async move {
            seen.on_request();
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            let _open = gate.acquire().await;
            match manner {
                Manner::Hung => std::future::pending().await,
                // Requests that are let in together meet here.
                Manner::Streams(_) => {
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                }
                _ => {}
            }
            seen.out.fetch_sub(1, Ordering::SeqCst);
            let mut response = Response::new(());
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from(0))]);
            let _ = stream.send_trailers(trailers);
        });
    }
}

/// An address that refuses for as long as the socket lives: bound, not listening.
pub(super) fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

//! Runs the server until the caller's stop completes.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service as _;

mod connections;
mod stall;

use connections::{Answering, Connections, Place};
use stall::Stall;

/// The default address: loopback only, since the answers describe this process.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5210);

/// Bytes of the head of a request, at most.
const HEAD_BYTES: usize = 16 << 10;

/// Bytes of an answer that the system keeps for a client that does not read them, about. By itself the system keeps
/// some MiB, and lets the server go on only when a third of them is read: a client that reads slowly would be taken for
/// one that reads nothing, and some hundred of them would hold a GiB.
const SEND_BYTES: usize = 64 << 10;

/// The pause after an error of the listener that more than one connection has, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// The bounds of the times in [`Limits`].
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The limits on connections, so that clients which send slowly, read slowly or say nothing keep no other one out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at a time; 256 by default, one at least. A new one beyond takes the place of the one that is idle
    /// for the longest; if all are answering, it gets 503.
    pub connections: usize,
    /// The longest time in which the head of a request arrives, and the longest time between two requests of a
    /// connection; 10 s by default. Less than 10 ms counts as that, more than a year as a year.
    pub head: Duration,
    /// The longest time in which a client takes none of an answer's bytes, which is seen in steps of some 10 KiB; 30 s
    /// by default. The same bounds.
    pub stall: Duration,
}

impl Limits {
    /// Limits that let a client on this machine through, and that the clock can count.
    fn bounded(self) -> Self {
        let bounded = |time: Duration| time.clamp(SHORTEST, LONGEST);
        let Self { connections, head, stall } = self;
        Self { connections: connections.max(1), head: bounded(head), stall: bounded(stall) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, head: Duration::from_secs(10), stall: Duration::from_secs(30) }
    }
}

/// Fires when the server stops: an extension of each request, for answers that would not end.
#[derive(Clone)]
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Completes when the server stops. May be called again.
    pub(crate) async fn stopped(&mut self) {
        // An error means that the server has ended.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

/// [`serve_with`] the default [`Limits`].
///
/// # Errors
///
/// As [`serve_with`].
///
/// # Cancel safety
///
/// As [`serve_with`].
pub async fn serve(
    listener: TcpListener,
    app: Router,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    serve_with(listener, app, Limits::default(), stop, grace).await
}

/// Serves `app` on `listener` until `stop` completes, then takes no connection any more, ends idle ones and streams of
/// events, and waits up to `grace` for requests that are being answered. Requests that still run then are aborted.
///
/// # Errors
///
/// If the listener cannot go on; errors of single connections end these alone.
///
/// # Cancel safety
///
/// Dropping the future closes the listener and all connections.
pub async fn serve_with(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let limits = limits.bounded();
    let connections = Connections::new(limits.connections);
    let mut tasks = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    let result = loop {
        tokio::select! {
            () = &mut stop => break Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = connections.enter() else {
                        refuse(&stream);
                        continue;
                    };
                    tasks.spawn(connection(stream, peer, app.clone(), place, limits, Stopping(stopped.clone())));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::Interrupted => {}
                    // The listener itself is broken.
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected => break Err(error),
                    _ => tokio::time::sleep(PAUSE).await,
                },
            },
            _ = tasks.join_next(), if !tasks.is_empty() => {}
        }
    };
    drop(listener);
    let _ = stopping.send(true);
    // The tasks that are left when the time is over are aborted with the set.
    let _ = tokio::time::timeout(grace, async { while tasks.join_next().await.is_some() {} }).await;
    result
}

/// Answers a connection for which there is no place, as far as the socket takes the bytes at once.
fn refuse(stream: &TcpStream) {
    const BODY: &str = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"all connections are in use","instance":"/"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let _ = stream.try_write(answer.as_bytes());
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    place: Place,
    limits: Limits,
    mut stopping: Stopping,
) {
    let place = std::sync::Arc::new(place);
    let (in_request, of_service) = (stopping.clone(), std::sync::Arc::clone(&place));
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = Answering::new(std::sync::Arc::clone(&of_service));
        let (mut app, in_request) = (app.clone(), in_request.clone());
        async move {
            let mut request = request.map(|body| answering.from_the_end_of(body));
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(in_request);
            let response = match app.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            Ok::<_, Infallible>(response.map(|body| answering.until_the_end_of(body)))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(HEAD_BYTES);
    // Where the system refuses, a slow client may be given up early; no other one notices.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BYTES);
    let io = TokioIo::new(Stall::new(stream, limits.stall));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let is_stopping = tokio::select! {
        _ = connection.as_mut() => return,
        // Another connection takes the place.
        () = place.given_up() => return,
        () = stopping.stopped() => true,
    };
    if is_stopping {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

//! TCP connections, and the tasks that drive them.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tracing::Dispatch;
use tracing::instrument::{WithDispatch, WithSubscriber as _};

use crate::endpoint::Endpoint;

/// How long one address may keep the next one waiting (RFC 8305, section 5, "Connection Attempt Delay").
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How long a connection may lie idle and still be used: less than the 60 s after which the first load balancers and
/// NATs forget it, some without a word, which would cost the next call its whole time-out.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(50);

/// Opens a connection to the first address of the endpoint that answers.
pub(crate) async fn tcp(endpoint: &Endpoint) -> io::Result<Stream> {
    let mut addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    let mut attempts = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        if let Some(address) = addresses.next() {
            attempts.push(open(address));
        } else if attempts.is_empty() {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(last_error.unwrap_or_else(none));
        }
        let attempt = if addresses.size_hint().1 == Some(0) {
            attempts.next().await
        } else {
            match tokio::time::timeout(NEXT_ADDRESS, attempts.next()).await {
                Ok(attempt) => attempt,
                Err(_) => continue,
            }
        };
        match attempt {
            Some(Ok(tcp)) => return Ok(Stream { tcp, is_one_way: false }),
            Some(Err(error)) => last_error = Some(error),
            None => {}
        }
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection whose answer can be read after the peer has stopped reading: a server that refuses a body may close
/// before it has read the body, which fails our write, while its 413 waits to be read. A write to a closed connection
/// therefore counts as done; the reading side sees the end of the connection, behind the answer.
pub(crate) struct Stream {
    tcp: TcpStream,
    /// A write has failed: later writes are discarded.
    is_one_way: bool,
}

impl Stream {
    fn swallow<T>(&mut self, written: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.is_one_way = true;
                Poll::Ready(Ok(instead))
            }
            other => other,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_one_way {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.swallow(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_one_way {
            return Poll::Ready(Ok(len));
        }
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.swallow(written, len)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.tcp).poll_shutdown(cx);
        self.swallow(shut, ())
    }
}

/// The future, of which no `tracing` subscriber sees a span or an event. h2 opens a span for each frame, and the first
/// of them has no parent: a layer that turns them into spans of OpenTelemetry would export them too, although the
/// thread's context suppresses telemetry, and each export would make dozens of new ones.
pub(crate) fn unobserved<F: Future>(future: F) -> WithDispatch<F> {
    future.with_subscriber(Dispatch::none())
}

/// The task that drives a connection. Dropping it aborts the task: no connection outlives its transport, or its call
/// over HTTP.
pub(crate) struct Driver(JoinHandle<()>);

impl Driver {
    pub(crate) fn spawn(connection: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(unobserved(connection)))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets the drivers read the bytes that arrived while the runtime did not run: a FIN or a GOAWAY that is there already
/// must not fail the next call. The first yield polls the I/O driver, the second runs the tasks that it woke.
pub(crate) async fn catch_up() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

//! A TCP connection that can be held (neither read nor written) and ended in every way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long an orderly end waits for the peer's own end before the socket is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Whether connections are read now; one for all connections of a collector.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    shut: bool,
    /// Grows with every change: a connection held by itself is free again after the next one.
    epoch: u64,
    waiting: Vec<Waker>,
}

impl Gate {
    pub(crate) fn set(&self, shut: bool) {
        let mut state = self.0.lock();
        state.shut = shut;
        state.epoch += 1;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    fn poll_open(&self, held: Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.shut && held != Some(state.epoch) {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A connection. Clones share it: the protocol reads and writes through one while another can end it.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    gate: Arc<Gate>,
    held: Option<u64>,
}

impl Socket {
    /// `held`: the gate's epoch during which this connection is held, also while the gate is open.
    pub(crate) fn new(stream: TcpStream, gate: Arc<Gate>, held: Option<u64>) -> Self {
        Self { stream: Arc::new(stream), gate, held }
    }

    /// The next close sends a reset instead of an orderly end.
    pub(crate) fn reset_on_close(&self) {
        // An error means that the connection is gone already.
        let _ = sockopt::set_socket_linger(&*self.stream, Some(Duration::ZERO));
    }

    /// Ends in order: our FIN, then the peer's further bytes are read and discarded, since closing with unread bytes
    /// would turn the end into a reset.
    pub(crate) async fn finish(&self) {
        let _ = shutdown(&*self.stream, Shutdown::Write);
        let _ = tokio::time::timeout(LINGER, async {
            let mut scrap = [0; 4096];
            while self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut scrap) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        })
        .await;
    }

    /// Writes these bytes past the protocol; gives up when the connection is gone.
    pub(crate) async fn write_raw(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.stream.writable().await.is_ok() {
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(self.held, cx));
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.gate.poll_open(self.held, cx));
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&*self.stream, Shutdown::Write).map_err(io::Error::from))
    }
}

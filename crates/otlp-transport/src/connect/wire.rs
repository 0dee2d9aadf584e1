//! The socket of a connection.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::duplex::nothing_taken;

/// The start of a TLS record that is an alert, in each version: the answer of a TLS server to bytes that are no TLS.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];
const SPEAKS_TLS: &str = "the peer speaks TLS on this port: the endpoint begins with https:// then";

/// A connection whose answer can be read after the peer has stopped reading: a server that refuses a body may close
/// before it has read the body, which fails our write, while its 413 waits to be read. A write to a closed connection
/// therefore counts as done; the reading side sees the end of the connection, behind the answer.
pub(super) struct Wire<S> {
    socket: S,
    /// A write has failed: later writes are discarded.
    is_one_way: bool,
    /// Nothing was read yet on a connection without TLS.
    is_first: bool,
}

impl<S> Wire<S> {
    /// A connection over `socket`. `is_plain`: requests go over it without TLS.
    pub(super) fn new(socket: S, is_plain: bool) -> Self {
        Self { socket, is_one_way: false, is_first: is_plain }
    }

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

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        let bytes = &buf.filled()[before..];
        if self.is_first && !bytes.is_empty() {
            self.is_first = false;
            if bytes.starts_with(&TLS_ALERT) {
                return Poll::Ready(Err(nothing_taken(SPEAKS_TLS)));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_one_way {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
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
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.swallow(written, len)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.swallow(shut, ())
    }
}

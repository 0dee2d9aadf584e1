//! The socket of a connection.

use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::duplex::nothing_taken;

/// The start of a TLS record that is an alert, in each version: the answer of a TLS server to bytes that are no TLS.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];
const SPEAKS_TLS: &str = "the peer speaks TLS on this port: the endpoint begins with https:// then";
const PROXY_SPEAKS_TLS: &str = "the proxy speaks TLS on this port: its URL begins with https:// then";
const SOCKET_SPEAKS_TLS: &str =
    "the peer speaks TLS on this socket: no TLS is spoken on Unix sockets, take it off there";
const MAY_SPEAK_TLS: &str = "the peer closed the connection before its first byte: if it speaks TLS on this port, the \
                             endpoint begins with https://";
/// A server of HTTP/1 that reads the preface of HTTP/2, such as nginx on a port with TLS.
const SPEAKS_HTTP1: &str = "the peer answers in HTTP/1: it may not speak gRPC, whose usual port is 4317; or it speaks \
                            TLS on this port: the endpoint begins with https:// then";

/// The first bytes that are expected of the peer, and what their absence tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The first bytes are those of TLS or of a proxy's answer to CONNECT, or were read already: their absence tells
    /// nothing.
    Any,
    /// The answer of a proxy that forwards a request, without TLS.
    Proxy,
    /// The first bytes of a collector on a Unix socket.
    Socket,
    /// An answer over HTTP/1.1 without TLS.
    Http1,
    /// The SETTINGS of HTTP/2 without TLS, which a server sends before it is asked anything.
    Http2,
}

impl First {
    /// The cause of an alert of TLS in their place.
    fn alert(self) -> &'static str {
        match self {
            Self::Proxy => PROXY_SPEAKS_TLS,
            Self::Socket => SOCKET_SPEAKS_TLS,
            Self::Any | Self::Http1 | Self::Http2 => SPEAKS_TLS,
        }
    }

    /// The cause of another fault. An end in their place is no proof of TLS, although servers in Go and with OpenSSL
    /// end a plain connection so: one that crashed may have taken the request, and its first bytes may be lost with
    /// the connection.
    fn fault(self, read: &io::Result<()>, bytes: &[u8]) -> Option<io::Error> {
        match (self, read) {
            (Self::Http1 | Self::Http2, Ok(())) if bytes.is_empty() => {
                Some(io::Error::new(ErrorKind::UnexpectedEof, MAY_SPEAK_TLS))
            }
            (Self::Http1 | Self::Http2, Err(error)) if error.kind() == ErrorKind::ConnectionReset => {
                Some(io::Error::new(error.kind(), format!("{MAY_SPEAK_TLS} ({error})")))
            }
            (Self::Http2, Ok(())) if bytes.starts_with(b"HTTP/1.") => {
                Some(io::Error::new(ErrorKind::InvalidData, SPEAKS_HTTP1))
            }
            _ => None,
        }
    }
}

/// A connection whose answer can be read after the peer has stopped reading: a server that refuses a body may close
/// before it has read the body, which fails our write, while its 413 waits to be read. A write to a closed connection
/// therefore counts as done; the reading side sees the end of the connection, behind the answer.
pub(super) struct Wire<S> {
    socket: S,
    /// A write has failed: later writes are discarded.
    is_one_way: bool,
    first: First,
}

impl<S> Wire<S> {
    /// A connection over `socket`, on which nothing was read yet.
    pub(super) fn new(socket: S, first: First) -> Self {
        Self { socket, is_one_way: false, first }
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
        let (before, has_room) = (buf.filled().len(), buf.remaining() > 0);
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
        let bytes = &buf.filled()[before..];
        if self.first == First::Any || (read.is_ok() && bytes.is_empty() && !has_room) {
            return Poll::Ready(read);
        }
        let first = mem::replace(&mut self.first, First::Any);
        if bytes.starts_with(&TLS_ALERT) {
            return Poll::Ready(Err(nothing_taken(first.alert())));
        }
        Poll::Ready(first.fault(&read, bytes).map_or(read, Err))
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

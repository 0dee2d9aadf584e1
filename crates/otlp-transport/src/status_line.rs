//! The status line of an HTTP/1 answer whose head is cut off: the peer has told the fate of the request, although no
//! parser of whole answers returns it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of an answer that are kept: a status line and a few headers, behind the heads of interim answers.
const MAX_KEPT: usize = 1_024;

/// The first bytes of the answer to the request that went out last.
#[derive(Clone, Default)]
pub(crate) struct Start(Arc<Mutex<Vec<u8>>>);

impl Start {
    /// A request goes out: the next byte is one of its answer.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// The status of the answer and those of its headers that came, if the status line did.
    pub(crate) fn head(&self) -> Option<(StatusCode, HeaderMap)> {
        head(&self.lock())
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        let room = MAX_KEPT - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole lines of the head of the first answer in these bytes that is no interim one.
fn head(mut bytes: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    loop {
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
        let status = status(lines.next()?)?;
        if !status.is_informational() {
            return Some((status, lines.filter_map(header).collect()));
        }
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        bytes = &bytes[end + 4..];
    }
}

/// The status in a status line without its LF.
pub(crate) fn status(line: &[u8]) -> Option<StatusCode> {
    // The minor version, a blank, three digits, and a byte that ends them.
    let line = [line.strip_prefix(b"HTTP/1.")?, b"\n"].concat();
    let [_, b' ', code @ .., end] = line.get(..6)? else { return None };
    StatusCode::from_bytes(code).ok().filter(|_| matches!(end, b' ' | b'\r' | b'\n'))
}

/// A line of a head, without its LF, as a header.
pub(crate) fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
}

/// A connection that keeps the start of each answer.
pub(crate) struct Kept<S> {
    pub(crate) stream: S,
    pub(crate) start: Start,
}

impl<S: AsyncRead + Unpin> AsyncRead for Kept<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.start.add(&buf.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Kept<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_known_once_its_line_has_come() {
        let status = |text: &str| head(text.as_bytes()).map(|(status, _)| status.as_u16());
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 401\r\n", Some(401)),
            ("HTTP/1.1 503\n", Some(503)),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 X\r\ncontent-", Some(413)),
            ("HTTP/1.1 100 Continue\r\n\r\n", None),
            ("HTTP/1.1 100 Continue\r\n", None),
            ("HTTP/1.1 200 O", None),
            ("HTTP/1.1 200", None),
            ("HTTP/1.1 2000 \n", None),
            ("HTTP/1.1 20x \n", None),
            ("HTTP/1.1\n", None),
            ("HTTP/2 200 OK\r\n", None),
            ("ICY 200 OK\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_whole_lines_of_a_head_that_is_cut_off_are_its_headers() {
        let (_, headers) =
            head(b"HTTP/1.1 200 OK\r\nContent-Type: text/html \r\nbad line\r\nretry-after: 7").expect("a status");
        assert_eq!((headers.len(), &headers["content-type"]), (1, &HeaderValue::from_static("text/html")));
    }

    #[test]
    fn a_long_answer_is_kept_in_part_and_a_request_clears_it() {
        let start = Start::default();
        start.add(b"HTTP/1.1 2");
        start.add(&[b"02 Accepted\r\nx: ".as_slice(), &[b'x'; 2 * MAX_KEPT]].concat());
        start.add(b"more");
        let status = start.head().map(|(status, _)| status);
        assert_eq!((status, start.lock().len()), (Some(StatusCode::ACCEPTED), MAX_KEPT));
        start.clear();
        assert_eq!(start.head(), None);
    }
}

//! A tunnel through a proxy: `CONNECT` (RFC 9110, section 9.3.6).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::Proxy;
use crate::answer::plain;
use crate::status_line;

/// The most bytes of a proxy's answer, interim answers included. Proxies send a few hundred; squid's own limit is 64
/// KiB.
const MAX_HEAD: usize = 64 << 10;
/// Characters of a proxy's own words in a cause.
const MAX_WORDS: usize = 80;
/// A proxy sees no user agent but this: the user's own may be a secret of the collector.
const USER_AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

/// Has the proxy at the other end of `stream` connect to `host`, an IPv6 address without its brackets. The bytes that
/// the proxy sends behind its answer are the first of the tunnel: an HTTP/2 server speaks as soon as it is reached.
///
/// Nothing but the request for the tunnel goes out before the proxy grants it.
///
/// # Errors
///
/// A sentence with the proxy, its answer and the remedy.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<Tunnel<S>, String> {
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {USER_AGENT}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let broke = |error: io::Error| format!("{proxy} ended the connection before it answered CONNECT {target}: {error}");
    stream.write_all(&request).await.map_err(broke)?;
    stream.flush().await.map_err(broke)?;

    let mut bytes = BytesMut::with_capacity(1 << 10);
    let (mut read, mut searched) = (0, 0);
    loop {
        match head(&bytes, searched) {
            Head::Whole { length, status, .. } if status.is_informational() => {
                bytes.advance(length);
                searched = 0;
            }
            Head::Whole { length, status, .. } if status.is_success() => {
                bytes.advance(length);
                return Ok(Tunnel { first: bytes.freeze(), stream });
            }
            Head::Whole { status, headers, words, .. } => {
                let said = if words.is_empty() { String::new() } else { format!(" {words}") };
                let remedy = remedy(status, &headers, proxy, &target);
                return Err(format!("{proxy} answered {}{said} to CONNECT {target}: {remedy}", status.as_u16()));
            }
            Head::Garbage(what) => return Err(format!("{proxy} answered CONNECT {target} with {what}")),
            Head::Part if read > MAX_HEAD => {
                return Err(format!("{proxy} answered CONNECT {target} with a head of more than {MAX_HEAD} bytes"));
            }
            Head::Part => {
                searched = bytes.len();
                let more = stream.read_buf(&mut bytes).await.map_err(broke)?;
                read += more;
                if more == 0 {
                    let part = if read == 0 { "before it answered" } else { "within its answer to" };
                    return Err(format!("{proxy} ended the connection {part} CONNECT {target}"));
                }
            }
        }
    }
}

/// The start of a proxy's answer.
enum Head {
    /// No end of it yet.
    Part,
    Whole {
        /// Bytes, with the empty line.
        length: usize,
        status: StatusCode,
        headers: HeaderMap,
        /// The proxy's reason phrase.
        words: String,
    },
    /// Something else, as the end of a sentence.
    Garbage(String),
}

/// Reads a head in whose first bytes, so many, the search for its end has failed before.
fn head(bytes: &[u8], searched: usize) -> Head {
    const START: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(START.len());
    if bytes[..known] != START[..known] {
        return Head::Garbage(garbage(bytes));
    }
    // A proxy that ends its lines with LF alone is read as well.
    let begin = searched.saturating_sub(3);
    let ends = [&b"\r\n\r\n"[..], b"\n\n"]
        .map(|end| bytes[begin..].windows(end.len()).position(|window| window == end).map(|at| begin + at + end.len()));
    let Some(length) = ends.into_iter().flatten().min() else { return Head::Part };
    let mut lines = bytes[..length].split(|byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let Some(status) = status_line::status(line) else { return Head::Garbage(garbage(bytes)) };
    let headers = lines.filter_map(status_line::header).collect();
    // `HTTP/1.1 403 ` is in front.
    let words = String::from_utf8_lossy(line.get(13..).unwrap_or_default());
    Head::Whole { length, status, headers, words: cut(&words) }
}

fn garbage(bytes: &[u8]) -> String {
    // An alert, or a handshake, of TLS 1.x.
    if let [0x15 | 0x16, 0x03, ..] = bytes {
        return "a record of TLS: this port may be that of an https proxy, whose URL begins with https://".to_owned();
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_WORDS)]);
    // Not escaped: the search for secrets looks for them as they are.
    format!("bytes that are no answer of HTTP/1, \"{}\": check its host and port", cut(&start))
}

/// A text in one line, cut as texts of peers are: the search for secrets knows that form.
fn cut(text: &str) -> String {
    let text = plain(text);
    match text.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}{}", &text[..end], crate::secrets::CUT),
        None => text,
    }
}

/// The remedy for an answer without a tunnel.
fn remedy(status: StatusCode, headers: &HeaderMap, proxy: &Proxy, target: &str) -> String {
    let setting = proxy.setting;
    match status.as_u16() {
        // tinyproxy answers 401 to a wrong password.
        401 | 407 => {
            let asked = headers.get_all(header::PROXY_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            let asked = asked.collect::<Vec<_>>().join(", ");
            if asked.is_empty() || asked.to_ascii_lowercase().contains("basic") {
                return proxy.remedy();
            }
            format!("it asks for \"{}\", and Basic is all that can be sent: allow Basic there", cut(&asked))
        }
        // tinyproxy answers 500 where others answer 502 to 504.
        500 | 502..=504 => format!("the proxy does not reach {target}: check that address and the proxy's log"),
        400 | 404 | 405 | 501 => {
            format!("check {setting}: no proxy that takes CONNECT may be there, or not for this port")
        }
        _ => format!(
            "allow CONNECT to {target} in the proxy, many of which allow port 443 only, or name the host in NO_PROXY"
        ),
    }
}

/// A connection to the collector through a proxy.
pub(crate) struct Tunnel<S> {
    /// The bytes that were read with the proxy's answer.
    first: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let part = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(part));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
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
    fn the_end_of_a_head_is_found_in_whatever_pieces_it_comes() {
        for text in ["HTTP/1.1 200 OK\r\nVia: a\r\n\r\n", "HTTP/1.0 200\n\n", "HTTP/1.1 407 No \"one\"\r\nA: b\r\n\r\n"]
        {
            let bytes = text.as_bytes();
            for first in 0..bytes.len() {
                assert!(matches!(head(&bytes[..first], 0), Head::Part), "{text:?} {first}");
                let Head::Whole { length, .. } = head(bytes, first) else { panic!("{text:?} {first}") };
                assert_eq!(length, bytes.len());
            }
            let more = [bytes, b"\n\nPRI *"].concat();
            let Head::Whole { length, .. } = head(&more, 0) else { panic!("{text:?}") };
            assert_eq!(length, bytes.len());
        }
    }

    #[test]
    fn the_words_of_a_proxy_are_one_short_line() {
        let words = |text: &str| match head(text.as_bytes(), 0) {
            Head::Whole { words, .. } => words,
            _ => panic!("{text:?}"),
        };
        assert_eq!(words("HTTP/1.1 403 For\x1b[1mbidden \r\n\r\n"), "For [1mbidden");
        assert_eq!(words("HTTP/1.1 403\r\n\r\n"), "");
        let long = words(&format!("HTTP/1.1 403 {}\r\n\r\n", "x".repeat(1_000)));
        assert_eq!(long, format!("{}...", "x".repeat(MAX_WORDS)));
    }
}

//! The memory that requests are written from: a byte of the payload that lies elsewhere was copied.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::UNIX_EPOCH;

use otlp_payload::{BatchId, Payload};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::peer::Peer;
use super::{BOTH, DELIVERED, Name, watched};
use crate::duplex::Duplex;
use crate::{Compression, Config, ConfigBuilder, Protocol};

/// The places of the bytes that HTTP has handed to its connections: to sockets, or to TLS.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<Range<usize>>>>);

impl Written {
    pub(crate) fn over(&self, stream: Box<dyn Duplex>) -> Box<dyn Duplex> {
        Box::new(Watched { stream, written: self.clone() })
    }

    fn add(&self, bytes: &[u8]) {
        let start = bytes.as_ptr() as usize;
        self.0.lock().expect("not poisoned").push(start..start + bytes.len());
    }

    /// How many bytes were written, and the parts of them that lie in `bytes`, in the order of their places.
    fn of(&self, bytes: &[u8]) -> (usize, Vec<Range<usize>>) {
        let places = self.0.lock().expect("not poisoned").clone();
        let whole = bytes.as_ptr_range();
        let (start, end) = (whole.start as usize, whole.end as usize);
        let inside = places.iter().filter(|place| start <= place.start && place.end <= end && !place.is_empty());
        let mut inside: Vec<_> = inside.map(|place| place.start - start..place.end - start).collect();
        inside.sort_unstable_by_key(|place| place.start);
        (places.iter().map(Range::len).sum(), inside)
    }
}

struct Watched {
    stream: Box<dyn Duplex>,
    written: Written,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.written.add(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = taken;
        for buf in bufs {
            let part = left.min(buf.len());
            self.written.add(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(taken))
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

/// The bytes of a request: of 1 MiB, or what gzip makes of them.
const SIZE: usize = 1 << 20;

/// Eight letters in no order: gzip leaves three eighths of them.
fn letters() -> Vec<u8> {
    let mut state = 7_u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"abcdefgh"[(state >> 29) as usize]
    };
    (0..SIZE).map(|_| letter()).collect()
}

/// Sends a payload, and asserts that the bytes of its body go from their own place to the connection, once. HTTP/1.1
/// copies none of them. For gRPC, h2 copies the first 247 bytes of each DATA frame behind the frame's head, and the
/// peers here take frames of 16 KiB. The other bytes are those of heads and frames.
async fn assert_not_copied(protocol: Protocol, peer: &Peer, config: Config) {
    let written = Written::default();
    let kind = format!("{protocol} to {}, {}", config.endpoint(), config.compression());
    let is_plain = config.compression() == Compression::None;
    let transport = watched(protocol, &Name::of(&[peer.address]), config, written.clone());
    let payload = Payload::new(BatchId { incarnation: 7, seq: 1 }, UNIX_EPOCH, 3, letters().into());
    assert_eq!(transport.send(&payload).await, DELIVERED, "{kind}");

    let body = match is_plain {
        true => payload.bytes().clone(),
        false => payload.coded("gzip", |_| panic!("the compressed form is not kept")),
    };
    let (all, places) = written.of(&body);
    let in_place: usize = places.iter().map(Range::len).sum();
    let copied = body.len() - in_place;
    println!("{kind}: {copied} of {} bytes of the body copied, {} others", body.len(), all - body.len());
    assert!(places.is_sorted_by(|a, b| a.end <= b.start), "{kind}: bytes of the body were written twice: {places:?}");
    let may_be_copied = if protocol == Protocol::Grpc { body.len() / 50 } else { 0 };
    assert!(copied <= may_be_copied, "{kind}: {copied} bytes of the body were copied");
    assert!(all - body.len() < 1_024 + body.len() / 256, "{kind}: {} bytes of heads and frames", all - body.len());
}

fn codings(config: impl Fn() -> ConfigBuilder) -> [Config; 2] {
    [Compression::None, Compression::Gzip]
        .map(|compression| config().with_compression(compression).build().expect("valid"))
}

#[tokio::test]
async fn a_body_goes_to_the_socket_from_its_own_place() {
    for protocol in BOTH {
        let peer = Peer::healthy(protocol);
        let plain = || Config::builder().with_protocol(protocol).with_endpoint("http://collector.example:4319");
        for config in codings(plain) {
            assert_not_copied(protocol, &peer, config).await;
        }
    }
}

#[cfg(feature = "_tls")]
#[tokio::test]
async fn a_body_goes_to_the_records_of_tls_from_its_own_place() {
    for protocol in BOTH {
        let secured = super::secured::Secured::new(protocol);
        let peer = Peer::secured(protocol, secured.acceptor.clone());
        for config in codings(|| secured.config(protocol)) {
            assert_not_copied(protocol, &peer, config).await;
        }
    }
}

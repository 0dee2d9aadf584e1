//! Bodies that hold a value until their last byte is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Bytes of a piece of a body, at most. A server that copies what it is about to send has no more than a few of them.
const PIECE: usize = 16 << 10;

/// `body`, which holds `value` until its last byte is sent, or until the server gives the answer up.
///
/// A server takes the whole of a short body, and drops the body, long before the client has read a byte. Therefore the
/// pieces hold the value too: the socket's queue drops each of them when its last byte has been written.
pub(crate) fn held_until_sent<T: Send + Sync + 'static>(body: Body, value: T) -> Body {
    Body::new(Held { body, left: Bytes::new(), value: Arc::new(value) })
}

struct Held<T> {
    body: Body,
    /// The part of the last frame that no piece has been made of yet.
    left: Bytes,
    value: Arc<T>,
}

/// Bytes on their way to the socket.
struct Piece<T> {
    bytes: Bytes,
    _value: Arc<T>,
}

impl<T> AsRef<[u8]> for Piece<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Send + Sync + 'static> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.left.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.left = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.left.len().min(PIECE);
        let piece = Piece { bytes: self.left.split_to(length), _value: Arc::clone(&self.value) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, hint) = (self.left.len() as u64, self.body.size_hint());
        let mut size = SizeHint::new();
        size.set_lower(hint.lower().saturating_add(left));
        if let Some(upper) = hint.upper() {
            size.set_upper(upper.saturating_add(left));
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use futures_util::stream;

    use super::*;

    #[test]
    fn the_value_lives_until_the_last_piece_is_gone_and_the_bytes_are_the_same() {
        let parts = [vec![1; 3 * PIECE + 5], Vec::new(), vec![2; 7]];
        let whole = parts.concat();
        for body in [Body::from(whole.clone()), Body::from_stream(stream::iter(parts.map(Ok::<_, std::io::Error>)))] {
            let (value, cx) = (Arc::new(()), &mut Context::from_waker(Waker::noop()));
            let exact = body.size_hint().exact();
            let mut held = Box::pin(held_until_sent(body, Arc::clone(&value)));
            let mut pieces = Vec::new();
            while !held.is_end_stream() {
                assert!(exact.is_none() || held.size_hint().exact() == exact.map(|exact| exact - length(&pieces)));
                match held.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => pieces.push(frame.into_data().expect("data")),
                    Poll::Ready(None) => break,
                    other => panic!("{other:?}"),
                }
            }
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE));
            assert_eq!(pieces.concat(), whole);
            drop(held);
            while let Some(piece) = pieces.pop() {
                assert_eq!(Arc::strong_count(&value), 2, "{} pieces are left", pieces.len() + 1);
                drop(piece);
            }
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }

    #[test]
    fn a_body_without_bytes_holds_the_value_until_it_is_dropped() {
        let value = Arc::new(());
        let mut held = pin!(Some(held_until_sent(Body::empty(), Arc::clone(&value))));
        assert!(held.as_ref().get_ref().as_ref().is_some_and(HttpBody::is_end_stream));
        assert_eq!(Arc::strong_count(&value), 2);
        held.set(None);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    fn length(pieces: &[Bytes]) -> u64 {
        pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

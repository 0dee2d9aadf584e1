//! One request becomes several smaller ones, by spans.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;

use crate::payload::{BatchId, Payload};
use crate::tree::{Tree, framed};
use crate::walk::count_spans;
use crate::wire::DecodeError;

/// The two parts of a batch that [`Payload::separate`] made.
#[derive(Clone, Debug)]
pub struct Separated {
    /// The spans whose request of their own has the limit's length or more; `None` if there are none.
    pub large: Option<Payload>,
    /// All others; `None` if there are none.
    pub small: Option<Payload>,
}

impl Payload {
    /// Divides the batch into its first and its second half, by spans; each carries the resource and its scopes again.
    ///
    /// `created` stays. `None` when there are fewer than two spans, or when the bytes are no readable request (such a
    /// batch cannot be made smaller). Nothing of it is lost: fields unknown to this crate go into both halves.
    #[must_use]
    pub fn split(&self, left: BatchId, right: BatchId) -> Option<(Payload, Payload)> {
        let tree = self.tree().filter(|tree| tree.numbers.len() >= 2)?;
        let middle = tree.numbers.len() / 2;
        Some((self.piece(&tree, left, 0..middle), self.piece(&tree, right, middle..tree.numbers.end)))
    }

    /// Cuts the batch into requests of at most `max_bytes`, by spans: as few as possible without changing the order of
    /// the spans. A span whose request exceeds `max_bytes` even without others is alone in its piece.
    ///
    /// Each piece carries the resource, the scopes of its spans, their schema URLs, `created`, and the fields that this
    /// crate does not know; `next_id` is asked for a name once a piece, in order.
    ///
    /// `None` when there is nothing to cut: the batch has at most `max_bytes` or fewer than two spans, or its bytes are
    /// no readable request. Cost: one walk over the request, and the bytes of all pieces, which repeat the resource.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use otlp_payload::{BatchId, Payload};
    ///
    /// // One resource, one scope, three spans: with the names "a", "b" and "c".
    /// let request = &b"\x0a\x11\x12\x0f\x12\x03\x2a\x01a\x12\x03\x2a\x01b\x12\x03\x2a\x01c"[..];
    /// let id = |seq| BatchId { incarnation: 1, seq };
    /// let batch = Payload::from_bytes(id(0), SystemTime::UNIX_EPOCH, request.into())?;
    /// let mut names = (1..).map(id);
    /// let mut next_id = || names.next().expect("endless");
    ///
    /// let pieces = batch.cut(14, &mut next_id).expect("19 bytes are more than 14");
    /// let sizes: Vec<_> = pieces.iter().map(|piece| (piece.span_count(), piece.bytes().len())).collect();
    /// assert_eq!(sizes, [(2, 14), (1, 9)]);
    /// assert!(batch.cut(19, &mut next_id).is_none(), "it fits");
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn cut(&self, max_bytes: usize, next_id: impl FnMut() -> BatchId) -> Option<Vec<Payload>> {
        self.cut_within(max_bytes, usize::MAX, next_id)
    }

    /// As [`cut`](Self::cut), into requests that also have at most `max_spans` spans (0 counts as 1): for servers that
    /// count them. `None` if the batch has neither more bytes nor more spans.
    #[must_use]
    pub fn cut_within(
        &self,
        max_bytes: usize,
        max_spans: usize,
        mut next_id: impl FnMut() -> BatchId,
    ) -> Option<Vec<Payload>> {
        let is_small = self.bytes().len() <= max_bytes;
        if is_small && self.span_count() <= max_spans {
            return None;
        }
        // The bytes decide, also where they do not hold the spans that the batch promises.
        let tree = self.tree().filter(|tree| tree.numbers.len() >= 2)?;
        if is_small && tree.numbers.len() <= max_spans {
            return None;
        }
        let ranges = ranges(&tree, max_bytes, max_spans);
        Some(ranges.into_iter().map(|range| self.piece(&tree, next_id(), range)).collect())
    }

    /// Takes the spans that are large by themselves out of the batch: those whose request, with this one span and its
    /// resource and scope, has `min_bytes` or more.
    ///
    /// Both parts keep the order of their spans, `created`, and the fields that this crate does not know. If all spans
    /// belong to one part, that part is this batch under its own name, and `next_id` is not asked. Otherwise `next_id`
    /// names the large ones first. `None` when the batch has no spans or its bytes are no readable request.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use otlp_payload::{BatchId, Payload, Separated};
    ///
    /// // One resource, one scope, three spans: with the names "a", "long" and "c".
    /// let request = &b"\x0a\x14\x12\x12\x12\x03\x2a\x01a\x12\x06\x2a\x04long\x12\x03\x2a\x01c"[..];
    /// let id = |seq| BatchId { incarnation: 1, seq };
    /// let batch = Payload::from_bytes(id(0), SystemTime::UNIX_EPOCH, request.into())?;
    /// let mut names = (1..).map(id);
    ///
    /// // A short span alone is a request of 9 bytes, the long one of 12.
    /// let Separated { large, small } = batch.separate(12, || names.next().unwrap()).expect("a request with spans");
    /// assert_eq!([large, small].map(|part| part.map(|part| part.span_count())), [Some(1), Some(2)]);
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn separate(&self, min_bytes: usize, mut next_id: impl FnMut() -> BatchId) -> Option<Separated> {
        let tree = self.tree().filter(|tree| !tree.numbers.is_empty())?;
        let is_large: Vec<bool> = lengths_alone(&tree).map(|len| len >= min_bytes).collect();
        let count = is_large.iter().filter(|large| **large).count();
        if count == is_large.len() {
            return Some(Separated { large: Some(self.clone()), small: None });
        }
        if count == 0 {
            return Some(Separated { large: None, small: Some(self.clone()) });
        }
        let mut part = |large: bool, count| {
            let bytes = tree.pick(&tree.numbers, &|number| is_large[number] == large);
            Some(Payload::new(next_id(), self.created(), count, bytes))
        };
        Some(Separated { large: part(true, count), small: part(false, is_large.len() - count) })
    }

    /// A payload around bytes that come from elsewhere; the spans are counted.
    ///
    /// # Errors
    ///
    /// As [`count_spans`].
    pub fn from_bytes(id: BatchId, created: SystemTime, bytes: Bytes) -> Result<Self, DecodeError> {
        let spans = count_spans(&bytes)?;
        Ok(Self::new(id, created, spans, bytes))
    }

    fn tree(&self) -> Option<Tree<'_>> {
        Tree::read(self.bytes()).ok()
    }

    fn piece(&self, tree: &Tree<'_>, id: BatchId, range: Range<usize>) -> Payload {
        Payload::new(id, self.created(), range.len(), tree.pick(&range, &|_| true))
    }
}

/// Each piece takes spans until the next one would exceed `max_bytes` or `max_spans`. More spans never make a request
/// shorter, so no other way to cut has fewer pieces.
fn ranges(request: &Tree<'_>, max_bytes: usize, max_spans: usize) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut next) = (Vec::new(), 0, 0);
    // The bytes of the piece that begins at `start`: those of its ended resources, of the ended scopes in the current
    // resource, and of the spans in the current scope.
    let (mut resources, mut scopes, mut spans) = (0, 0, 0);
    for resource in &request.inner {
        for scope in &resource.inner {
            for span in &scope.spans {
                let with_span = framed(scope.others_len + spans + span.len());
                let with_span = framed(resource.others_len + scopes + with_span);
                let is_full = request.others_len + resources + with_span > max_bytes || next - start >= max_spans;
                if is_full && next > start {
                    ranges.push(start..next);
                    (start, resources, scopes, spans) = (next, 0, 0, 0);
                }
                spans += span.len();
                next += 1;
            }
            scopes += framed(scope.others_len + spans);
            spans = 0;
        }
        resources += framed(resource.others_len + scopes);
        scopes = 0;
    }
    ranges.push(start..next);
    ranges
}

/// How long the request of each single span would be.
fn lengths_alone<'a>(request: &'a Tree<'_>) -> impl Iterator<Item = usize> + 'a {
    let scopes = request.inner.iter().flat_map(|resource| resource.inner.iter().map(move |scope| (resource, scope)));
    scopes.flat_map(move |(resource, scope)| {
        let around = move |span| framed(resource.others_len + framed(scope.others_len + span));
        scope.spans.iter().map(move |span| request.others_len + around(span.len()))
    })
}

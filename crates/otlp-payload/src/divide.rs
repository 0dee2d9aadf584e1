//! One request becomes several smaller ones, by items.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;

use crate::payload::{BatchId, Payload};
use crate::signal::Signal;
use crate::tree::{Tree, framed};
use crate::walk::count_items;
use crate::wire::DecodeError;

/// The two parts of a batch that [`Payload::separate`] made.
#[derive(Clone, Debug)]
pub struct Separated {
    /// The items whose request of their own has the limit's length or more; `None` if there are none.
    pub large: Option<Payload>,
    /// All others; `None` if there are none.
    pub small: Option<Payload>,
}

impl Payload {
    /// Divides the batch into its first and its second half, by items; each carries the resource and its scopes again.
    /// Metrics without data points have no item and are in neither half.
    ///
    /// `created` stays. `None` when there are fewer than two items, or when the bytes are no readable request (such a
    /// batch cannot be made smaller). Nothing of it is lost: fields unknown to this crate go into both halves.
    #[must_use]
    pub fn split(&self, left: BatchId, right: BatchId) -> Option<(Payload, Payload)> {
        let tree = self.tree().filter(|tree| tree.numbers.len() >= 2)?;
        let middle = tree.numbers.len() / 2;
        Some((self.piece(&tree, left, 0..middle), self.piece(&tree, right, middle..tree.numbers.end)))
    }

    /// Cuts the batch into requests of at most `max_bytes`, by items: as few as possible without changing the order of
    /// the items. An item whose request exceeds `max_bytes` even without others is alone in its piece.
    ///
    /// Each piece carries the resource, the scopes of its items, their schema URLs, `created`, and the fields that this
    /// crate does not know; `next_id` is asked for a name once a piece, in order.
    ///
    /// `None` when there is nothing to cut: the batch has at most `max_bytes` or fewer than two items, or its bytes are
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
    /// let sizes: Vec<_> = pieces.iter().map(|piece| (piece.item_count(), piece.bytes().len())).collect();
    /// assert_eq!(sizes, [(2, 14), (1, 9)]);
    /// assert!(batch.cut(19, &mut next_id).is_none(), "it fits");
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn cut(&self, max_bytes: usize, next_id: impl FnMut() -> BatchId) -> Option<Vec<Payload>> {
        self.cut_within(max_bytes, usize::MAX, next_id)
    }

    /// As [`cut`](Self::cut), into requests that also have at most `max_items` items (0 counts as 1): for servers that
    /// count them. `None` if the batch has neither more bytes nor more items.
    #[must_use]
    pub fn cut_within(
        &self,
        max_bytes: usize,
        max_items: usize,
        mut next_id: impl FnMut() -> BatchId,
    ) -> Option<Vec<Payload>> {
        let is_small = self.bytes().len() <= max_bytes;
        if is_small && self.item_count() <= max_items {
            return None;
        }
        // The bytes decide, also where they do not hold the items that the batch promises.
        let tree = self.tree().filter(|tree| tree.numbers.len() >= 2)?;
        if is_small && tree.numbers.len() <= max_items {
            return None;
        }
        let ranges = ranges(&tree, max_bytes, max_items);
        Some(ranges.into_iter().map(|range| self.piece(&tree, next_id(), range)).collect())
    }

    /// Takes the items that are large by themselves out of the batch: those whose request, with this one item and its
    /// resource and scope, has `min_bytes` or more.
    ///
    /// Both parts keep the order of their items, `created`, and the fields that this crate does not know. If all items
    /// belong to one part, that part is this batch under its own name, and `next_id` is not asked. Otherwise `next_id`
    /// names the large ones first. `None` when the batch has no items or its bytes are no readable request.
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
    /// assert_eq!([large, small].map(|part| part.map(|part| part.item_count())), [Some(1), Some(2)]);
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn separate(&self, min_bytes: usize, mut next_id: impl FnMut() -> BatchId) -> Option<Separated> {
        let tree = self.tree().filter(|tree| !tree.numbers.is_empty())?;
        let is_large: Vec<bool> = lengths_alone(&tree).into_iter().map(|len| len >= min_bytes).collect();
        let count = is_large.iter().filter(|large| **large).count();
        if count == is_large.len() {
            return Some(Separated { large: Some(self.clone()), small: None });
        }
        if count == 0 {
            return Some(Separated { large: None, small: Some(self.clone()) });
        }
        let mut part = |large: bool, count| {
            let bytes = tree.pick(&tree.numbers, &|number| is_large[number] == large);
            Some(Payload::of(self.signal(), next_id(), self.created(), count, bytes))
        };
        Some(Separated { large: part(true, count), small: part(false, is_large.len() - count) })
    }

    /// An `ExportTraceServiceRequest` that comes from elsewhere; its spans are counted.
    ///
    /// # Errors
    ///
    /// As [`count_items`].
    pub fn from_bytes(id: BatchId, created: SystemTime, bytes: Bytes) -> Result<Self, DecodeError> {
        Self::of_bytes(Signal::Traces, id, created, bytes)
    }

    /// A request of this signal that comes from elsewhere; its items are counted.
    ///
    /// # Errors
    ///
    /// As [`count_items`].
    pub fn of_bytes(signal: Signal, id: BatchId, created: SystemTime, bytes: Bytes) -> Result<Self, DecodeError> {
        let items = count_items(signal, &bytes)?;
        Ok(Self::of(signal, id, created, items, bytes))
    }

    fn tree(&self) -> Option<Tree<'_>> {
        Tree::read(self.signal(), self.bytes()).ok()
    }

    fn piece(&self, tree: &Tree<'_>, id: BatchId, range: Range<usize>) -> Payload {
        Payload::of(self.signal(), id, self.created(), range.len(), tree.pick(&range, &|_| true))
    }
}

/// Each piece takes items until the next one would exceed `max_bytes` or `max_items`. More items never make a request
/// shorter, so no other way to cut has fewer pieces.
fn ranges(request: &Tree<'_>, max_bytes: usize, max_items: usize) -> Vec<Range<usize>> {
    let mut cut = Cut { max_bytes, max_items, around: Vec::new(), start: 0, next: 0, ranges: Vec::new() };
    cut.visit(request);
    cut.ranges.push(cut.start..cut.next);
    cut.ranges
}

/// The piece that grows while the items are visited.
struct Cut {
    max_bytes: usize,
    max_items: usize,
    /// The messages around the current item, from the request down: the bytes of each that every piece repeats, and
    /// those of the items and ended messages in it that belong to the piece.
    around: Vec<(usize, usize)>,
    start: usize,
    next: usize,
    ranges: Vec<Range<usize>>,
}

impl Cut {
    fn visit(&mut self, message: &Tree<'_>) {
        self.around.push((message.others_len, 0));
        for item in &message.items {
            self.add(item.len());
        }
        for inner in &message.inner {
            self.visit(inner);
        }
        let ended = self.around.pop().map_or(0, |(others, held)| framed(others + held));
        if let Some((_, held)) = self.around.last_mut() {
            *held += ended;
        }
    }

    fn add(&mut self, item: usize) {
        // Each message around the item counts with its frame, but for the request.
        let inner = self.around.iter().skip(1).rev().fold(item, |len, (others, held)| framed(others + held + len));
        let whole = self.around.first().map_or(inner, |(others, held)| others + held + inner);
        let is_full = whole > self.max_bytes || self.next - self.start >= self.max_items;
        if is_full && self.next > self.start {
            self.ranges.push(self.start..self.next);
            self.start = self.next;
            self.around.iter_mut().for_each(|(_, held)| *held = 0);
        }
        if let Some((_, held)) = self.around.last_mut() {
            *held += item;
        }
        self.next += 1;
    }
}

/// How long the request of each single item would be.
fn lengths_alone(request: &Tree<'_>) -> Vec<usize> {
    fn visit(message: &Tree<'_>, around: &mut Vec<usize>, lengths: &mut Vec<usize>) {
        around.push(message.others_len);
        for item in &message.items {
            let inner = around.iter().skip(1).rev().fold(item.len(), |len, others| framed(others + len));
            lengths.push(around.first().map_or(inner, |others| others + inner));
        }
        message.inner.iter().for_each(|inner| visit(inner, around, lengths));
        around.pop();
    }
    let (mut around, mut lengths) = (Vec::new(), Vec::with_capacity(request.numbers.len()));
    visit(request, &mut around, &mut lengths);
    lengths
}

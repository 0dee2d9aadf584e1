//! The borders of resources, scopes and spans in a request: read once, then any selection of spans is measured and
//! written.

use std::ops::Range;

use bytes::Bytes;

use crate::walk::{RESOURCE_SPANS, SCOPE_SPANS, SPANS};
use crate::wire::{DecodeError, Fields, put_varint, varint_len};

/// A request, a resource or a scope: its spans or the messages that lead to them, and all its other fields.
///
/// Resources and scopes without a span are left out. The fields of an inner message lie in `inner` and those of a scope
/// in `spans`; the other list is empty.
pub(crate) struct Tree<'a> {
    message: &'a [u8],
    /// The field number under which the parent holds this message.
    number: u32,
    /// Which spans of the request stand in here.
    pub(crate) numbers: Range<usize>,
    pub(crate) inner: Vec<Tree<'a>>,
    /// Each span with its tag and its length, as a range of `message`.
    pub(crate) spans: Vec<Range<usize>>,
    /// All other fields: neighbours are one range, which stands before the child of this index.
    others: Vec<(usize, Range<usize>)>,
    /// The bytes in `others`.
    pub(crate) others_len: usize,
}

impl<'a> Tree<'a> {
    /// Reads a request down to the borders of its spans.
    pub(crate) fn read(request: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read_below(request, 0, 0, 0, &[RESOURCE_SPANS, SCOPE_SPANS, SPANS])
    }

    /// `path` are the field numbers that lead from here to the spans; `first` is the number of the next span.
    fn read_below(
        message: &'a [u8],
        base: usize,
        number: u32,
        first: usize,
        path: &[u32],
    ) -> Result<Self, DecodeError> {
        let numbers = first..first;
        let mut tree =
            Self { message, number, numbers, inner: Vec::new(), spans: Vec::new(), others: Vec::new(), others_len: 0 };
        for field in Fields::new(message, base) {
            let field = field?;
            let start = field.offset - base;
            let range = start..start + field.raw.len();
            match path {
                [number] if field.number == *number => {
                    field.bytes()?;
                    tree.spans.push(range);
                    tree.numbers.end += 1;
                }
                [number, below @ ..] if field.number == *number => {
                    let (content, base) = field.bytes()?;
                    let inner = Self::read_below(content, base, *number, tree.numbers.end, below)?;
                    if !inner.numbers.is_empty() {
                        tree.numbers.end = inner.numbers.end;
                        tree.inner.push(inner);
                    }
                }
                _ => tree.push_other(range),
            }
        }
        Ok(tree)
    }

    fn push_other(&mut self, range: Range<usize>) {
        self.others_len += range.len();
        let before = self.inner.len() + self.spans.len();
        match self.others.last_mut() {
            Some((index, last)) if *index == before && last.end == range.start => last.end = range.end,
            _ => self.others.push((before, range)),
        }
    }

    /// The request with only those spans of the range that `keep` says yes to. Resources and scopes without such a
    /// span are left out; every other field stays.
    pub(crate) fn pick(&self, range: &Range<usize>, keep: &impl Fn(usize) -> bool) -> Bytes {
        let part = self.part(range, keep);
        let mut out = Vec::with_capacity(part.len);
        self.write(&part, &mut out);
        out.into()
    }

    /// Chooses the children that stay: their lengths are known before the first byte is written.
    fn part(&self, range: &Range<usize>, keep: &impl Fn(usize) -> bool) -> Part {
        let mut part = Part { len: self.others_len, chosen: Vec::new(), inner: Vec::new() };
        let first = self.inner.partition_point(|inner| inner.numbers.end <= range.start);
        for (index, inner) in self.inner.iter().enumerate().skip(first) {
            if inner.numbers.start >= range.end {
                break;
            }
            let below = inner.part(range, keep);
            if !below.chosen.is_empty() {
                part.len += framed(below.len);
                part.choose(index);
                part.inner.push(below);
            }
        }
        let within = |number: usize| number.clamp(self.numbers.start, self.numbers.end) - self.numbers.start;
        for index in within(range.start)..within(range.end).min(self.spans.len()) {
            if keep(self.numbers.start + index) {
                part.len += self.spans[index].len();
                part.choose(index);
            }
        }
        part
    }

    fn write(&self, part: &Part, out: &mut Vec<u8>) {
        let mut others = self.others.iter().peekable();
        let mut inner = part.inner.iter();
        for index in part.chosen.iter().cloned().flatten() {
            while let Some((_, range)) = others.next_if(|(before, _)| *before <= index) {
                out.extend_from_slice(&self.message[range.clone()]);
            }
            if let Some(span) = self.spans.get(index) {
                out.extend_from_slice(&self.message[span.clone()]);
            } else if let (Some(child), Some(below)) = (self.inner.get(index), inner.next()) {
                out.push((child.number << 3 | 2) as u8);
                put_varint(out, below.len as u64);
                child.write(below, out);
            }
        }
        for (_, range) in others {
            out.extend_from_slice(&self.message[range.clone()]);
        }
    }
}

/// The children of one message that stay.
struct Part {
    /// The length of the message with only these.
    len: usize,
    /// Runs of indexes.
    chosen: Vec<Range<usize>>,
    /// One for each chosen message.
    inner: Vec<Part>,
}

impl Part {
    /// In ascending order.
    fn choose(&mut self, index: usize) {
        match self.chosen.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => self.chosen.push(index..index + 1),
        }
    }
}

/// How long a message of this length is with its tag of one byte and its own length in front.
pub(crate) const fn framed(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

//! The borders of resources, scopes and items in a request: read once, then any selection of items is measured and
//! written.

use std::ops::Range;

use bytes::Bytes;

use crate::signal::Signal;
use crate::wire::{DecodeError, Fields, put_varint, varint_len};

/// A request, a resource, a scope or a metric: its items or the messages that lead to them, and all its other fields.
///
/// Messages without an item are left out. The messages that lead to items lie in `inner`, those of the last level in
/// `items`; the other list is empty.
pub(crate) struct Tree<'a> {
    message: &'a [u8],
    /// The field number under which the parent holds this message.
    number: u32,
    /// Which items of the request stand in here.
    pub(crate) numbers: Range<usize>,
    pub(crate) inner: Vec<Tree<'a>>,
    /// Each item with its tag and its length, as a range of `message`.
    pub(crate) items: Vec<Range<usize>>,
    /// All other fields: neighbours are one range, which stands before the child of this index.
    others: Vec<(usize, Range<usize>)>,
    /// The bytes in `others`.
    pub(crate) others_len: usize,
}

impl<'a> Tree<'a> {
    /// Reads a request down to the borders of its items.
    pub(crate) fn read(signal: Signal, request: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read_below(request, 0, 0, 0, signal.levels())
    }

    /// `levels` are the field numbers that lead from here to the items; `first` is the number of the next item.
    fn read_below(
        message: &'a [u8],
        base: usize,
        number: u32,
        first: usize,
        levels: &[&[u32]],
    ) -> Result<Self, DecodeError> {
        let numbers = first..first;
        let mut tree =
            Self { message, number, numbers, inner: Vec::new(), items: Vec::new(), others: Vec::new(), others_len: 0 };
        for field in Fields::new(message, base) {
            let field = field?;
            let start = field.offset - base;
            let range = start..start + field.raw.len();
            match levels {
                [numbers] if numbers.contains(&field.number) => {
                    field.bytes()?;
                    tree.items.push(range);
                    tree.numbers.end += 1;
                }
                [numbers, below @ ..] if numbers.contains(&field.number) => {
                    let (content, base) = field.bytes()?;
                    let inner = Self::read_below(content, base, field.number, tree.numbers.end, below)?;
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
        let before = self.inner.len() + self.items.len();
        match self.others.last_mut() {
            Some((index, last)) if *index == before && last.end == range.start => last.end = range.end,
            _ => self.others.push((before, range)),
        }
    }

    /// The request with only those items of the range that `keep` says yes to. Resources, scopes and metrics without
    /// such an item are left out; every other field stays.
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
        for index in within(range.start)..within(range.end).min(self.items.len()) {
            if keep(self.numbers.start + index) {
                part.len += self.items[index].len();
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
            if let Some(item) = self.items.get(index) {
                out.extend_from_slice(&self.message[item.clone()]);
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

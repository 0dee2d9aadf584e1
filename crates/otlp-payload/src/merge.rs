//! Several small requests of one resource become one.

use std::ops::Range;

use bytes::Bytes;

use crate::signal::Signal;
use crate::tree::framed;
use crate::walk::{RESOURCES, SCOPES, count_items};
use crate::wire::{Fields, put_varint};

/// `ResourceSpans.resource`.
const RESOURCE: u32 = 1;
/// `ResourceSpans.schema_url`.
const SCHEMA_URL: u32 = 3;

/// A request that [`merge`] made or left as it was, and the requests whose items it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The request.
    pub bytes: Bytes,
    /// Which of the given requests are in it, by their index.
    pub requests: Range<usize>,
}

/// Makes one request of consecutive ones that have the same resource, as long as the result has at most `max_bytes`.
///
/// The results hold all items of all requests, in their order, with their scopes byte for byte; each request is in
/// exactly one result. Requests belong together when the bytes of their resource and of its schema URL are equal; the
/// result names them once. A request stays alone, whatever its size and without a copy, if its neighbours are different
/// or too large, or if it
///
/// - holds more than one resource, or none,
/// - has fields beside resource, scopes and schema URL that this crate does not know, which belong to one request only,
/// - is no readable request, down to the borders of its items.
///
/// ```
/// use bytes::Bytes;
/// use otlp_payload::{count_spans, merge};
///
/// // Twice one resource with one scope and one span, named "a" and "b".
/// let requests = [&b"\x0a\x07\x12\x05\x12\x03\x2a\x01a"[..], b"\x0a\x07\x12\x05\x12\x03\x2a\x01b"].map(Bytes::from);
/// let merged = merge(&requests, 1_000_000);
/// assert_eq!((merged.len(), merged[0].requests.clone()), (1, 0..2));
/// assert_eq!(count_spans(&merged[0].bytes), Ok(2));
/// assert_eq!(merge(&requests, 15).len(), 2); // both together have 16 bytes
/// ```
#[must_use]
pub fn merge(requests: &[Bytes], max_bytes: usize) -> Vec<Merged> {
    merge_within(Signal::Traces, requests, max_bytes, usize::MAX)
}

/// As [`merge`], of requests of any one signal, into requests that also have at most `max_items` items: for servers
/// that count them.
#[must_use]
pub fn merge_within(signal: Signal, requests: &[Bytes], max_bytes: usize, max_items: usize) -> Vec<Merged> {
    let mut merged = Vec::new();
    let mut group: Option<Group<'_>> = None;
    for (index, bytes) in requests.iter().enumerate() {
        let single = Single::read(signal, bytes);
        if let (Some(group), Some(single)) = (&mut group, &single)
            && group.add(single, max_bytes, max_items)
        {
            continue;
        }
        merged.extend(group.take().map(|group| group.end(requests)));
        match single {
            Some(single) => group = Some(Group::new(index, single)),
            None => merged.push(Merged { bytes: bytes.clone(), requests: index..index + 1 }),
        }
    }
    merged.extend(group.map(|group| group.end(requests)));
    merged
}

/// A request of one resource and without a field that this crate does not know, down to the scopes.
struct Single<'a> {
    /// All fields of the `ResourceSpans` beside the scopes, in their order.
    around: Vec<u8>,
    /// How many bytes of `around` stand before the last scope.
    before: usize,
    /// The fields that hold the scopes: neighbours are one slice.
    scopes: Vec<&'a [u8]>,
    items: usize,
}

impl<'a> Single<'a> {
    fn read(signal: Signal, request: &'a [u8]) -> Option<Self> {
        let items = count_items(signal, request).ok()?;
        let mut fields = Fields::new(request, 0);
        let field = fields.next()?.ok()?;
        if field.number != RESOURCES || fields.next().is_some() {
            return None;
        }
        let (content, base) = field.bytes().ok()?;
        let mut single = Self { around: Vec::new(), before: 0, scopes: Vec::new(), items };
        let mut run = 0..0;
        for field in Fields::new(content, base) {
            let field = field.ok()?;
            let start = field.offset - base;
            let end = start + field.raw.len();
            match field.number {
                SCOPES if run.end == start => run.end = end,
                SCOPES => {
                    single.scopes.extend(content.get(run).filter(|run| !run.is_empty()));
                    run = start..end;
                }
                RESOURCE | SCHEMA_URL if field.bytes().is_ok() => single.around.extend_from_slice(field.raw),
                _ => return None,
            }
            if field.number == SCOPES {
                single.before = single.around.len();
            }
        }
        single.scopes.extend(content.get(run).filter(|run| !run.is_empty()));
        Some(single)
    }
}

/// Consecutive requests that belong together.
struct Group<'a> {
    first: Single<'a>,
    /// The scopes of the others.
    more: Vec<&'a [u8]>,
    /// The length of the only `ResourceSpans`.
    len: usize,
    items: usize,
    requests: Range<usize>,
}

impl<'a> Group<'a> {
    fn new(index: usize, first: Single<'a>) -> Self {
        let (len, items) = (first.around.len() + length(&first.scopes), first.items);
        Self { first, more: Vec::new(), len, items, requests: index..index + 1 }
    }

    /// Takes the request if it belongs here too and fits; says whether it did.
    fn add(&mut self, single: &Single<'a>, max_bytes: usize, max_items: usize) -> bool {
        let (len, items) = (self.len + length(&single.scopes), self.items + single.items);
        let fits = single.around == self.first.around && framed(len) <= max_bytes && items <= max_items;
        if fits {
            self.more.extend_from_slice(&single.scopes);
            (self.len, self.items) = (len, items);
            self.requests.end += 1;
        }
        fits
    }

    fn end(self, requests: &[Bytes]) -> Merged {
        let Self { first, more, len, requests: range, .. } = self;
        if let [alone] = &requests[range.clone()] {
            return Merged { bytes: alone.clone(), requests: range };
        }
        let mut out = Vec::with_capacity(framed(len));
        out.push((RESOURCES << 3 | 2) as u8);
        put_varint(&mut out, len as u64);
        let (before, behind) = first.around.split_at(first.before);
        out.extend_from_slice(before);
        first.scopes.iter().chain(&more).for_each(|scopes| out.extend_from_slice(scopes));
        out.extend_from_slice(behind);
        Merged { bytes: out.into(), requests: range }
    }
}

fn length(slices: &[&[u8]]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

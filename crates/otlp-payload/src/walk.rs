//! Counting, naming and dividing the spans of a request without looking inside them.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;

use crate::payload::{BatchId, Payload};
use crate::wire::{DecodeError, Fields, array, put_varint, varint_len};

/// `ExportTraceServiceRequest.resource_spans`.
pub(crate) const RESOURCE_SPANS: u32 = 1;
/// `ResourceSpans.scope_spans`.
pub(crate) const SCOPE_SPANS: u32 = 2;
/// `ScopeSpans.spans`.
pub(crate) const SPANS: u32 = 2;

/// Counts the spans of an `ExportTraceServiceRequest`; the spans themselves are not looked into.
///
/// # Errors
///
/// When the bytes are no such request, down to the borders of the spans.
pub fn count_spans(request: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    for_each_span(request, |_, _| count += 1)?;
    Ok(count)
}

/// The trace id and span id of each span, in the order in which they stand.
///
/// An id of another length than OTLP's is right-aligned: missing bytes in front are 0, the last ones count.
///
/// # Errors
///
/// When the bytes are no readable request, the spans' own fields included; nothing is returned then.
pub fn span_ids(request: &[u8]) -> Result<impl ExactSizeIterator<Item = ([u8; 16], [u8; 8])>, DecodeError> {
    let mut ids = Vec::new();
    let mut result = Ok(());
    for_each_span(request, |span, base| {
        if result.is_ok() {
            result = ids_of(span, base).map(|found| ids.push(found));
        }
    })?;
    result?;
    Ok(ids.into_iter())
}

fn ids_of(span: &[u8], base: usize) -> Result<([u8; 16], [u8; 8]), DecodeError> {
    let mut ids = ([0; 16], [0; 8]);
    for field in Fields::new(span, base) {
        let field = field?;
        match field.number {
            1 => ids.0 = array(field.bytes()?.0),
            2 => ids.1 = array(field.bytes()?.0),
            _ => {}
        }
    }
    Ok(ids)
}

/// Calls `visit` with each span's content and its place in the request.
fn for_each_span<'a>(request: &'a [u8], mut visit: impl FnMut(&'a [u8], usize)) -> Result<(), DecodeError> {
    for resource_spans in messages(request, 0, RESOURCE_SPANS) {
        let (resource_spans, base) = resource_spans?;
        for scope_spans in messages(resource_spans, base, SCOPE_SPANS) {
            let (scope_spans, base) = scope_spans?;
            for span in messages(scope_spans, base, SPANS) {
                let (span, base) = span?;
                visit(span, base);
            }
        }
    }
    Ok(())
}

/// The contents of all fields of `message` with this number.
fn messages(message: &[u8], base: usize, number: u32) -> impl Iterator<Item = Result<(&[u8], usize), DecodeError>> {
    Fields::new(message, base).filter_map(move |field| match field {
        Ok(field) if field.number == number => Some(field.bytes()),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

impl Payload {
    /// Divides the batch into its first and its second half, by spans; each carries the resource and its scopes again.
    ///
    /// `created` stays. `None` when there are fewer than two spans, or when the bytes are no readable request (such a
    /// batch cannot be made smaller). Nothing of it is lost: fields unknown to this crate go into both halves.
    #[must_use]
    pub fn split(&self, left: BatchId, right: BatchId) -> Option<(Payload, Payload)> {
        let count = count_spans(self.bytes()).ok().filter(|count| *count >= 2)?;
        let middle = count / 2;
        let part = |id, from, to| {
            let bytes = pick(self.bytes(), from, to).ok()?;
            Some(Payload::new(id, self.created(), to - from, bytes))
        };
        Some((part(left, 0, middle)?, part(right, middle, count)?))
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
}

/// The request with only the spans `from..to`, counted over all scopes. Scopes and resources without such a span go.
fn pick(request: &[u8], from: usize, to: usize) -> Result<Bytes, DecodeError> {
    let mut seen = 0;
    let request = Part::read(request, 0, &[RESOURCE_SPANS, SCOPE_SPANS, SPANS], &mut seen, from, to)?;
    let mut out = Vec::with_capacity(request.length);
    request.write(&mut out);
    Ok(out.into())
}

/// The parts of one message that stay: their lengths are known before the first byte is written.
struct Part<'a> {
    message: &'a [u8],
    pieces: Vec<Piece<'a>>,
    length: usize,
    has_spans: bool,
}

enum Piece<'a> {
    /// This range of the message as it stands.
    Raw(Range<usize>),
    Message {
        number: u32,
        part: Part<'a>,
    },
}

impl<'a> Part<'a> {
    /// `path` are the field numbers that lead from here to the spans.
    fn read(
        message: &'a [u8],
        base: usize,
        path: &[u32],
        seen: &mut usize,
        from: usize,
        to: usize,
    ) -> Result<Self, DecodeError> {
        let mut part = Self { message, pieces: Vec::new(), length: 0, has_spans: false };
        for field in Fields::new(message, base) {
            let field = field?;
            let start = field.offset - base;
            let range = start..start + field.raw.len();
            match path {
                [number] if field.number == *number => {
                    field.bytes()?;
                    if (from..to).contains(seen) {
                        part.push_raw(range);
                        part.has_spans = true;
                    }
                    *seen += 1;
                }
                [number, below @ ..] if field.number == *number => {
                    let (content, base) = field.bytes()?;
                    let inner = Part::read(content, base, below, seen, from, to)?;
                    if inner.has_spans {
                        part.length += 1 + varint_len(inner.length as u64) + inner.length;
                        part.pieces.push(Piece::Message { number: *number, part: inner });
                        part.has_spans = true;
                    }
                }
                _ => part.push_raw(range),
            }
        }
        Ok(part)
    }

    /// Neighbours in the source stay one piece.
    fn push_raw(&mut self, range: Range<usize>) {
        self.length += range.len();
        match self.pieces.last_mut() {
            Some(Piece::Raw(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Raw(range)),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Raw(range) => out.extend_from_slice(self.message.get(range.clone()).unwrap_or_default()),
                Piece::Message { number, part } => {
                    out.push((*number << 3 | 2) as u8);
                    put_varint(out, part.length as u64);
                    part.write(out);
                }
            }
        }
    }
}

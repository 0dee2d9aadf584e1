//! One batch, written span by span.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::SpanData;

use super::scope::identical;
use super::{Encoder, ValueLimits, span};
use crate::payload::{BatchId, Payload};
use crate::wire::{put_bytes, put_varint, varint_len};

/// A writer keeps the buffers of this many scopes of earlier batches. Programs have a few; a program that makes a scope
/// a request would fill memory with them.
const KEPT_SCOPES: usize = 32;

/// How many scopes are searched by the cheap comparison before the hash decides.
const NEAR: usize = 4;

/// A buffer above this many bytes that the last batch used to less than a quarter is given back.
const LARGE: usize = 64 * 1_024;

/// A buffer above this many bytes, which one huge span may have made, is given back at once.
const HUGE: usize = 4 * 1_024 * 1_024;

/// Encodes the spans of a batch one at a time, on the threads on which they end.
///
/// The bytes of the finished batch are those of [`Encoder::encode`] for the same spans in the same order. Buffers are
/// used again: after a first batch a usual span costs no allocation.
///
/// ```
/// use std::time::SystemTime;
///
/// use opentelemetry_sdk::Resource;
/// use opentelemetry_sdk::trace::SpanData;
/// use otlp_payload::{BatchId, BatchWriter, Encoder, Payload, ValueLimits};
///
/// fn gather(writer: &mut BatchWriter, encoder: &Encoder, span: &SpanData) -> Option<Payload> {
///     writer.push(span);
///     let id = BatchId { incarnation: 0x5eed, seq: 0 };
///     (writer.span_count() == 512).then(|| writer.finish(encoder, id, SystemTime::UNIX_EPOCH))
/// }
///
/// let mut writer = BatchWriter::new(ValueLimits::default());
/// let encoder = Encoder::new(&Resource::builder_empty().build());
/// # let span = SpanData {
/// #     span_context: opentelemetry::trace::SpanContext::NONE,
/// #     parent_span_id: opentelemetry::trace::SpanId::INVALID,
/// #     parent_span_is_remote: false,
/// #     span_kind: opentelemetry::trace::SpanKind::Server,
/// #     name: "GET /".into(),
/// #     start_time: SystemTime::UNIX_EPOCH,
/// #     end_time: SystemTime::UNIX_EPOCH,
/// #     attributes: vec![],
/// #     dropped_attributes_count: 0,
/// #     events: Default::default(),
/// #     links: Default::default(),
/// #     status: opentelemetry::trace::Status::Unset,
/// #     instrumentation_scope: Default::default(),
/// # };
/// assert!(gather(&mut writer, &encoder, &span).is_none());
/// assert_eq!(writer.span_count(), 1);
/// ```
pub struct BatchWriter {
    limits: ValueLimits,
    scopes: Vec<Scope>,
    /// The scopes of this batch in the order of their first span, as indices.
    order: Vec<usize>,
    /// The scope of the last span.
    last: usize,
    /// The scopes that the cheap comparison does not find.
    by_scope: HashMap<InstrumentationScope, usize>,
    spans: usize,
    /// The time of the youngest span.
    newest: u64,
    /// The bytes of all spans and scopes.
    bytes: usize,
}

struct Scope {
    scope: InstrumentationScope,
    /// Field 1 of `ScopeSpans`.
    head: Vec<u8>,
    /// Its spans, each as field 2 of `ScopeSpans`.
    spans: Vec<u8>,
    /// The bytes of whole spans: a panic may leave a part of one behind them.
    whole: usize,
    /// The batch has a span of it.
    is_used: bool,
}

impl Scope {
    fn new(scope: &InstrumentationScope, limits: ValueLimits) -> Self {
        let mut head = Vec::new();
        span::scope(&mut head, scope, limits.scopes);
        Self { scope: scope.clone(), head, spans: Vec::new(), whole: 0, is_used: false }
    }

    fn schema_url(&self) -> &[u8] {
        self.scope.schema_url().unwrap_or_default().as_bytes()
    }

    /// The bytes of the `ScopeSpans`, without its tag and length.
    fn len(&self) -> usize {
        let url = self.schema_url().len();
        self.head.len() + self.whole + if url == 0 { 0 } else { field_len(url) }
    }
}

/// The bytes of a field with a one-byte tag and so many bytes of content.
fn field_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

impl BatchWriter {
    /// An empty batch. Longer texts in attributes are cut as by [`Encoder::with_value_limits`].
    #[must_use]
    pub fn new(limits: ValueLimits) -> Self {
        Self {
            limits,
            scopes: Vec::new(),
            order: Vec::new(),
            last: 0,
            by_scope: HashMap::new(),
            spans: 0,
            newest: 0,
            bytes: 0,
        }
    }

    /// Adds a span. After a panic in here, which would be a fault of ours, the batch is as before the call.
    pub fn push(&mut self, span: &SpanData) {
        let index = match self.scopes.get(self.last) {
            Some(last) if last.is_used && identical(&last.scope, &span.instrumentation_scope) => self.last,
            _ => self.index_of(&span.instrumentation_scope),
        };
        let scope = &mut self.scopes[index];
        scope.spans.truncate(scope.whole);
        span::span(&mut scope.spans, span, self.limits.spans);
        self.bytes += scope.spans.len() - scope.whole;
        scope.whole = scope.spans.len();
        self.use_scope(index);
        self.last = index;
        self.spans += 1;
        self.newest = self.newest.max(span::time(span));
    }

    /// Gives the scope its place in the order of this batch.
    fn use_scope(&mut self, index: usize) {
        let scope = &mut self.scopes[index];
        if !scope.is_used {
            scope.is_used = true;
            self.bytes += scope.head.len() + scope.schema_url().len() + 16;
            self.order.push(index);
        }
    }

    fn index_of(&mut self, scope: &InstrumentationScope) -> usize {
        let near = self.scopes.iter().take(NEAR).position(|known| identical(&known.scope, scope));
        let index = near.unwrap_or_else(|| {
            let next = self.scopes.len();
            *self.by_scope.entry(scope.clone()).or_insert(next)
        });
        match self.scopes.get_mut(index) {
            None => self.scopes.push(Scope::new(scope, self.limits)),
            // Attributes in the order of the first span of this batch.
            Some(known) if !known.is_used && !identical(&known.scope, scope) => {
                let spans = std::mem::take(&mut known.spans);
                *known = Scope { spans, ..Scope::new(scope, self.limits) };
            }
            Some(_) => {}
        }
        index
    }

    /// The spans of the batch so far.
    #[must_use]
    pub fn span_count(&self) -> usize {
        self.spans
    }

    /// The bytes of the batch so far, without the resource: exact to a few bytes a scope.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.bytes
    }

    /// The batch as a request, with the resource of `encoder`; the writer is empty then. One allocation of the exact
    /// size, and one of a few words.
    #[must_use]
    pub fn finish(&mut self, encoder: &Encoder, id: BatchId, created: SystemTime) -> Payload {
        let scopes = || self.order.iter().map(|&index| &self.scopes[index]);
        let inner = encoder.resource.len()
            + scopes().map(|scope| field_len(scope.len())).sum::<usize>()
            + encoder.schema_url.len();
        let mut out = Vec::with_capacity(field_len(inner));
        out.push(0x0a);
        put_varint(&mut out, inner as u64);
        out.extend_from_slice(&encoder.resource);
        for scope in scopes() {
            out.push(0x12);
            put_varint(&mut out, scope.len() as u64);
            out.extend_from_slice(&scope.head);
            out.extend_from_slice(&scope.spans[..scope.whole]);
            if !scope.schema_url().is_empty() {
                put_bytes(&mut out, 0x1a, scope.schema_url());
            }
        }
        out.extend_from_slice(&encoder.schema_url);
        let (spans, newest) = (std::mem::take(&mut self.spans), self.newest);
        self.reset();
        Payload::new(id, created, spans, out.into()).with_newest(newest)
    }

    /// Adds all spans of another batch, which is empty then. Copies the bytes of its spans.
    ///
    /// ```
    /// # use opentelemetry_sdk::trace::SpanData;
    /// use otlp_payload::{BatchWriter, ValueLimits};
    ///
    /// # fn demo(first: &SpanData, second: &SpanData) {
    /// let limits = ValueLimits::default();
    /// let (mut one, mut other) = (BatchWriter::new(limits), BatchWriter::new(limits));
    /// one.push(first);
    /// other.push(second);
    /// one.append(&mut other);
    /// assert_eq!((one.span_count(), other.span_count()), (2, 0));
    /// # }
    /// ```
    pub fn append(&mut self, other: &mut Self) {
        for &index in &other.order {
            let from = &other.scopes[index];
            let to = self.index_of(&from.scope);
            self.use_scope(to);
            let scope = &mut self.scopes[to];
            scope.spans.truncate(scope.whole);
            scope.spans.extend_from_slice(&from.spans[..from.whole]);
            self.bytes += from.whole;
            scope.whole = scope.spans.len();
        }
        self.newest = self.newest.max(other.newest);
        self.spans += other.clear();
    }

    /// Drops the spans of the batch so far; returns their number.
    pub fn clear(&mut self) -> usize {
        let spans = std::mem::take(&mut self.spans);
        self.reset();
        spans
    }

    fn reset(&mut self) {
        if self.scopes.len() > KEPT_SCOPES {
            self.scopes.clear();
            self.by_scope.clear();
        }
        for scope in &mut self.scopes {
            let capacity = scope.spans.capacity();
            if capacity > HUGE || capacity > LARGE && scope.whole < capacity / 4 {
                scope.spans = Vec::new();
            }
            scope.spans.clear();
            (scope.whole, scope.is_used) = (0, false);
        }
        self.order.clear();
        (self.last, self.bytes, self.newest) = (0, 0, 0);
    }
}

impl fmt::Debug for BatchWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchWriter").field("spans", &self.spans).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

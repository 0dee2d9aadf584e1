//! Spans to `ExportTraceServiceRequest` bytes, without structs in between.

mod scope;
mod span;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

use crate::payload::{BatchId, Payload};
use crate::wire::{close, open, put_bytes, varint_len};

pub use self::writer::BatchWriter;

/// Writes batches of one resource.
///
/// Without [limits](Self::with_value_limits) on values, the bytes are those that the stock OTLP exporter of
/// `opentelemetry-otlp` 0.33.1 sends, to the last byte: one
/// `ResourceSpans`, its scopes in the order of their first span, spans in the order given, times before 1970 as 0.
/// The resource is encoded once, in [`new`](Self::new); a clone shares it.
pub struct Encoder {
    /// Field 1 of `ResourceSpans`, tag and length included.
    resource: Bytes,
    /// Field 3 of `ResourceSpans`, tag and length included; empty without a schema URL.
    schema_url: Bytes,
    limits: ValueLimits,
    /// Bytes a span in the last batch: how much room the next one gets.
    bytes_per_span: AtomicUsize,
}

/// The longest texts in the values of attributes, in characters (Unicode code points): a longer text is cut, in an
/// array of texts each for itself. Names, messages of a status, attributes of the resource and values that are no texts
/// stay as they are (OpenTelemetry specification, [Attribute Limits]).
///
/// [Attribute Limits]: https://opentelemetry.io/docs/specs/otel/common/#attribute-limits
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ValueLimits {
    /// The most characters in a value of spans, their events and their links.
    pub spans: usize,
    /// The most characters in a value of instrumentation scopes.
    pub scopes: usize,
}

/// No limits.
impl Default for ValueLimits {
    fn default() -> Self {
        Self { spans: usize::MAX, scopes: usize::MAX }
    }
}

impl ValueLimits {
    /// The limits of the OpenTelemetry specification: the `general` one (`AttributeValueLengthLimit`) holds for every
    /// collection of attributes but the resource's, and the one `of_spans` beats it for spans with their events and
    /// links.
    #[must_use]
    pub fn new(general: Option<usize>, of_spans: Option<usize>) -> Self {
        let of = |limit: Option<usize>| limit.unwrap_or(usize::MAX);
        Self { spans: of(of_spans.or(general)), scopes: of(general) }
    }
}

/// The size estimate of a span before the first batch: about that of an HTTP server span.
const FIRST_GUESS: usize = 640;

impl Encoder {
    /// Encodes the resource.
    #[must_use]
    pub fn new(resource: &Resource) -> Self {
        let mut encoded = Vec::new();
        let message = open(&mut encoded, 0x0a, 2);
        for (key, value) in resource {
            span::key_value(&mut encoded, 0x0a, key.as_str(), value, usize::MAX);
        }
        close(&mut encoded, message);
        let mut schema_url = Vec::new();
        if let Some(url) = resource.schema_url().filter(|url| !url.is_empty()) {
            put_bytes(&mut schema_url, 0x1a, url.as_bytes());
        }
        Self {
            resource: encoded.into(),
            schema_url: schema_url.into(),
            limits: ValueLimits::default(),
            bytes_per_span: AtomicUsize::new(FIRST_GUESS),
        }
    }

    /// Cuts long texts in attributes; none by default.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use opentelemetry::KeyValue;
    /// # use opentelemetry_sdk::Resource;
    /// use otlp_payload::{BatchId, Encoder, ValueLimits, decode};
    ///
    /// # let context = opentelemetry::trace::SpanContext::NONE;
    /// # let mut span = opentelemetry_sdk::trace::SpanData {
    /// #     span_context: context,
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
    /// span.attributes = vec![KeyValue::new("city", "K\u{f6}ln am Rhein"), KeyValue::new("size", 1_000_000)];
    /// let limits = ValueLimits::new(Some(4), None);
    /// let encoder = Encoder::new(&Resource::builder_empty().build()).with_value_limits(limits);
    /// let payload = encoder.encode(BatchId { incarnation: 1, seq: 0 }, SystemTime::UNIX_EPOCH, &[span]);
    /// let attributes = &decode(payload.bytes())?.spans[0].attributes;
    /// assert_eq!(attributes[..], [KeyValue::new("city", "K\u{f6}ln"), KeyValue::new("size", 1_000_000)]);
    /// # Ok::<(), otlp_payload::DecodeError>(())
    /// ```
    #[must_use]
    pub fn with_value_limits(mut self, limits: ValueLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Encodes one batch; `id` and `created` go into the payload as they are.
    ///
    /// One allocation for the bytes when the batches resemble each other, one of a few words for the place where clones
    /// keep a compressed form, and two small ones for the order of scopes when there are several; the result holds no
    /// spare capacity.
    #[must_use]
    pub fn encode(&self, id: BatchId, created: SystemTime, spans: &[SpanData]) -> Payload {
        let expected = self.bytes_per_span.load(Ordering::Relaxed).saturating_mul(spans.len());
        let overhead = self.resource.len() + self.schema_url.len() + 256;
        let mut out = Vec::with_capacity(expected.saturating_add(expected / 8).saturating_add(overhead));

        let request = open(&mut out, 0x0a, length_guess(expected + overhead));
        out.extend_from_slice(&self.resource);
        scope::group(spans).for_each(|scope, scope_spans| {
            let expected = expected / spans.len() * scope_spans.len() + 64;
            let message = open(&mut out, 0x12, length_guess(expected));
            span::scope(&mut out, scope, self.limits.scopes);
            for span in scope_spans {
                span::span(&mut out, span, self.limits.spans);
            }
            if let Some(url) = scope.schema_url().filter(|url| !url.is_empty()) {
                put_bytes(&mut out, 0x1a, url.as_bytes());
            }
            close(&mut out, message);
        });
        out.extend_from_slice(&self.schema_url);
        close(&mut out, request);

        if !spans.is_empty() {
            self.bytes_per_span.store(out.len() / spans.len(), Ordering::Relaxed);
        }
        out.shrink_to_fit();
        let newest = spans.iter().map(span::time).max().unwrap_or_default();
        Payload::new(id, created, spans.len(), out.into()).with_newest(newest)
    }
}

/// A length field is as long as its number needs; `close` moves the content when this is wrong.
fn length_guess(length: usize) -> usize {
    varint_len(length as u64).min(5)
}

impl Clone for Encoder {
    fn clone(&self) -> Self {
        Self {
            resource: self.resource.clone(),
            schema_url: self.schema_url.clone(),
            limits: self.limits,
            bytes_per_span: AtomicUsize::new(self.bytes_per_span.load(Ordering::Relaxed)),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("resource_bytes", &self.resource.len()).finish_non_exhaustive()
    }
}

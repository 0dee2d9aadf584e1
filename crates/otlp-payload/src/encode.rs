//! Spans to `ExportTraceServiceRequest` bytes, without structs in between.

mod scope;
mod span;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

use crate::payload::{BatchId, Payload};
use crate::wire::{close, open, put_bytes, varint_len};

/// Writes batches of one resource.
///
/// The bytes are those that the stock OTLP exporter of `opentelemetry-otlp` 0.33.1 sends, to the last byte: one
/// `ResourceSpans`, its scopes in the order of their first span, spans in the order given, times before 1970 as 0.
/// The resource is encoded once, in [`new`](Self::new); a clone shares it.
pub struct Encoder {
    /// Field 1 of `ResourceSpans`, tag and length included.
    resource: Bytes,
    /// Field 3 of `ResourceSpans`, tag and length included; empty without a schema URL.
    schema_url: Bytes,
    /// Bytes a span in the last batch: how much room the next one gets.
    bytes_per_span: AtomicUsize,
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
            span::key_value(&mut encoded, 0x0a, key.as_str(), value);
        }
        close(&mut encoded, message);
        let mut schema_url = Vec::new();
        if let Some(url) = resource.schema_url().filter(|url| !url.is_empty()) {
            put_bytes(&mut schema_url, 0x1a, url.as_bytes());
        }
        Self { resource: encoded.into(), schema_url: schema_url.into(), bytes_per_span: AtomicUsize::new(FIRST_GUESS) }
    }

    /// Encodes one batch; `id` and `created` go into the payload as they are.
    ///
    /// One allocation when the batches resemble each other (and two small ones for the order of scopes when there are
    /// several); the result holds no spare capacity.
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
            span::scope(&mut out, scope);
            for span in scope_spans {
                span::span(&mut out, span);
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
        Payload::new(id, created, spans.len(), out.into())
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
            bytes_per_span: AtomicUsize::new(self.bytes_per_span.load(Ordering::Relaxed)),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("resource_bytes", &self.resource.len()).finish_non_exhaustive()
    }
}

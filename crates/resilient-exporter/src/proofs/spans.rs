//! Spans for tests.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// The start of each span; its end is up to 50 ms later.
pub(crate) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// `count` spans whose ids count from `first`.
pub(crate) fn spans(first: u64, count: usize) -> Vec<SpanData> {
    let scope = InstrumentationScope::builder("test").build();
    let start = start();
    (first..first + count as u64)
        .map(|number| SpanData {
            span_context: SpanContext::new(
                TraceId::from(u128::from(number)),
                SpanId::from(number),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "work".into(),
            start_time: start,
            end_time: start + Duration::from_millis(number % 50),
            attributes: vec![KeyValue::new("number", number.cast_signed())],
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope.clone(),
        })
        .collect()
}

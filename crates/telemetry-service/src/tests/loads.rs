//! Spans through the process's own pipeline.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use telemetry_manager::opentelemetry::trace::{Span as _, SpanBuilder, Status, Tracer as _, TracerProvider as _};
use telemetry_manager::opentelemetry::{Context, KeyValue};

use super::pipeline::StartError;
use super::registry::Tests;
use super::run::TEST_ID;

/// Spans to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loads {
    pub(crate) span_count: u32,
    pub(crate) delay: Duration,
    pub(crate) include_errors: bool,
}

impl Loads {
    /// So many spans, without a pause and without errors.
    #[must_use]
    pub const fn new(span_count: u32) -> Self {
        Self { span_count, delay: Duration::ZERO, include_errors: false }
    }

    /// Sets the pause between two spans.
    #[must_use]
    pub const fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets whether every tenth span has the status *error*.
    #[must_use]
    pub const fn with_errors(mut self, include_errors: bool) -> Self {
        self.include_errors = include_errors;
        self
    }
}

/// Spans that were made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Generated {
    /// Spans that were started and ended: the sampler of the process decides which of them are exported.
    pub generated: u32,
    /// Spans of these whose status is *error*.
    pub errors: u32,
    /// The attribute `holdfast.test_id` of each.
    pub test_id: String,
}

/// Every so many spans one has an error.
const ERROR_EVERY: u32 = 10;
/// Spans until the SDK's queue, which drops spans uncounted when it is full, is exported: a quarter of its places,
/// since another load and the application fill it too, and at most so many.
const FLUSH_EVERY: usize = 512;

/// A load that waits for room looks so often, and for so long: an exporter moves what an endpoint does not take to the
/// disk after 1.5 s.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Tests {
    /// Makes spans by the process's own provider, sampler included, and returns when they are in its exporter. Each is
    /// the root of a trace. Dropping the future ends it between two spans. Runs in a tokio runtime with time enabled.
    ///
    /// A load takes no memory from the application's spans: while seven eighths of a limit of the exporter's buffer are
    /// taken it waits, for 5 s at most. Then it ends early, and [`Generated::generated`] says how far it came.
    ///
    /// # Errors
    ///
    /// [`StartError`]: no span was made.
    pub async fn generate(&self, loads: Loads) -> Result<Generated, StartError> {
        if self.observer().faults().is_none() {
            return Err(StartError::NotExported);
        }
        let _place = self.load_place()?;
        let Loads { span_count, delay, include_errors } = loads;
        let (test_id, mut errors) = (self.new_id(), 0);
        let flush_every = self.flush_every();
        let tracer = self.observer().tracer_provider().tracer("holdfast.test");
        for number in 1..=span_count {
            let builder =
                SpanBuilder::from_name("holdfast.load").with_attributes([KeyValue::new(TEST_ID, test_id.clone())]);
            let mut span = tracer.build_with_context(builder, &Context::new());
            if include_errors && number % ERROR_EVERY == 0 {
                span.set_status(Status::error("an error that the load test asked for"));
                errors += 1;
            }
            span.end();
            if number == span_count || number % flush_every == 0 {
                self.flush().await;
                if number < span_count && !self.has_room().await {
                    return Ok(Generated { generated: number, errors, test_id });
                }
            }
            if number < span_count && !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        Ok(Generated { generated: span_count, errors, test_id })
    }

    /// Spans between two flushes: so many that neither the SDK's queue nor the free eighth of memory is filled by two
    /// loads.
    fn flush_every(&self) -> u32 {
        let queue = self.observer().settings().batch.max_queue_size / 4;
        let memory = self.observer().exporter_health().map_or(0, |health| health.memory.max_spans);
        let memory = if memory == 0 { usize::MAX } else { usize::try_from(memory / 16).unwrap_or(usize::MAX) };
        u32::try_from(queue.min(memory).clamp(1, FLUSH_EVERY)).unwrap_or(1)
    }

    /// Waits until an eighth of the exporter's memory is free: above that its disk thread is at work. False: that took
    /// too long.
    async fn has_room(&self) -> bool {
        let waits = async {
            loop {
                let Some(health) = self.observer().exporter_health() else { return };
                let memory = &health.memory;
                // 0 is no limit.
                let has_room = |taken: u64, limit: u64| limit == 0 || taken <= limit / 8 * 7;
                if has_room(memory.spans, memory.max_spans) && has_room(memory.bytes, memory.max_bytes) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(LONGEST_WAIT, waits).await.is_ok()
    }

    async fn flush(&self) {
        let provider = self.observer().tracer_provider().clone();
        // The SDK's flush blocks its thread. A provider that is shut down by now has counted the spans as refused.
        let _ = tokio::task::spawn_blocking(move || provider.force_flush()).await;
    }
}

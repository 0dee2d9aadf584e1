//! Spans through the process's own pipeline.

use std::num::NonZeroUsize;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use telemetry_manager::opentelemetry::trace::{Span as _, SpanBuilder, Status, Tracer as _, TracerProvider as _};
use telemetry_manager::opentelemetry::{Context, KeyValue};
use telemetry_manager::resilient_exporter::{Health, MemoryHealth};
use telemetry_manager::{Settings, TracesProcessor};

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
/// Spans until a load looks for room, at most. Where the SDK has a queue, which drops spans uncounted when it is full,
/// the load empties it then: after a quarter of its places, since another load and the application fill it too.
const LONGEST_STRIDE: usize = 512;

/// A load that waits for room looks so often, and for so long: an exporter moves what an endpoint does not take to the
/// disk after 1.5 s.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// An eighth of the exporter's memory is free: above that its disk thread is at work. Our processor keeps room for a
/// batch that it has begun, which the disk thread takes for spans.
fn has_room(health: &Health, settings: &Settings) -> bool {
    let MemoryHealth { spans, max_spans, bytes, max_bytes, .. } = health.memory;
    let (kept_spans, kept_bytes) = health.staging_capacity.map_or((0, 0), |capacity| {
        let batch = settings.exporter.request.max_spans.map_or(usize::MAX, NonZeroUsize::get);
        let batch = (settings.batch.max_export_batch_size.min(batch) as u64).min(capacity).max(1);
        // Batches that have begun take a quarter of the bytes at most.
        (batch, (max_bytes / 4 / (capacity / batch).max(1)).min(settings.exporter.request.max_bytes as u64))
    });
    // 0 is no limit.
    let is_free = |taken: u64, limit: u64| limit == 0 || taken.saturating_mul(8) <= limit.saturating_mul(7);
    is_free(spans.saturating_sub(health.ledger.staged) + kept_spans, max_spans)
        && is_free(bytes + kept_bytes, max_bytes)
}

impl Tests {
    /// Makes spans by the process's own provider, sampler included, and returns when they are in its exporter. Each is
    /// the root of a trace. Dropping the future ends it between two spans. Runs in a tokio runtime with time enabled.
    ///
    /// A load takes no memory from the application's spans: while seven eighths of a limit of the exporter's buffer are
    /// taken, or kept for batches that have begun, it waits, for 5 s at most. Then it ends early, and
    /// [`Generated::generated`] says how far it came.
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
        let look_every = self.look_every();
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
            if number == span_count || number % look_every == 0 {
                self.hand_over().await;
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

    /// Spans between two looks: so many that neither the SDK's queue nor the free eighth of memory is filled by two
    /// loads.
    fn look_every(&self) -> u32 {
        let settings = self.observer().settings();
        let queue = match settings.processor {
            TracesProcessor::Batch => settings.batch.max_queue_size / 4,
            _ => usize::MAX,
        };
        let memory = self.observer().exporter_health().map_or(0, |health| health.memory.max_spans);
        let memory = if memory == 0 { usize::MAX } else { usize::try_from(memory / 16).unwrap_or(usize::MAX) };
        u32::try_from(queue.min(memory).clamp(1, LONGEST_STRIDE)).unwrap_or(1)
    }

    /// Waits until [`has_room`]. False: that took too long.
    async fn has_room(&self) -> bool {
        let waits = async {
            loop {
                let Some(health) = self.observer().exporter_health() else { return };
                if has_room(&health, self.observer().settings()) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(LONGEST_WAIT, waits).await.is_ok()
    }

    /// Has the exporter take what the processor holds: the load's next spans find as much room as the health says.
    async fn hand_over(&self) {
        let observer = self.observer().clone();
        if observer.settings().processor == TracesProcessor::Batch {
            // Blocks its thread. Spans that the queue keeps are in no ledger.
            let _ = tokio::task::spawn_blocking(move || observer.hand_over()).await;
        } else if let Some(handle) = observer.handle() {
            // Waits for nothing: neither is a span sent past a backoff, nor one of the application's put on the disk.
            let _ = handle.settled(Duration::ZERO);
        }
    }
}

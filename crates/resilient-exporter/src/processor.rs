//! The span processor of the exporter, and a flush for users of another one.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};

use crate::exporter::ResilientSpanExporter;
use crate::handle::Handle;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::shell::staging::StagingSettings;

/// A batch span processor and its [`ResilientSpanExporter`] in one, without a queue of spans between them.
///
/// The thread that ends a span encodes it, a microsecond or two, into a batch that grows in bytes: no span waits in a
/// channel, none is dropped because a thread behind that channel is late, and no thread but the application's own runs
/// between a span and its batch. A batch goes on its way when it has [`Processor::max_export_batch_size`] spans or is
/// as large as a request may be, after [`Processor::scheduled_delay`], and with each flush and shutdown. Threads that
/// end spans at the same time fill up to eight batches; they wait for each other only where all are busy.
///
/// `on_end` does no I/O and waits for neither collector nor disk, also in durable mode: there a batch is handed to the
/// journal after [`Durability::staging`], and counts as [`accepted_not_durable`] if the journal does not have it within
/// [`Durability::sync_timeout`]. After a first batch it allocates no memory for a usual span. A panic in it is
/// contained; spans may end in destructors, in destructors of thread-local values and during a panic. Spans that are
/// recorded but not sampled are counted ([`Health::not_sampled`]) and passed over; the SDK hands those that a sampler
/// drops to no processor.
///
/// Spans in batches that are not full are [`staged`] in the ledger, and count against the buffer's limits.
///
/// ```
/// use opentelemetry::trace::{Tracer as _, TracerProvider as _};
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use resilient_exporter::ResilientSpanProcessor;
///
/// # let transport = otlp_transport::connect(otlp_transport::Config::builder().build()?)?;
/// let processor = ResilientSpanProcessor::builder()
///     .with_primary(transport)
///     .with_fallback_enabled(false)
///     .processor(|batches| batches.max_export_batch_size = 256)
///     .build_processor()?;
/// let handle = processor.handle();
/// let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
/// provider.tracer("shop").in_span("checkout", |_| ());
/// assert_eq!(handle.ledger().staged, 1);
/// # drop(provider);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Processor::max_export_batch_size`]: crate::Processor::max_export_batch_size
/// [`Processor::scheduled_delay`]: crate::Processor::scheduled_delay
/// [`Durability::staging`]: crate::Durability::staging
/// [`Durability::sync_timeout`]: crate::Durability::sync_timeout
/// [`accepted_not_durable`]: crate::Health::accepted_not_durable
/// [`Health::not_sampled`]: crate::Health::not_sampled
/// [`staged`]: crate::Ledger::staged
pub struct ResilientSpanProcessor {
    exporter: ResilientSpanExporter,
    flush_timeout: Duration,
}

impl ResilientSpanProcessor {
    pub(crate) fn new(exporter: ResilientSpanExporter, staging: StagingSettings, flush_timeout: Duration) -> Self {
        exporter.pipeline().shared.set_staging(staging);
        Self { exporter, flush_timeout }
    }

    /// A view that stays when the SDK owns the processor.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.exporter.handle()
    }

    /// [`ResilientSpanExporter::start_warnings`].
    #[must_use]
    pub fn start_warnings(&self) -> &[String] {
        self.exporter.start_warnings()
    }
}

impl SpanProcessor for ResilientSpanProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let shared = &self.exporter.pipeline().shared;
        if span.span_context.is_sampled() {
            // A panic here would be a fault of ours; the span may end in a destructor.
            let _ = catch_unwind(AssertUnwindSafe(|| shared.stage(&span)));
        } else if let Some(staging) = shared.staging() {
            staging.on_not_sampled();
        }
    }

    /// [`Handle::flush`] within [`Processor::export_timeout`](crate::Processor::export_timeout): after `Ok` each span
    /// that ended before is answered for, or safe on the disk. Blocks the calling thread.
    ///
    /// # Errors
    /// The text of the [`FlushError`](crate::FlushError).
    fn force_flush(&self) -> OTelSdkResult {
        flush(&self.handle(), self.flush_timeout)
    }

    /// Ends intake, hands the last batches on and shuts the exporter down, as
    /// [`ResilientSpanExporter`] does.
    ///
    /// # Errors
    /// As the exporter's.
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl fmt::Debug for ResilientSpanProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilientSpanProcessor").field("exporter", &self.exporter).finish_non_exhaustive()
    }
}

fn flush(handle: &Handle, timeout: Duration) -> OTelSdkResult {
    handle.flush(timeout).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
}

/// Gives another span processor in front of a [`ResilientSpanExporter`] a `force_flush` that means what it says.
///
/// The SDK's batch processor returns from `force_flush` once the exporter has taken its queue: the collector has no
/// span then, and a program that ends loses them all. This one then waits for the exporter too, as [`Handle::flush`]
/// does.
///
/// ```
/// use std::time::Duration;
///
/// use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider};
/// use resilient_exporter::{FlushingProcessor, ResilientSpanExporter};
///
/// # let transport = otlp_transport::connect(otlp_transport::Config::builder().build()?)?;
/// let exporter = ResilientSpanExporter::builder().with_primary(transport).with_fallback_enabled(false).build()?;
/// let handle = exporter.handle();
/// let batches = BatchSpanProcessor::builder(exporter).build();
/// let processor = FlushingProcessor::new(batches, handle, Duration::from_secs(30));
/// let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
/// provider.force_flush()?; // nothing waits
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FlushingProcessor<P> {
    inner: P,
    handle: Handle,
    timeout: Duration,
}

impl<P: SpanProcessor> FlushingProcessor<P> {
    /// `processor` exports to the exporter of `handle`; `timeout` bounds the wait for both, as far as the processor
    /// keeps to it, and at least a tenth of it is the exporter's.
    pub fn new(processor: P, handle: Handle, timeout: Duration) -> Self {
        Self { inner: processor, handle, timeout }
    }
}

impl<P: SpanProcessor> SpanProcessor for FlushingProcessor<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.inner.on_end(span);
    }

    /// # Errors
    /// The error of the exporter's flush, else that of the processor. Spans that the exporter has are flushed in any
    /// case.
    fn force_flush(&self) -> OTelSdkResult {
        let start = SystemClock.now();
        let emptied = self.inner.force_flush();
        let left = self.timeout.saturating_sub(SystemClock.now().saturating_duration_since(start));
        flush(&self.handle, left.max(self.timeout / 10)).and(emptied)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

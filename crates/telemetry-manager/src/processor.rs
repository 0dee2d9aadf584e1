//! The span processor in front of the exporter: ours, or the SDK's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanProcessor, TracerProviderBuilder,
};
use resilient_exporter::{
    BuildError, CallEnded, FlushingProcessor, ForkGuard, Handle, ResilientSpanExporter, ResilientSpanProcessor,
};

use crate::error::{FlushError, SetupError, panic_message};
use crate::settings::{Settings, TracesProcessor};
use crate::start::{StartLines, Telling};

/// A processor with its exporter, before the provider has it.
pub(crate) enum Processor {
    Resilient(ResilientSpanProcessor),
    /// The SDK's processor is built around the exporter.
    Batch(ResilientSpanExporter),
}

impl Processor {
    /// Builds the processor of the settings.
    pub(crate) fn build(kind: TracesProcessor, builder: resilient_exporter::Builder) -> Result<Self, BuildError> {
        match kind {
            TracesProcessor::Resilient => builder.build_processor().map(Self::Resilient),
            TracesProcessor::Batch => builder.shutdown(behind_a_queue).build().map(Self::Batch),
        }
    }

    pub(crate) fn start_warnings(&self) -> &[String] {
        match self {
            Self::Resilient(processor) => processor.start_warnings(),
            Self::Batch(exporter) => exporter.start_warnings(),
        }
    }

    /// Gives the processor to the provider, whose resource is `resource`. `lines` go out with the first export.
    ///
    /// # Errors
    /// The system refuses a thread to the SDK.
    pub(crate) fn install(
        self,
        provider: TracerProviderBuilder,
        resource: &Resource,
        settings: &Settings,
        lines: &Arc<StartLines>,
    ) -> Result<(TracerProviderBuilder, Running), SetupError> {
        match self {
            Self::Resilient(processor) => {
                let (handle, lines) = (processor.handle(), Arc::clone(lines));
                let telling: Arc<CallObserver> = Arc::new(move |_| lines.repeat());
                handle.observe_calls(&telling);
                Ok((
                    provider.with_span_processor(processor),
                    Running { handle, front: Front::None { _telling: telling } },
                ))
            }
            Self::Batch(exporter) => {
                let handle = exporter.handle();
                let exporter = Telling { exporter, lines: Arc::clone(lines) };
                // All three fields are set, so that the SDK's own reading of the environment decides none.
                let config = BatchConfigBuilder::default()
                    .with_scheduled_delay(settings.batch.schedule_delay)
                    .with_max_queue_size(settings.batch.max_queue_size)
                    .with_max_export_batch_size(settings.batch.max_export_batch_size)
                    .build();
                let queue = started(|| BatchSpanProcessor::builder(exporter).with_batch_config(config).build())?;
                let (shared, queue) = Queue::new(queue, resource);
                let flushing = FlushingProcessor::new(shared, handle.clone(), settings.batch.export_timeout);
                let guarded = ForkGuard::new(flushing, handle.clone());
                Ok((provider.with_span_processor(guarded), Running { handle, front: Front::Queue(queue) }))
            }
        }
    }
}

/// The exporter, and the part of the SDK that may hold spans in front of it.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    front: Front,
}

enum Front {
    /// The handle's own waits have the spans of our processor.
    None {
        /// Ends with its last owner.
        _telling: Arc<CallObserver>,
    },
    Queue(Arc<BatchSpanProcessor>),
}

type CallObserver = dyn Fn(CallEnded) + Send + Sync;

impl Running {
    /// Spans may be in a queue of the SDK's.
    pub(crate) fn has_queue(&self) -> bool {
        matches!(self.front, Front::Queue(_))
    }

    /// Has the SDK hand its queue to the exporter, and waits neither for the collector nor for files. A queue that was
    /// shut down is empty.
    pub(crate) fn empty_queue(&self) -> Result<(), FlushError> {
        let Front::Queue(queue) = &self.front else { return Ok(()) };
        match queue.force_flush() {
            Ok(()) | Err(OTelSdkError::AlreadyShutdown) => Ok(()),
            Err(error) => Err(FlushError::Sdk(error)),
        }
    }
}

/// The SDK's processor, shared with [`Running`]: `force_flush` of the provider waits for the exporter too.
#[derive(Debug)]
struct Queue(Arc<BatchSpanProcessor>);

impl Queue {
    fn new(mut processor: BatchSpanProcessor, resource: &Resource) -> (Self, Arc<BatchSpanProcessor>) {
        // A processor with two owners takes no resource any more.
        processor.set_resource(resource);
        let processor = Arc::new(processor);
        (Self(Arc::clone(&processor)), processor)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.0.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }
}

/// The SDK waits for its own last export and for the exporter together: seven tenths of a shutdown are the exporter's.
fn behind_a_queue(shutdown: &mut resilient_exporter::Shutdown) {
    // In this order no time is too long.
    shutdown.timeout = shutdown.timeout / 10 * 7;
}

/// Builds a part of the SDK that starts a thread, and panics where the system refuses it.
fn started<T>(build: impl FnOnce() -> T) -> Result<T, SetupError> {
    catch_unwind(AssertUnwindSafe(build)).map_err(|panic| {
        let cause = std::io::Error::other(panic_message(&*panic));
        SetupError::Exporter(BuildError::Thread(cause))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_the_system_refuses_to_the_sdk_is_an_error_and_no_panic() {
        let error = started(|| std::panic::resume_unwind(Box::new("no thread".to_owned()))).expect_err("a panic");
        assert_eq!(error.to_string(), "worker thread could not be started: no thread");
        assert_eq!(started(|| 7).ok(), Some(7));
    }
}

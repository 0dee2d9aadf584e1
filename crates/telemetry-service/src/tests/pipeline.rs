//! A provider and an exporter of a test's own.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use telemetry_manager::Observer;
use telemetry_manager::opentelemetry::Context;
use telemetry_manager::opentelemetry_sdk::Resource;
use telemetry_manager::opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use telemetry_manager::opentelemetry_sdk::trace::{
    Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use telemetry_manager::otlp_transport::{ConfigError, ErrorChain, Faults, connect};
use telemetry_manager::resilient_exporter::{BuildError, Handle, ResilientSpanExporter};

use super::scratch::Scratch;

/// The reason why a test, or load, does not start. `Display` has the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Telemetry is disabled, set not to export, or failed to start.
    NotExported,
    /// The program sends by a transport of its own, of which a test can make no second.
    OwnTransport,
    /// As many run as are accepted.
    TooMany {
        /// The number that is accepted.
        limit: usize,
    },
    /// The settings of the transport.
    Transport(ConfigError),
    /// The scratch directory.
    Scratch(io::Error),
    /// The exporter.
    Exporter(BuildError),
    /// The system refuses a thread.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotExported => f.write_str(
                "spans are not exported: /telemetry-test/health names the reason, such as OTEL_SDK_DISABLED=true",
            ),
            Self::OwnTransport => f.write_str(
                "this program sends spans by a transport of its own, and a test needs one of its settings: use \
                 generate-loads and simulate/collector-failure, which work with any transport",
            ),
            Self::TooMany { limit } => {
                write!(f, "{limit} run already, and no more are accepted at a time: wait for one to end, or cancel one")
            }
            Self::Transport(error) => error.fmt(f),
            Self::Scratch(error) => write!(
                f,
                "no scratch directory can be made ({error}): set TMPDIR to a directory that this process can write in"
            ),
            Self::Exporter(error) => write!(f, "the test's exporter does not start: {}", ErrorChain(error)),
            Self::Thread(error) => write!(f, "the system refuses a thread ({error}): raise the limit on threads"),
        }
    }
}

impl std::error::Error for StartError {}

/// The pipeline of one test.
pub(super) struct Pipeline {
    pub(super) provider: SdkTracerProvider,
    pub(super) handle: Handle,
    pub(super) faults: Faults,
    /// Removed, with the spans in it, when the test has ended.
    #[cfg_attr(not(test), expect(dead_code, reason = "held for its drop"))]
    scratch: Scratch,
}

/// Bytes of a test's fallback files, at most, those of its journal included: the two share a limit.
const MAX_FILES: u64 = 256 << 20;
/// Bytes of its dead letters, at most.
const MAX_LETTERS: u64 = 64 << 20;

impl Pipeline {
    /// Sends to the collector of `observer` by a transport and an exporter with the same settings, apart from the
    /// directories. Makes no connection; opens files and starts threads.
    pub(super) fn start(observer: &Observer) -> Result<Self, StartError> {
        if observer.faults().is_none() {
            return Err(StartError::NotExported);
        }
        let config = observer.transport_config().ok_or(StartError::OwnTransport)?.clone();
        let (timeout, faults) = (config.timeout(), Faults::default());
        let transport = faults.wrap(Arc::from(connect(config).map_err(StartError::Transport)?), timeout);
        let scratch = Scratch::new().map_err(StartError::Scratch)?;
        let of_process = observer.settings();
        let mut settings = of_process.exporter.clone();
        settings.state_dir = Some(scratch.state_dir());
        settings.fallback.dir = None;
        settings.fallback.max_bytes = settings.fallback.max_bytes.min(MAX_FILES);
        settings.journal.max_bytes = settings.journal.max_bytes.min(MAX_FILES);
        settings.dead_letter.max_bytes = settings.dead_letter.max_bytes.min(MAX_LETTERS);
        settings.state_service = None;
        settings.old_state_dirs.clear();
        settings.old_fallback_dirs.clear();
        settings.state_dir_required = true;
        let exporter = ResilientSpanExporter::builder().with_settings(settings).with_primary(transport);
        let exporter = exporter.build().map_err(StartError::Exporter)?;
        let handle = exporter.handle();
        let size = of_process.batch.max_export_batch_size.max(1);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_span_limits(of_process.span_limits)
            .with_resource(Resource::builder_empty().with_service_name(of_process.service_name.clone()).build())
            .with_span_processor(Batches { exporter, size, ended: Mutex::default() })
            .build();
        Ok(Self { provider, handle, faults, scratch })
    }
}

#[cfg(test)]
impl Pipeline {
    pub(super) fn scratch(&self) -> &std::path::Path {
        self.scratch.path()
    }
}

/// Exports spans in batches on the thread that ends them. Unlike the SDK's processor it has no queue in which a span is
/// dropped uncounted: each span is in the exporter's ledger after a flush.
#[derive(Debug)]
struct Batches {
    exporter: ResilientSpanExporter,
    size: usize,
    ended: Mutex<Vec<SpanData>>,
}

impl Batches {
    fn ended(&self) -> MutexGuard<'_, Vec<SpanData>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        // The exporter's future is ready: it puts the batch into its buffer, and waits for no collector.
        match pin!(self.exporter.export(batch)).poll(&mut Task::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(OTelSdkError::InternalFailure("the exporter waits".to_owned())),
        }
    }
}

impl SpanProcessor for Batches {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let mut ended = self.ended();
        ended.push(span);
        if ended.len() >= self.size {
            let batch = std::mem::take(&mut *ended);
            drop(ended);
            // A refusal is in the ledger.
            let _ = self.export(batch);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        let batch = std::mem::take(&mut *self.ended());
        self.export(batch)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let _ = self.force_flush();
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

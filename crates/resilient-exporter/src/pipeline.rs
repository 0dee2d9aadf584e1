//! The way of one signal's requests to its collector, without the SDK in front.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use otlp_payload::{DecodeError, Payload, Signal, check_items};

use crate::handle::Handle;
use crate::report::forked::Forked;
use crate::report::ledger::RefuseReason;
use crate::seams::settings::Shutdown;
use crate::shell::ending::ShutdownError;
use crate::shell::shared::Shared;

/// Carries encoded OTLP requests of one signal to a collector, as a
/// [`ResilientSpanExporter`](crate::ResilientSpanExporter) carries spans: by buffer, breaker, retries, files and
/// journal, with a ledger of its own. For logs and metrics, and for programs that have encoded requests;
/// [`Builder::build_pipeline`](crate::Builder::build_pipeline) makes one.
///
/// Ledger, events and texts count the items of the signal under the name of spans: log records, or data points.
///
/// ```no_run
/// use std::time::Duration;
///
/// use otlp_payload::Signal;
/// use resilient_exporter::ResilientSpanExporter;
///
/// # use otlp_transport::Transport;
/// # fn example(transport: impl Transport, request: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
/// let builder = ResilientSpanExporter::builder().with_primary(transport).with_state_dir("/var/lib/shop/telemetry");
/// let logs = builder.build_pipeline(Signal::Logs)?;
/// logs.offer(request.into())?; // the bytes of an `ExportLogsServiceRequest`
/// logs.shutdown(Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
pub struct Pipeline {
    pub(crate) shared: Arc<Shared>,
    settings: Shutdown,
    shut_down: AtomicBool,
    pub(crate) start_warnings: Vec<String>,
}

/// A request that was not accepted, or not as a whole. The ledger counts refused items; those of an unreadable request
/// are not known. To keep a request for later, offer a clone of its bytes, which costs a reference count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// The bytes are no request of the signal: another signal's, or damaged ones. Nothing of it was accepted. Another
    /// signal is noticed by the types of the items' fields: a log record with nothing but a body looks like a span with
    /// nothing but a name.
    #[error("the bytes are no request of {signal}: encode an Export{0}ServiceRequest", message(*signal))]
    Unreadable {
        /// The signal of the pipeline.
        signal: Signal,
        /// The fault.
        #[source]
        source: DecodeError,
    },
    /// An item alone is larger than the whole buffer and was refused. The other items of the request were accepted: do
    /// not offer it again.
    #[error("an item alone is larger than the whole buffer and was refused: raise the buffer's maximum bytes")]
    LargerThanBuffer,
    /// The pipeline was shut down. Nothing was accepted.
    #[error("the pipeline is shut down: offer requests before that")]
    AlreadyShutdown,
    /// This process was forked from the one that built the pipeline. Nothing was accepted.
    #[error(transparent)]
    Forked(Forked),
}

/// The word of a signal in the names of its messages.
const fn message(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "Trace",
        Signal::Logs => "Logs",
        Signal::Metrics => "Metrics",
    }
}

impl Pipeline {
    pub(crate) fn new(shared: Arc<Shared>, settings: Shutdown) -> Self {
        Self { shared, settings, shut_down: AtomicBool::new(false), start_warnings: Vec::new() }
    }

    /// The signal of its requests.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.shared.signal
    }

    /// The warnings about storage that [`Builder::build_pipeline`](crate::Builder::build_pipeline) has logged.
    #[must_use]
    pub fn start_warnings(&self) -> &[String] {
        &self.start_warnings
    }

    /// A view that stays when the pipeline has gone.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Accepts the bytes of an `Export<Signal>ServiceRequest`: puts them into the buffer and returns. Waits for
    /// nothing, but in durable mode for the journal, no longer than the journal's time-out. A request without an item
    /// is passed over.
    ///
    /// # Errors
    /// [`OfferError`] says which part of the request was not accepted.
    pub fn offer(&self, request: Bytes) -> Result<(), OfferError> {
        let signal = self.signal();
        let unreadable = |source| OfferError::Unreadable { signal, source };
        let items = check_items(signal, &request).map_err(unreadable)?;
        if items == 0 {
            return Ok(());
        }
        if let Some(forked) = self.shared.process.refuse(items) {
            return Err(OfferError::Forked(forked));
        }
        let id = self.shared.core().next_id();
        let payload = Payload::of(signal, id, self.shared.clock.wall(), items, request);
        match self.accept(payload, self.shared.clock.now()) {
            Ok(()) => Ok(()),
            Err(RefuseReason::AlreadyShutdown) => Err(OfferError::AlreadyShutdown),
            Err(RefuseReason::LargerThanBuffer | RefuseReason::EncodePanicked | RefuseReason::Forked) => {
                Err(OfferError::LargerThanBuffer)
            }
        }
    }

    /// Takes a batch that was encoded at `now`.
    ///
    /// # Errors
    /// The reason for which the batch, or an item of it, is refused.
    pub(crate) fn accept(&self, payload: Payload, now: Instant) -> Result<(), RefuseReason> {
        let _ = catch_unwind(AssertUnwindSafe(|| self.shared.make_durable(&payload)));
        // A panic here would be a fault of ours: it ends neither the caller's thread nor its tracing.
        let offer = || self.shared.decide(|core| core.on_offered(payload, now));
        let offered = catch_unwind(AssertUnwindSafe(offer));
        self.shared.net.notify_one();
        offered.unwrap_or(Ok(()))
    }

    /// Stops intake, sends the waiting batches, writes the rest to the fallback, and returns within `timeout` or
    /// [`Shutdown::timeout`](crate::Shutdown::timeout), whichever is shorter: as the exporter's shutdown does. A second
    /// call returns the result that [`Handle::shutdown_result`] has. Dropping the pipeline shuts it down.
    ///
    /// # Errors
    /// [`ShutdownError`] counts the items that were dropped, and those in memory only.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        if self.begin_shutdown()
            && let Ok(result) = catch_unwind(AssertUnwindSafe(|| self.end(timeout)))
        {
            return result;
        }
        self.shared.shutdown_result()
    }

    /// Returns whether this is the first call.
    pub(crate) fn begin_shutdown(&self) -> bool {
        !self.shut_down.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.shared.drain_and_stop(timeout.min(self.settings.timeout), self.settings.replay)
    }

    pub(crate) fn longest_wait(&self) -> Duration {
        self.settings.timeout
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.begin_shutdown() {
            let _ = catch_unwind(AssertUnwindSafe(|| self.end(self.settings.timeout)));
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (signal, endpoint) = (&self.shared.signal, self.shared.primary());
        f.debug_struct("Pipeline").field("signal", signal).field("endpoint", &endpoint).finish_non_exhaustive()
    }
}

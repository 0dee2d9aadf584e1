//! Flush, checkpoint and the wait for stored spans, for the guard and for its observers: the SDK's queue first, if
//! there is one, then the exporter.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use resilient_exporter::{Clock as _, SystemClock};

use crate::error::FlushError;
use crate::manager::{Inner, Observer, OpenTelemetryManager};

/// The three waits differ in what the exporter does.
#[derive(Clone, Copy)]
enum Verb {
    Flush,
    Checkpoint,
    Settled,
}

/// With the SDK's batch processor ([`TracesProcessor::Batch`](crate::TracesProcessor::Batch)), which takes up to 5 s of
/// its own to empty its queue into the exporter, `timeout` is that of both, and at least a tenth of it is the
/// exporter's.
impl OpenTelemetryManager {
    /// Has every span that ended before this call leave memory: waits until the collector has answered for each; when
    /// it takes nothing, at the latest after half of `timeout`, until the rest is safe in files, or in the journal in
    /// durable mode. [`resilient_exporter::Handle::flush`] says how. Blocks the calling thread; on a runtime's worker
    /// use [`flush_async`](Self::flush_async).
    ///
    /// ```
    /// # fn demo(telemetry: &telemetry_manager::OpenTelemetryManager) {
    /// // A function on a platform that freezes the process after each request:
    /// if let Err(error) = telemetry.flush(std::time::Duration::from_secs(2)) {
    ///     eprintln!("{error}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`FlushError`] with the number of spans that are in memory only. They stay on their way. In a process that was
    /// forked from the one of the set-up, and on a thread of the exporter's: at once, with that reason.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.inner.wait(Verb::Flush, timeout)
    }

    /// [`flush`](Self::flush) for asynchronous code: waits on a thread of its own, with any runtime or none. A dropped
    /// future ends nothing: that thread waits on.
    ///
    /// # Errors
    ///
    /// As `flush`; or [`FlushError::NoThread`].
    pub async fn flush_async(&self, timeout: Duration) -> Result<(), FlushError> {
        self.observer().wait_async(Verb::Flush, timeout).await
    }

    /// A [`flush`](Self::flush) that begins with one attempt outside of backoff and breaker, and has the rest safe on
    /// the disk at once: for the last moment before the process may be stopped.
    ///
    /// # Errors
    ///
    /// As `flush`.
    pub fn checkpoint(&self, timeout: Duration) -> Result<(), FlushError> {
        self.inner.wait(Verb::Checkpoint, timeout)
    }

    /// [`checkpoint`](Self::checkpoint) for asynchronous code, as [`flush_async`](Self::flush_async).
    ///
    /// # Errors
    ///
    /// As `checkpoint`; or [`FlushError::NoThread`].
    pub async fn checkpoint_async(&self, timeout: Duration) -> Result<(), FlushError> {
        self.observer().wait_async(Verb::Checkpoint, timeout).await
    }

    /// Waits until every span that ended before this call has left memory and no fallback file is left, or until
    /// `timeout` has passed. Breaker and backoff decide as always. Blocks the calling thread; on a runtime's worker use
    /// [`settled_async`](Self::settled_async).
    ///
    /// # Errors
    ///
    /// [`FlushError`] with the number of spans that still wait. They stay in memory or in files, and are sent later. In
    /// a process that was forked from the one of the set-up, and on a thread of the exporter's: at once, with that
    /// reason.
    pub fn settled(&self, timeout: Duration) -> Result<(), FlushError> {
        self.inner.wait(Verb::Settled, timeout)
    }

    /// [`settled`](Self::settled) for asynchronous code, as [`flush_async`](Self::flush_async).
    ///
    /// # Errors
    ///
    /// As `settled`; or [`FlushError::NoThread`].
    pub async fn settled_async(&self, timeout: Duration) -> Result<(), FlushError> {
        self.observer().wait_async(Verb::Settled, timeout).await
    }
}

impl Observer {
    /// [`OpenTelemetryManager::flush_async`].
    ///
    /// # Errors
    ///
    /// As that.
    pub async fn flush_async(&self, timeout: Duration) -> Result<(), FlushError> {
        self.wait_async(Verb::Flush, timeout).await
    }

    /// [`OpenTelemetryManager::checkpoint_async`].
    ///
    /// # Errors
    ///
    /// As that.
    pub async fn checkpoint_async(&self, timeout: Duration) -> Result<(), FlushError> {
        self.wait_async(Verb::Checkpoint, timeout).await
    }

    /// [`OpenTelemetryManager::settled_async`].
    ///
    /// # Errors
    ///
    /// As that.
    pub async fn settled_async(&self, timeout: Duration) -> Result<(), FlushError> {
        self.wait_async(Verb::Settled, timeout).await
    }

    /// Has the SDK's processor hand its queue to the exporter, and waits neither for the collector nor for files: each
    /// span that ended before is in the ledger then. Does nothing with the
    /// [resilient](crate::TracesProcessor::Resilient) processor, where it is from its end on. Blocks the calling
    /// thread, for 5 s at most.
    ///
    /// # Errors
    ///
    /// [`FlushError::Sdk`].
    pub fn hand_over(&self) -> Result<(), FlushError> {
        match &self.inner.running {
            Some(running) if !self.inner.is_refused() => running.empty_queue(),
            _ => Ok(()),
        }
    }

    async fn wait_async(&self, verb: Verb, timeout: Duration) -> Result<(), FlushError> {
        let inner = Arc::clone(&self.inner);
        if inner.is_refused() {
            // At once, with the reason: a thread of its own would hide this one from the check.
            return inner.wait(verb, timeout);
        }
        let (done, result) = tokio::sync::oneshot::channel();
        let run = move || {
            // The exporter may log events of its decisions here.
            let _suppressed = Context::enter_telemetry_suppressed_scope();
            // A caller that has dropped its future wants no result.
            let _ = done.send(inner.wait(verb, timeout));
        };
        let thread = std::thread::Builder::new().name("holdfast-flush".to_owned()).spawn(run);
        thread.map_err(|_| FlushError::NoThread)?;
        result.await.unwrap_or(Err(FlushError::NoThread))
    }
}

impl Inner {
    fn wait(&self, verb: Verb, timeout: Duration) -> Result<(), FlushError> {
        let is_refused = self.is_refused();
        if !is_refused {
            self.lines.repeat();
        }
        let Some(running) = &self.running else { return Ok(()) };
        let (handle, start) = (&running.handle, SystemClock.now());
        // Where the exporter refuses to wait, the SDK's queue stays too.
        let emptied = if is_refused { Ok(()) } else { running.empty_queue() };
        // Spans that the exporter has already are to be safe also where the SDK fails.
        let left = timeout.saturating_sub(SystemClock.now().saturating_duration_since(start)).max(timeout / 10);
        let waited = match verb {
            Verb::Flush => handle.flush(left).map_err(FlushError::Exporter),
            Verb::Checkpoint => handle.checkpoint(left).map_err(FlushError::Exporter),
            Verb::Settled => handle.settled(left).map_err(FlushError::Unsettled),
        };
        waited.and(emptied)
    }

    /// A wait here returns an error at once: in a forked child, and on a thread of the exporter's.
    fn is_refused(&self) -> bool {
        self.handle().is_some_and(|handle| handle.forked().is_some() || handle.is_own_thread())
    }
}

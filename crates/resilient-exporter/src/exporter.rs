//! The exporter that the SDK sees.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use otlp_payload::{Encoder, ValueLimits};

use crate::handle::Handle;
use crate::pipeline::Pipeline;
use crate::report::ledger::RefuseReason;

/// A span exporter that survives its collector.
///
/// `export` encodes the batch, puts it into a bounded buffer and returns: it never waits for the collector or a retry,
/// and for the disk only in durable mode, no longer than the journal's time-out. The net thread sends; the disk thread
/// writes batches that memory has no room for to files, and reads them back. The exporter works behind any span
/// processor, inside any tokio runtime or without one, and may be dropped anywhere.
///
/// The SDK passes no flush on to an exporter and owns it once the provider is built: take a [`Handle`] first.
pub struct ResilientSpanExporter {
    pipeline: Pipeline,
    encoder: Encoder,
    limits: ValueLimits,
}

impl ResilientSpanExporter {
    pub(crate) fn new(pipeline: Pipeline, limits: ValueLimits) -> Self {
        let encoder = Encoder::new(&Resource::builder_empty().build()).with_value_limits(limits);
        pipeline.shared.set_span_encoder(&encoder);
        Self { pipeline, encoder, limits }
    }

    /// A view that stays when the SDK owns the exporter.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.pipeline.handle()
    }

    /// The warnings about storage that [`Builder::build`](crate::Builder::build) has logged: a program that sets its
    /// log subscriber later can log them again.
    #[must_use]
    pub fn start_warnings(&self) -> &[String] {
        &self.pipeline.start_warnings
    }

    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn accept(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        if batch.is_empty() {
            return Ok(());
        }
        let (spans, shared) = (batch.len(), &self.pipeline.shared);
        if let Some(forked) = shared.process.refuse(spans) {
            return Err(OTelSdkError::InternalFailure(forked.to_string()));
        }
        let id = shared.core().next_id();
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            let payload = self.encoder.encode(id, shared.clock.wall(), &batch);
            (payload, shared.clock.now())
        }));
        // The spans take more memory than their encoded bytes: they are dropped first.
        drop(batch);
        let Ok((payload, now)) = encoded else {
            shared.decide(|core| core.on_not_accepted(spans, RefuseReason::EncodePanicked));
            return Err(OTelSdkError::InternalFailure("encoding panicked: please report this".to_owned()));
        };
        match self.pipeline.accept(payload, now) {
            Ok(()) => Ok(()),
            Err(RefuseReason::AlreadyShutdown) => Err(OTelSdkError::AlreadyShutdown),
            Err(RefuseReason::LargerThanBuffer | RefuseReason::EncodePanicked | RefuseReason::Forked) => {
                Err(OTelSdkError::InternalFailure(
                    "a span alone is larger than the whole buffer: raise the buffer's maximum bytes".to_owned(),
                ))
            }
        }
    }
}

impl SpanExporter for ResilientSpanExporter {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        std::future::ready(self.accept(batch))
    }

    /// Stops intake, sends the waiting batches, the first one whatever breaker and backoff say and the others while
    /// answers come, then stored ones for [`Shutdown::replay`](crate::Shutdown::replay) at most, writes the rest to the
    /// fallback, and returns within `timeout` or [`Shutdown::timeout`](crate::Shutdown::timeout), whichever is shorter.
    ///
    /// # Errors
    /// The text of the [`ShutdownError`](crate::ShutdownError), which [`Handle::shutdown_result`] returns as a value:
    /// the SDK's batch processor discards it.
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if !self.pipeline.begin_shutdown() {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        match catch_unwind(AssertUnwindSafe(|| self.pipeline.end(timeout))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(OTelSdkError::InternalFailure(error.to_string())),
            Err(_) => Err(OTelSdkError::InternalFailure("the shutdown panicked: please report this".to_owned())),
        }
    }

    /// Waits until no span waits, at most for [`Shutdown::timeout`](crate::Shutdown::timeout). The SDK's batch
    /// processor never calls this; use [`Handle::flush`] with a deadline of your own.
    fn force_flush(&self) -> OTelSdkResult {
        let flushed = self.pipeline.shared.flush(self.pipeline.longest_wait(), false);
        flushed.map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.encoder = Encoder::new(resource).with_value_limits(self.limits);
        self.pipeline.shared.set_span_encoder(&self.encoder);
        if let Some(staging) = self.pipeline.shared.staging() {
            staging.set_encoder(self.encoder.clone());
        }
    }
}

impl fmt::Debug for ResilientSpanExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilientSpanExporter")
            .field("endpoint", &self.pipeline.shared.primary())
            .finish_non_exhaustive()
    }
}

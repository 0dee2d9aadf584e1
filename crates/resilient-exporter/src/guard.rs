//! A span processor that ends with its process.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use crate::handle::Handle;
use crate::report::forked::Forked;

/// Of so many spans a thread asks for the id of its process with one: a call of the system takes 40 ns, in a virtual
/// machine 340 ns.
const EVERY: u32 = 32;

thread_local! {
    /// Spans that have ended on this thread.
    static ENDED: Cell<u32> = const { Cell::new(0) };
}

/// Keeps a span processor with a thread of its own, such as the SDK's batch processor, from work in a child made by
/// `fork`.
///
/// The child has not that thread: without the guard its spans enter a queue that no thread empties, and each shutdown
/// and flush waits for 5 s. Behind it spans are refused, as [`export`](crate::ResilientSpanExporter) refuses them, and
/// shutdown, flush and drop return at once. Up to 31 spans of the forking thread may enter the queue of the child
/// before the guard notices; they are lost. Costs 1 to 10 ns a span.
///
/// ```
/// use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider};
/// use resilient_exporter::{ForkGuard, ResilientSpanExporter};
///
/// # let transport = otlp_transport::connect(otlp_transport::Config::builder().build()?)?;
/// let exporter = ResilientSpanExporter::builder().with_primary(transport).with_fallback_enabled(false).build()?;
/// let handle = exporter.handle();
/// let processor = ForkGuard::new(BatchSpanProcessor::builder(exporter).build(), handle);
/// let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
/// # drop(provider);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ForkGuard<P> {
    /// Some until the drop.
    inner: Option<P>,
    handle: Handle,
    /// The process is a child.
    is_child: AtomicBool,
}

impl<P: SpanProcessor> ForkGuard<P> {
    /// Guards `processor`, which exports to the exporter of `handle`.
    pub fn new(processor: P, handle: Handle) -> Self {
        Self { inner: Some(processor), handle, is_child: AtomicBool::new(false) }
    }

    fn forked(&self) -> Option<Forked> {
        let forked = self.handle.forked();
        if forked.is_some() {
            self.is_child.store(true, Ordering::Relaxed);
        }
        forked
    }

    /// Asks for the process now and then, and with the first span of each thread.
    fn is_child(&self) -> bool {
        if self.is_child.load(Ordering::Relaxed) {
            return true;
        }
        let ended = ENDED.try_with(|ended| ended.replace(ended.get().wrapping_add(1)));
        // A span may end while the thread ends.
        ended.unwrap_or_default().is_multiple_of(EVERY) && self.forked().is_some()
    }

    /// The processor, unless the process is a child.
    fn ask(&self, question: impl FnOnce(&P) -> OTelSdkResult) -> OTelSdkResult {
        match (self.forked(), &self.inner) {
            (Some(forked), _) => Err(OTelSdkError::InternalFailure(forked.to_string())),
            (None, Some(inner)) => question(inner),
            (None, None) => Ok(()),
        }
    }
}

impl<P: SpanProcessor> SpanProcessor for ForkGuard<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        if let Some(inner) = &self.inner
            && !self.is_child.load(Ordering::Relaxed)
        {
            inner.on_start(span, context);
        }
    }

    fn on_end(&self, span: SpanData) {
        if !self.is_child() {
            if let Some(inner) = &self.inner {
                inner.on_end(span);
            }
        } else if span.span_context.is_sampled() {
            let _ = self.handle.shared.process.refuse(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.ask(P::force_flush)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.ask(|inner| inner.shutdown_with_timeout(timeout))
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(inner) = &mut self.inner {
            inner.set_resource(resource);
        }
    }
}

impl<P> Drop for ForkGuard<P> {
    fn drop(&mut self) {
        if self.handle.forked().is_some() {
            // Its channels have locks that a thread of the parent may have held at the fork.
            std::mem::forget(self.inner.take());
        }
    }
}

impl<P: fmt::Debug> fmt::Debug for ForkGuard<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkGuard").field("inner", &self.inner).finish_non_exhaustive()
    }
}

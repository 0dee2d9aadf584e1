//! Any `SpanExporter` as a transport.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter;
use otlp_payload::{Decoded, Payload, Signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::Transport;
use crate::answer::plain;
use crate::outcome::{Cause, Outcome, RefusalKind};
use crate::paths::unsettled;
use crate::secrets::without_urls;

/// Longer than the 10 s after which the stock exporters give up by themselves.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// In place of a time-out that reaches beyond the clock: a hundred years.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// The time-out of the exporter's own shutdown: the default of `SpanExporter::shutdown`.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Sends through a foreign [`SpanExporter`], so that any of them can be a primary.
///
/// The adapter is **blind**: behind that trait every error is a text. Every error is therefore retryable, also one that
/// no retry will mend; a hint of the peer is lost; a partial success looks like a full one; and any failure may be a
/// duplicate. And it **costs**: each attempt decodes the payload to `SpanData` again, about as much work as the
/// exporter's own encoding. Use [`connect`](crate::connect) where the collector speaks OTLP. The wrapped exporter
/// should have its own retries turned off (`RetryPolicy::disabled()` for the stock OTLP exporter): waiting is not the
/// transport's business.
///
/// The exporter lives on an operating-system thread of its own, never inside the caller's runtime, where a blocking
/// client would panic. Calls to it never overlap. A panic of it is a failed attempt and nothing more. A call that hangs
/// is answered with a time-out, and until it returns every further one times out in the queue, not sent. The thread
/// ends with the transport, after the call that it is in and the exporter's own shutdown (at most 5 s if the exporter
/// honours its time-out); no thread waits for it.
pub struct ExporterTransport {
    name: String,
    timeout: Duration,
    jobs: mpsc::Sender<Job>,
    /// One permit: its holder may call the exporter.
    free: Arc<Semaphore>,
}

struct Job {
    payload: Payload,
    answer: oneshot::Sender<Outcome>,
    /// Released when the exporter returns, also if the caller dropped its future long before.
    _permit: OwnedSemaphorePermit,
}

impl ExporterTransport {
    /// Starts the thread and moves the exporter there. Time-out 30 s; the name is the exporter's type.
    ///
    /// # Panics
    ///
    /// If the operating system gives no thread.
    #[must_use]
    pub fn new<E: SpanExporter + 'static>(exporter: E) -> Self {
        let (jobs, queue) = mpsc::channel();
        thread::Builder::new()
            .name("holdfast-exporter".to_owned())
            .spawn(move || work(exporter, &queue))
            .expect("the operating system gives no thread");
        let name = std::any::type_name::<E>().to_owned();
        Self { name, timeout: DEFAULT_TIMEOUT, jobs, free: Arc::new(Semaphore::new(1)) }
    }

    /// Bounds one call: waiting for the exporter to be free, and the call itself. Default 30 s; `Duration::MAX` is no
    /// bound at all.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The text of [`endpoint`](Transport::endpoint), for logs and health. Default the exporter's type.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

#[async_trait]
impl Transport for ExporterTransport {
    async fn send(&self, payload: &Payload) -> Outcome {
        if payload.signal() != Signal::Traces {
            return unsettled("traces, by a span exporter", payload.signal());
        }
        let now = Instant::now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now + FOREVER);
        let failed = |cause, possible_duplicate| Outcome::Retryable { after: None, cause, possible_duplicate };
        let Ok(Ok(permit)) = timeout_at(deadline, Arc::clone(&self.free).acquire_owned()).await else {
            return failed(Cause::Timeout(self.timeout), false);
        };
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(Job { payload: payload.clone(), answer, _permit: permit }).is_err() {
            return failed(Cause::Foreign("its thread has ended".to_owned()), false);
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => failed(Cause::Foreign("its thread has ended".to_owned()), true),
            Err(_) => failed(Cause::Timeout(self.timeout), true),
        }
    }

    fn carries(&self, signal: Signal) -> bool {
        signal == Signal::Traces
    }

    fn endpoint(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for ExporterTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExporterTransport").field("name", &self.name).finish_non_exhaustive()
    }
}

fn work<E: SpanExporter>(mut exporter: E, queue: &mpsc::Receiver<Job>) {
    // Spans of the exporter's own requests must not be traced into the exporter.
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut resource = None;
    for Job { payload, answer, _permit } in queue {
        let outcome = catch_unwind(AssertUnwindSafe(|| export(&mut exporter, &mut resource, &payload)))
            .unwrap_or_else(|panic| failure(&format!("panicked: {}", panic_text(panic.as_ref()))));
        // The caller may have dropped its future.
        let _ = answer.send(outcome);
    }
    let _ = catch_unwind(AssertUnwindSafe(|| exporter.shutdown_with_timeout(SHUTDOWN)));
    // A panic in a destructor ends here as well.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(exporter)));
}

fn export<E: SpanExporter>(exporter: &mut E, last: &mut Option<Resource>, payload: &Payload) -> Outcome {
    let parts = match otlp_payload::decode_all(payload.bytes()) {
        Ok(parts) => parts,
        // A further attempt would decode the same bytes.
        Err(error) => {
            let cause = Cause::Foreign(format!("payload cannot be decoded: {error}"));
            return Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false };
        }
    };
    for Decoded { resource, spans, .. } in parts {
        if last.as_ref() != Some(&resource) {
            exporter.set_resource(&resource);
            *last = Some(resource);
        }
        if let Err(error) = futures_executor::block_on(exporter.export(spans)) {
            return failure(&error.to_string());
        }
    }
    Outcome::Delivered { rejected: 0, message: None }
}

fn failure(text: &str) -> Outcome {
    Outcome::Retryable { after: None, cause: Cause::Foreign(plain(&without_urls(text))), possible_duplicate: true }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "(no message)",
    }
}

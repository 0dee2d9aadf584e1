//! One life of the application: the environment decides everything, as in a container.

use std::io::Write as _;
use std::time::Duration;

use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use serde::{Deserialize, Serialize};
use telemetry_manager::{OpenTelemetryManager, TracesProcessor};

use crate::Failure;

/// The report of a life, on one line of standard output.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// Trace id and span id of each span, in hexadecimal digits.
    pub(super) spans: Vec<(String, String)>,
    /// The issues of health after the start.
    pub(super) issues: Vec<String>,
    /// The warnings of set-up.
    pub(super) warnings: Vec<String>,
    /// Spans that were accepted before they were durable.
    pub(super) not_durable: u64,
}

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes spans, reports, and ends: `kill` by SIGKILL, `shutdown` at once, `deliver` once nothing waits.
pub(super) fn live(spans: u64, end: &str) -> Result<(), Failure> {
    // The hand-over of the SDK's processor waits for the journal, and for no answer of a collector.
    let manager = OpenTelemetryManager::builder().with_processor(TracesProcessor::Batch).build()?;
    let observer = manager.observer();
    let mut told = Told {
        issues: manager.health().issues,
        warnings: manager.warnings().iter().map(ToString::to_string).collect(),
        ..Told::default()
    };
    let tracer = manager.tracer_provider().tracer("volumes");
    for _ in 0..spans {
        let mut span = tracer.start("request");
        let context = span.span_context();
        told.spans.push((context.trace_id().to_string(), context.span_id().to_string()));
        span.end();
        if told.spans.len().is_multiple_of(500) {
            observer.hand_over()?;
        }
    }
    observer.hand_over()?;
    if end == "deliver" {
        manager.settled(PATIENCE)?;
    }
    let exporter = observer.exporter_health();
    told.not_durable = exporter.and_then(|health| health.accepted_not_durable).unwrap_or(0);
    let line = serde_json::to_string(&told)?;
    if end == "kill" {
        writeln!(std::io::stdout(), "{line}")?;
        std::io::stdout().flush()?;
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    manager.shutdown()?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

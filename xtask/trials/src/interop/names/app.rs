//! The application: the environment decides everything, and each line of standard input is a command.

use std::io::Write as _;
use std::time::Duration;

use mock_collector::SpanIds;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use serde::{Deserialize, Serialize};
use telemetry_manager::OpenTelemetryManager;

use crate::Failure;

/// The answer to a command, on one line of standard output.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// The new ones.
    pub(super) spans: Vec<SpanIds>,
    /// Calls that have failed so far.
    pub(super) failed: u64,
}

/// Makes so many spans.
pub(super) const SERVE: &str = "serve";
/// Waits until nothing waits.
pub(super) const FLUSH: &str = "flush";
const SPANS: usize = 10;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until the commands end; nothing waits then.
pub(super) fn live() -> Result<(), Failure> {
    let manager = OpenTelemetryManager::from_env()?;
    let tracer = manager.tracer_provider().tracer("names");
    for line in std::io::stdin().lines() {
        let mut told = Told::default();
        match line?.as_str() {
            SERVE => {
                for _ in 0..SPANS {
                    let mut span = tracer.start("request");
                    let context = span.span_context();
                    told.spans.push((context.trace_id().to_bytes(), context.span_id().to_bytes()));
                    span.end();
                }
                // Has the batch on its way.
                let _ = manager.settled(Duration::ZERO);
            }
            FLUSH => manager.settled(PATIENCE)?,
            other => return Err(format!("there is no command {other:?}").into()),
        }
        let health = manager.observer().exporter_health().ok_or("spans are not exported")?;
        told.failed = health.metrics.failed_exports;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&told)?)?;
        std::io::stdout().flush()?;
    }
    Ok(manager.shutdown()?)
}

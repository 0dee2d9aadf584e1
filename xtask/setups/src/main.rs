//! The README's program: `main` sets telemetry up, then the log, makes three spans, and tells its health on standard
//! output. With the argument `or-disabled` no set-up stops it.

use std::io::Write as _;
use std::time::Duration;

use telemetry_manager::OpenTelemetryManager;
use telemetry_manager::opentelemetry::trace::TracerProvider as _;
use tracing_subscriber::prelude::*;

/// The longest wait for the spans' delivery.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let telemetry = match std::env::args().nth(1).as_deref() {
        Some("or-disabled") => OpenTelemetryManager::from_env_or_disabled(),
        _ => OpenTelemetryManager::from_env()?,
    };
    let tracer = telemetry.tracer_provider().tracer("setups");
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_ansi(false);
    tracing_subscriber::registry()
        .with(log.with_filter(tracing_subscriber::filter::LevelFilter::INFO))
        .with(tracing_opentelemetry::layer().with_tracer(tracer))
        .init();
    for order in 0..3 {
        tracing::info_span!("order", order).in_scope(|| ());
    }
    // Where no collector answers, health says so.
    let _ = telemetry.settled(PATIENCE);
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&telemetry.health())?)?;
    // The spans that are left are stored, or lost with the process, as health has told.
    let _ = telemetry.shutdown();
    Ok(())
}

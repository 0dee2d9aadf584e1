use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use telemetry_manager::OpenTelemetryManager;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// A log subscriber that counts the manager's lines and panics at each, as one whose pipe is closed does.
struct Broken(Arc<AtomicUsize>);

impl Subscriber for Broken {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("telemetry_manager")
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        // Without the panic hook, which would print each.
        resume_unwind(Box::new("the log's pipe is closed"));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_log_that_panics_ends_neither_the_start_nor_the_shutdown() {
    let lines = Arc::new(AtomicUsize::new(0));
    let warnings = tracing::subscriber::with_default(Broken(Arc::clone(&lines)), || {
        let vars = |name: &str| match name {
            "OTEL_TRACES_EXPORTER" => Some("none".into()),
            "CIRCUIT_BREAKER_FAILURE_THRESHOLD" => Some("many".into()),
            _ => None,
        };
        let manager = OpenTelemetryManager::builder().with_vars(vars).build().expect("a bad value is a warning");
        manager.shutdown().expect("nothing waits");
        manager.warnings().len()
    });
    assert!(warnings > 0, "the bad value");
    assert_eq!(lines.load(Ordering::Relaxed), warnings + 1, "each warning, and the summary");
}

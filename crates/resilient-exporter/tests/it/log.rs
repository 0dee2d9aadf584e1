//! The log of these tests: its subscriber records the exporter's warnings for tests to read, and panics at each line of
//! the exporter's, as one whose pipe is closed does. Every test that uses [`quick`](crate::support::quick) shows that
//! the exporter works beside it.

use std::fmt::Write as _;
use std::panic::resume_unwind;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Records every warning and error of the exporters of this process from now on. All tests share the record: a test
/// looks for a name that no other test uses.
pub(crate) fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Capture).expect("no other subscriber is set"));
}

/// The recorded warnings that contain this text.
pub(crate) fn warnings_about(text: &str) -> Vec<String> {
    LINES.lock().iter().filter(|line| line.contains(text)).cloned().collect()
}

/// The panics of the subscriber so far.
pub(crate) fn panics() -> usize {
    PANICS.load(Ordering::Relaxed)
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Capture;

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("resilient_exporter")
    }

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() <= Level::WARN {
            let mut line = Line(String::new());
            event.record(&mut line);
            LINES.lock().push(line.0);
        }
        PANICS.fetch_add(1, Ordering::Relaxed);
        // Without the panic hook, which would print thousands of lines.
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

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

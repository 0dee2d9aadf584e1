//! The seam to the two clocks.

use std::time::{Instant, SystemTime};

/// The clocks of an exporter. Several threads read them, once or twice a batch, outside every lock: a clock must not
/// block.
pub trait Clock: Send + Sync + 'static {
    /// For waits, ages and deadlines; never goes back.
    fn now(&self) -> Instant;

    /// For people, file names and the age of files; may jump.
    fn wall(&self) -> SystemTime;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

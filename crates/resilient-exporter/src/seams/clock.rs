//! The seam to the two clocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The clocks of an exporter. A panic is contained: the system's clock answers in its place. Several threads read them,
/// once or twice a batch, outside every lock: a clock must not block.
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

/// A clock of a user's, behind which no panic of it passes.
pub(crate) struct ContainedClock(pub(crate) Arc<dyn Clock>);

impl Clock for ContainedClock {
    fn now(&self) -> Instant {
        catch_unwind(AssertUnwindSafe(|| self.0.now())).unwrap_or_else(|_| SystemClock.now())
    }

    fn wall(&self) -> SystemTime {
        catch_unwind(AssertUnwindSafe(|| self.0.wall())).unwrap_or_else(|_| SystemClock.wall())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Clock for Broken {
        fn now(&self) -> Instant {
            panic!("a bug of a user's")
        }

        fn wall(&self) -> SystemTime {
            panic!("a bug of a user's")
        }
    }

    #[test]
    fn a_clock_that_panics_is_replaced_by_the_systems() {
        let clock = ContainedClock(Arc::new(Broken));
        let (before, wall) = (SystemClock.now(), SystemClock.wall());
        assert!(clock.now() >= before && clock.wall() >= wall);
    }
}

//! The clocks of a simulated computer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::seams::clock::{Clock, SystemClock};

/// A monotonic clock and a wall clock, which move only when a test moves them.
#[derive(Clone)]
pub(in crate::proofs) struct Clocks(Arc<Mutex<(Instant, SystemTime)>>);

impl Clocks {
    pub(in crate::proofs) fn at(wall: SystemTime) -> Self {
        Self(Arc::new(Mutex::new((SystemClock.now(), wall))))
    }

    pub(in crate::proofs) fn advance(&self, by: Duration) {
        let mut clocks = self.0.lock().expect("no panic");
        clocks.0 += by;
        clocks.1 += by;
    }

    /// Moves the wall clock alone, forward or back.
    pub(super) fn set_wall_clock(&self, seconds: i64) {
        let mut clocks = self.0.lock().expect("no panic");
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { clocks.1 -= by } else { clocks.1 += by }
    }
}

impl Clock for Clocks {
    fn now(&self) -> Instant {
        self.0.lock().expect("no panic").0
    }

    fn wall(&self) -> SystemTime {
        self.0.lock().expect("no panic").1
    }
}

//! The clocks of simulated computers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::seams::clock::{Clock, SystemClock};

/// A monotonic clock and a wall clock, which move only when a test moves them.
#[derive(Clone)]
pub(in crate::proofs) struct Clocks {
    /// The monotonic clock of all computers, and the true time.
    base: Arc<Mutex<(Instant, SystemTime)>>,
    /// By so many seconds this wall clock differs from the true time.
    offset: Arc<Mutex<i64>>,
}

impl Clocks {
    pub(in crate::proofs) fn at(wall: SystemTime) -> Self {
        Self { base: Arc::new(Mutex::new((SystemClock.now(), wall))), offset: Arc::default() }
    }

    /// The clocks of a process whose wall clock is wrong by so many seconds more than this one.
    pub(in crate::proofs) fn skewed(&self, seconds: i64) -> Self {
        let offset = *self.offset.lock().expect("no panic") + seconds;
        Self { base: Arc::clone(&self.base), offset: Arc::new(Mutex::new(offset)) }
    }

    pub(in crate::proofs) fn advance(&self, by: Duration) {
        let mut base = self.base.lock().expect("no panic");
        base.0 += by;
        base.1 += by;
    }

    /// Moves the wall clock alone, forward or back.
    pub(super) fn set_wall_clock(&self, seconds: i64) {
        *self.offset.lock().expect("no panic") += seconds;
    }

    pub(super) fn true_time(&self) -> SystemTime {
        self.base.lock().expect("no panic").1
    }
}

impl Clock for Clocks {
    fn now(&self) -> Instant {
        self.base.lock().expect("no panic").0
    }

    fn wall(&self) -> SystemTime {
        let seconds = *self.offset.lock().expect("no panic");
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self.true_time() - by } else { self.true_time() + by }
    }
}

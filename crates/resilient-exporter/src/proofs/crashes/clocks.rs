//! The clocks of a simulated computer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::seams::clock::{Clock, SystemClock};

/// Both stand until they are moved.
#[derive(Clone)]
pub(super) struct Hands(Arc<Mutex<(Instant, SystemTime)>>);

impl Hands {
    pub(super) fn at(wall: SystemTime) -> Self {
        Self(Arc::new(Mutex::new((SystemClock.now(), wall))))
    }

    pub(super) fn pass(&self, ms: u64) {
        let mut hands = self.0.lock().expect("no panic");
        hands.0 += Duration::from_millis(ms);
        hands.1 += Duration::from_millis(ms);
    }

    /// The wall clock alone.
    pub(super) fn set(&self, seconds: i64) {
        let mut hands = self.0.lock().expect("no panic");
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { hands.1 -= by } else { hands.1 += by }
    }
}

impl Clock for Hands {
    fn now(&self) -> Instant {
        self.0.lock().expect("no panic").0
    }

    fn wall(&self) -> SystemTime {
        self.0.lock().expect("no panic").1
    }
}

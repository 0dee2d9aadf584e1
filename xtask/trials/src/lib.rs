//! Whole-program trials: an application that traces through the real SDK, exporters in front of a collector that is
//! another process, faults in between, and in the end a comparison by span id that trusts no exporter's own numbers.

pub mod app;
pub mod canonical;
pub mod chaos;
pub mod collector;
pub mod contender;
pub mod idle;
pub mod interop;
pub mod kinds;
pub mod latency;
pub mod outage;
pub mod peer;
pub mod setups;
pub mod slow_disk;
pub mod soak;
pub mod stored;
pub mod tls_front;
pub mod upgrade;
pub mod volumes;

use std::error::Error;
use std::time::{Duration, Instant};

pub use mock_collector::SpanIds;

/// Why a trial failed, in words: a trial has no caller that would distinguish one failure from another.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Checks `condition` again and again until it holds.
///
/// # Errors
///
/// When the condition does not hold within `limit`; the message begins with the name of the wait.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), Failure> {
    let started = now();
    while !condition() {
        if started.elapsed() > limit {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
    Ok(())
}

/// The monotonic clock, read in this one place.
#[must_use]
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a trial runs in real time")]
    Instant::now()
}

/// How long a wait rests between two looks at its condition.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

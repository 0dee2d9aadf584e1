//! The backoff as its users see it.

mod drivers;
mod policies;
#[cfg(feature = "tower")]
mod tower;

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "a start for simulated time")]
fn clock() -> Instant {
    Instant::now()
}

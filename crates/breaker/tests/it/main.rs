//! The breaker as its users see it.

#![cfg(not(loom))]

mod diagram;
mod hands_on;
mod model;
#[cfg(feature = "serde")]
mod serde;
mod settings;
mod shell;
mod threads;
#[cfg(feature = "tower")]
mod tower;

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "a start for simulated time, and deadlines of tests with threads")]
fn clock() -> Instant {
    Instant::now()
}

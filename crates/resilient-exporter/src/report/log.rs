//! The one place that calls `tracing`: a log subscriber is a user's code, and a panic of it ends here.
//!
//! A subscriber that prints to a closed pipe panics at every call. Each call of a macro of this module is contained by
//! itself, so that the thread goes on with the effect, the job or the mark that it is at. The arguments are evaluated
//! only if a subscriber asks for them, and inside the containment. No caller holds a lock meanwhile: a subscriber may
//! ask the exporter for its health. `cargo xtask tidy` refuses `tracing` elsewhere in this crate.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call of `tracing`; a panic of it is lost with its message.
pub(crate) fn contained(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

macro_rules! debug_contained {
    ($($arguments:tt)*) => { $crate::report::log::contained(|| tracing::debug!($($arguments)*)) };
}

macro_rules! info_contained {
    ($($arguments:tt)*) => { $crate::report::log::contained(|| tracing::info!($($arguments)*)) };
}

macro_rules! warn_contained {
    ($($arguments:tt)*) => { $crate::report::log::contained(|| tracing::warn!($($arguments)*)) };
}

macro_rules! error_contained {
    ($($arguments:tt)*) => { $crate::report::log::contained(|| tracing::error!($($arguments)*)) };
}

pub(crate) use {debug_contained, error_contained, info_contained, warn_contained};

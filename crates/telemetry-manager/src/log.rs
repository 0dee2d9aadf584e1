//! The calls of `tracing`: a log subscriber is foreign code, and a panic of it ends here.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call of `tracing`. A subscriber that prints to a closed pipe panics at every line: that ends neither the
/// start of the application nor its shutdown.
fn contained(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

/// Warns of a setting.
pub(crate) fn warn_of_setting(setting: &str, warning: &str) {
    contained(|| tracing::warn!(setting, "{warning}"));
}

/// Warns of a shutdown that lost spans.
pub(crate) fn warn_of_shutdown(error: &str) {
    contained(|| tracing::warn!("telemetry was shut down: {error}"));
}

/// States the settings that apply.
pub(crate) fn state_settings(summary: &str) {
    contained(|| tracing::info!("telemetry: {summary}"));
}

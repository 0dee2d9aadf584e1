//! The calls of `tracing`: a log subscriber is foreign code, and a panic of it ends here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::dispatcher;
use tracing::subscriber::NoSubscriber;

/// Runs a call of `tracing`. A subscriber that prints to a closed pipe panics at every line: that ends neither the
/// start of the application nor its shutdown.
fn contained(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

/// Whether lines of this thread reach a subscriber. Inside a call of one they do not.
pub(crate) fn has_subscriber() -> bool {
    let mut has_one = false;
    contained(|| has_one = dispatcher::get_default(|subscriber| !subscriber.is::<NoSubscriber>()));
    has_one
}

/// Reports a set-up that failed, and after which the program goes on without telemetry.
pub(crate) fn report_setup(error: &str) {
    contained(|| tracing::error!("{error}"));
}

/// Warns of a setting.
pub(crate) fn warn_of_setting(setting: &str, warning: &str) {
    contained(|| tracing::warn!(setting, "{warning}"));
}

/// Warns of storage, as the exporter has done.
pub(crate) fn warn_of_storage(warning: &str) {
    contained(|| tracing::warn!("{warning}"));
}

/// Warns of a shutdown that lost spans.
pub(crate) fn warn_of_shutdown(error: &str) {
    contained(|| tracing::warn!("telemetry was shut down: {error}"));
}

/// States the settings that apply.
pub(crate) fn state_settings(summary: &str) {
    contained(|| tracing::info!("telemetry: {summary}"));
}

//! The state of the fallback as the core sees it: usable, or in trouble and tried again later.

use std::time::{Duration, Instant};

/// After a failure the disk thread tries the fallback again at the earliest after this time.
pub(super) const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Storage {
    is_enabled: bool,
    /// The fallback failed: no attempt before this instant.
    retry_at: Option<Instant>,
    trouble: Option<String>,
    /// The disk thread has not taken over all that ended processes have left.
    has_more: bool,
}

impl Storage {
    pub(super) fn new(is_enabled: bool) -> Self {
        Self { is_enabled, retry_at: None, trouble: None, has_more: false }
    }

    /// An operation on the fallback succeeded: clears its retry timer.
    pub(super) fn on_recovered(&mut self) {
        self.retry_at = None;
        self.trouble = None;
    }

    /// An operation on the fallback failed: batches stay in memory until the next attempt. Returns whether the
    /// operation before it succeeded.
    pub(super) fn on_failed(&mut self, error: &str, now: Instant) -> bool {
        self.retry_at = Some(now + RETRY);
        self.trouble.replace(error.to_owned()).is_none()
    }

    /// Content of ended processes is on its way to the fallback, or is not.
    pub(crate) fn set_more(&mut self, has_more: bool) {
        self.has_more = has_more;
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// The fallback may be used now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.is_enabled && self.retry_at.is_none_or(|instant| now >= instant)
    }

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Content of ended processes is on its way to the fallback.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

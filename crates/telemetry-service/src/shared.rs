//! The state that all routes share.

use std::sync::Arc;
use std::time::Instant;

use telemetry_manager::Observer;
use tokio::sync::Semaphore;

use crate::token::Token;

/// Listeners of `/telemetry-test/events` at a time.
pub(crate) const MAX_LISTENERS: usize = 16;

/// Operations on dead letters with the token at a time, and lists of them: each has a thread, and its answer, 64 MiB at
/// most, is in memory until the client has taken it.
pub(crate) const MAX_OPERATIONS: usize = 4;

/// Checkpoints and drains at a time: each has a thread that waits.
pub(crate) const MAX_WAITS: usize = 4;

/// The state that all routes share. A clone costs a reference count.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) observer: Observer,
    /// Only programs of this machine can reach the service.
    pub(crate) is_loopback: bool,
    pub(crate) token: Option<Token>,
    /// Resilience tests may be started where strangers can reach the service.
    pub(crate) has_tests_elsewhere: bool,
    /// Names that `Host` may have.
    pub(crate) hosts: Vec<String>,
    pub(crate) is_ready: Arc<dyn Fn() -> bool + Send + Sync>,
    pub(crate) started: Instant,
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) operations: Arc<Semaphore>,
    pub(crate) waits: Arc<Semaphore>,
    /// Lists of dead letters: clients without the token must not take the places of those with it.
    pub(crate) lists: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl std::ops::Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    pub(crate) fn new(
        observer: Observer,
        is_loopback: bool,
        token: Option<Token>,
        hosts: Vec<String>,
        is_ready: Arc<dyn Fn() -> bool + Send + Sync>,
    ) -> Self {
        Self {
            observer,
            is_loopback,
            token,
            has_tests_elsewhere: false,
            hosts,
            is_ready,
            started: now(),
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
            operations: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            waits: Arc::new(Semaphore::new(MAX_WAITS)),
            lists: Arc::new(Semaphore::new(MAX_OPERATIONS)),
        }
    }

    /// Whole seconds since the router was made.
    pub(crate) fn uptime(&self) -> u64 {
        now().saturating_duration_since(self.started).as_secs()
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn now() -> Instant {
    Instant::now()
}

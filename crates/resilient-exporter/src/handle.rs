//! What stays in the user's hand when the SDK owns the exporter.

mod dead_letters;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::report::events::Event;
use crate::report::health::Health;
use crate::report::ledger::Ledger;
use crate::shell::ending::FlushError;
use crate::shell::shared::Shared;

pub use self::dead_letters::RedriveReport;

/// A view of one exporter, and the flush that the SDK does not pass on. A clone is a reference count; it may outlive the
/// exporter, whose last numbers it then shows.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Where every span is, as one consistent snapshot. One short lock; never waits for a worker.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.shared.core().ledger().clone()
    }

    /// How it goes. One short lock; never waits for a worker, so it answers while the disk or the collector hangs.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Waits until everything accepted before this call has left memory and no fallback file is left, or until `timeout`
    /// has passed. It hurries nobody: breaker and backoff decide as always. Spans in the SDK's own queue are not ours
    /// yet: call the provider's `force_flush` first. Blocks the calling thread.
    ///
    /// # Errors
    /// [`FlushError`] says how many spans still wait, and where. They are kept and go on.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shared.flush(timeout)
    }

    /// A receiver of every [`Event`] from now on. One that is 1,024 events behind misses those that follow, until it
    /// reads again; dropping it ends the subscription.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<Event> {
        self.shared.listeners.subscribe()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}

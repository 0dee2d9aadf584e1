//! The view of an exporter that stays with the user when the SDK owns the exporter.

mod dead_letters;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::report::calls::CallEnded;
use crate::report::events::Event;
use crate::report::forked::Forked;
use crate::report::health::Health;
use crate::report::ledger::Ledger;
use crate::report::outage_records::{KEPT, OutageRecord, Recorded};
use crate::shell::ending::ShutdownError;
use crate::shell::flush::{FlushError, SettleError, WaitFailure, on_thread};
use crate::shell::own;
use crate::shell::shared::Shared;

pub use self::dead_letters::{DeadLetterFilter, RedriveReport};

/// A view of one exporter, and the flush that the SDK does not pass on. A clone costs a reference count. A handle may
/// outlive the exporter, whose last numbers it then shows.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// The place of every span, as one consistent snapshot. Takes short locks; never waits for a worker thread.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        if let Some(forked) = self.forked() {
            return forked.ledger();
        }
        self.shared.ledger()
    }

    /// Status, issues and numbers, as one consistent snapshot. Takes short locks; never waits for a worker thread,
    /// so it answers while the disk or the collector hangs.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// The outages of the collector, the newest 32, the oldest of them first; the last one may last. Those of earlier
    /// processes too, as far as they had ended when this one started and left their records in the state directory. For
    /// a timeline: a gap in the spans has its reason here. Takes one short lock.
    ///
    /// ```
    /// # fn demo(handle: &resilient_exporter::Handle) {
    /// for outage in handle.outages() {
    ///     println!("{:?} to {:?}: {}, {} spans waited", outage.from, outage.to, outage.cause, outage.waited);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn outages(&self) -> Vec<OutageRecord> {
        if self.forked().is_some() {
            return Vec::new();
        }
        let own = self.shared.core().outages().into_iter();
        let own = own.map(|outage: Recorded| self.shared.record_of(outage));
        let mut outages = self.shared.earlier_outages.iter().cloned().chain(own).collect::<Vec<_>>();
        outages.drain(..outages.len().saturating_sub(KEPT));
        outages
    }

    /// Has every batch that was accepted before this call leave memory: waits until each has an answer. When the
    /// collector takes nothing, at the latest after half of `timeout`, the rest is moved to fallback files, or is left
    /// to the journal in durable mode, and this waits until they are as durable there as the journal's sync policy asks
    /// for. Without such a place the whole `timeout` is waited for answers.
    ///
    /// A batch that waits for its answer when it is moved is sent again later: a possible duplicate, and counted as
    /// one. Flushes at the same time share the earliest of these moves. Stored batches are sent as always;
    /// [`settled`](Self::settled) waits for them. Spans inside a
    /// [`ResilientSpanProcessor`](crate::ResilientSpanProcessor) are accepted by this call; those in the queue of the
    /// SDK's own processor are not: call the provider's `force_flush` first. Blocks the calling thread, wakes it 20
    /// times a second; on a runtime's worker use [`flush_async`](Self::flush_async).
    ///
    /// ```
    /// # fn demo(handle: &resilient_exporter::Handle) {
    /// // Before a platform freezes or ends the process:
    /// if let Err(error) = handle.flush(std::time::Duration::from_secs(2)) {
    ///     eprintln!("{error}"); // .. 512 spans are in memory only
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`FlushError`] counts the spans that are in memory only. They stay on their way.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shared.flush(timeout, false)
    }

    /// [`flush`](Self::flush) for asynchronous code: waits on a thread of its own, with any runtime or none. A dropped
    /// future ends nothing: that thread waits on.
    ///
    /// # Errors
    /// As `flush`; or [`WaitFailure::NoThread`].
    pub async fn flush_async(&self, timeout: Duration) -> Result<(), FlushError> {
        let flushed = on_thread(Arc::clone(&self.shared), move |shared| shared.flush(timeout, false));
        flushed.await.unwrap_or_else(|| self.not_flushed())
    }

    /// A [`flush`](Self::flush) that begins with one attempt outside of backoff and breaker, though not within a pause
    /// that the collector asked for: for the last moment before a process may be stopped, by Kubernetes' `preStop` for
    /// example. What the attempt does not deliver is moved to the disk at once.
    ///
    /// # Errors
    /// As `flush`.
    pub fn checkpoint(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shared.flush(timeout, true)
    }

    /// [`checkpoint`](Self::checkpoint) for asynchronous code, as [`flush_async`](Self::flush_async).
    ///
    /// # Errors
    /// As `checkpoint`; or [`WaitFailure::NoThread`].
    pub async fn checkpoint_async(&self, timeout: Duration) -> Result<(), FlushError> {
        let flushed = on_thread(Arc::clone(&self.shared), move |shared| shared.flush(timeout, true));
        flushed.await.unwrap_or_else(|| self.not_flushed())
    }

    /// Waits until every batch accepted before this call has left memory and no fallback file is left, for `timeout` at
    /// most. Breaker, backoff and the rate of the replay decide as always: this sends no batch earlier. Blocks the
    /// calling thread; on a runtime's worker use [`settled_async`](Self::settled_async).
    ///
    /// # Errors
    /// [`SettleError`] counts the spans that still wait in memory and in files. They stay on their way. A shutdown ends
    /// the wait: spans in files are left to the next process then.
    pub fn settled(&self, timeout: Duration) -> Result<(), SettleError> {
        self.shared.settled(timeout)
    }

    /// [`settled`](Self::settled) for asynchronous code, as [`flush_async`](Self::flush_async).
    ///
    /// # Errors
    /// As `settled`; or [`WaitFailure::NoThread`].
    pub async fn settled_async(&self, timeout: Duration) -> Result<(), SettleError> {
        let settled = on_thread(Arc::clone(&self.shared), move |shared| shared.settled(timeout));
        settled.await.unwrap_or_else(|| {
            let failure = self.forked().map_or(WaitFailure::NoThread, WaitFailure::Forked);
            Err(self.shared.unsettled(failure))
        })
    }

    fn not_flushed(&self) -> Result<(), FlushError> {
        if let Some(forked) = self.forked() {
            return Err(FlushError { in_memory: 0, failure: WaitFailure::Forked(forked) });
        }
        Err(FlushError { in_memory: self.shared.only_in_memory(), failure: WaitFailure::NoThread })
    }

    /// Has the next call go out at once: it passes the backoff and the breaker, but no pause that the collector asked
    /// for. For a program that knows more than the exporter, of new credentials for example, and for an operator who
    /// has repaired the collector. The answer to the call decides about those that follow. Batches that wait alone
    /// after a refusal of their own go too, and the sizes of requests that the collector has refused are forgotten.
    /// Costs one short lock; without a waiting batch the next batch uses it.
    pub fn retry_now(&self) {
        if self.forked().is_some() {
            return;
        }
        self.shared.core().retry_now();
        self.shared.net.notify_one();
    }

    /// The result of the exporter's shutdown, whose error the SDK's batch processor discards. Until the shutdown has
    /// ended: the result that it would have if it ended now, so that an error counts the spans which the end of the
    /// process loses. Takes short locks; never waits for a worker thread.
    ///
    /// # Errors
    /// [`ShutdownError`] counts the spans that were dropped since the shutdown began, and those in memory only.
    pub fn shutdown_result(&self) -> Result<(), ShutdownError> {
        self.shared.shutdown_result()
    }

    /// Whether this process was forked from the one that built the exporter: then every call on the exporter and its
    /// handles is refused at once, [`ledger`](Self::ledger) and [`health`](Self::health) show the numbers of this
    /// process, and nothing of its parent's is touched. Costs one call of the system.
    #[must_use]
    pub fn forked(&self) -> Option<Forked> {
        self.shared.forked()
    }

    /// Whether the calling thread is one of the exporter's, as that of a log subscriber or of a transport may be. The
    /// waits of this handle return an error there at once.
    #[must_use]
    pub fn is_own_thread(&self) -> bool {
        own::is_own(&self.shared)
    }

    /// A receiver of every [`Event`] from now on. A receiver that is 1,024 events behind misses further ones until it
    /// reads again; dropping it ends the subscription.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<Event> {
        if self.forked().is_some() {
            return channel().1;
        }
        self.shared.listeners.subscribe()
    }

    /// Has `observer` told of each call to a collector that ends from now on, for as long as the caller keeps the
    /// `Arc`. The net thread runs it, outside all locks, after the answer has been decided on: an observer that blocks
    /// delays all calls. A panic in it is contained. [`Health::calls`] has the same calls, counted by their durations.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use resilient_exporter::CallEnded;
    ///
    /// # fn demo(handle: &resilient_exporter::Handle) {
    /// let observer: Arc<dyn Fn(CallEnded) + Send + Sync> = Arc::new(|call| println!("{:?}", call.duration));
    /// handle.observe_calls(&observer);
    /// # }
    /// ```
    pub fn observe_calls(&self, observer: &Arc<dyn Fn(CallEnded) + Send + Sync>) {
        self.shared.call_observers.add(observer);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("endpoint", &self.shared.primary()).finish_non_exhaustive()
    }
}

//! Waits of a user's thread: flush, checkpoint, settled.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::Context;

use super::health::is_stalled;
use super::own;
use super::shared::{FOR_EVER, Shared};
use crate::core::{Core, Flush};
use crate::report::forked::Forked;
use crate::seams::clock::{Clock as _, SystemClock};

/// A flush looks this often whether the endpoint still takes batches: time alone may make it unwilling.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a wait for spans ended before they were where the caller wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WaitFailure {
    /// The time of the call was over.
    TimedOut,
    /// The exporter was shut down meanwhile, or before.
    ShutDown,
    /// This process was forked from the one that built the exporter: no span of it waits, and none will be sent.
    Forked(Forked),
    /// The call came from a thread of the exporter itself, as one of a log subscriber or of a transport may: its wait
    /// would be for itself. Call from a thread of your own.
    OwnThread,
    /// Spans that were accepted before the call were dropped meanwhile: memory was full, or a shutdown had no place for
    /// them. The ledger has the reason.
    Dropped {
        /// Their number.
        spans: u64,
    },
    /// The system refused the thread on which an `_async` call waits. Nothing was done.
    NoThread,
}

impl fmt::Display for WaitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("its time was over"),
            Self::ShutDown => f.write_str("the exporter was shut down"),
            Self::Forked(forked) => forked.fmt(f),
            Self::OwnThread => {
                f.write_str("it was called on a thread of the exporter, which it waits for: call on another thread")
            }
            Self::Dropped { spans } => {
                write!(f, "{spans} spans were dropped meanwhile: health has the reason and the remedy")
            }
            Self::NoThread => f.write_str(
                "the system refused the thread to wait on: raise the limit on threads, or call without async",
            ),
        }
    }
}

/// A [`flush`](crate::Handle::flush) or [`checkpoint`](crate::Handle::checkpoint) that left spans in memory only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FlushError {
    /// Spans that are in memory and nowhere else now: the end of the process loses them. They stay on their way.
    pub in_memory: u64,
    /// Why the call ended.
    pub failure: WaitFailure,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_memory, failure } = self;
        match failure {
            WaitFailure::Dropped { .. } => write!(f, "the flush lost spans: {failure}"),
            WaitFailure::TimedOut | WaitFailure::ShutDown => {
                write!(f, "the flush ended early, since {failure}: {in_memory} spans are in memory only")
            }
            WaitFailure::Forked(forked) => forked.fmt(f),
            WaitFailure::OwnThread | WaitFailure::NoThread => write!(f, "nothing was flushed, since {failure}"),
        }
    }
}

impl std::error::Error for FlushError {}

/// A wait by [`settled`](crate::Handle::settled) that ended while spans were on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SettleError {
    /// Spans in memory, those in flight included.
    pub buffered: u64,
    /// Spans that only the journal holds.
    pub in_journal: u64,
    /// Spans in fallback files.
    pub in_fallback: u64,
    /// Why the call ended.
    pub failure: WaitFailure,
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { buffered, in_journal, in_fallback, failure } = self;
        match failure {
            WaitFailure::TimedOut | WaitFailure::ShutDown | WaitFailure::Dropped { .. } => write!(
                f,
                "the wait ended early, since {failure}: {buffered} spans still wait in memory, {in_journal} in the \
                 journal only and {in_fallback} in fallback files"
            ),
            WaitFailure::Forked(forked) => forked.fmt(f),
            WaitFailure::OwnThread | WaitFailure::NoThread => write!(f, "nothing was awaited, since {failure}"),
        }
    }
}

impl std::error::Error for SettleError {}

impl Shared {
    /// Waits until each batch that was accepted so far is answered or safe. With `attempts` the next call passes
    /// backoff and breaker.
    pub(crate) fn flush(&self, timeout: Duration, attempts: bool) -> Result<(), FlushError> {
        if let Some(failure) = self.unfit_for_waiting() {
            let in_memory = if failure == WaitFailure::OwnThread { self.only_in_memory() } else { 0 };
            return Err(FlushError { in_memory, failure });
        }
        let start = SystemClock.now();
        self.seal_all();
        let since = self.clock.now();
        let (id, has_safe_place) = self.decide(|core| {
            if attempts {
                core.attempt_now();
            }
            (core.on_flush_begun(since), core.has_safe_place())
        });
        self.net.notify_one();
        let flushed = self.answered_or_safe((start, timeout), (since, attempts), has_safe_place);
        let (dropped, in_memory) = {
            let (mut core, staged) = self.core_and_staged();
            (core.on_flush_ended(id), core.only_in_memory() + staged.count as u64)
        };
        match flushed {
            Ok(()) if dropped > 0 => Err(FlushError { in_memory, failure: WaitFailure::Dropped { spans: dropped } }),
            flushed => flushed,
        }
    }

    fn answered_or_safe(
        &self,
        (start, timeout): (Instant, Duration),
        (since, attempts): (Instant, bool),
        has_safe_place: bool,
    ) -> Result<(), FlushError> {
        let answers = if has_safe_place { timeout / 2 } else { timeout };
        let flush = Flush { since, until: since.checked_add(answers).unwrap_or(since + FOR_EVER), attempts };
        let has_ended = |core: &Core| core.is_stopped() && self.has_disk_ended();
        let is_answered = |core: &Core| !core.has_unanswered_since(since);
        let left = |whole: Duration| whole.saturating_sub(SystemClock.now().saturating_duration_since(start));
        while !left(answers).is_zero() {
            let look = left(answers).min(LOOK_EVERY);
            // A clock of a user's: outside the lock.
            let now = self.clock.now();
            let no_answer = |core: &Core| has_safe_place && core.is_hopeless(flush, now);
            if self.wait_for(look, |core| is_answered(core) || no_answer(core) || has_ended(core)) {
                break;
            }
        }
        if self.wait_for(Duration::ZERO, is_answered) {
            return Ok(());
        }
        if has_safe_place {
            let now = self.clock.now();
            // Behind an operation that hangs no batch is written, and none is sent.
            if !is_stalled(self.activity(now).busy) {
                self.decide(|core| core.save(since, now));
            }
            // The net thread goes on with batches that the disk does not take yet.
            self.net.notify_one();
            self.wait_for(left(timeout), |core| !core.has_unsafe_since(since) || has_ended(core));
        }
        let (core, staged) = self.core_and_staged();
        if is_answered(&core) || has_safe_place && !core.has_unsafe_since(since) {
            return Ok(());
        }
        let failure = if has_ended(&core) { WaitFailure::ShutDown } else { WaitFailure::TimedOut };
        Err(FlushError { in_memory: core.only_in_memory() + staged.count as u64, failure })
    }

    /// Waits until no batch that was accepted so far waits anywhere, or until no thread is left to deliver it.
    pub(crate) fn settled(&self, timeout: Duration) -> Result<(), SettleError> {
        if let Some(failure) = self.unfit_for_waiting() {
            return Err(self.unsettled(failure));
        }
        self.seal_all();
        // The net thread may sleep until the delay of the batches that are sealed now is over.
        self.net.notify_one();
        let called = self.clock.now();
        let mut is_done = false;
        let has_ended = |core: &Core| {
            let left = if core.is_stopped() { core.ledger().buffered + core.ledger().in_journal } else { 0 };
            is_done = !core.has_waiting_since(called) && core.ledger().in_fallback == 0 && left == 0;
            is_done || core.is_stopped() && self.has_disk_ended()
        };
        let start = SystemClock.now();
        if self.wait_for(timeout, has_ended) && is_done {
            let passed = SystemClock.now().saturating_duration_since(start);
            if self.wait_for(timeout.saturating_sub(passed), |_| self.is_disk_idle()) {
                return Ok(());
            }
        }
        let is_stopped = self.core().is_stopped();
        Err(self.unsettled(if is_stopped { WaitFailure::ShutDown } else { WaitFailure::TimedOut }))
    }

    pub(crate) fn unsettled(&self, failure: WaitFailure) -> SettleError {
        if let WaitFailure::Forked(_) = failure {
            // The numbers are the parent's, behind locks that nobody opens.
            return SettleError { buffered: 0, in_journal: 0, in_fallback: 0, failure };
        }
        let ledger = self.ledger();
        let buffered = ledger.staged + ledger.buffered + ledger.in_flight;
        SettleError { buffered, in_journal: ledger.in_journal, in_fallback: ledger.in_fallback, failure }
    }

    fn unfit_for_waiting(&self) -> Option<WaitFailure> {
        let forked = self.forked().map(WaitFailure::Forked);
        forked.or_else(|| own::is_own(self).then_some(WaitFailure::OwnThread))
    }
}

/// Has a thread of its own wait for the exporter. `None`: the system refused that thread, or it ended in a panic. A
/// thread that may not wait gets its error from `wait` at once: a thread of its own would hide it from that check.
pub(crate) async fn on_thread<T: Send + 'static>(
    shared: Arc<Shared>,
    wait: impl FnOnce(&Shared) -> T + Send + 'static,
) -> Option<T> {
    if shared.unfit_for_waiting().is_some() {
        return Some(wait(&shared));
    }
    let (done, result) = tokio::sync::oneshot::channel();
    let run = move || {
        // Events of its decisions may be logged.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        // A caller that has dropped its future wants no result.
        let _ = done.send(wait(&shared));
    };
    std::thread::Builder::new().name("holdfast-flush".to_owned()).spawn(run).ok()?;
    result.await.ok()
}

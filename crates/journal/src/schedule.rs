//! When a sync is due. Pure: the journal does not know of it, and it does not know the journal.

use std::time::{Duration, Instant};

/// How much a power cut may take. A process that is killed loses nothing by any of them: what was appended is with the
/// operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// A sync as soon as something was appended; whoever appends a few batches first gets one sync for all of them (group
    /// commit). A power cut takes the batches that were not answered for yet.
    #[default]
    Batch,
    /// A sync at most so long after the first append since the last one. A power cut takes what came in during that time,
    /// plus one sync.
    Interval(Duration),
    /// No sync for the sake of a batch. The journal still syncs each segment when it is full, before the next begins: a power cut takes at most
    /// one segment, and whatever the kernel held back by its own rules (Linux: about 30 s) is less than that on a slow day.
    Never,
}

/// Keeps the time for a [`SyncPolicy`]: tell it what happened, ask it when to sync.
///
/// ```
/// use std::time::{Duration, Instant};
/// use journal::{SyncPolicy, SyncSchedule};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example is a shell")]
/// let now = Instant::now();
/// let mut schedule = SyncSchedule::new(SyncPolicy::Interval(Duration::from_millis(50)));
/// assert_eq!(schedule.due(), None);
/// schedule.appended(now);
/// schedule.appended(now + Duration::from_millis(30));
/// assert_eq!(schedule.due(), Some(now + Duration::from_millis(50)));
/// schedule.synced();
/// assert_eq!(schedule.due(), None);
/// ```
#[derive(Clone, Debug)]
pub struct SyncSchedule {
    policy: SyncPolicy,
    due: Option<Instant>,
    /// Failures in a row, and when to try again.
    failures: u32,
    not_before: Option<Instant>,
}

/// The longest that a mark waits for a sync when no batch asks for one: what was acknowledged within that time comes again after a
/// crash.
const MARK_DELAY: Duration = Duration::from_millis(100);

/// How long after a failed sync the next is due; doubled by each further failure, up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(100);

/// The longest time between two tries.
const MAX_RETRY: Duration = Duration::from_secs(5);

impl SyncSchedule {
    /// Nothing is due yet.
    #[must_use]
    pub fn new(policy: SyncPolicy) -> Self {
        Self { policy, due: None, failures: 0, not_before: None }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> SyncPolicy {
        self.policy
    }

    /// A batch was appended, or a spill was announced.
    pub fn appended(&mut self, now: Instant) {
        self.want(now, Duration::ZERO);
    }

    /// Batches were marked as done: this may wait up to 100 ms for company.
    pub fn marked(&mut self, now: Instant) {
        self.want(now, MARK_DELAY);
    }

    /// When a sync is due; `None` if none is.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        // Failures may only put it off.
        self.due.max(self.not_before.filter(|_| self.due.is_some()))
    }

    /// Whether a sync is due now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// A sync succeeded: everything until now is durable.
    pub fn synced(&mut self) {
        *self = Self::new(self.policy);
    }

    /// A sync failed: it stays due, and is tried again after 100 ms, 200 ms and so on up to 5 s, so that a broken disk is not
    /// hammered. Under [`SyncPolicy::Never`] too: what a failed sync left must go to a new segment.
    pub fn failed(&mut self, now: Instant) {
        let wait = RETRY.saturating_mul(2_u32.saturating_pow(self.failures)).min(MAX_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.checked_add(wait);
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    fn want(&mut self, now: Instant, delay: Duration) {
        let delay = match self.policy {
            SyncPolicy::Batch => delay,
            SyncPolicy::Interval(interval) => interval,
            SyncPolicy::Never => return,
        };
        // A time that the clock cannot tell is never.
        if let Some(due) = now.checked_add(delay) {
            self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any start will do")]
    fn start() -> Instant {
        Instant::now()
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_batch_is_due_at_once_and_a_mark_may_wait() {
        let (mut schedule, now) = (SyncSchedule::new(SyncPolicy::Batch), start());
        schedule.marked(now);
        assert_eq!(schedule.due(), Some(now + MARK_DELAY));
        assert!(!schedule.is_due(now) && schedule.is_due(now + MARK_DELAY));
        schedule.appended(now + ms(10));
        assert_eq!(schedule.due(), Some(now + ms(10)));
        schedule.marked(now + ms(20));
        assert_eq!(schedule.due(), Some(now + ms(10)), "what is due stays due");
        schedule.synced();
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn never_asks_for_a_sync_only_to_mend_a_failed_one() {
        let (mut schedule, now) = (SyncSchedule::new(SyncPolicy::Never), start());
        schedule.appended(now);
        schedule.marked(now);
        assert_eq!(schedule.due(), None);
        schedule.failed(now);
        assert_eq!(schedule.due(), Some(now + RETRY));
    }

    #[test]
    fn failures_put_off_and_success_forgets_them() {
        let (mut schedule, now) = (SyncSchedule::new(SyncPolicy::Batch), start());
        schedule.appended(now);
        for wait in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            schedule.failed(now);
            schedule.appended(now);
            assert_eq!(schedule.due(), Some(now + ms(wait)));
        }
        for _ in 0..100 {
            schedule.failed(now);
        }
        assert_eq!(schedule.due(), Some(now + MAX_RETRY));
        schedule.synced();
        schedule.appended(now);
        assert_eq!(schedule.due(), Some(now));
    }

    #[test]
    fn an_interval_beyond_the_clock_is_never() {
        let mut schedule = SyncSchedule::new(SyncPolicy::Interval(Duration::MAX));
        schedule.appended(start());
        assert_eq!(schedule.due(), None);
    }
}

//! When the next sync is due. Pure: it neither calls the journal nor is called by it.

use std::time::{Duration, Instant};

/// How much a power cut may take. A process that is killed loses no batch under any policy: the operating system has
/// the bytes of each append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// A sync as soon as a batch was appended. A thread that appends several batches before it syncs pays one sync for
    /// all of them (group commit). A power cut takes the batches whose sync has not returned.
    #[default]
    Batch,
    /// A sync at most this long after the first append since the last one. A power cut takes the batches of that time
    /// and of one sync.
    Interval(Duration),
    /// No sync for a batch. The journal still syncs each full segment before the next begins: a power cut takes at most
    /// one segment, or the writes that the kernel still holds back (Linux: about 30 s), whichever is less.
    Never,
}

/// Computes the next sync for a [`SyncPolicy`] from the events that its owner reports.
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
    /// Failures in a row, and the time before which no sync is tried.
    failures: u32,
    not_before: Option<Instant>,
}

/// The longest time that a mark waits for a sync while no batch needs one. Batches that were marked within that time
/// come again after a crash.
const MARK_DELAY: Duration = Duration::from_millis(100);

/// The delay of the next sync after a failed one; doubled by each further failure, up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(100);

/// The longest delay between two attempts.
const MAX_RETRY: Duration = Duration::from_secs(5);

impl SyncSchedule {
    /// A schedule with no sync due.
    #[must_use]
    pub fn new(policy: SyncPolicy) -> Self {
        Self { policy, due: None, failures: 0, not_before: None }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> SyncPolicy {
        self.policy
    }

    /// Reports that a batch was appended or a spill announced.
    pub fn appended(&mut self, now: Instant) {
        self.want(now, Duration::ZERO);
    }

    /// Reports that batches were marked as done. The sync may wait up to 100 ms, so that one sync covers more marks.
    pub fn marked(&mut self, now: Instant) {
        self.want(now, MARK_DELAY);
    }

    /// When a sync is due; `None` if none is.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        // Failures only delay a sync.
        self.due.max(self.not_before.filter(|_| self.due.is_some()))
    }

    /// Whether a sync is due now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Reports a successful sync: all records until now are durable.
    pub fn synced(&mut self) {
        *self = Self::new(self.policy);
    }

    /// Reports a failed sync. It stays due, and is tried again after 100 ms, 200 ms and so on up to 5 s, so that a
    /// broken disk is not called all the time. Under [`SyncPolicy::Never`] too: the records of a failed sync must go to
    /// a new segment.
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
        // A time beyond the range of the clock is never.
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
    fn the_policy_never_asks_only_for_the_sync_after_a_failed_one() {
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

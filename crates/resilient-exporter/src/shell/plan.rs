//! When the journal thread syncs. Pure: the thread reports events and asks.

use std::time::{Duration, Instant};

use journal::{SyncPolicy, SyncSchedule};

/// The announcement of a file waits this long for the sync of a commit, since two syncs take twice the time on a slow
/// disk and an `export` call may be blocked behind the first. The disk thread writes the file after it. Batches of 512
/// spans come each 171 ms at 3,000 spans/s.
pub(crate) const RIDE: Duration = Duration::from_millis(300);

/// The mark of a file that stands waits this long. Until its sync the file is neither replayed nor removed.
const STANDING: Duration = Duration::from_secs(1);

/// Batch commits, marks and announcements share syncs.
pub(crate) struct Plan {
    schedule: SyncSchedule,
    /// The first announcement since the last sync.
    announced: Option<Instant>,
    /// The first mark of a file that stands since the last sync.
    standing: Option<Instant>,
    /// A thread waits for the next sync, or the process ends.
    is_urgent: bool,
}

impl Plan {
    pub(crate) fn new(policy: SyncPolicy) -> Self {
        Self { schedule: SyncSchedule::new(policy), announced: None, standing: None, is_urgent: false }
    }

    pub(crate) fn policy(&self) -> SyncPolicy {
        self.schedule.policy()
    }

    // Events.

    pub(crate) fn on_appended(&mut self, now: Instant) {
        self.schedule.appended(now);
    }

    /// Batches that ended since `first` were marked.
    pub(crate) fn on_marked(&mut self, first: Instant) {
        self.schedule.marked(first);
    }

    /// A file was announced, which the disk thread writes after the next sync.
    pub(crate) fn on_announced(&mut self, now: Instant) {
        if self.policy() != SyncPolicy::Never {
            self.announced.get_or_insert(now);
        }
    }

    /// The batches of a file that stands were marked.
    pub(crate) fn on_standing(&mut self, now: Instant) {
        if self.policy() != SyncPolicy::Never {
            self.standing.get_or_insert(now);
        }
    }

    /// No sync waits for company from now on, until one has succeeded.
    pub(crate) fn hurry(&mut self) {
        self.is_urgent = true;
    }

    pub(crate) fn on_synced(&mut self) {
        self.schedule.synced();
        (self.announced, self.standing, self.is_urgent) = (None, None, false);
    }

    /// The schedule has the sync tried again; the announcements wait no longer.
    pub(crate) fn on_failed(&mut self, now: Instant) {
        self.schedule.failed(now);
        (self.announced, self.standing, self.is_urgent) = (None, None, false);
    }

    // Queries.

    /// When a sync is due; `None` if none is.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waits = |since: Option<Instant>, longest: Duration| {
            since.map(|since| if self.is_urgent { since } else { since + longest })
        };
        let own = [waits(self.announced, RIDE), waits(self.standing, STANDING)];
        own.into_iter().flatten().chain(self.schedule.due()).min()
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn announcements_and_marks_ride_on_the_sync_of_a_commit() {
        let (mut plan, now) = (Plan::new(SyncPolicy::Batch), SystemClock.now());
        plan.on_announced(now);
        plan.on_standing(now);
        assert_eq!(plan.due(), Some(now + RIDE));
        // The next commit at 3,000 spans a second: no sync of its own keeps it waiting.
        let next = now + ms(171);
        assert!(!plan.is_due(next));
        plan.on_appended(next);
        assert!(plan.is_due(next));
        plan.on_synced();
        assert_eq!(plan.due(), None, "one sync covers all");
    }

    #[test]
    fn nothing_waits_for_company_while_a_thread_waits_for_the_sync() {
        let (mut plan, now) = (Plan::new(SyncPolicy::Interval(ms(5_000))), SystemClock.now());
        plan.on_standing(now);
        assert_eq!(plan.due(), Some(now + STANDING));
        plan.hurry();
        assert!(plan.is_due(now));
        plan.on_synced();
        plan.on_standing(now);
        assert!(!plan.is_due(now), "one sync ends the hurry");
    }

    #[test]
    fn a_failed_sync_releases_announcements_and_is_tried_again() {
        let (mut plan, now) = (Plan::new(SyncPolicy::Batch), SystemClock.now());
        plan.on_announced(now);
        plan.on_failed(now + RIDE);
        assert!(plan.due().is_some_and(|due| due > now + RIDE), "{:?}", plan.due());
        let mut never = Plan::new(SyncPolicy::Never);
        never.on_announced(now);
        assert_eq!(never.due(), None);
    }
}

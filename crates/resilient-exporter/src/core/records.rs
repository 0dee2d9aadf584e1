//! The records of outages: the sizes and the lateness in them, and the times at which the disk thread keeps them.

use std::time::{Duration, Instant};

use otlp_payload::Payload;

use super::outage::Tally;
use super::{Core, Effect, Phase};
use crate::report::outage_records::Recorded;
use crate::report::position::Position;

/// While an outage lasts, or batches of one are delivered, its record is kept anew after this time.
const KEPT_EVERY: Duration = Duration::from_secs(60);

/// The records in the state directory.
#[derive(Default)]
pub(super) struct Keeping {
    /// There is a state directory.
    is_on: bool,
    /// The records have changed since they were kept.
    is_due: bool,
    /// The disk thread is asked to keep them: one such effect at a time.
    is_asked: bool,
    /// The disk thread could not keep them: the next attempt waits as long as any other.
    has_failed: bool,
    /// None: those that are due are kept at once.
    kept: Option<Instant>,
}

/// Bytes on the disk, as the threads of the storage stated them last.
#[derive(Clone, Copy, Default)]
pub(super) struct OnDisk {
    files: u64,
    journal: u64,
}

/// Events.
impl Core {
    /// The state directory keeps the records of outages.
    pub(crate) fn keep_outages(&mut self) {
        self.keeping.is_on = true;
    }

    /// The disk thread has kept the records, or could not.
    pub(crate) fn on_outages_kept(&mut self, is_kept: bool) {
        self.keeping.is_asked = false;
        self.keeping.has_failed = !is_kept;
        self.keeping.is_due |= !is_kept;
    }

    /// A batch was delivered, so late by the wall clock. Its answer is reported after this.
    pub(crate) fn on_delivered(&mut self, lateness: Duration, now: Instant) {
        self.accounts.delivered.on_delivered(lateness, now);
        self.endpoints.tallies_mut().for_each(|tally| tally.note_lateness(lateness, now));
        self.keeping.is_due |= self.records.on_delivered(lateness, now);
    }

    /// The fallback files take so many bytes.
    pub(crate) fn on_files_size(&mut self, bytes: u64) {
        self.on_disk.files = bytes;
        self.note_sizes();
    }

    /// The journal takes so many bytes.
    pub(crate) fn on_journal_size(&mut self, bytes: u64) {
        self.on_disk.journal = bytes;
        self.note_sizes();
    }
}

/// Parts of the polls.
impl Core {
    /// Notes the bytes of this moment in the numbers of an outage.
    pub(super) fn note_sizes(&mut self) {
        let OnDisk { files, journal } = self.on_disk;
        let memory = self.memory.occupied_size().bytes as u64;
        self.endpoints.tallies_mut().for_each(|tally| tally.note_sizes(memory, files + journal));
    }

    /// The records have changed: they are kept with the next poll.
    pub(super) fn set_outages_due(&mut self) {
        (self.keeping.is_due, self.keeping.kept) = (true, None);
    }

    /// Has the disk thread keep the records: of the beginning and the end of an outage at once, of its numbers once a
    /// minute, and once no batch of it waits any more.
    pub(super) fn follow_records(&mut self, now: Instant) {
        let has_passed = self.keeping.kept.is_none_or(|kept| now.saturating_duration_since(kept) >= KEPT_EVERY);
        let is_final = self.keeping.is_due && Tally::has_none_waiting(self.accounts.ledger());
        let is_final = is_final && !self.keeping.has_failed;
        if is_final || has_passed && self.has_news() {
            self.ask_to_keep(now);
        }
    }

    /// Has the disk thread keep the records before it ends.
    pub(super) fn keep_last_records(&mut self, now: Instant) {
        if self.has_news() {
            // A thread that hangs in an earlier attempt will not come to this one either.
            self.keeping.is_asked = false;
            self.ask_to_keep(now);
        }
    }

    /// The disk does not have the records as they are now.
    fn has_news(&self) -> bool {
        self.keeping.is_due || self.records.has_current()
    }

    fn ask_to_keep(&mut self, now: Instant) {
        if self.keeping.is_on && !self.keeping.is_asked && self.phase != Phase::Stopped {
            (self.keeping.is_due, self.keeping.is_asked, self.keeping.kept) = (false, true, Some(now));
            self.effects.push_back(Effect::KeepOutages);
        }
    }
}

/// The span of an outage.
impl Core {
    /// A span of the exporter's own is a batch, as one of the processor's is. A pipeline that ends takes none.
    pub(crate) fn on_own_span(&mut self, payload: Payload, now: Instant, sync_within: Duration) {
        if self.phase == Phase::Running {
            self.on_sealed(payload, now, sync_within);
        }
    }
}

/// Queries.
impl Core {
    /// The newest outages of this process, the oldest first.
    pub(crate) fn outages(&self) -> Vec<Recorded> {
        let duplicates = self.accounts.counters.possible_duplicates();
        let of = |tally: &Tally| tally.numbers(self.accounts.ledger(), duplicates);
        self.records.all(|endpoint: Position| {
            self.endpoints.collector(endpoint.index()).tally.as_ref().map(of).unwrap_or_default()
        })
    }
}

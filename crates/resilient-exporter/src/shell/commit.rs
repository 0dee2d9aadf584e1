//! Durable mode on the disk thread: group commits, marks, the hand-over to files, and the batches of earlier processes.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use journal::{SyncPolicy, SyncSchedule};
use otlp_payload::{BatchId, Payload};

use super::shared::Shared;
use crate::core::{Commit, Written};
use crate::report::warnings;
use crate::seams::fallback::Fallback;
use crate::seams::journal::{Journal, JournalError, JournalUsage, Recovered};

/// While batches have records in the journal, the disk thread looks for marks at least this often, and between two
/// operations; it syncs them within 100 ms of a look.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A file whose hand-over cannot be made durable is replayed all the same after this time: it may be one that fills the
/// disk.
const UNSETTLED: Duration = Duration::from_secs(10);

/// Acts on the journal, whose panics count as errors, and reports to the core.
pub(crate) struct Committer {
    journal: Box<dyn Journal>,
    schedule: SyncSchedule,
    /// Batches that were appended and wait for a sync, because the policy asks for one.
    unsynced: Vec<BatchId>,
    /// The last two looks for marks: no mark of a commit is older than the one before the last.
    looks: [Instant; 2],
    /// Since this instant there may be a file whose batches the journal would give back after a crash.
    unsettled: Option<Instant>,
    /// The error of the last operation of each kind, if it failed: the success of one kind does not end the trouble of
    /// another.
    trouble: [Option<String>; 5],
    reported: Option<String>,
    warned: Option<String>,
}

/// Kinds of operations. The core learns of the first that is in trouble.
#[derive(Clone, Copy)]
enum Kind {
    Append,
    Sync,
    /// A sync that succeeds makes up for marks that failed.
    Mark,
    Recover,
    /// Its trouble delays no batch: only the log mentions it.
    Maintain,
}

impl Committer {
    pub(crate) fn new(journal: Box<dyn Journal>, policy: SyncPolicy, now: Instant) -> Self {
        Self {
            journal,
            schedule: SyncSchedule::new(policy),
            unsynced: Vec::new(),
            looks: [now; 2],
            // Opening may have failed to mark the batches that files of the process before took over.
            unsettled: Some(now),
            trouble: [const { None }; 5],
            reported: None,
            warned: None,
        }
    }

    pub(crate) fn usage(&self) -> JournalUsage {
        catch_unwind(AssertUnwindSafe(|| self.journal.usage())).unwrap_or_default()
    }

    /// The time until the next sync is due.
    pub(crate) fn sync_due(&self, shared: &Shared) -> Option<Duration> {
        let now = shared.clock.now();
        self.schedule.due().map(|due| due.saturating_duration_since(now))
    }

    /// The disk thread looks for marks.
    pub(crate) fn on_look(&mut self, now: Instant) {
        self.looks = [now, self.looks[0]];
    }

    /// Appends and marks the batches of a commit, and syncs if that is due.
    pub(crate) fn commit(&mut self, commit: &Commit, shared: &Shared) {
        let recovered = !commit.append.is_empty() && self.append(&commit.append, shared);
        if !commit.done.is_empty() {
            // A mark that is not written stays in the journal's memory, which writes it later.
            let _ = self.ask(Kind::Mark, |journal| journal.done(&commit.done));
            self.schedule.marked(self.looks[1]);
        }
        self.sync_if_due(shared);
        shared.decide(|core| core.on_committed(recovered));
        shared.progress();
    }

    /// Appends each batch. Returns whether all were appended after a failure.
    fn append(&mut self, batches: &[Payload], shared: &Shared) -> bool {
        let (mut appended, mut failed, mut trouble) = (Vec::new(), Vec::new(), None);
        let was_in_trouble = self.trouble[Kind::Append as usize].is_some();
        for payload in batches {
            match self.ask(Kind::Append, |journal| journal.append(payload)) {
                Ok(()) => appended.push(payload.id()),
                Err(Failed) => {
                    failed.push(payload.id());
                    trouble.clone_from(&self.trouble[Kind::Append as usize]);
                }
            }
        }
        // A failure counts also if later batches were appended.
        self.trouble[Kind::Append as usize] = trouble;
        let recovered = was_in_trouble && failed.is_empty();
        if !appended.is_empty() {
            self.schedule.appended(shared.clock.now());
        }
        let mut core = shared.core();
        core.durable.on_written(&failed, Written::Failed);
        if self.schedule.policy() == SyncPolicy::Batch {
            self.unsynced.append(&mut appended);
        } else {
            core.durable.on_written(&appended, Written::Synced);
        }
        recovered
    }

    pub(crate) fn sync_if_due(&mut self, shared: &Shared) {
        if self.schedule.is_due(shared.clock.now()) {
            self.sync(shared);
        } else if !self.unsynced.is_empty() {
            // The last sync failed, and the next one is not due: no `export` call waits for it.
            shared.core().durable.on_written(&self.unsynced, Written::Unsynced);
        }
        self.report(shared);
    }

    pub(crate) fn sync(&mut self, shared: &Shared) {
        match self.ask(Kind::Sync, Journal::sync) {
            Ok(()) => {
                self.trouble[Kind::Mark as usize] = None;
                self.schedule.synced();
                self.unsettled = None;
                shared.core().durable.on_written(&self.unsynced, Written::Synced);
                self.unsynced.clear();
            }
            Err(Failed) => {
                self.schedule.failed(shared.clock.now());
                shared.core().durable.on_written(&self.unsynced, Written::Unsynced);
            }
        }
    }

    // A file takes batches over.

    /// Announces the name of the file before it is written.
    pub(crate) fn announce(&mut self, file: &str, ids: &[BatchId], shared: &Shared) {
        // If this fails the file is written all the same: a crash then repeats the batches, which is better than a full
        // memory.
        if !ids.is_empty() && self.ask(Kind::Mark, |journal| journal.announce(file, ids)).is_ok() {
            self.sync_hand_over(shared);
        }
    }

    /// The batches are in the file.
    pub(crate) fn handed_over(&mut self, ids: &[BatchId], shared: &Shared) {
        if !ids.is_empty() {
            self.unsettled.get_or_insert(shared.clock.now());
            let _ = self.ask(Kind::Mark, |journal| journal.done(ids));
            self.sync_hand_over(shared);
        }
    }

    /// The file was not written.
    pub(crate) fn take_back(&mut self, ids: &[BatchId], shared: &Shared) {
        if !ids.is_empty() {
            let _ = self.ask(Kind::Mark, |journal| journal.take_back(ids));
            self.schedule.marked(shared.clock.now());
        }
    }

    fn sync_hand_over(&mut self, shared: &Shared) {
        if self.schedule.policy() == SyncPolicy::Never {
            self.unsettled = None;
        } else {
            self.sync(shared);
        }
    }

    /// Files may be replayed and removed: the journal has durably given up their batches.
    pub(crate) fn is_settled(&mut self, shared: &Shared) -> bool {
        let Some(since) = self.unsettled else { return true };
        if self.schedule.due().is_none_or(|due| due <= shared.clock.now()) {
            self.sync(shared);
        }
        self.unsettled.is_none() || shared.clock.now().saturating_duration_since(since) >= UNSETTLED
    }

    // Batches of earlier processes.

    /// Clears up, and looks for journals of processes that have ended.
    pub(crate) fn maintain(&mut self, fallback: &mut dyn Fallback, shared: &Shared) {
        let mut holds = |name: &str| {
            catch_unwind(AssertUnwindSafe(|| fallback.has_file(name)))
                .unwrap_or_else(|_| Err(io::Error::other("the fallback panicked")))
        };
        let mut found = 0;
        let _ = self.ask(Kind::Maintain, |journal| {
            let maintained = journal.maintain(&mut holds);
            // Also if the rest of it failed.
            found = journal.found();
            maintained
        });
        shared.decide(|core| core.on_found(found));
        let trouble = &self.trouble[Kind::Maintain as usize];
        if *trouble != self.warned {
            self.warned.clone_from(trouble);
            if let Some(error) = trouble {
                shared.note(warnings::Kind::JournalUpkeep, error);
            }
        }
        self.report(shared);
    }

    /// Reads one batch of an earlier process.
    pub(crate) fn recover(&mut self, shared: &Shared) {
        let (now, wall) = (shared.clock.now(), shared.clock.wall());
        let recovered = self.ask(Kind::Recover, |journal| match journal.next_recovered(wall) {
            Recovered::Later(error) => Err(error),
            // A journal of a user's may misstate the number of spans; pieces of a batch that is cut have the true one.
            Recovered::Batch(payload) => Ok(Recovered::Batch(counted(payload))),
            recovered => Ok(recovered),
        });
        shared.decide(|core| match recovered {
            Ok(Recovered::Batch(payload)) => core.on_recovered(payload, now),
            Ok(Recovered::Damaged { spans }) => core.on_recovery_damaged(spans, now),
            Ok(Recovered::End) => core.on_recovery_ended(now),
            Ok(Recovered::Later(_)) | Err(Failed) => core.durable.on_recovery_failed(now),
        });
        self.report(shared);
    }

    /// Runs an operation on the journal and records its error.
    fn ask<T>(
        &mut self,
        kind: Kind,
        operation: impl FnOnce(&mut dyn Journal) -> Result<T, JournalError>,
    ) -> Result<T, Failed> {
        let journal = &mut *self.journal;
        // The text of an error is a user's code too.
        let result = catch_unwind(AssertUnwindSafe(|| operation(journal).map_err(|error| error.to_string())));
        let (result, trouble) = match result {
            Ok(Ok(value)) => (Ok(value), None),
            Ok(Err(error)) => (Err(Failed), Some(error)),
            Err(_) => (Err(Failed), Some("the journal panicked".to_owned())),
        };
        self.trouble[kind as usize] = trouble;
        result
    }

    /// Reports the first trouble to the core, if it has changed.
    fn report(&mut self, shared: &Shared) {
        let [troubles @ .., _] = &self.trouble;
        let trouble = troubles.iter().flatten().next();
        if trouble != self.reported.as_ref() {
            self.reported = trouble.cloned();
            shared.decide(|core| core.durable.on_trouble(self.reported.clone()));
        }
    }
}

/// The batch with as many spans as its bytes hold. Bytes that are no request keep the journal's number: such a batch is
/// never cut.
pub(crate) fn counted(payload: Payload) -> Payload {
    match otlp_payload::count_spans(payload.bytes()) {
        Ok(spans) if spans != payload.span_count() => {
            Payload::new(payload.id(), payload.created(), spans, payload.bytes().clone())
        }
        _ => payload,
    }
}

/// The operation failed; its error is in `trouble`.
#[derive(Debug)]
struct Failed;

//! Durable mode on the disk thread: group commits, marks, the hand-over to files, and what an earlier life left.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ::journal::{SyncPolicy, SyncSchedule};
use otlp_payload::BatchId;

use crate::core::Written;
use crate::seams::fallback::Fallback;
use crate::seams::journal::{Journal, JournalError, Journaled, Recovered};
use crate::shell::shared::Shared;

/// Bytes of one group commit, about: what waits behind it waits for the next.
const GROUP_BYTES: usize = 8 * 1_024 * 1_024;

/// While batches have a shadow, what became of them is looked at this often; their marks are synced within 100 ms of it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Batches of an earlier life that are read in one go.
const RECOVER_AT_ONCE: usize = 64;

/// A file whose hand-over cannot be made durable is replayed all the same after this time: it may be what fills the disk.
const UNSETTLED: Duration = Duration::from_secs(10);

pub(crate) struct Committer {
    journal: Box<dyn Journal>,
    schedule: SyncSchedule,
    /// Appended, and waiting for a sync because the policy asks for one.
    unsynced: Vec<BatchId>,
    /// When marks were last looked for: none that waits is older.
    looked: Instant,
    /// Since when there may be a file whose batches are still in the journal after a crash.
    unsettled: Option<Instant>,
    /// What the last operation of each kind said, if it failed: that one kind works does not end the trouble of another.
    trouble: [Option<String>; 5],
    told: Option<String>,
    warned: Option<String>,
}

/// Kinds of operations; of several that are in trouble the first is told of.
#[derive(Clone, Copy)]
enum Kind {
    Append,
    Sync,
    /// Its success says less than that of a sync, which makes up for marks that failed.
    Mark,
    Recover,
    /// Keeps nobody from being durable, so only the log tells of it.
    Maintain,
}

impl Committer {
    pub(crate) fn new(journal: Box<dyn Journal>, policy: SyncPolicy, now: Instant) -> Self {
        Self {
            journal,
            schedule: SyncSchedule::new(policy),
            unsynced: Vec::new(),
            looked: now,
            // Opening may not have been able to write down what became of the files of the life before.
            unsettled: Some(now),
            trouble: [const { None }; 5],
            told: None,
            warned: None,
        }
    }

    pub(crate) fn kept(&self) -> Journaled {
        catch_unwind(AssertUnwindSafe(|| self.journal.kept())).unwrap_or_default()
    }

    /// Ask again at the latest after this time.
    pub(crate) fn patience(&self, shared: &Shared) -> Option<Duration> {
        let look = shared.core().has_shadows().then_some(LOOK_EVERY);
        let now = shared.clock.now();
        let due = self.schedule.due().map(|due| due.saturating_duration_since(now));
        look.into_iter().chain(due).min()
    }

    /// Writes what waits to be written, marks what has had its end, syncs if that is due.
    pub(crate) fn turn(&mut self, shared: &Shared) {
        loop {
            let wrote = self.write(shared);
            self.mark(shared);
            if self.schedule.is_due(shared.clock.now()) {
                self.sync(shared);
            } else if !self.unsynced.is_empty() {
                // The last sync failed, and the next is not due: nobody waits for it.
                shared.core().shadows_written(&self.unsynced, Written::Unsynced);
            }
            if !wrote {
                break;
            }
            shared.progress();
        }
        self.tell(shared);
    }

    fn write(&mut self, shared: &Shared) -> bool {
        let group = shared.core().shadows_to_write(GROUP_BYTES);
        if group.is_empty() {
            return false;
        }
        let (mut appended, mut missing, mut trouble) = (Vec::new(), Vec::new(), None);
        let was_in_trouble = self.trouble[Kind::Append as usize].is_some();
        for payload in &group {
            match self.ask(Kind::Append, |journal| journal.append(payload)) {
                Ok(()) => appended.push(payload.id()),
                Err(Failed) => {
                    missing.push(payload.id());
                    trouble.clone_from(&self.trouble[Kind::Append as usize]);
                }
            }
        }
        // Also of one that is followed by others that were written.
        self.trouble[Kind::Append as usize] = trouble;
        let is_over = was_in_trouble && missing.is_empty();
        if !appended.is_empty() {
            self.schedule.appended(shared.clock.now());
        }
        let mut core = shared.core();
        core.shadows_written(&missing, Written::Failed);
        if self.schedule.policy() == SyncPolicy::Batch {
            self.unsynced.append(&mut appended);
        } else {
            core.shadows_written(&appended, Written::Kept);
        }
        if is_over {
            core.write_failed_again();
        }
        true
    }

    fn mark(&mut self, shared: &Shared) {
        let done = shared.core().shadows_done();
        if !done.is_empty() {
            // Where it is not written it is kept in the journal's memory: nothing more can be done.
            let _ = self.ask(Kind::Mark, |journal| journal.done(&done));
            self.schedule.marked(self.looked);
        }
        self.looked = shared.clock.now();
    }

    fn sync(&mut self, shared: &Shared) {
        match self.ask(Kind::Sync, Journal::sync) {
            Ok(()) => {
                self.trouble[Kind::Mark as usize] = None;
                self.schedule.synced();
                self.unsettled = None;
                shared.core().shadows_written(&self.unsynced, Written::Kept);
                self.unsynced.clear();
            }
            Err(Failed) => {
                self.schedule.failed(shared.clock.now());
                shared.core().shadows_written(&self.unsynced, Written::Unsynced);
            }
        }
    }

    // A file takes batches over.

    /// They will be in the file of this name.
    pub(crate) fn announce(&mut self, file: &str, ids: &[BatchId], shared: &Shared) {
        // Where this fails the file is written all the same: a crash then brings the batches twice, which is better
        // than having no room for new ones.
        if !ids.is_empty() && self.ask(Kind::Mark, |journal| journal.announce(file, ids)).is_ok() {
            self.sync_hand_over(shared);
        }
    }

    /// They are in the file.
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

    /// Whether files may be replayed and removed: the journal has given up what is in them, durably.
    pub(crate) fn is_settled(&mut self, shared: &Shared) -> bool {
        let Some(since) = self.unsettled else { return true };
        if self.schedule.due().is_none_or(|due| due <= shared.clock.now()) {
            self.sync(shared);
        }
        self.unsettled.is_none() || shared.clock.now().saturating_duration_since(since) >= UNSETTLED
    }

    // What an earlier life left.

    /// Clears up, and looks for journals of processes that have ended.
    pub(crate) fn maintain(&mut self, fallback: &mut dyn Fallback, shared: &Shared) {
        let mut holds = |name: &str| {
            catch_unwind(AssertUnwindSafe(|| fallback.holds(name)))
                .unwrap_or_else(|_| Err(io::Error::other("the fallback panicked")))
        };
        let mut found = 0;
        let _ = self.ask(Kind::Maintain, |journal| {
            let maintained = journal.maintain(&mut holds);
            // Also where the rest of it failed.
            found = journal.found();
            maintained
        });
        shared.core().found_in_journal(found);
        let trouble = &self.trouble[Kind::Maintain as usize];
        if *trouble != self.warned {
            self.warned.clone_from(trouble);
            if let Some(error) = trouble {
                tracing::warn!(
                    error,
                    "the journal was not cleared up, or one of another process not taken over; it is tried again"
                );
            }
        }
        self.tell(shared);
    }

    /// Takes batches of an earlier life into memory while that has room; says whether there were any.
    pub(crate) fn recover(&mut self, shared: &Shared) -> bool {
        let mut any = false;
        for _ in 0..RECOVER_AT_ONCE {
            if !shared.core().wants_recovered() {
                break;
            }
            let wall = shared.clock.wall();
            match self.ask(Kind::Recover, |journal| Ok(journal.next_recovered(wall))) {
                Ok(Recovered::Batch(payload)) => shared.decide(|core, effects| core.recovered(payload, effects)),
                Ok(Recovered::Damaged { spans }) => shared.decide(|core, effects| core.recovery_lost(spans, effects)),
                Ok(Recovered::End) => shared.decide(|core, effects| core.recovery_ends(effects)),
                Ok(Recovered::Later(error)) => {
                    self.trouble[Kind::Recover as usize] = Some(error.to_string());
                    break;
                }
                Err(Failed) => break,
            }
            any = true;
        }
        self.tell(shared);
        any
    }

    /// The last of this life: everything that can be durable is.
    pub(crate) fn finish(&mut self, fallback: &mut dyn Fallback, shared: &Shared) {
        self.turn(shared);
        self.sync(shared);
        shared.decide(|core, effects| core.journal_closes(effects));
        // Marks of what was given up just now.
        self.mark(shared);
        self.sync(shared);
        self.maintain(fallback, shared);
    }

    /// Asks the journal, whose panic is an error, and keeps what it says.
    fn ask<T>(
        &mut self,
        kind: Kind,
        operation: impl FnOnce(&mut dyn Journal) -> Result<T, JournalError>,
    ) -> Result<T, Failed> {
        let journal = &mut *self.journal;
        let result = catch_unwind(AssertUnwindSafe(|| operation(journal)));
        let (result, trouble) = match result {
            Ok(Ok(value)) => (Ok(value), None),
            Ok(Err(error)) => (Err(Failed), Some(error.to_string())),
            Err(_) => (Err(Failed), Some("the journal panicked".to_owned())),
        };
        self.trouble[kind as usize] = trouble;
        result
    }

    fn tell(&mut self, shared: &Shared) {
        let [troubles @ .., _] = &self.trouble;
        let trouble = troubles.iter().flatten().next();
        if trouble != self.told.as_ref() {
            self.told = trouble.cloned();
            shared.decide(|core, effects| core.journal_said(self.told.clone(), effects));
        }
    }
}

/// What went wrong is in `trouble`.
#[derive(Debug)]
struct Failed;

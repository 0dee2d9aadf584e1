//! The operations of the journal thread on the journal: group commits, marks, hand-overs to files, reads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Instant, SystemTime};

use journal::SyncPolicy;
use otlp_payload::{BatchId, Payload, Signal};

use super::jobs::HandOver;
use super::plan::Plan;
use super::shared::Shared;
use crate::core::{Commit, Written};
use crate::report::warnings;
use crate::seams::journal::{Journal, JournalError, JournalUsage, Lost, Recovered, Vanished};

/// Acts on the journal, whose panics count as errors, and reports to the core.
pub(crate) struct Committer {
    journal: Box<dyn Journal>,
    pub(super) plan: Plan,
    /// Batches that were appended and wait for a sync, because the policy asks for one.
    unsynced: Vec<BatchId>,
    /// The journal has lost these batches, and the core does not know yet.
    vanished: Vanished,
    /// The error of the last operation of each kind, if it failed: the success of one kind does not end the trouble of
    /// another.
    trouble: [Option<String>; 5],
    reported: Option<String>,
    warned: Option<String>,
}

/// Kinds of operations. The core learns of the first that is in trouble.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Append,
    Sync,
    /// A sync that succeeds makes up for marks that failed.
    Mark,
    Recover,
    /// Its trouble delays no batch: only the log mentions it.
    Maintain,
}

/// The result of the appends and marks of a commit, before its sync.
#[derive(Default)]
pub(crate) struct Wrote {
    /// Appends succeed again after a failure.
    pub(crate) recovered: bool,
    /// Older batches are in the way of these.
    pub(crate) full: Vec<Payload>,
}

impl Committer {
    pub(crate) fn new(journal: Box<dyn Journal>, policy: SyncPolicy) -> Self {
        Self {
            journal,
            plan: Plan::new(policy),
            unsynced: Vec::new(),
            vanished: Vanished::default(),
            trouble: [const { None }; 5],
            reported: None,
            warned: None,
        }
    }

    pub(crate) fn usage(&self) -> JournalUsage {
        catch_unwind(AssertUnwindSafe(|| self.journal.usage())).unwrap_or_default()
    }

    /// The time after which the journal has maintenance to do, if no job comes before.
    pub(crate) fn next_maintenance(&self) -> Option<std::time::Duration> {
        catch_unwind(AssertUnwindSafe(|| self.journal.next_maintenance())).unwrap_or_default()
    }

    /// The batches that the journal has lost since the last call, if there are any.
    pub(crate) fn take_vanished(&mut self) -> Option<Vanished> {
        Some(std::mem::take(&mut self.vanished)).filter(|vanished| !vanished.is_empty())
    }

    /// The journal has lost all that it had, and the core does not know yet.
    pub(crate) fn has_lost_all(&self) -> bool {
        self.vanished.is_all()
    }

    /// Batches have left the journal: no read or mark that failed is tried again, which would end its trouble.
    fn forget_trouble_of_batches(&mut self) {
        for kind in [Kind::Mark, Kind::Recover] {
            self.trouble[kind as usize] = None;
        }
    }

    /// Appends and marks the batches of a commit. Marks follow the appends, so that no mark precedes its batch; they
    /// have waited since `marked`.
    pub(crate) fn write(&mut self, commit: &Commit, marked: Instant, shared: &Shared) -> Wrote {
        let wrote = if commit.append.is_empty() { Wrote::default() } else { self.append(&commit.append, shared) };
        if !commit.done.is_empty() && !self.vanished.is_all() {
            // A mark that is not written stays in the journal's memory, which writes it later.
            let _ = self.ask(Kind::Mark, |journal| journal.done(&commit.done));
            self.plan.on_marked(marked);
        }
        wrote
    }

    /// Appends each batch.
    fn append(&mut self, batches: &[Payload], shared: &Shared) -> Wrote {
        let (mut appended, mut failed, mut trouble) = (Vec::new(), Vec::new(), None);
        let was_in_trouble = self.trouble[Kind::Append as usize].is_some();
        let mut full = Vec::new();
        for payload in batches {
            if !full.is_empty() {
                full.push(payload.clone());
                continue;
            }
            match self.append_one(payload) {
                Ok(()) => appended.push(payload.id()),
                Err(Failed { is_full }) => {
                    trouble.clone_from(&self.trouble[Kind::Append as usize]);
                    match is_full {
                        true => full.push(payload.clone()),
                        false => failed.push(payload.id()),
                    }
                }
            }
            if self.vanished.is_all() {
                // The core has all batches of this commit appended again.
                return Wrote::default();
            }
        }
        // The core has these appended again.
        appended.retain(|id| !self.vanished.has(*id));
        // A failure counts also if later batches were appended.
        self.trouble[Kind::Append as usize] = trouble;
        let recovered = was_in_trouble && failed.is_empty() && full.is_empty();
        if !appended.is_empty() {
            self.plan.on_appended(shared.clock.now());
        }
        let mut core = shared.core();
        core.durable.on_written(&failed, Written::Failed);
        if self.plan.policy() == SyncPolicy::Batch {
            self.unsynced.append(&mut appended);
        } else {
            core.durable.on_written(&appended, Written::Synced);
        }
        Wrote { recovered, full }
    }

    fn append_one(&mut self, payload: &Payload) -> Result<(), Failed> {
        match self.ask(Kind::Append, |journal| journal.append(payload)) {
            Err(Failed { is_full: true }) => {
                // Batches that have ended since the last maintenance may take the room.
                let busy = || io::Error::new(io::ErrorKind::WouldBlock, "the journal makes room: asked again later");
                let maintained = self.ask(Kind::Maintain, |journal| journal.maintain(&mut |_| Err(busy())));
                match maintained {
                    Ok(()) => self.ask(Kind::Append, |journal| journal.append(payload)),
                    Err(_) => Err(Failed { is_full: true }),
                }
            }
            result => result,
        }
    }

    /// Syncs if that is due. Returns whether it did, and with which result.
    pub(crate) fn sync_if_due(&mut self, shared: &Shared) -> Option<bool> {
        if self.plan.is_due(shared.clock.now()) {
            return Some(self.sync(shared));
        }
        if !self.unsynced.is_empty() {
            // The last sync failed, and the next one is not due: no `export` call waits for it.
            shared.core().durable.on_written(&self.unsynced, Written::Unsynced);
        }
        None
    }

    /// Returns whether the sync succeeded.
    pub(crate) fn sync(&mut self, shared: &Shared) -> bool {
        let result = self.ask(Kind::Sync, Journal::sync);
        match result {
            Ok(()) => {
                self.trouble[Kind::Mark as usize] = None;
                self.plan.on_synced();
                shared.core().durable.on_written(&self.unsynced, Written::Synced);
                self.unsynced.clear();
            }
            Err(_) => {
                self.plan.on_failed(shared.clock.now());
                shared.core().durable.on_written(&self.unsynced, Written::Unsynced);
            }
        }
        result.is_ok()
    }

    /// A file takes batches over. Whatever fails here, the file is written all the same: a crash then repeats the
    /// batches, which is better than a full memory.
    pub(crate) fn hand_over(&mut self, hand_over: &HandOver, now: Instant) {
        match hand_over {
            HandOver::Announce { file, ids } => {
                let _ = self.ask(Kind::Mark, |journal| journal.announce(file, ids));
                self.plan.on_announced(now);
            }
            HandOver::Standing { ids } => {
                let _ = self.ask(Kind::Mark, |journal| journal.done(ids));
                self.plan.on_standing(now);
            }
            HandOver::TakeBack { ids } => {
                let _ = self.ask(Kind::Mark, |journal| journal.take_back(ids));
                self.plan.on_marked(now);
            }
        }
    }

    /// Gives the oldest segment of the journal up.
    pub(crate) fn remove_oldest(&mut self) -> Option<Lost> {
        let removed = self.ask(Kind::Maintain, Journal::remove_oldest_finished).unwrap_or_default();
        if let Some(lost) = &removed {
            self.unsynced.retain(|id| !lost.batches.contains(id));
            self.forget_trouble_of_batches();
        }
        removed
    }

    /// Clears up, and looks for journals of processes that have ended. Returns the spans that were found there.
    pub(crate) fn maintain(&mut self, has_file: &mut dyn FnMut(&str) -> io::Result<bool>, shared: &Shared) -> u64 {
        let mut found = 0;
        let _ = self.ask(Kind::Maintain, |journal| {
            let maintained = journal.maintain(has_file);
            // Also if the rest of it failed.
            found = journal.found();
            maintained
        });
        let trouble = &self.trouble[Kind::Maintain as usize];
        if *trouble != self.warned {
            self.warned.clone_from(trouble);
            if let Some(error) = trouble {
                shared.note(warnings::Kind::JournalUpkeep, error);
            }
        }
        found
    }

    /// Reads one batch: this one, or the next of an earlier process. None: the storage failed.
    pub(crate) fn recover(&mut self, signal: Signal, id: Option<BatchId>, wall: SystemTime) -> Option<Recovered> {
        let recovered = self.ask(Kind::Recover, |journal| {
            let read = match id {
                Some(id) => journal.read(id, wall),
                None => journal.next_recovered(wall),
            };
            match read {
                Recovered::Later(error) => Err(error),
                Recovered::Batch(payload) if id.is_some_and(|id| id != payload.id()) => {
                    Err(JournalError::new("the journal returned another batch than the one that it was asked for"))
                }
                // A journal of a user's may misstate the number of spans; pieces of a batch that is cut have the true
                // one.
                Recovered::Batch(payload) => Ok(Recovered::Batch(counted(signal, payload))),
                recovered => Ok(recovered),
            }
        });
        recovered.ok()
    }

    /// Runs an operation on the journal; records its error, and the batches that the journal lost meanwhile.
    fn ask<T>(
        &mut self,
        kind: Kind,
        operation: impl FnOnce(&mut dyn Journal) -> Result<T, JournalError>,
    ) -> Result<T, Failed> {
        let journal = &mut *self.journal;
        // The text of an error is a user's code too.
        let told = |error: JournalError| (error.to_string(), error.is_full());
        let result = catch_unwind(AssertUnwindSafe(|| operation(journal).map_err(told)));
        let (result, trouble) = match result {
            Ok(Ok(value)) => (Ok(value), None),
            Ok(Err((error, is_full))) => (Err(Failed { is_full: is_full && kind == Kind::Append }), Some(error)),
            Err(_) => (Err(Failed { is_full: false }), Some("the journal panicked".to_owned())),
        };
        self.trouble[kind as usize] = trouble;
        self.look_for_vanished();
        result
    }

    fn look_for_vanished(&mut self) {
        let journal = &mut *self.journal;
        let vanished = catch_unwind(AssertUnwindSafe(|| journal.take_vanished())).unwrap_or_default();
        if !vanished.is_empty() {
            // No sync makes them durable.
            self.unsynced.retain(|id| !vanished.has(*id));
            self.forget_trouble_of_batches();
            self.vanished.add(vanished);
        }
    }

    /// Reports the first trouble to the core, if it has changed.
    pub(crate) fn report(&mut self, shared: &Shared) {
        let [troubles @ .., _] = &self.trouble;
        let trouble = troubles.iter().flatten().next();
        if trouble != self.reported.as_ref() {
            self.reported = trouble.cloned();
            shared.decide(|core| core.durable.on_trouble(self.reported.clone()));
        }
    }
}

/// The batch as one of the pipeline's signal, which a journal of a user's may not keep, with as many items as its bytes
/// hold. Bytes that are no request keep the journal's number: such a batch is
/// never cut.
pub(crate) fn counted(signal: Signal, payload: Payload) -> Payload {
    match otlp_payload::count_items(signal, payload.bytes()) {
        Ok(items) if items != payload.item_count() || signal != payload.signal() => {
            Payload::of(signal, payload.id(), payload.created(), items, payload.bytes().clone())
        }
        _ => payload,
    }
}

/// The operation failed; its error is in `trouble`.
#[derive(Clone, Copy, Debug)]
struct Failed {
    /// Older batches are in the way of an append.
    is_full: bool,
}

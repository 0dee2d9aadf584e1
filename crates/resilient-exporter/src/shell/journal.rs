//! The journal thread: commits, marks and hand-overs share its syncs, and it reads batches back. It never touches a
//! fallback file.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use opentelemetry::Context;

use super::commit::{Committer, Wrote};
use super::jobs::{Job, Ticket};
use super::shared::Shared;
use crate::core::{Commit, Effect};
use crate::report::warnings::Kind;
use crate::seams::journal::Recovered;

/// Marks wait this long for a commit that takes them along; they are synced within 100 ms of the end of their batches.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(50);

/// The shortest time between two maintenances.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);

/// Maintenance waits until no commit has come for this time: it may sync too, and an exporting thread often sends its
/// next batch as soon as the last one is synced.
const QUIET: Duration = Duration::from_millis(20);

/// Maintenance waits no longer than this for a quiet moment.
const MAINTAIN_AT_LEAST: Duration = Duration::from_secs(5);

/// The longest wait for the disk thread's answer about a file.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The longest pause after a panic.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Runs until the disk thread has ended, and acts on all jobs before that.
pub(crate) fn run(shared: &Shared, committer: Committer) {
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut worker = JournalWorker::new(shared, committer);
    worker.contained(JournalWorker::maintain);
    let mut pause = Duration::from_millis(1);
    while !shared.is_journal_done() {
        if !worker.contained(JournalWorker::turn) {
            // The cause of the panic may still be there.
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
    worker.contained(JournalWorker::close);
    // The directory's lock is free before a waiting thread learns of the end.
    let JournalWorker { committer, .. } = worker;
    let _ = catch_unwind(AssertUnwindSafe(|| drop(committer)));
    shared.on_journal_ended();
}

pub(crate) struct JournalWorker<'a> {
    shared: &'a Shared,
    committer: Committer,
    /// Batches that have ended wait for their marks since this instant.
    marks_since: Option<Instant>,
    maintained: Instant,
    /// The end of the last commit.
    committed: Instant,
    /// The effects of this turn that the core has no result of yet.
    open: VecDeque<Effect>,
    /// The last hand-over that was noted in the journal.
    noted: Ticket,
    /// A thread waits for the sync of this turn.
    is_awaited: bool,
    is_stopping: bool,
}

impl<'a> JournalWorker<'a> {
    pub(crate) fn new(shared: &'a Shared, committer: Committer) -> Self {
        let maintained = shared.clock.now();
        // The first ticket stands for the files of the process before.
        let noted = 1;
        let open = VecDeque::new();
        Self {
            shared,
            committer,
            marks_since: None,
            maintained,
            committed: maintained,
            open,
            noted,
            is_awaited: false,
            is_stopping: false,
        }
    }

    /// Runs an operation; returns false if it panicked. The core learns that the effects without a result are undone.
    fn contained(&mut self, operation: impl FnOnce(&mut Self)) -> bool {
        let ended = catch_unwind(AssertUnwindSafe(|| operation(self))).is_ok();
        if !ended {
            self.shared.note(Kind::JournalThreadPanicked, "");
            self.shared.set_announced(self.noted);
            let (open, now) = (std::mem::take(&mut self.open), self.shared.clock.now());
            self.shared.decide(|core| open.into_iter().for_each(|effect| core.on_undone(effect, now)));
        }
        ended
    }

    /// Waits for jobs and acts on them.
    fn turn(&mut self) {
        let now = self.shared.clock.now();
        self.turn_within(self.due().map(|due| due.saturating_duration_since(now)));
    }

    /// The instant of the next turn, if no job comes before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let maintenance = self.committer.next_maintenance();
        // Behind a commit the end of a segment may be near, and marks may let segments go.
        let wait = |wait| if self.committed > self.maintained { MAINTAIN_EVERY } else { MAINTAIN_EVERY.max(wait) };
        let maintenance = maintenance.and_then(|later| self.maintained.checked_add(wait(later)));
        let maintenance = maintenance.map(|due| due.max(self.committed + QUIET));
        let look = self.marks_since.map(|since| since + LOOK_AFTER);
        [self.committer.plan.due(), look, maintenance].into_iter().flatten().min()
    }

    /// Acts on all jobs that wait, the first of which arrives within `patience`: one sync covers them. Reads, which may
    /// take long, follow.
    pub(crate) fn turn_within(&mut self, patience: Option<Duration>) {
        self.shared.wait_for_job(patience);
        self.shared.wakeups.count_journal();
        let now = self.shared.clock.now();
        // Taken also if no mark is left, as after the loss of the journal: the thread looks once for each question.
        let mut looked = self.marks_since.take_if(|since| now.saturating_duration_since(*since) >= LOOK_AFTER);
        if looked.is_some() {
            self.shared.decide(|core| core.on_look());
        }
        let (mut reads, mut wrote) = (Vec::new(), None);
        for job in self.shared.take_jobs() {
            match job {
                Job::Effect(Effect::Commit(commit)) => wrote = Some(self.write(commit, &mut looked)),
                Job::Effect(Effect::LookForMarks) => drop(self.marks_since.get_or_insert(now)),
                Job::Effect(Effect::Stop) => self.is_stopping = true,
                Job::Effect(effect) => reads.push(effect),
                Job::HandOver(hand_over, ticket) => {
                    self.committer.hand_over(&hand_over, self.shared.clock.now());
                    self.noted = ticket;
                    self.tell_vanished();
                }
                Job::Hurry => self.is_awaited = true,
            }
        }
        self.end_sync();
        if let Some(wrote) = wrote {
            self.end_commit(wrote);
            self.committed = self.shared.clock.now();
        }
        let wakes_net = !reads.is_empty();
        reads.into_iter().for_each(|effect| self.read(effect));
        let now = self.shared.clock.now();
        let since = now.saturating_duration_since(self.maintained);
        let is_quiet = now.saturating_duration_since(self.committed) >= QUIET;
        if since >= MAINTAIN_EVERY && is_quiet || since >= MAINTAIN_AT_LEAST {
            self.maintain();
        }
        self.report(wakes_net);
    }

    /// `looked`: marks have waited since then, and this turn has asked for them.
    fn write(&mut self, commit: Commit, looked: &mut Option<Instant>) -> Wrote {
        let mut marked = self.shared.clock.now();
        if !commit.done.is_empty() {
            let waited = self.marks_since.take();
            marked = looked.take().or(waited).unwrap_or(marked);
        }
        self.open.push_back(Effect::Commit(commit));
        match self.open.back() {
            Some(Effect::Commit(commit)) => self.committer.write(commit, marked, self.shared),
            _ => Wrote::default(),
        }
    }

    /// Syncs if that is due, and tells the disk thread.
    fn end_sync(&mut self) {
        // Before the sync: one of an empty journal would call batches durable that were lost.
        self.tell_vanished();
        let is_awaited = std::mem::take(&mut self.is_awaited);
        if self.is_stopping || is_awaited {
            self.committer.plan.hurry();
        }
        if self.committer.plan.policy() == ::journal::SyncPolicy::Never {
            self.shared.set_announced(self.noted);
        }
        let synced = match self.committer.plan.due() {
            // The marks of the process before are as durable as this sync.
            None if is_awaited => Some(self.committer.sync(self.shared)),
            _ => self.committer.sync_if_due(self.shared),
        };
        match synced {
            Some(true) => {
                self.shared.set_announced(self.noted);
                self.shared.set_settled(self.noted);
            }
            // The files are written all the same.
            Some(false) => self.shared.set_announced(self.noted),
            None => {}
        }
        self.tell_vanished();
    }

    /// Reports the end of the commit.
    fn end_commit(&mut self, wrote: Wrote) {
        let Wrote { recovered, full } = wrote;
        let usage = self.committer.usage();
        let now = self.shared.clock.now();
        let is_full = !full.is_empty();
        self.open.pop_back();
        self.shared.decide(|core| {
            if is_full {
                core.on_journal_full(full, usage, now);
            }
            core.on_committed(recovered);
        });
        // The `export` calls that are blocked on this commit.
        self.shared.progress();
        if is_full {
            // The net thread has the core try the appends again after a while.
            self.shared.net.notify_one();
        }
    }

    /// The journal may have lost batches: those of the commit that are among them are appended again.
    fn tell_vanished(&mut self) {
        let Some(vanished) = self.committer.take_vanished() else { return };
        let now = self.shared.clock.now();
        let payloads = self.open.iter().filter_map(|effect| match effect {
            Effect::Commit(commit) => Some(&commit.append[..]),
            _ => None,
        });
        let payloads = payloads.flatten().cloned().collect::<Vec<_>>();
        self.shared.decide(|core| core.on_journal_vanished(&vanished, &payloads, now));
    }

    /// Acts on an effect that is no part of the group commit. The core learns of batches that the journal has lost
    /// before it learns of the result, which may be about one of them.
    fn read(&mut self, effect: Effect) {
        let (shared, now) = (self.shared, self.shared.clock.now());
        match effect {
            Effect::Recover(id) => {
                self.open.push_back(effect);
                let recovered = self.committer.recover(shared.signal, id, shared.clock.wall());
                self.tell_vanished();
                shared.decide(|core| match recovered {
                    Some(Recovered::Batch(payload)) => core.on_recovered(payload, now),
                    Some(Recovered::Damaged { spans }) => core.on_recovery_damaged(id, spans, now),
                    Some(Recovered::End) => core.on_recovery_ended(id, now),
                    Some(Recovered::Later(_)) | None => core.on_recovery_failed(now),
                });
            }
            Effect::RemoveOldest => {
                self.open.push_back(effect);
                let removed = self.committer.remove_oldest();
                self.tell_vanished();
                shared.decide(|core| core.on_removed(removed, now));
            }
            _ => return,
        }
        self.open.pop_back();
    }

    pub(crate) fn maintain(&mut self) {
        self.maintained = self.shared.clock.now();
        let shared = self.shared;
        let mut has_file = |name: &str| -> io::Result<bool> { shared.ask_for_file(name, ANSWER_WITHIN) };
        let found = self.committer.maintain(&mut has_file, shared);
        if self.committer.has_lost_all() {
            // The batches that were found are not among those that were lost.
            self.tell_vanished();
        }
        if found > 0 {
            shared.decide(|core| core.on_found(found));
            // The thread that asks for them may have nothing else to do.
            shared.net.notify_one();
        }
        self.tell_vanished();
    }

    /// Ends the journal once the disk thread has ended and no job is left.
    pub(crate) fn close(&mut self) {
        // Finds batches that have vanished since the last maintenance, while those in memory can be appended again.
        self.maintain();
        self.turn_within(Some(Duration::ZERO));
        self.committer.sync(self.shared);
        self.tell_vanished();
        self.shared.decide(|core| core.on_journal_closed());
        // The marks of batches that were dropped just now.
        self.turn_within(Some(Duration::ZERO));
        self.committer.sync(self.shared);
        self.maintain();
        self.report(false);
    }

    /// Reports the trouble and the usage of the journal, and wakes the threads that wait for its results.
    fn report(&mut self, wakes_net: bool) {
        self.committer.report(self.shared);
        let (usage, now) = (self.committer.usage(), self.shared.clock.now());
        if usage.max_bytes > 0 {
            self.shared.decide(|core| core.on_journal_usage(usage, now));
        }
        self.shared.on_journal_operation(usage);
        if wakes_net {
            self.shared.net.notify_one();
        }
    }
}

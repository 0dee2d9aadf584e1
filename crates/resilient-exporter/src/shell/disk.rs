//! The disk thread: writes the journal and spills, reads groups back, keeps the fallback within its caps. The only one that waits
//! for the storage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::Context;
use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

use crate::core::replay::GroupSize;
use crate::seams::fallback::{Change, Fallback, FallbackError, Kept, Stored};
use crate::seams::fates::{Fate, Refusal};
use crate::shell::commit::Committer;
use crate::shell::shared::{Job, Shared};

/// How often the caps are looked after.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(1);

/// Payload bytes of one file, about: 8 MiB of JSON text, which is 2.2 times its protobuf.
const FILE_BYTES: usize = 8 * 1_024 * 1_024 * 10 / 22;

/// Runs until `Job::Stop`, and does everything that was asked of it before.
pub(crate) fn run(shared: &Shared, fallback: Box<dyn Fallback>, committer: Option<Committer>) {
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut worker = Worker::new(shared, fallback, committer);
    // Journals of processes that have ended come before their files.
    worker.contained(Worker::maintain_journal);
    while !worker.stop {
        worker.contained(Worker::turn);
    }
    worker.contained(Worker::close);
    // Before anybody is told: the directory's lock goes with it.
    let Worker { fallback, committer, .. } = worker;
    let _ = catch_unwind(AssertUnwindSafe(|| drop((committer, fallback))));
    shared.disk_ends();
}

pub(crate) struct Worker<'a> {
    shared: &'a Shared,
    fallback: Box<dyn Fallback>,
    /// In durable mode.
    committer: Option<Committer>,
    /// What the fallback said last.
    kept: Kept,
    cleaned: Instant,
    /// Of the next group to replay, and when the last was read.
    group: GroupSize,
    group_read: Instant,
    stop: bool,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared, fallback: Box<dyn Fallback>, committer: Option<Committer>) -> Self {
        let (kept, cleaned) = (Kept::default(), shared.clock.now());
        Self { shared, fallback, committer, kept, cleaned, group: GroupSize::new(), group_read: cleaned, stop: false }
    }

    fn contained(&mut self, operation: fn(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| operation(self))).is_err() {
            tracing::error!("the disk thread panicked; it goes on");
        }
    }

    /// Waits for work and does it.
    fn turn(&mut self) {
        let patience = self.committer.as_ref().and_then(|committer| committer.patience(self.shared));
        self.turn_within(patience.unwrap_or(CLEAN_UP_EVERY).min(CLEAN_UP_EVERY));
    }

    /// Does what there is to do, which begins within `patience` or is nothing.
    pub(crate) fn turn_within(&mut self, patience: Duration) {
        let mut spills = Vec::new();
        let mut others = Vec::new();
        for job in self.shared.next_jobs(patience) {
            match job {
                Job::Spill(entries) => spills.extend(entries),
                Job::Stop => self.stop = true,
                other => others.push(other),
            }
        }
        // Somebody waits for it.
        self.commit();
        self.spill(spills);
        for job in others {
            self.other(job);
            self.did();
            self.commit();
        }
        let now = self.shared.clock.now();
        if now.saturating_duration_since(self.cleaned) >= CLEAN_UP_EVERY {
            self.cleaned = now;
            self.maintain_journal();
            let wall = self.shared.clock.wall();
            let _ = guarded(|| {
                self.fallback.clean_up(wall);
                Ok(())
            });
        }
        if self.committer.as_mut().is_some_and(|committer| committer.recover(self.shared)) {
            self.shared.moved();
        }
        self.changed();
        self.did();
    }

    fn commit(&mut self) {
        if let Some(committer) = &mut self.committer {
            committer.turn(self.shared);
        }
    }

    fn maintain_journal(&mut self) {
        if let Some(committer) = &mut self.committer {
            committer.maintain(&mut *self.fallback, self.shared);
        }
    }

    pub(crate) fn close(&mut self) {
        if let Some(committer) = &mut self.committer {
            committer.finish(&mut *self.fallback, self.shared);
        }
        self.did();
    }

    /// Writes batches in files of a sensible size, each accounted for as soon as it stands.
    fn spill(&mut self, entries: Vec<Entry<Payload>>) {
        let mut files = Vec::new();
        let mut bytes = usize::MAX;
        for entry in entries {
            if bytes.saturating_add(entry.size.bytes) > FILE_BYTES {
                files.push(Vec::new());
                bytes = 0;
            }
            bytes += entry.size.bytes;
            files.last_mut().expect("pushed just now").push(entry);
        }
        files.reverse();
        while let Some(mut file) = files.pop() {
            let payloads = file.iter().map(|entry| entry.item.clone()).collect::<Vec<_>>();
            let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
            let shadows = self.shared.core().shadows_of(&file);
            match self.keep(&payloads, &shadows, wall) {
                Ok(stored) => self.shared.decide(|core, effects| core.spilled(&file, &stored.name, effects)),
                Err(error) if error.is_of_batches() && file.len() > 1 => {
                    files.push(file.split_off(file.len() / 2));
                    files.push(file);
                }
                Err(error) if error.is_of_batches() => {
                    let entry = file.pop().expect("a file has a batch");
                    self.shared.decide(|core, effects| core.unwritable(entry, &error.to_string(), effects));
                }
                Err(error) => {
                    // Those behind it would fail too: one attempt at a time.
                    file.extend(files.drain(..).rev().flatten());
                    self.shared.decide(|core, effects| core.spill_failed(file, &error.to_string(), now, effects));
                }
            }
            self.changed();
            self.did();
            self.commit();
        }
    }

    /// Writes one file, which takes over the batches of `shadows` from the journal.
    fn keep(&mut self, payloads: &[Payload], shadows: &[BatchId], wall: SystemTime) -> Result<Stored, FallbackError> {
        let Self { shared, fallback, committer, .. } = self;
        let Some(committer) = committer else { return guarded(|| fallback.keep(payloads, wall)) };
        let mut announce = |name: &str| committer.announce(name, shadows, shared);
        let stored = guarded(|| fallback.keep_announced(payloads, wall, &mut announce));
        match &stored {
            Ok(_) => committer.handed_over(shadows, shared),
            Err(_) => committer.take_back(shadows, shared),
        }
        stored
    }

    fn other(&mut self, job: Job) {
        match job {
            Job::Bury(refusals) => {
                let kept = self.bury(&refusals);
                self.shared.decide(|core, effects| core.letters_kept(&refusals, kept, effects));
            }
            Job::Read => self.read(),
            Job::Finish(fates) => self.finish(fates),
            Job::Ask(ask) => ask.answer(&mut *self.fallback, self.shared),
            Job::Spill(_) | Job::Stop => {}
        }
    }

    fn read(&mut self) {
        if self.committer.as_mut().is_some_and(|committer| !committer.is_settled(self.shared)) {
            // The journal still has what a file has. That is no trouble of the files: batches go to them all the same.
            let now = self.shared.clock.now();
            return self.shared.decide(|core, _| core.reads_later(now));
        }
        let read = guarded(|| self.fallback.read(self.group.bytes()));
        // A new batch or a spill shall not wait until files of nothing are read through.
        let in_vain = read.as_ref().is_ok_and(Vec::is_empty);
        if in_vain && !self.stop && guarded(|| Ok(self.fallback.gave_way())).unwrap_or(false) {
            return self.shared.enqueue(Job::Read);
        }
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        self.group_read = now;
        self.shared.decide(|core, effects| match read {
            Ok(batches) => {
                let batches =
                    batches.into_iter().map(|(bytes, spans)| Payload::new(core.next_id(), wall, spans, bytes));
                let batches = batches.collect();
                core.group_read(batches, now);
            }
            Err(error) => core.read_failed(&error.to_string(), now, effects),
        });
    }

    fn finish(&mut self, mut fates: Vec<Fate>) {
        let refused = fates.iter().flat_map(refusals).cloned().collect::<Vec<_>>();
        // First the dead letters, then the mark: a crash between the two repeats, it does not lose.
        let letters = refused.is_empty() || self.bury(&refused);
        if !letters {
            // Nothing leaves the store for having failed often: only the collector's word ends a batch.
            for fate in &mut fates {
                if refusals(fate).iter().any(|refusal| !refusal.permanent) {
                    *fate = Fate::Kept;
                }
            }
        }
        self.group.took(self.shared.clock.now().saturating_duration_since(self.group_read));
        let finished = guarded(|| self.fallback.finish(&fates));
        // More than was promised must have come in before it can go out.
        let (found, gone): (Vec<_>, Vec<_>) =
            self.changes().into_iter().partition(|change| matches!(change, Change::Recovered { .. }));
        let now = self.shared.clock.now();
        self.shared.decide(|core, effects| {
            for change in found {
                core.fallback_changed(change, effects);
            }
            // The answers stand even where their mark is missing.
            core.group_finished(&fates, letters, effects);
            match finished {
                Ok(()) => core.disk_works(),
                Err(error) => core.disk_failed(&error.to_string(), now, effects),
            }
            for change in gone {
                core.fallback_changed(change, effects);
            }
        });
    }

    fn bury(&mut self, refusals: &[Refusal]) -> bool {
        let wall = self.shared.clock.wall();
        guarded(|| Ok(self.fallback.bury(refusals, &self.shared.endpoint, wall))).unwrap_or(false)
    }

    fn changes(&mut self) -> Vec<Change> {
        guarded(|| Ok(self.fallback.changes())).unwrap_or_default()
    }

    fn changed(&mut self) {
        let changes = self.changes();
        self.shared
            .decide(|core, effects| changes.into_iter().for_each(|change| core.fallback_changed(change, effects)));
    }

    fn did(&mut self) {
        self.kept = guarded(|| Ok(self.fallback.kept())).unwrap_or(self.kept);
        let journaled = self.committer.as_ref().map(Committer::kept);
        self.shared.disk_did(self.kept, journaled);
    }
}

fn refusals(fate: &Fate) -> &[Refusal] {
    match fate {
        Fate::Finished { refused, .. } => refused,
        Fate::Kept => &[],
    }
}

/// Somebody's code: its panic is an error of the storage.
fn guarded<T>(operation: impl FnOnce() -> Result<T, FallbackError>) -> Result<T, FallbackError> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| Err(FallbackError::new("the fallback panicked")))
}

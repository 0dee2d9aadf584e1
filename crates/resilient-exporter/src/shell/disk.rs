//! The disk thread: writes fallback files and dead letters, reads groups back, keeps the fallback within its limits. In
//! durable mode the journal thread has the journal, and this thread tells it of each file.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use otlp_payload::{Merged, Signal};
use span_buffer::Size;

use super::group_size::GroupSize;
use super::hand_over::HandOvers;
use super::queue::Contents;
use super::shared::Shared;
use crate::core::{Answer, Effect, Letter, Question, Spill, refusals_of, requests_in};
use crate::report::outage_records::OutageRecord;
use crate::report::warnings::Kind;
use crate::seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, Stored, StoredBatch, Usage};
use crate::seams::fates::{Failures, Fate, Refusal, store_letters};

/// The interval of clean-ups, by which the fallback keeps its limits.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(1);

/// The longest pause after a panic.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Effects of one turn: after them the thread cleans up, also while more effects wait.
const EFFECTS_AT_ONCE: usize = 64;

/// Keeps the records of the outages of this process, each with its number. Its error is for the log.
pub(crate) type KeepOutages = Box<dyn FnMut(Vec<(u64, OutageRecord)>) -> Result<(), String> + Send>;

/// Runs until `Effect::Stop`, and acts on all effects before that.
pub(crate) fn run(shared: &Shared, fallback: Box<dyn Fallback>, keep_outages: Option<KeepOutages>) {
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut worker = Worker::new(shared, fallback);
    worker.keep_outages = keep_outages;
    let mut pause = Duration::from_millis(1);
    while !worker.is_done() {
        if !worker.contained(Worker::turn) {
            // The cause of the panic may still be there.
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
    // The directories' locks are free before a waiting thread learns of the end.
    let Worker { fallback, keep_outages, .. } = worker;
    let _ = catch_unwind(AssertUnwindSafe(|| drop((fallback, keep_outages))));
    shared.on_disk_ended();
}

pub(crate) struct Worker<'a> {
    shared: &'a Shared,
    fallback: Box<dyn Fallback>,
    pub(crate) hand_overs: HandOvers<'a>,
    /// The fallback's usage as of its last answer.
    usage: Usage,
    cleaned: Instant,
    /// The size of the next group to replay, and the instant at which the last one was read.
    group: GroupSize,
    group_read: Instant,
    /// The failures of its batches as they were read.
    failures: Vec<Failures>,
    /// Content of ended processes is on its way, as the core knows it.
    has_more: bool,
    /// None without a state directory.
    keep_outages: Option<KeepOutages>,
    /// The order of the last group, while the next one may be read ahead.
    ahead: Option<Order>,
    is_stopping: bool,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared, fallback: Box<dyn Fallback>) -> Self {
        let cleaned = shared.clock.now();
        let has_more = shared.core().storage.has_more();
        Self {
            shared,
            fallback,
            hand_overs: HandOvers::new(shared),
            usage: Usage::default(),
            cleaned,
            group: GroupSize::new(),
            group_read: cleaned,
            failures: Vec::new(),
            has_more,
            keep_outages: None,
            ahead: None,
            is_stopping: false,
        }
    }

    /// Runs an operation; returns false if it panicked.
    fn contained(&mut self, operation: impl FnOnce(&mut Self)) -> bool {
        let ended = catch_unwind(AssertUnwindSafe(|| operation(self))).is_ok();
        if !ended {
            self.shared.note(Kind::DiskThreadPanicked, "");
        }
        ended
    }

    fn is_done(&self) -> bool {
        self.is_stopping && !self.shared.has_disk_effects()
    }

    /// Waits for effects and acts on them. Without a clean-up to come, the thread sleeps until there is an effect.
    fn turn(&mut self) {
        let next = guarded(|| Ok(self.fallback.next_clean_up())).unwrap_or(Some(CLEAN_UP_EVERY));
        let since = self.shared.clock.now().saturating_duration_since(self.cleaned);
        self.turn_within(next.map(|wait| wait.max(CLEAN_UP_EVERY.saturating_sub(since))));
    }

    /// Acts on the effects that wait, the first of which arrives within `patience`; then cleans up, if that is due.
    pub(crate) fn turn_within(&mut self, patience: Option<Duration>) {
        self.shared.wait_for_effect(patience);
        self.shared.wakeups.count_disk();
        let mut is_reported = false;
        for _ in 0..EFFECTS_AT_ONCE {
            self.answer_journal();
            let Some(effect) = self.shared.take_effect() else { break };
            self.act_contained(effect);
            self.report(true);
            is_reported = true;
        }
        if self.read_ahead() {
            is_reported = false;
        }
        if self.shared.clock.now().saturating_duration_since(self.cleaned) >= CLEAN_UP_EVERY {
            self.clean_up();
            is_reported = false;
        }
        if !is_reported {
            self.report(false);
        }
    }

    fn clean_up(&mut self) {
        self.cleaned = self.shared.clock.now();
        let wall = self.shared.clock.wall();
        let _ = guarded(|| {
            self.fallback.clean_up(wall);
            Ok(())
        });
    }

    /// Cleans up at once: that takes over content of ended processes, or a part of it.
    fn take_over(&mut self) {
        self.clean_up();
        let changes = self.changes();
        self.has_more = has_more(&*self.fallback);
        let has_more = self.has_more;
        self.shared.decide(|core| {
            changes.into_iter().for_each(|change| core.on_fallback_changed(change));
            core.on_taken_over(has_more);
        });
    }

    /// Keeps the records of outages as they are now.
    fn keep_outages(&mut self) {
        let outages = self.shared.core().outages().into_iter();
        let records = outages.map(|outage| (outage.number, self.shared.record_of(outage))).collect();
        let kept = self.keep_outages.as_mut().map_or(Ok(()), |keep| keep(records));
        self.shared.decide(|core| core.on_outages_kept(kept.is_ok()));
        if let Err(error) = kept {
            self.shared.note(Kind::OutagesNotKept, &error);
        }
    }

    /// Answers the question of the journal thread about a file.
    fn answer_journal(&mut self) {
        if let Some(name) = self.shared.take_file_question() {
            let has_file = catch_unwind(AssertUnwindSafe(|| self.fallback.has_file(&name)));
            let has_file = has_file.unwrap_or_else(|_| Err(io::Error::other("the fallback panicked")));
            self.shared.answer_journal(name, has_file);
        }
    }

    /// Acts on an effect. Each action reports its result as its last step: one that panicked has reported nothing, and
    /// the core learns that the effect is undone.
    fn act_contained(&mut self, effect: Effect) {
        if let Effect::Ask(question) = effect {
            self.answer(question);
        } else if !self.contained(|worker| worker.act(&effect)) {
            let now = self.shared.clock.now();
            self.shared.decide(|core| core.on_undone(effect, now));
        }
    }

    fn act(&mut self, effect: &Effect) {
        match effect {
            Effect::Spill(spill) => self.spill(spill),
            Effect::StoreDeadLetters(letters) => self.store_letters(letters),
            &Effect::ReadGroup { order, merge } => self.read_group(order, merge),
            Effect::SettleGroup(fates) => self.settle_group(fates.clone()),
            Effect::TakeOver => self.take_over(),
            Effect::KeepOutages => self.keep_outages(),
            Effect::Stop => self.is_stopping = true,
            Effect::Ask(_) | Effect::Publish(_) => {}
            // The journal thread has these.
            Effect::Commit(_) | Effect::LookForMarks | Effect::Recover(_) | Effect::RemoveOldest => {}
            // The thread that compresses has these.
            Effect::Pack(_) => {}
        }
    }

    /// Writes one file, which takes over batches from the journal.
    fn spill(&mut self, spill: &Spill) {
        let mut spill = spill.clone();
        // The requests of one file, beside their compressed forms, for as long as it is written.
        let (payloads, damaged) = requests_in(&mut spill.entries);
        let Spill { entries, handed_over } = &spill;
        let Self { shared, fallback, hand_overs, .. } = self;
        if entries.is_empty() {
            return shared.decide(|core| {
                core.on_write_damaged(&damaged);
                core.on_spill_empty(&spill);
            });
        }
        let (now, wall) = (shared.clock.now(), shared.clock.wall());
        let stored = if shared.has_journal() {
            let mut announce = |name: &str| hand_overs.announce(name, handed_over);
            let stored = guarded(|| fallback.store_announced(&payloads, wall, &mut announce));
            hand_overs.on_stored(handed_over, stored.is_ok());
            stored
        } else {
            guarded(|| fallback.store(&payloads, wall))
        };
        shared.decide(|core| {
            core.on_write_damaged(&damaged);
            match stored {
                Ok(Stored { name }) => core.on_spilled(&spill, &name),
                Err(Failure { text, of_batches: true }) => core.on_spill_refused(entries.clone(), &text, now),
                Err(Failure { text, of_batches: false }) => core.on_spill_failed(entries.clone(), &text, now),
            }
        });
    }

    fn read_group(&mut self, order: Order, merge: Size) {
        if !self.hand_overs.are_settled() {
            // The journal still has the batches of a file. That is no trouble of the files: batches go to them all the
            // same.
            let now = self.shared.clock.now();
            return self.shared.decide(|core| core.on_group_deferred(now));
        }
        let read = guarded(|| self.fallback.read(order, self.group.bytes()));
        if matches!(read, Ok(ReadBack::Pause)) && !self.is_stopping {
            // A new batch or a spill does not wait until the fallback has searched all of its files.
            return self.shared.repeat(Effect::ReadGroup { order, merge });
        }
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        self.group_read = now;
        let requests = match &read {
            Ok(ReadBack::Group(batches)) => requests_of(self.shared.signal, batches, merge),
            _ => Vec::new(),
        };
        if let Ok(ReadBack::Group(batches)) = &read {
            self.failures = batches.iter().map(|batch| batch.failures).collect();
        }
        self.ahead = matches!(read, Ok(ReadBack::Group(_))).then_some(order);
        self.shared.decide(|core| match read {
            Ok(ReadBack::Group(batches)) => core.on_group_read(batches, requests, now, wall),
            Ok(ReadBack::Pause | ReadBack::Empty) => core.on_group_deferred(now),
            Err(failure) => core.on_read_failed(&failure.text, now),
        });
    }

    /// Prepares the next group while the last one is being sent, unless other work waits. Returns whether the fallback
    /// was asked to.
    fn read_ahead(&mut self) -> bool {
        let Some(order) = self.ahead.take_if(|_| !self.is_stopping && !self.shared.has_disk_effects()) else {
            return false;
        };
        let max_bytes = self.group.bytes();
        let _ = guarded(|| {
            self.fallback.read_ahead(order, max_bytes);
            Ok(())
        });
        true
    }

    fn settle_group(&mut self, mut fates: Vec<Fate>) {
        let refused = fates.iter().map(|fate| fate.refusals().len()).sum::<usize>();
        let delivered = |fates: &[Fate]| fates.iter().map(Fate::delivered).sum::<usize>();
        let before = delivered(&fates);
        self.ahead = None;
        // First the dead letters, then the mark: a crash between the two repeats batches and loses none.
        let read = std::mem::take(&mut self.failures);
        let stored = store_letters(&mut fates, &read, |refusals| self.store_dead_letters(refusals));
        let is_in_part = stored.is_some_and(|stored| stored < refused);
        self.group.on_group_ended(self.shared.clock.now().saturating_duration_since(self.group_read));
        let settled = guarded(|| self.fallback.settle(&fates));
        // Surplus spans enter the ledger before they leave it.
        let (found, gone): (Vec<_>, Vec<_>) =
            self.changes().into_iter().partition(|change| matches!(change, Change::Recovered { .. }));
        let now = self.shared.clock.now();
        self.shared.decide(|core| {
            found.into_iter().for_each(|change| core.on_fallback_changed(change));
            // The answers hold even if their mark is missing.
            core.on_group_settled(&fates, stored);
            // Batches that stay for want of a dead letter, although a part of them was delivered.
            core.on_repeated((before - delivered(&fates)) as u64);
            match settled {
                Ok(()) => core.on_disk_recovered(now),
                Err(failure) => core.on_disk_failed(&failure.text, now),
            }
            gone.into_iter().for_each(|change| core.on_fallback_changed(change));
            if is_in_part {
                // The storage of the dead letters needs time: the batches that stay are not read again at once.
                core.on_group_deferred(now);
            }
        });
    }

    fn store_letters(&mut self, letters: &[Letter]) {
        let (letters, refusals, damaged) = refusals_of(letters);
        let stored = self.store_dead_letters(&refusals);
        let now = self.shared.clock.now();
        self.shared.decide(|core| {
            core.on_write_damaged(&damaged);
            core.on_dead_letters_stored(letters, stored, now);
        });
    }

    fn store_dead_letters(&mut self, refusals: &[Refusal]) -> Option<usize> {
        let wall = self.shared.clock.wall();
        let mut stored = 0;
        // The fallback takes those of one collector at a time.
        for some in refusals.chunk_by(|one, next| one.endpoint == next.endpoint) {
            let Some(first) = some.first() else { continue };
            let endpoint = self.shared.endpoint(first.endpoint);
            let now_stored =
                guarded(|| Ok(self.fallback.store_dead_letters(some, endpoint, wall))).unwrap_or(Some(0))?;
            stored += now_stored;
            if now_stored < some.len() {
                break;
            }
        }
        Some(stored)
    }

    fn answer(&mut self, question: Question) {
        let wall = self.shared.clock.wall();
        let Self { shared, fallback, .. } = self;
        match catch_unwind(AssertUnwindSafe(|| (question.0)(&mut **fallback, wall))) {
            Ok(Answer { redriven, send }) => {
                if let Some(redriven) = redriven {
                    shared.decide(|core| core.on_redriven(redriven));
                }
                send();
            }
            Err(_) => shared.note(Kind::FallbackPanicked, ""),
        }
    }

    /// Reports the changes of the fallback, and its usage. The net thread goes on behind an effect, and after changes:
    /// a clean-up without any is nothing to it.
    fn report(&mut self, has_acted: bool) {
        let changes = self.changes();
        let has_more = has_more(&*self.fallback);
        let has_changed = !changes.is_empty() || has_more != self.has_more;
        if has_changed {
            self.has_more = has_more;
            self.shared.decide(|core| {
                changes.into_iter().for_each(|change| core.on_fallback_changed(change));
                core.storage.set_more(has_more);
            });
        }
        self.usage = guarded(|| Ok(self.fallback.usage())).unwrap_or(self.usage);
        let set_aside = guarded(|| Ok(self.fallback.set_aside())).unwrap_or_default();
        let age_rests_until = guarded(|| Ok(self.fallback.age_rests_until())).unwrap_or_default();
        let dead_letters = guarded(|| Ok(self.fallback.dead_letter_usage())).unwrap_or_default();
        let wall = self.shared.clock.wall();
        let full_in = guarded(|| Ok(self.fallback.full_in(wall))).unwrap_or_default();
        let max_bytes = guarded(|| Ok(self.fallback.max_bytes())).unwrap_or_default();
        let oldest = guarded(|| Ok(self.fallback.oldest())).unwrap_or_default();
        let usage = self.usage;
        let contents = Contents { usage, max_bytes, dead_letters, set_aside, age_rests_until, full_in, oldest };
        self.shared.on_disk_operation(contents);
        if has_acted || has_changed {
            self.shared.net.notify_one();
        }
    }

    fn changes(&mut self) -> Vec<Change> {
        guarded(|| Ok(self.fallback.changes())).unwrap_or_default()
    }
}

/// The fallback has work for a clean-up before the next one is due: content of ended processes is on its way.
pub(crate) fn has_more(fallback: &dyn Fallback) -> bool {
    let next = guarded(|| Ok(fallback.next_clean_up())).unwrap_or_default();
    next.is_some_and(|wait| wait < CLEAN_UP_EVERY)
}

/// The requests that send a group: small batches that no call failed to deliver share one, up to the size `merge`.
pub(crate) fn requests_of(signal: Signal, batches: &[StoredBatch], merge: Size) -> Vec<Merged> {
    let mut requests = Vec::new();
    let mut start = 0;
    for run in batches.chunk_by(|one, next| one.failures.calls == 0 && next.failures.calls == 0) {
        let bytes = run.iter().map(|batch| batch.request.clone()).collect::<Vec<_>>();
        let merged = otlp_payload::merge_within(signal, &bytes, merge.bytes, merge.count);
        requests.extend(merged.into_iter().map(|mut merged| {
            merged.requests = merged.requests.start + start..merged.requests.end + start;
            merged
        }));
        start += run.len();
    }
    requests
}

/// The error of a fallback. Its text is a user's code: it is made outside the core's lock.
struct Failure {
    text: String,
    of_batches: bool,
}

/// Runs code of a user's: a panic in it is an error of the storage.
fn guarded<T>(operation: impl FnOnce() -> Result<T, FallbackError>) -> Result<T, Failure> {
    let of_error = |error: FallbackError| Failure { text: error.to_string(), of_batches: error.is_of_batches() };
    catch_unwind(AssertUnwindSafe(|| operation().map_err(of_error)))
        .unwrap_or_else(|_| Err(Failure { text: "the fallback panicked".to_owned(), of_batches: false }))
}

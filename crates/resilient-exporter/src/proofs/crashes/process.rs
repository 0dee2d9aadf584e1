//! One process on the simulated computer: an exporter without threads, whose turns the test takes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::journal::SyncPolicy;
use otlp_transport::{Cause, Outcome, RefusalKind};
use proptest::prelude::*;
use safe_dir::Kind;
use safe_dir::sim::{Crash, Fault, Faults};
use span_buffer::Entry;

use super::clocks::Clocks;
use super::computer::{Computer, SpanKey, Stores, span_ids};
use super::{Answer, Step, tree};
use crate::core::{Answer as Answered, Batch, Call, Question};
use crate::proofs::spans::spans;
use crate::seams::fallback::Fallback;
use crate::shell::disk::Worker;
use crate::shell::journal::JournalWorker;
use crate::shell::plan::RIDE;
use crate::shell::shared::Shared;

pub(super) struct Process<'a> {
    pub(super) shared: &'a Shared,
    worker: Worker<'a>,
    /// None without durable mode.
    journal: Option<Rc<RefCell<JournalWorker<'a>>>>,
    pub(super) calls: Vec<Call>,
    unmarked: Unmarked,
    clocks: Clocks,
    pub(super) faults: Faults,
    /// Spans that this process has accepted.
    accepted: Vec<SpanKey>,
}

/// Spans that the collector acknowledged to this process, without a synced mark in the journal or in a file: after a
/// crash the next process may send them again.
#[derive(Default)]
struct Unmarked {
    /// Spans of each acknowledged batch from memory, and the instant at which the disk thread wrote its mark.
    acknowledged: Vec<(u64, Option<Instant>)>,
    /// Spans of stored batches that are being replayed, or are replayed again because some of their parts were not
    /// accepted.
    replayed: u64,
    /// All spans that the collector acknowledged to this process.
    all: u64,
}

impl<'a> Process<'a> {
    pub(super) fn new(shared: &'a Shared, stores: Stores) -> Self {
        let Stores { fallback, committer, clocks, faults } = stores;
        let journal = committer.map(|committer| Rc::new(RefCell::new(JournalWorker::new(shared, committer))));
        let mut worker = Worker::new(shared, fallback);
        if let Some(partner) = journal.clone() {
            let clocks = clocks.clone();
            worker.hand_overs.partner = Some(Box::new(move || {
                partner.borrow_mut().turn_within(Some(Duration::ZERO));
                // An announcement waits for a commit to share its sync with.
                clocks.advance(RIDE);
                partner.borrow_mut().turn_within(Some(Duration::ZERO));
            }));
        }
        let (calls, accepted) = (Vec::new(), Vec::new());
        Self { shared, worker, journal, calls, unmarked: Unmarked::default(), clocks, faults, accepted }
    }

    /// Takes a step. Returns whether the step ended the process.
    pub(super) fn step(&mut self, computer: &mut Computer, step: Step) -> bool {
        match step {
            Step::Export(count) => self.export(computer, count),
            Step::DiskTurn => self.disk_turn(computer),
            Step::JournalTurn => self.journal_turn(computer),
            Step::Advance(ms) => computer.advance(Duration::from_millis(ms)),
            Step::SetWallClock(seconds) => self.clocks.set_wall_clock(seconds),
            Step::Answer(call, answer) => self.answer(computer, call, answer),
            Step::Redrive => {
                let redriven = Arc::clone(&computer.redriven);
                let redrive = move |fallback: &mut dyn Fallback, now| {
                    let ids = fallback.dead_letter_ids().ok()?;
                    let letter = fallback.describe_dead_letter(ids.first()?).ok()?;
                    redriven.fetch_add(letter.spans, Ordering::Relaxed);
                    fallback.redrive(ids.first()?, now).ok()
                };
                let question = Question(Box::new(move |fallback, now| Answered {
                    redriven: redrive(fallback, now),
                    send: Box::new(|| {}),
                }));
                self.shared.decide(|core| core.ask(question));
            }
            Step::Kill => {
                self.crash(computer, Crash::Best);
                if !computer.strict {
                    // After a failed write the unsynced batches may be in memory only.
                    computer.forget_unsynced();
                }
                return true;
            }
            Step::PowerCutDuring(nth, crash) => {
                // From that call on no write reaches the disk, and the decisions of this turn end with the process.
                self.faults.plan(nth, Fault::Errno(5), true);
                computer.power_is_off = true;
                self.disk_turn(computer);
                return self.step(computer, Step::PowerCut(crash));
            }
            Step::PowerCut(crash) => {
                self.crash(computer, crash);
                // The policies `Interval` and `Never` let a power cut take some of these; the test does not predict
                // which.
                computer.forget_unsynced();
                // Without syncs a batch may be in the journal and in a file.
                computer.strict &= computer.policy != SyncPolicy::Never;
                return true;
            }
            Step::Shutdown => {
                self.shutdown(computer);
                return true;
            }
            Step::Fault(nth, fault, lasts) => {
                computer.strict = false;
                self.faults.plan(nth, fault, lasts);
            }
            Step::LimitDisk(bytes) => {
                computer.strict = false;
                computer.limit_disk(Some(bytes));
            }
            Step::RepairDisk => {
                self.faults.clear();
                computer.limit_disk(None);
            }
            Step::RemoveSegment(at) => self.lose_segment(computer, at),
        }
        self.poll_calls();
        false
    }

    fn poll_calls(&mut self) {
        let now = self.shared.clock.now();
        self.calls.extend(self.shared.decide(|core| core.poll_calls(now)));
    }

    /// Does the same as `export`, with a turn of the journal thread in place of the wait.
    fn export(&mut self, computer: &mut Computer, count: usize) {
        let batch = spans(computer.next_span, count);
        computer.next_span += count as u64;
        let id = self.shared.core().next_id();
        let payload = computer.encoder.encode(id, self.shared.clock.wall(), &batch);
        let keys = span_ids(payload.bytes()).collect::<Vec<_>>();
        computer.made.extend(&keys);
        self.accepted.extend(&keys);
        let is_submitted = self.shared.decide(|core| core.on_submitted(&payload));
        assert_eq!(is_submitted, self.journal.is_some());
        self.journal_turn(computer);
        let now = self.shared.clock.now();
        let before = self.shared.core().durable.accepted_not_durable();
        if is_submitted {
            self.shared.core().durable.on_wait_ended(id, count, now);
        }
        if is_submitted && self.shared.core().durable.accepted_not_durable() == before {
            computer.durable.extend(&keys);
            if computer.policy != SyncPolicy::Batch {
                computer.unsynced.extend(&keys);
            }
        }
        let _ = self.shared.decide(|core| core.on_offered(payload, now));
    }

    fn disk_turn(&mut self, computer: &mut Computer) {
        self.worker.turn_within(Some(Duration::ZERO));
        self.journal_turn(computer);
    }

    fn journal_turn(&mut self, computer: &mut Computer) {
        let Some(journal) = &self.journal else { return };
        journal.borrow_mut().turn_within(Some(Duration::ZERO));
        if self.faults.fired() > 0 {
            return;
        }
        let ledger = self.shared.core().ledger().clone();
        self.unmarked.replayed = self.unmarked.all.saturating_sub(ledger.delivered + ledger.rejected);
        let now = self.shared.clock.now();
        for (_, marked) in &mut self.unmarked.acknowledged {
            marked.get_or_insert(now);
        }
        // A mark waits 100 ms, or the interval, for others to share its sync; the next turn then syncs it.
        let wait = match computer.policy {
            SyncPolicy::Batch => Duration::from_millis(100),
            SyncPolicy::Interval(interval) => interval,
            SyncPolicy::Never => Duration::MAX,
        };
        self.unmarked.acknowledged.retain(|(_, marked)| marked.is_none_or(|marked| now - marked <= wait));
    }

    fn answer(&mut self, computer: &mut Computer, call: usize, answer: Answer) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.swap_remove(call % self.calls.len());
        let spans = call.payload.item_count() as u64;
        let cause = Cause::Http { status: 503, message: String::new() };
        let outcome = match answer {
            Answer::Accepted => Outcome::Delivered { rejected: 0, message: None },
            Answer::PartlyRejected(rejected) => Outcome::Delivered { rejected, message: None },
            Answer::Unavailable => Outcome::Retryable { after: None, cause, possible_duplicate: false },
            Answer::Unacknowledged => Outcome::Retryable { after: None, cause, possible_duplicate: true },
            Answer::TooLarge => Outcome::TooLarge { cause, possible_duplicate: false },
            Answer::Refused => Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false },
        };
        match answer {
            Answer::Accepted | Answer::PartlyRejected(_) | Answer::Unacknowledged => {
                for key in span_ids(call.payload.request().bytes()) {
                    *computer.received.entry(key).or_default() += 1;
                }
            }
            Answer::TooLarge => computer.strict = false,
            Answer::Refused | Answer::Unavailable => {}
        }
        match answer {
            Answer::Unacknowledged => computer.max_duplicates += spans,
            Answer::Accepted | Answer::PartlyRejected(_) => {
                self.unmarked.all += spans;
                match self.shared.core().is_live(call.id) {
                    true => self.unmarked.acknowledged.push((spans, None)),
                    false => self.unmarked.replayed += spans,
                }
            }
            _ => {}
        }
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        let hint = match &outcome {
            Outcome::Retryable { after, .. } => *after,
            _ => None,
        };
        let attempts = self.shared.core().attempts(call.id, hint);
        let own = attempts.map_or(Duration::ZERO, |attempts| attempts.delay(&*self.shared.backoff, hint));
        self.shared.decide(|core| core.on_answered(call.id, outcome, own, now, wall));
    }

    /// Another program removes a segment. The process learns of it, and appends batches in memory again. Marks may have
    /// gone with the segment: the journal copies the batches that wait in earlier ones, a segment at a time.
    pub(super) fn lose_segment(&mut self, computer: &mut Computer, at: usize) {
        let segments = tree::segments(&computer.disk);
        let Some(path) = at.checked_rem(segments.len()).map(|at| &segments[at]) else { return };
        computer.removed.extend(tree::spans_below(&computer.disk, path, &computer.made));
        tree::remove(&computer.disk, path, Kind::File);
        for _ in 0..=segments.len() {
            computer.advance(Duration::from_millis(1_100));
            self.journal_turn(computer);
            // Batches on their way to a file are in no journal before it is written.
            self.disk_turn(computer);
        }
    }

    /// The disk loses its power together with the process. With [`Crash::Best`] the process alone ends.
    fn crash(&mut self, computer: &mut Computer, crash: Crash) {
        computer.disk.crash(crash);
        self.kill(computer);
    }

    /// The process ends at once: none of its calls reaches the disk any more, and its locks are free once it is
    /// dropped.
    pub(super) fn kill(&mut self, computer: &mut Computer) {
        if !computer.strict {
            // On a disk that takes no bytes the journal has given its oldest segment up: a batch of it that is in
            // memory is durable again once it is appended anew, or in a file.
            let in_memory = self.in_memory();
            let core = self.shared.core();
            for entry in in_memory.iter().filter(|entry| !core.durable.has_synced(entry)) {
                span_ids(entry.item.payload.request().bytes()).for_each(|key| {
                    computer.durable.remove(&key);
                });
            }
        }
        let acknowledged = self.unmarked.acknowledged.iter().map(|(spans, _)| spans).sum::<u64>();
        computer.max_duplicates += acknowledged + self.unmarked.replayed;
        // The collector may still receive the calls in flight.
        for call in self.calls.drain(..) {
            computer.max_duplicates += call.payload.item_count() as u64;
            for key in span_ids(call.payload.request().bytes()) {
                *computer.received.entry(key).or_default() += 1;
            }
        }
    }

    /// All batches in memory but those of calls: also those on their way to a file or a dead letter.
    fn in_memory(&self) -> Vec<Entry<Batch>> {
        let core = self.shared.core();
        let batches = core.at_hand().cloned().chain(self.shared.batches_to_write()).collect::<Vec<_>>();
        let spans = batches.iter().map(|entry| entry.size.count as u64).sum::<u64>();
        assert_eq!(spans, core.ledger().buffered, "each batch that the ledger counts is found");
        batches
    }

    /// Ends the process in order.
    fn shutdown(&mut self, computer: &mut Computer) {
        let now = self.shared.clock.now();
        self.shared.core().drain(now + Duration::from_secs(1), Duration::from_secs(1), now);
        self.poll_calls();
        computer.max_duplicates += self.calls.drain(..).map(|call| call.payload.item_count() as u64).sum::<u64>();
        self.shared.decide(|core| core.stop(now));
        self.worker.turn_within(Some(Duration::ZERO));
        if let Some(journal) = &self.journal {
            journal.borrow_mut().turn_within(Some(Duration::ZERO));
            journal.borrow_mut().close();
        }
        // The next process replays batches whose mark could not be synced.
        computer.max_duplicates += self.unmarked.replayed;
        if computer.has_lied {
            // A sync that fails at the end leaves spans in memory alone: the error of the shutdown has their number.
            computer.lost += self.shared.core().ledger().buffered;
            // The policies `Interval` and `Never` promise nothing about a sync that fails.
            computer.forget_unsynced();
        }
        if self.faults.fired() == 0 && !computer.is_full && !computer.has_lied {
            // Each span was delivered, is on the disk, or is counted.
            let forgotten = &computer.forgotten;
            computer.durable.extend(self.accepted.iter().filter(|key| !forgotten.contains(*key)));
        }
    }

    /// Adds the losses of the ended process to those of the computer.
    pub(super) fn add_losses(&self, computer: &mut Computer) -> Result<(), TestCaseError> {
        let ledger = self.shared.core().ledger().clone();
        computer.lost += ledger.lost() + self.shared.health().dead_letters_evicted;
        computer.vanished += ledger.dropped.get("vanished").copied().unwrap_or(0);
        if computer.has_true_past {
            prop_assert_eq!(ledger.dropped.get("fallback_age"), None, "{:?}", ledger);
        }
        if computer.strict {
            // On a healthy disk memory alone can be too small.
            for reason in ["corrupt", "shutdown", "fallback_full", "fallback_age"] {
                prop_assert_eq!(ledger.dropped.get(reason), None, "{:?}", ledger);
            }
        }
        Ok(())
    }

    /// Recounts the terms of the ledger that this process alone determines.
    pub(super) fn check_ledger(&self) -> Result<(), String> {
        let core = self.shared.core();
        let equal = |term: &str, ledger: u64, recount: u64| match ledger == recount {
            true => Ok(()),
            false => Err(format!("{term}: the ledger counts {ledger}, the recount {recount}: {:?}", core.ledger())),
        };
        equal("imbalance", core.ledger().imbalance().unsigned_abs(), 0)?;
        let waiting = core.memory.waiting().map(|entry| entry.item.payload.item_count()).sum::<usize>();
        let away = core.memory.writing_size().count + core.memory.tried_size().count;
        let waiting = waiting + away + core.durable.last_spans();
        equal("buffered", core.ledger().buffered, waiting as u64)?;
        equal("in_journal", core.ledger().in_journal, core.durable.kept_spans() as u64)?;
        if !core.is_stopped() {
            let live = self.calls.iter().filter(|call| core.is_live(call.id));
            let live = live.map(|call| call.payload.item_count() as u64).sum();
            // The end of a process abandons its calls without an answer.
            if !self.calls.is_empty() {
                equal("in_flight", core.ledger().in_flight, live)?;
            }
        }
        Ok(())
    }
}

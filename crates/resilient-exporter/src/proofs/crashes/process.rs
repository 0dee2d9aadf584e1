//! One process on the simulated computer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::journal::SyncPolicy;
use otlp_transport::{Cause, Outcome};
use proptest::prelude::*;
use safe_dir::sim::{Crash, Fault};

use super::computer::{World, keys};
use super::{Answer, Step};
use crate::core::{Answer as Answered, Call, Question};
use crate::proofs::spans::spans;
use crate::seams::fallback::Fallback;
use crate::shell::disk::Worker;
use crate::shell::shared::Shared;

pub(super) struct Life<'a> {
    pub(super) world: &'a mut World,
    shared: &'a Shared,
    worker: Worker<'a>,
    pub(super) calls: Vec<Call>,
    unmarked: Unmarked,
}

/// What the collector has of this life and no synced mark speaks of, for certain.
#[derive(Default)]
struct Unmarked {
    /// Spans, and when the disk thread has written their mark.
    acknowledged: Vec<(u64, Option<Instant>)>,
    /// Of batches that are being replayed, or will be again because parts of them were not taken.
    replayed: u64,
    /// All of this life.
    all: u64,
}

impl<'a> Life<'a> {
    pub(super) fn new(world: &'a mut World, shared: &'a Shared, worker: Worker<'a>) -> Self {
        Self { world, shared, worker, calls: Vec::new(), unmarked: Unmarked::default() }
    }

    /// Says whether it ended this life.
    pub(super) fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Export(count) => self.export(count),
            Step::Disk => self.disk(),
            Step::Pass(ms) => self.world.hands.pass(ms),
            Step::Set(seconds) => self.world.hands.set(seconds),
            Step::Answer(call, answer) => self.answer(call, answer),
            Step::Redrive => {
                let redriven = Arc::clone(&self.world.redriven);
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
                self.end_hard(Crash::Best);
                if !self.world.strict {
                    // After a failed write what was not synced may be in memory only.
                    self.world.forget_unsynced();
                }
                return true;
            }
            Step::PowerCutDuring(nth, crash) => {
                // From that call on nothing reaches the disk, and nobody hears of what is decided then.
                self.world.faults.plan(nth, Fault::Errno(5), true);
                self.world.power_is_gone = true;
                self.disk();
                return self.step(Step::PowerCut(crash));
            }
            Step::PowerCut(crash) => {
                self.end_hard(crash);
                // By these policies a power cut may take some; which ones is not for this test to know.
                self.world.forget_unsynced();
                // Without syncs the journal may still have what a file has.
                self.world.strict &= self.world.policy != SyncPolicy::Never;
                return true;
            }
            Step::Shutdown => {
                self.shutdown();
                return true;
            }
            Step::Fault(nth, fault, lasts) => {
                self.world.strict = false;
                self.world.faults.plan(nth, fault, lasts);
            }
            Step::Room(bytes) => {
                self.world.strict = false;
                self.world.disk.set_capacity(Some(bytes));
            }
            Step::Well => {
                self.world.faults.clear();
                self.world.disk.set_capacity(None);
            }
        }
        self.plan();
        false
    }

    fn plan(&mut self) {
        let now = self.shared.clock.now();
        self.calls.extend(self.shared.decide(|core| core.poll_calls(now)));
    }

    /// As `export` does, with the disk thread's turn in place of the wait.
    fn export(&mut self, count: usize) {
        let batch = spans(self.world.next_span, count);
        self.world.next_span += count as u64;
        let id = self.shared.core().next_id();
        let payload = self.world.encoder.encode(id, self.shared.clock.wall(), &batch);
        let keys = keys(payload.bytes()).collect::<Vec<_>>();
        self.world.made.extend(&keys);
        assert!(self.shared.decide(|core| core.on_submitted(&payload)));
        self.disk();
        let now = self.shared.clock.now();
        let before = self.shared.core().durable.accepted_not_durable();
        self.shared.core().durable.on_wait_ended(id, count, now);
        if self.shared.core().durable.accepted_not_durable() == before {
            self.world.durable.extend(&keys);
            if self.world.policy != SyncPolicy::Batch {
                self.world.unsynced.extend(&keys);
            }
        }
        let _ = self.shared.decide(|core| core.on_offered(payload, now));
    }

    fn disk(&mut self) {
        self.worker.turn_within(Duration::ZERO);
        if self.world.faults.fired() > 0 {
            return;
        }
        let ledger = self.shared.core().ledger().clone();
        self.unmarked.replayed = self.unmarked.all.saturating_sub(ledger.delivered + ledger.rejected);
        let now = self.shared.clock.now();
        for (_, marked) in &mut self.unmarked.acknowledged {
            marked.get_or_insert(now);
        }
        // A mark waits for company no longer than 100 ms, or the interval, and the next turn syncs it.
        let wait = match self.world.policy {
            SyncPolicy::Batch => Duration::from_millis(100),
            SyncPolicy::Interval(interval) => interval,
            SyncPolicy::Never => Duration::MAX,
        };
        self.unmarked.acknowledged.retain(|(_, marked)| marked.is_none_or(|marked| now - marked <= wait));
    }

    fn answer(&mut self, call: usize, answer: Answer) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.swap_remove(call % self.calls.len());
        let spans = call.payload.span_count() as u64;
        let cause = Cause::Http { status: 503, message: String::new() };
        let outcome = match answer {
            Answer::Taken => Outcome::Delivered { rejected: 0, message: None },
            Answer::Partly(rejected) => Outcome::Delivered { rejected, message: None },
            Answer::Unavailable => Outcome::Retryable { after: None, cause, possible_duplicate: false },
            Answer::Lost => Outcome::Retryable { after: None, cause, possible_duplicate: true },
            Answer::TooLarge => Outcome::TooLarge { cause },
            Answer::Refused => Outcome::Permanent { cause },
        };
        match answer {
            Answer::Taken | Answer::Partly(_) | Answer::Lost => {
                for key in keys(call.payload.bytes()) {
                    *self.world.taken.entry(key).or_default() += 1;
                }
            }
            Answer::TooLarge => self.world.strict = false,
            Answer::Refused => self.world.refused.extend(keys(call.payload.bytes())),
            Answer::Unavailable => {}
        }
        match answer {
            Answer::Lost => self.world.bound += spans,
            Answer::Taken | Answer::Partly(_) => {
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
        let own = self.shared.core().attempts().delay(&*self.shared.backoff, hint);
        self.shared.decide(|core| core.on_answered(call.id, outcome, own, now, wall));
    }

    /// No further instruction is carried out.
    fn end_hard(&mut self, crash: Crash) {
        self.world.disk.crash(crash);
        let acknowledged = self.unmarked.acknowledged.iter().map(|(spans, _)| spans).sum::<u64>();
        self.world.bound += acknowledged + self.unmarked.replayed;
        // What is out may arrive all the same.
        for call in self.calls.drain(..) {
            self.world.bound += call.payload.span_count() as u64;
            for key in keys(call.payload.bytes()) {
                *self.world.taken.entry(key).or_default() += 1;
            }
        }
    }

    fn shutdown(&mut self) {
        let now = self.shared.clock.now();
        self.shared.core().drain(now + Duration::from_secs(1));
        self.plan();
        self.world.bound += self.calls.drain(..).map(|call| call.payload.span_count() as u64).sum::<u64>();
        self.shared.decide(|core| core.stop(now));
        self.worker.turn_within(Duration::ZERO);
        self.worker.close();
        // Where a mark could not be synced the next life does it.
        self.world.bound += self.unmarked.replayed;
    }

    pub(super) fn end(&mut self) -> Result<(), TestCaseError> {
        let ledger = self.shared.core().ledger().clone();
        self.world.lost += ledger.lost() + self.shared.health().dead_letters_evicted;
        if self.world.strict {
            // Only memory can be too small here.
            for reason in ["corrupt", "shutdown", "fallback_full", "fallback_age"] {
                prop_assert_eq!(ledger.dropped.get(reason), None, "{:?}", ledger);
            }
        }
        Ok(())
    }

    /// Recounts what can be recounted.
    pub(super) fn check(&self) -> Result<(), String> {
        let core = self.shared.core();
        let equal = |what: &str, ledger: u64, world: u64| match ledger == world {
            true => Ok(()),
            false => Err(format!("{what}: the ledger says {ledger}, the world {world}: {:?}", core.ledger())),
        };
        equal("imbalance", core.ledger().imbalance().unsigned_abs(), 0)?;
        let waiting = core.memory.waiting().map(|entry| entry.item.span_count()).sum::<usize>();
        let away = core.memory.writing_size().count + core.memory.tried_size().count;
        let waiting = waiting + away + core.durable.unread() + core.durable.left_spans();
        equal("buffered", core.ledger().buffered, waiting as u64)?;
        if !core.is_stopped() {
            let live = self.calls.iter().filter(|call| core.is_live(call.id));
            let live = live.map(|call| call.payload.span_count() as u64).sum();
            // A call that is drained by the end of a life has no answer.
            if !self.calls.is_empty() {
                equal("in_flight", core.ledger().in_flight, live)?;
            }
        }
        Ok(())
    }
}

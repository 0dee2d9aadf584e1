//! Turns of the journal thread, taken one by one over a journal that is full, that vanishes, or that finds batches; and
//! its questions to a disk thread that is slow.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ::journal::SyncPolicy;
use breaker::Machine;
use futures_util::FutureExt as _;
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::Outcome;
use span_buffer::Limits;

use super::crashes::clocks::Clocks;
use crate::core::{Core, Endpoint, Policy};
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::journal::{Journal, JournalError, JournalUsage, Lost, Recovered, Vanished};
use crate::seams::settings::ReplayOrder;
use crate::shell::commit::Committer;
use crate::shell::jobs::JournalQueue;
use crate::shell::journal::{JournalWorker, LOOK_AFTER};
use crate::shell::shared::{Parts, Shared};

/// The next results of a journal.
#[derive(Default)]
struct Script {
    is_full: AtomicBool,
    /// The journal loses all batches.
    vanishes: AtomicBool,
    /// The batches that the journal loses.
    vanished: Mutex<Vanished>,
    /// The batches that the journal loses during its next sync.
    vanishes_at_sync: Mutex<Lost>,
    appends: AtomicU64,
    found: AtomicU64,
    reads_fail: AtomicBool,
}

struct Scripted(Arc<Script>);

impl Journal for Scripted {
    fn incarnation(&self) -> u64 {
        1
    }

    fn append(&mut self, _batch: &Payload) -> Result<(), JournalError> {
        self.0.appends.fetch_add(1, Ordering::Relaxed);
        if self.0.is_full.load(Ordering::Relaxed) {
            Err(JournalError::full("older batches are in the way"))
        } else {
            Ok(())
        }
    }

    fn done(&mut self, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn announce(&mut self, _file: &str, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn take_back(&mut self, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        let lost = std::mem::take(&mut *self.0.vanishes_at_sync.lock().expect("no panic"));
        self.0.vanished.lock().expect("no panic").add(lost.into());
        Ok(())
    }

    fn found(&mut self) -> u64 {
        self.0.found.swap(0, Ordering::Relaxed)
    }

    fn next_recovered(&mut self, _now: SystemTime) -> Recovered {
        match self.0.reads_fail.load(Ordering::Relaxed) {
            true => Recovered::Later(JournalError::new("a bad sector")),
            false => Recovered::End,
        }
    }

    fn take_vanished(&mut self) -> Vanished {
        if self.0.vanishes.swap(false, Ordering::Relaxed) {
            return Vanished::All;
        }
        std::mem::take(&mut self.0.vanished.lock().expect("no panic"))
    }

    fn next_maintenance(&self) -> Option<Duration> {
        None
    }

    fn maintain(&mut self, _has_file: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        Ok(())
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage::default()
    }
}

struct Exporter {
    shared: Shared,
    clocks: Clocks,
    script: Arc<Script>,
    encoder: Encoder,
}

impl Exporter {
    fn new() -> Self {
        let clocks = Clocks::at(SystemTime::UNIX_EPOCH);
        let now = clocks.now();
        let policy = Policy {
            limits: Limits::default(),
            max_calls: 6,
            request_max_bytes: 1 << 20,
            request_max_spans: usize::MAX,
            fallback: false,
            replay_rate: None,
            replay_order: ReplayOrder::Oldest,
            strict: false,
            incarnation: 1,
        };
        let endpoint = Endpoint::new(Machine::new(breaker::Config::default()), now);
        let shared = Shared::new(Parts {
            core: Core::new(policy, endpoint, 0, 7).with_journal(0, true, now),
            usage: None,
            age_rests_until: None,
            max_age_at_send: None,
            clock: Arc::new(clocks.clone()),
            backoff: Box::new(backoff::Exponential::builder().build().expect("valid")),
            endpoints: vec!["proof".to_owned()],
            no_fallback: None,
            storage_notes: Vec::new(),
            journal_timeout: Duration::ZERO,
        });
        let encoder = Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build());
        Self { shared, clocks, script: Arc::new(Script::default()), encoder }
    }

    fn worker(&self) -> JournalWorker<'_> {
        let journal = Box::new(Scripted(Arc::clone(&self.script)));
        JournalWorker::new(&self.shared, Committer::new(journal, SyncPolicy::Batch))
    }

    /// Does the same as `export`, with a turn of the journal thread in place of the wait.
    fn export(&self, worker: &mut JournalWorker<'_>) {
        let id = self.shared.core().next_id();
        let payload = self.encoder.encode(id, SystemClock.wall(), &spans(1, 10));
        assert!(self.shared.decide(|core| core.on_submitted(&payload)));
        worker.turn_within(Some(Duration::ZERO));
        let now = self.clocks.now();
        self.shared.decide(|core| core.on_offered(payload, now)).expect("there is room");
    }
}

#[test]
fn marks_that_a_vanished_journal_needs_no_longer_wake_its_thread_no_more() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    exporter.export(&mut worker);
    let (now, wall) = (exporter.clocks.now(), exporter.clocks.wall());
    let calls = exporter.shared.decide(|core| core.poll_calls(now));
    let delivered = Outcome::Delivered { rejected: 0, message: None };
    exporter.shared.decide(|core| core.on_answered(calls[0].id, delivered, Duration::ZERO, now, wall));
    // The turn that learns of the mark also finds, in its maintenance, that the journal has vanished.
    exporter.script.vanishes.store(true, Ordering::Relaxed);
    exporter.clocks.advance(Duration::from_secs(2));
    worker.turn_within(Some(Duration::ZERO));
    assert!(exporter.shared.core().durable.has_recently_vanished(exporter.clocks.now()));
    exporter.clocks.advance(LOOK_AFTER);
    worker.turn_within(Some(Duration::ZERO));
    assert_eq!(worker.due(), None, "there is nothing to mark");
}

#[test]
fn the_net_thread_learns_of_a_journal_that_became_full() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    exporter.script.is_full.store(true, Ordering::Relaxed);
    exporter.export(&mut worker);
    assert!(exporter.shared.net.notified().now_or_never().is_some(), "it tries the append again after a while");
    let now = exporter.clocks.now();
    exporter.shared.decide(|core| core.poll_calls(now));
    let wakeup = exporter.shared.core().next_wakeup().expect("the next append");
    assert!(wakeup <= now + Duration::from_secs(1), "{:?}", wakeup - now);
}

#[test]
fn the_net_thread_learns_of_batches_that_an_ended_process_has_left() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    worker.maintain();
    assert!(exporter.shared.net.notified().now_or_never().is_none(), "nothing was found");
    exporter.script.found.store(10, Ordering::Relaxed);
    worker.maintain();
    assert!(exporter.shared.net.notified().now_or_never().is_some(), "an idle thread would leave them in the journal");
}

#[test]
fn batches_that_are_found_after_the_journal_has_vanished_are_not_lost_with_it() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    exporter.script.vanishes.store(true, Ordering::Relaxed);
    exporter.script.found.store(10, Ordering::Relaxed);
    worker.maintain();
    let core = exporter.shared.core();
    let ledger = core.ledger();
    assert_eq!((ledger.recovered, ledger.in_journal, ledger.lost()), (10, 10, 0), "{ledger:?}");
}

/// An `export` call waits until the batch is durable after all.
#[test]
fn a_batch_that_vanishes_during_its_sync_is_not_called_durable_and_is_appended_again() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    exporter.export(&mut worker);
    let id = exporter.shared.core().next_id();
    let payload = exporter.encoder.encode(id, SystemClock.wall(), &spans(100, 10));
    assert!(exporter.shared.decide(|core| core.on_submitted(&payload)));
    *exporter.script.vanishes_at_sync.lock().expect("no panic") = Lost { batches: vec![id], unread: 0 };
    worker.turn_within(Some(Duration::ZERO));
    assert_eq!(exporter.script.appends.load(Ordering::Relaxed), 2);
    let waits = || exporter.shared.core().durable.is_committing(id);
    assert!(waits(), "the sync covers no lost batch");
    worker.turn_within(Some(Duration::ZERO));
    assert_eq!(exporter.script.appends.load(Ordering::Relaxed), 3, "the other batch is not appended again");
    assert!(!waits());
    let now = exporter.clocks.now();
    exporter.shared.core().durable.on_wait_ended(id, 10, now);
    assert_eq!(exporter.shared.core().durable.accepted_not_durable(), Some(0));
}

#[test]
fn batches_that_vanish_before_they_are_read_are_not_called_damaged() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    // Some of them vanish in the maintenance that finds them, the others before the read that returns nothing.
    exporter.script.found.store(10, Ordering::Relaxed);
    *exporter.script.vanished.lock().expect("no panic") = Lost { batches: Vec::new(), unread: 4 }.into();
    worker.maintain();
    let ledger = exporter.shared.core().ledger().clone();
    assert_eq!((ledger.recovered, ledger.in_journal, ledger.dropped.get("vanished")), (10, 6, Some(&4)), "{ledger:?}");
    let now = exporter.clocks.now();
    exporter.shared.decide(|core| core.poll_calls(now));
    *exporter.script.vanished.lock().expect("no panic") = Lost { batches: Vec::new(), unread: 6 }.into();
    worker.turn_within(Some(Duration::ZERO));
    let ledger = exporter.shared.core().ledger().clone();
    assert_eq!((ledger.in_journal, ledger.lost(), ledger.dropped.get("vanished")), (0, 10, Some(&10)), "{ledger:?}");
}

#[test]
fn an_answer_about_one_file_is_no_answer_about_another() {
    let queue = JournalQueue::new();
    let is_late = |answer: io::Result<bool>| answer.expect_err("no answer").kind() == io::ErrorKind::WouldBlock;
    assert!(is_late(queue.ask_disk("one", || true, Duration::ZERO)));
    let late = || {
        queue.answer("one".to_owned(), Ok(true));
        true
    };
    assert!(is_late(queue.ask_disk("other", late, Duration::ZERO)));
    let in_time = || {
        queue.answer("other".to_owned(), Ok(true));
        true
    };
    assert!(queue.ask_disk("other", in_time, Duration::ZERO).expect("an answer"));
}

#[test]
fn the_trouble_of_reads_ends_with_the_batches_that_they_were_about() {
    let exporter = Exporter::new();
    let mut worker = exporter.worker();
    exporter.script.found.store(10, Ordering::Relaxed);
    exporter.script.reads_fail.store(true, Ordering::Relaxed);
    worker.maintain();
    let now = exporter.clocks.now();
    exporter.shared.decide(|core| core.poll_calls(now));
    worker.turn_within(Some(Duration::ZERO));
    assert_eq!(exporter.shared.core().durable.trouble(), Some("a bad sector"));
    exporter.script.vanishes.store(true, Ordering::Relaxed);
    worker.maintain();
    worker.turn_within(Some(Duration::ZERO));
    assert_eq!(exporter.shared.core().durable.trouble(), None, "nothing is left to read");
}

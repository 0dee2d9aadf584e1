//! The two threads of the storage beside each other: a store that hangs, a question of one thread to the other, and
//! stores that have nothing to do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ::journal::SyncPolicy;
use breaker::Machine;
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::Outcome;
use span_buffer::Limits;

use crate::core::{Core, Endpoint, Policy};
use crate::locks::{Condvar, Mutex};
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, Stored, Usage};
use crate::seams::fates::Fate;
use crate::seams::journal::{Journal, JournalError, JournalUsage, Recovered};
use crate::seams::settings::ReplayOrder;
use crate::shell::commit::Committer;
use crate::shell::shared::{Parts, Shared};
use crate::shell::{disk, journal};

/// The longest wait for another thread.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gate that threads pass while it is open.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
    /// Threads that have arrived.
    arrived: AtomicU64,
}

impl Gate {
    fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock() = is_closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_closed = self.is_closed.lock();
        self.arrived.fetch_add(1, Ordering::Relaxed);
        self.opened.notify_all();
        while *is_closed {
            self.opened.wait(&mut is_closed);
        }
    }

    /// Waits for the first thread.
    fn wait_for_arrival(&self) {
        let mut is_closed = self.is_closed.lock();
        while self.arrived.load(Ordering::Relaxed) == 0 {
            assert!(!self.opened.wait_for(&mut is_closed, PATIENCE), "no thread arrives at the gate");
        }
    }
}

/// The gates of both stores, and the journal's questions.
#[derive(Default)]
struct Stores {
    sync: Gate,
    file: Gate,
    /// The journal asks for a file once the disk thread has announced one.
    asks: bool,
    answer: Mutex<Option<io::Result<bool>>>,
}

struct OwnJournal(Arc<Stores>);

impl Journal for OwnJournal {
    fn incarnation(&self) -> u64 {
        1
    }

    fn append(&mut self, _batch: &Payload) -> Result<(), JournalError> {
        Ok(())
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
        self.0.sync.pass();
        Ok(())
    }

    fn found(&mut self) -> u64 {
        0
    }

    fn next_recovered(&mut self, _now: SystemTime) -> Recovered {
        Recovered::End
    }

    fn next_maintenance(&self) -> Option<Duration> {
        None
    }

    fn maintain(&mut self, has_file: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError> {
        if self.0.asks {
            self.0.file.wait_for_arrival();
            let answer = has_file("a file");
            self.0.answer.lock().get_or_insert(answer);
        }
        Ok(())
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage::default()
    }
}

struct OwnFallback(Arc<Stores>);

impl Fallback for OwnFallback {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        self.0.file.pass();
        Ok(Stored::default())
    }

    fn store_announced(
        &mut self,
        batches: &[Payload],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Stored, FallbackError> {
        if self.0.asks {
            self.0.file.pass();
        }
        announce("the next file");
        self.store(batches, now)
    }

    fn has_file(&mut self, name: &str) -> io::Result<bool> {
        Ok(name == "a file")
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Empty)
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn next_clean_up(&self) -> Option<Duration> {
        None
    }

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

struct Exporter {
    shared: Shared,
    stores: Arc<Stores>,
    encoder: Encoder,
    next_span: AtomicU64,
}

impl Exporter {
    fn new(stores: Stores) -> Self {
        let now = SystemClock.now();
        let policy = Policy {
            limits: Limits { max_count: 80, ..Limits::default() },
            max_calls: 6,
            request_max_bytes: 1 << 20,
            request_max_spans: usize::MAX,
            fallback: true,
            replay_rate: None,
            replay_order: ReplayOrder::Oldest,
            strict: false,
            incarnation: 1,
        };
        let endpoint = Endpoint::new(Machine::new(breaker::Config::default()), now);
        let shared = Shared::new(Parts {
            core: Core::new(policy, endpoint, 0, 7).with_journal(0, true, now),
            usage: Some(Usage::default()),
            age_rests_until: None,
            max_age_at_send: None,
            clock: Arc::new(SystemClock),
            backoff: Box::new(backoff::Exponential::builder().build().expect("valid")),
            endpoints: vec!["proof".to_owned()],
            no_fallback: None,
            storage_notes: Vec::new(),
            journal_timeout: PATIENCE,
        });
        let encoder = Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build());
        Self { shared, stores: Arc::new(stores), encoder, next_span: AtomicU64::new(1) }
    }

    /// Runs both threads of the storage beside `act`, and then to their end.
    fn run(&self, act: impl FnOnce()) {
        std::thread::scope(|scope| {
            let committer = Committer::new(Box::new(OwnJournal(Arc::clone(&self.stores))), SyncPolicy::Batch);
            scope.spawn(|| journal::run(&self.shared, committer));
            scope.spawn(|| disk::run(&self.shared, Box::new(OwnFallback(Arc::clone(&self.stores))), None));
            act();
            self.stores.sync.set_closed(false);
            self.stores.file.set_closed(false);
            let now = SystemClock.now();
            self.shared.decide(|core| core.stop(now));
            self.eventually("both threads end", |_| self.shared.has_disk_ended());
        });
        let core = self.shared.core();
        assert_eq!((core.ledger().lost(), core.ledger().imbalance()), (0, 0), "{:?}", core.ledger());
    }

    fn payload(&self, count: u64) -> Payload {
        let id = self.shared.core().next_id();
        let first = self.next_span.fetch_add(count, Ordering::Relaxed);
        self.encoder.encode(id, SystemClock.wall(), &spans(first, usize::try_from(count).expect("few")))
    }

    /// Does the same as `export`.
    fn export(&self, count: u64) {
        let payload = self.payload(count);
        self.shared.make_durable(&payload);
        self.shared.decide(|core| core.on_offered(payload, SystemClock.now())).expect("there is room");
    }

    fn eventually(&self, name: &str, mut done: impl FnMut(&Core) -> bool) {
        let begin = SystemClock.now();
        // Not every condition wakes the waiting thread.
        while !self.shared.wait_for(Duration::from_millis(10), &mut done) {
            assert!(SystemClock.now() - begin < PATIENCE, "not within {PATIENCE:?}: {name}");
        }
    }
}

#[test]
fn a_file_that_hangs_stops_no_commit() {
    let exporter = Exporter::new(Stores::default());
    exporter.stores.file.set_closed(true);
    exporter.run(|| {
        // Above 7/8 of memory the disk thread writes a file.
        (0..8).for_each(|_| exporter.export(10));
        exporter.stores.file.wait_for_arrival();
        exporter.export(5);
        assert_eq!(exporter.shared.core().durable.accepted_not_durable(), Some(0));
        assert_eq!(exporter.shared.core().ledger().in_fallback, 0, "the file still hangs");
    });
}

#[test]
fn a_journal_that_hangs_stops_no_file() {
    let exporter = Exporter::new(Stores::default());
    exporter.run(|| {
        (0..7).for_each(|_| exporter.export(10));
        exporter.stores.sync.set_closed(true);
        let payload = exporter.payload(10);
        assert!(exporter.shared.decide(|core| core.on_submitted(&payload)));
        exporter.shared.decide(|core| core.on_offered(payload, SystemClock.now())).expect("there is room");
        exporter.eventually("the file is written", |core| core.ledger().in_fallback > 0);
    });
}

#[test]
fn a_journal_that_asks_for_a_file_while_the_disk_thread_waits_for_it_is_told_to_ask_later() {
    for asks_during_a_hand_over in [true, false] {
        let exporter = Exporter::new(Stores { asks: true, ..Stores::default() });
        if !asks_during_a_hand_over {
            exporter.stores.file.pass();
        }
        exporter.run(|| {
            if asks_during_a_hand_over {
                // The journal thread waits in its first maintenance for this file: no `export` call waits for it.
                for _ in 0..8 {
                    let payload = exporter.payload(10);
                    assert!(exporter.shared.decide(|core| core.on_submitted(&payload)));
                    exporter.shared.decide(|core| core.on_offered(payload, SystemClock.now())).expect("room");
                }
            }
            exporter.eventually("the journal has an answer", |_| exporter.stores.answer.lock().is_some());
        });
        let answer = exporter.stores.answer.lock().take().expect("an answer");
        match asks_during_a_hand_over {
            true => assert_eq!(answer.expect_err("busy").kind(), io::ErrorKind::WouldBlock),
            false => assert!(answer.expect("an answer")),
        }
    }
}

#[test]
fn stores_without_work_let_both_threads_sleep() {
    let exporter = Exporter::new(Stores::default());
    exporter.run(|| {
        exporter.eventually("the threads sleep at the start", |_| exporter.shared.sleeps());
        exporter.export(10);
        let now = SystemClock.now();
        let calls = exporter.shared.decide(|core| core.poll_calls(now));
        exporter.eventually("the threads sleep while a batch waits", |_| exporter.shared.sleeps());
        let (now, wall) = (SystemClock.now(), SystemClock.wall());
        let delivered = Outcome::Delivered { rejected: 0, message: None };
        exporter.shared.decide(|core| core.on_answered(calls[0].id, delivered, Duration::ZERO, now, wall));
        exporter.eventually("the threads sleep once its mark is synced", |_| exporter.shared.sleeps());
        let now = SystemClock.now();
        assert!(exporter.shared.decide(|core| core.poll_calls(now)).is_empty());
        assert_eq!(exporter.shared.core().next_wakeup(), None, "the net thread has no reason to wake up");
    });
}

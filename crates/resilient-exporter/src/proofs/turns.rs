//! Turns of the disk thread, and its end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use breaker::Machine;
use otlp_payload::{Encoder, Payload};
use otlp_transport::Cause;
use span_buffer::{Limits, Size};

use crate::core::{Core, Effect, Endpoint, Policy};
use crate::proofs::spans::spans;
use crate::report::position::Position;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::{Change, Fallback, FallbackError, Order, ReadBack, Stored, StoredBatch, Usage};
use crate::seams::fates::{Failures, Fate, Refusal, Refusals};
use crate::seams::settings::ReplayOrder;
use crate::shell::disk::{self, Worker};
use crate::shell::shared::{Parts, Shared};

/// The core of an exporter with a fallback that has `stored` spans.
fn core(stored: u64, now: Instant) -> Core {
    let policy = Policy {
        limits: Limits::default(),
        max_calls: 6,
        request_max_bytes: 1 << 20,
        request_max_spans: usize::MAX,
        fallback: true,
        replay_rate: None,
        replay_order: ReplayOrder::Oldest,
        strict: false,
        incarnation: 1,
    };
    Core::new(policy, Endpoint::new(Machine::new(breaker::Config::default()), now), stored, 7)
}

fn shared(core: Core) -> Shared {
    Shared::new(Parts {
        core,
        usage: Some(Usage::default()),
        age_rests_until: None,
        max_age_at_send: None,
        clock: Arc::new(SystemClock),
        backoff: Box::new(backoff::Exponential::builder().build().expect("valid")),
        endpoints: vec!["proof".to_owned()],
        no_fallback: None,
        storage_notes: Vec::new(),
        journal_timeout: Duration::from_millis(100),
    })
}

fn payload(shared: &Shared, first: u64, count: usize) -> Payload {
    let encoder = Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build());
    let id = shared.core().next_id();
    encoder.encode(id, SystemClock.wall(), &spans(first, count))
}

/// A fallback that stores one batch a file.
struct OneByOne(Arc<AtomicUsize>);

impl Fallback for OneByOne {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        if batches.len() > 1 {
            return Err(FallbackError::of_batches("one batch a file"));
        }
        self.0.fetch_add(batches[0].item_count(), Ordering::Relaxed);
        Ok(Stored::default())
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Empty)
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

#[test]
fn the_disk_thread_ends_after_the_last_file_of_a_shutdown() {
    let now = SystemClock.now();
    let shared = shared(core(0, now));
    // More files than effects in a turn.
    for batch in 0..200 {
        let payload = payload(&shared, 1 + batch * 3, 3);
        shared.decide(|core| core.on_offered(payload, now)).expect("there is room");
    }
    shared.decide(|core| core.stop(now));
    let stored = Arc::new(AtomicUsize::new(0));
    disk::run(&shared, Box::new(OneByOne(Arc::clone(&stored))), None);
    assert_eq!(stored.load(Ordering::Relaxed), 600);
    let core = shared.core();
    assert_eq!((core.ledger().in_fallback, core.ledger().buffered, core.ledger().lost()), (600, 0, 0));
}

/// A fallback of three batches that has room for so many dead letters.
struct FullOfLetters {
    batches: Vec<StoredBatch>,
    letters: Option<usize>,
    fates: Arc<Mutex<Vec<Fate>>>,
}

impl Fallback for FullOfLetters {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        Ok(Stored::default())
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Group(self.batches.clone()))
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        fates.clone_into(&mut self.fates.lock().expect("no panic"));
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }

    fn store_dead_letters(&mut self, refusals: &[Refusal], _endpoint: &str, _now: SystemTime) -> Option<usize> {
        let room = self.letters.as_mut()?;
        let stored = refusals.len().min(*room);
        *room -= stored;
        Some(stored)
    }
}

#[test]
fn a_refused_batch_without_its_dead_letter_stays_with_its_failures() {
    // Without dead letters at all a refused batch is dropped.
    for (letters, dead_lettered, stay) in [(Some(3), 6, 0), (Some(1), 2, 4), (Some(0), 0, 6), (None, 0, 0)] {
        let now = SystemClock.now();
        let shared = shared(core(6, now));
        let batches = [0, 1, 2].map(|batch| payload(&shared, 1 + 2 * batch, 2));
        let failures = |batch| Failures {
            calls: 4 + batch,
            counted: Refusals { batch: 0, unclear: batch, sender: 3 },
            ..Failures::default()
        };
        let read = batches.iter().zip(0..).map(|(payload, batch)| StoredBatch {
            failures: failures(batch),
            ..StoredBatch::new(payload.bytes().clone(), 2)
        });
        let fates = Arc::new(Mutex::new(Vec::new()));
        let fallback = FullOfLetters { batches: read.collect(), letters, fates: Arc::clone(&fates) };
        let mut worker = Worker::new(&shared, Box::new(fallback));
        shared.repeat(Effect::ReadGroup {
            order: Order::FewestFailures,
            merge: Size { count: usize::MAX, bytes: 1 << 18 },
        });
        let refused = batches.map(|payload| {
            let cause = Cause::Http { status: 400, message: String::new() };
            let refused = vec![Refusal { payload, endpoint: Position::PRIMARY, cause, attempts: 1, permanent: true }];
            Fate::Finished { delivered: 0, rejected: 0, refused }
        });
        shared.repeat(Effect::SettleGroup(refused.to_vec()));
        worker.turn_within(Some(Duration::ZERO));

        let settled = fates.lock().expect("no panic");
        let kept = settled.iter().filter_map(|fate| match fate {
            Fate::Pending(failures) => Some(*failures),
            Fate::Finished { .. } => None,
        });
        let expected = (3 - stay / 2..3).map(|batch| Failures { calls: 5 + batch, ..failures(batch) });
        assert_eq!(kept.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{letters:?} letters");
        let core = shared.core();
        let ledger = core.ledger();
        assert_eq!(
            (ledger.dead_lettered, ledger.in_fallback),
            (dead_lettered, u64::from(stay)),
            "{letters:?}: {ledger:?}"
        );
        assert_eq!((ledger.lost(), ledger.imbalance()), (6 - dead_lettered - u64::from(stay), 0), "{ledger:?}");
    }
}

/// A fallback of one batch that counts the groups which are read ahead; a user's code may panic.
struct ReadsAhead(Arc<AtomicUsize>, StoredBatch);

impl Fallback for ReadsAhead {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        Ok(Stored::default())
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Group(vec![self.1.clone()]))
    }

    fn read_ahead(&mut self, order: Order, max_bytes: usize) {
        assert_eq!(order, Order::FewestFailuresNewest);
        assert!(max_bytes > 0);
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a bug of the user's");
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

#[test]
fn one_group_is_read_ahead_while_another_one_is_sent() {
    let now = SystemClock.now();
    let shared = shared(core(2, now));
    let batch = StoredBatch::new(payload(&shared, 1, 2).bytes().clone(), 2);
    let read_ahead = Arc::new(AtomicUsize::new(0));
    let mut worker = Worker::new(&shared, Box::new(ReadsAhead(Arc::clone(&read_ahead), batch)));
    let read = || {
        let merge = Size { count: usize::MAX, bytes: 1 << 18 };
        shared.repeat(Effect::ReadGroup { order: Order::FewestFailuresNewest, merge });
    };
    let settle = || shared.repeat(Effect::SettleGroup(vec![Fate::Pending(Failures::default())]));
    let mut turn = || {
        worker.turn_within(Some(Duration::ZERO));
        read_ahead.load(Ordering::Relaxed)
    };
    assert_eq!(turn(), 0, "no group is being sent");
    read();
    assert_eq!([turn(), turn()], [1, 1], "once for each group");
    settle();
    assert_eq!(turn(), 1);
    // The group has ended before the disk thread had time.
    read();
    settle();
    assert_eq!([turn(), turn()], [1, 1]);
}

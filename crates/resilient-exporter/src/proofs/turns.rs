//! Turns of the disk thread beside a fallback that is busy, and its end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ::journal::SyncPolicy;
use breaker::Machine;
use otlp_payload::{BatchId, Encoder, Payload};
use otlp_transport::{Cause, Outcome};
use span_buffer::Limits;

use crate::core::{Core, Effect, Endpoint, Policy};
use crate::proofs::spans::spans;
use crate::seams::clock::{Clock as _, SystemClock};
use crate::seams::fallback::{Change, Fallback, FallbackError, ReadBack, Stored, StoredBatch, Usage};
use crate::seams::fates::{Failures, Fate, Refusal, Refusals};
use crate::seams::journal::{Journal, JournalError, JournalUsage, Recovered};
use crate::shell::commit::Committer;
use crate::shell::disk::{self, Worker};
use crate::shell::shared::{Parts, Shared};

/// A fallback that finds no batch in its files: each read pauses. The collector answers the call that is out during the
/// first one.
struct Searching {
    shared: Arc<Mutex<Option<Arc<Shared>>>>,
    call: u64,
    reads: Arc<AtomicUsize>,
}

impl Fallback for Searching {
    fn usage(&self) -> Usage {
        Usage { files: 1, spans: 3, bytes: 0 }
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        Ok(Stored::default())
    }

    fn read(&mut self, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 0 {
            let shared = self.shared.lock().expect("no panic").clone().expect("set below");
            let (now, wall) = (SystemClock.now(), SystemClock.wall());
            let delivered = Outcome::Delivered { rejected: 0, message: None };
            shared.decide(|core| core.on_answered(self.call, delivered, Duration::ZERO, now, wall));
        }
        Ok(ReadBack::Pause)
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

/// A journal that notes how many reads of the fallback preceded the first mark.
struct Marks {
    reads: Arc<AtomicUsize>,
    marked: Arc<AtomicUsize>,
}

impl Journal for Marks {
    fn incarnation(&self) -> u64 {
        1
    }

    fn append(&mut self, _batch: &Payload) -> Result<(), JournalError> {
        Ok(())
    }

    fn done(&mut self, _ids: &[BatchId]) -> Result<(), JournalError> {
        self.marked.fetch_min(self.reads.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }

    fn announce(&mut self, _file: &str, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn take_back(&mut self, _ids: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn found(&mut self) -> u64 {
        0
    }

    fn next_recovered(&mut self, _now: SystemTime) -> Recovered {
        Recovered::End
    }

    fn maintain(&mut self, _has_file: &mut dyn FnMut(&str) -> std::io::Result<bool>) -> Result<(), JournalError> {
        Ok(())
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage::default()
    }
}

/// The core of an exporter with a fallback that has `stored` spans.
fn core(stored: u64, now: Instant) -> Core {
    let policy = Policy {
        limits: Limits::default(),
        max_calls: 6,
        request_max_bytes: 1 << 20,
        fallback: true,
        replay_rate: None,
        strict: false,
        incarnation: 1,
    };
    Core::new(policy, Endpoint::new(Machine::new(breaker::Config::default()), now), stored, 7)
}

fn shared(core: Core) -> Shared {
    Shared::new(Parts {
        core,
        usage: Some(Usage::default()),
        clock: Arc::new(SystemClock),
        backoff: Box::new(backoff::Exponential::builder().build().expect("valid")),
        endpoint: "proof".to_owned(),
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

#[test]
fn a_batch_that_ends_during_an_operation_is_marked_before_the_next_one() {
    let now = SystemClock.now();
    let shared = Arc::new(shared(core(3, now).with_journal(0, now)));
    let (reads, marked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let journal = Marks { reads: Arc::clone(&reads), marked: Arc::clone(&marked) };
    let slot = Arc::new(Mutex::new(None));
    let fallback = Searching { shared: Arc::clone(&slot), call: 1, reads: Arc::clone(&reads) };
    *slot.lock().expect("no panic") = Some(Arc::clone(&shared));
    let committer = Committer::new(Box::new(journal), SyncPolicy::Batch, now);
    let mut worker = Worker::new(&shared, Box::new(fallback), Some(committer));

    let payload = payload(&shared, 1, 5);
    assert!(shared.decide(|core| core.on_submitted(&payload)));
    worker.turn_within(Duration::ZERO);
    shared.decide(|core| core.on_offered(payload, now)).expect("there is room");
    let calls = shared.decide(|core| core.poll_calls(now));
    assert_eq!(
        calls.iter().map(|call| call.id).collect::<Vec<_>>(),
        [1],
        "the batch is sent, and a group is asked for"
    );
    worker.turn_within(Duration::ZERO);
    assert!(reads.load(Ordering::Relaxed) > 10, "the fallback goes on searching");
    assert_eq!(marked.load(Ordering::Relaxed), 1, "the mark follows the operation during which the answer came");
    slot.lock().expect("no panic").take();
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
        self.0.fetch_add(batches[0].span_count(), Ordering::Relaxed);
        Ok(Stored::default())
    }

    fn read(&mut self, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
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

    fn read(&mut self, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
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
        let mut worker = Worker::new(&shared, Box::new(fallback), None);
        shared.repeat(Effect::ReadGroup { merge_bytes: 1 << 18 });
        let refused = batches.map(|payload| {
            let cause = Cause::Http { status: 400, message: String::new() };
            let refused = vec![Refusal { payload, cause, attempts: 1, permanent: true }];
            Fate::Finished { delivered: 0, rejected: 0, refused }
        });
        shared.repeat(Effect::SettleGroup(refused.to_vec()));
        worker.turn_within(Duration::ZERO);

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

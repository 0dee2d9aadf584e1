//! One simulated computer: its disk outlives its processes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ::journal::{Config, SyncPolicy};
use breaker::Machine;
use file_fallback::Compression;
use file_fallback::dead_letters::DeadLetters;
use otlp_payload::{Encoder, json};
use otlp_transport::{Cause, Outcome};
use proptest::prelude::*;
use safe_dir::Directory as _;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty, MemoryDir};
use span_buffer::Limits;

use super::clocks::Hands;
use super::{Answer, Step};
use crate::core::{Answer as Answered, Call, Core, Endpoint, Policy, Question};
use crate::proofs::spans::spans;
use crate::seams::clock::Clock;
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::seams::settings::{FallbackFormat, Files};
use crate::shell::commit::Committer;
use crate::shell::disk::Worker;
use crate::shell::shared::{Parts, Shared};
use crate::stores::files::FileStore;
use crate::stores::journal::FileJournal;
use crate::stores::none::NoFallback;

type SpanKey = ([u8; 16], [u8; 8]);
type Dir = Faulty<MemoryDir>;

fn keys(request: &[u8]) -> impl Iterator<Item = SpanKey> {
    otlp_payload::span_ids(request).expect("what the core holds can be read")
}

/// Small segments and a small buffer, so that a short history fills them.
const JOURNAL: Config =
    Config { segment_bytes: 4 << 10, max_bytes: 4 << 20, max_body_bytes: 64 << 10, free_space_reserve: 0 };
const LIMITS: Limits = Limits { max_count: 200, max_bytes: 60_000, max_age: Duration::from_secs(300) };

pub(super) struct World {
    policy: SyncPolicy,
    fallback: bool,
    disk: Disk,
    faults: Faults,
    hands: Hands,
    encoder: Encoder,
    next_span: u64,
    lives: u64,
    made: HashSet<SpanKey>,
    /// Export returned, and nobody counted them as accepted but not durable.
    durable: HashSet<SpanKey>,
    /// What a power cut may take by the policy, though a kill may not.
    unsynced: HashSet<SpanKey>,
    /// How often the collector has each.
    taken: HashMap<SpanKey, u32>,
    /// Refused for good, or in a partial success.
    refused: HashSet<SpanKey>,
    /// Dropped and refused, by the ledgers of all lives, and dead letters that had to go.
    lost: u64,
    /// The disk was well all the time, and no batch was split.
    strict: bool,
    /// The faults that are planned end with the next life.
    power_is_gone: bool,
    /// Duplicates that there may be.
    bound: u64,
    /// And these: spans of letters that were put back on their way may be delivered, or be in a file and still a letter.
    redriven: Arc<AtomicU64>,
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

impl World {
    pub(super) fn new(policy: SyncPolicy, fallback: bool) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_000_000);
        Self {
            policy,
            fallback,
            disk: Disk::new(),
            faults: Faults::none(),
            hands: Hands::at(wall),
            encoder: Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build()),
            next_span: 1,
            lives: 0,
            made: HashSet::new(),
            durable: HashSet::new(),
            unsynced: HashSet::new(),
            taken: HashMap::new(),
            refused: HashSet::new(),
            lost: 0,
            strict: true,
            power_is_gone: false,
            bound: 0,
            redriven: Arc::default(),
        }
    }

    /// How often the disk has failed a call.
    pub(super) fn faults_fired(&self) -> u64 {
        self.faults.fired()
    }

    /// One life of the program, until a step ends it; says whether there are more steps.
    pub(super) fn live(&mut self, steps: &mut VecDeque<Step>) -> Result<bool, TestCaseError> {
        let Some((shared, fallback, committer)) = self.start() else {
            // It does not start on this disk; the next one does.
            self.faults.clear();
            self.disk.set_capacity(None);
            return Ok(true);
        };
        let worker = Worker::new(&shared, fallback, Some(committer));
        let mut life = Life { world: self, shared: &shared, worker, calls: Vec::new(), unmarked: Unmarked::default() };
        let mut more = false;
        while let Some(step) = steps.pop_front() {
            let told = format!("{step:?}");
            let ended = life.step(step);
            life.check().map_err(|error| TestCaseError::fail(format!("after {told}: {error}")))?;
            if ended {
                more = true;
                break;
            }
        }
        if !more {
            life.step(Step::Kill);
        }
        life.end()?;
        Ok(more)
    }

    fn dir(&self, name: &str) -> Result<Dir, safe_dir::OpenError> {
        let inner = self.disk.root().subdirectory(name).expect("it exists or there is room for a name");
        Ok(Faulty::new(inner, self.faults.clone()))
    }

    fn start(&mut self) -> Option<(Shared, Box<dyn Fallback>, Committer)> {
        self.lives += 1;
        if std::mem::take(&mut self.power_is_gone) {
            self.faults.plan(u64::MAX, Fault::Errno(5), false);
        }
        // A change of the format between two lives is nothing special.
        let format = if self.lives.is_multiple_of(3) { FallbackFormat::Protobuf } else { FallbackFormat::Json };
        let compression = [Compression::Never, Compression::Zstd, Compression::Gzip]
            [self.lives as usize % 2 * (1 + self.lives as usize / 2 % 2)];
        let files = Files { format, compression, compress_above: 2_000, ..Files::default() };
        let letters = (self.disk.clone(), self.faults.clone());
        let open_letters = move || {
            let inner = letters.0.root().subdirectory("dead-letters").expect("it exists or there is room for a name");
            Ok(Faulty::new(inner, letters.1.clone()))
        };
        let mut fallback: Box<dyn Fallback> = match self.fallback {
            true => {
                let dir = self.dir("fallback").expect("a simulated directory");
                Box::new(FileStore::open_in(dir, Box::new(open_letters), &files).ok()?)
            }
            false => Box::new(NoFallback),
        };
        let mut journal =
            FileJournal::open(self.dir("journal").ok()?, JOURNAL, self.lives, |name| fallback.has_file(name)).ok()?;
        let policy = Policy {
            limits: LIMITS,
            max_calls: 3,
            request_max_bytes: 20_000,
            fallback: self.fallback,
            replay_rate: None,
            incarnation: journal.incarnation(),
        };
        let breaker = breaker::Config::builder().with_failure_threshold(3).with_seed(self.lives).build();
        let backoff = backoff::Exponential::builder().build().expect("valid");
        let now = self.hands.now();
        let endpoint = Endpoint::new(Machine::new(breaker.expect("valid")), now);
        let usage = fallback.usage();
        let core = Core::new(policy, endpoint, usage.spans, self.lives).with_journal(journal.found(), now);
        let shared = Shared::new(Parts {
            core,
            usage: Some(usage),
            clock: Arc::new(self.hands.clone()),
            backoff: Box::new(backoff),
            endpoint: "sim".to_owned(),
            no_fallback: None,
            journal_timeout: Duration::from_millis(100),
        });
        Some((shared, fallback, Committer::new(Box::new(journal), self.policy, now)))
    }

    /// The disk is well and the collector takes everything: nothing that was durable is missing.
    pub(super) fn recover(mut self) -> Result<(), TestCaseError> {
        self.faults.clear();
        self.disk.set_capacity(None);
        let (shared, fallback, committer) = self.start().expect("a well disk opens");
        let worker = Worker::new(&shared, fallback, Some(committer));
        let mut life =
            Life { world: &mut self, shared: &shared, worker, calls: Vec::new(), unmarked: Unmarked::default() };
        for round in 0.. {
            life.check().map_err(TestCaseError::fail)?;
            let ledger = shared.core().ledger().clone();
            if ledger.buffered + ledger.in_flight + ledger.in_fallback == 0 {
                break;
            }
            prop_assert!(round < 5_000, "something is stuck: {:?} {:?}", ledger, shared.health());
            life.step(Step::Pass(500));
            while !life.calls.is_empty() {
                life.step(Step::Answer(0, Answer::Taken));
            }
            life.step(Step::Disk);
        }
        // Nothing comes back once the marks are synced.
        for _ in 0..3 {
            life.step(Step::Pass(200));
            life.step(Step::Disk);
        }
        life.world.disk.crash(if life.world.policy == SyncPolicy::Never { Crash::Best } else { Crash::Worst });
        life.end()?;
        drop(shared);
        let (shared, ..) = self.start().expect("a well disk opens");
        let ledger = shared.core().ledger().clone();
        prop_assert_eq!(ledger.recovered, 0, "it was delivered, and is back: {:?}", ledger);

        let letters = self.letters();
        let known = |key: &&SpanKey| self.made.contains(*key);
        prop_assert!(self.taken.keys().all(|key| self.made.contains(key)), "the collector has invented spans");
        prop_assert_eq!(letters.iter().filter(known).count(), letters.len(), "a dead letter has invented spans");
        let missing = self.durable.iter().filter(|key| !self.taken.contains_key(*key) && !letters.contains(*key));
        let missing = missing.collect::<Vec<_>>();
        prop_assert!(
            missing.len() as u64 <= self.lost,
            "{} durable spans are nowhere, and {} were counted as lost: {:?}",
            missing.len(),
            self.lost,
            missing.first()
        );
        let bound = self.bound + self.redriven.load(Ordering::Relaxed);
        let duplicates = self.taken.values().map(|count| u64::from(*count) - 1).sum::<u64>();
        prop_assert!(
            !self.strict || duplicates <= bound,
            "{} duplicates, at most {} were to be expected",
            duplicates,
            bound
        );
        Ok(())
    }

    fn forget_unsynced(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.durable.retain(|key| !unsynced.contains(key));
    }

    /// What is in the dead letters, read by themselves.
    fn letters(&self) -> HashSet<SpanKey> {
        let config = DeadLetters::config("/sim/dead-letters").build().expect("valid");
        let dir = self.dir("dead-letters").expect("a simulated directory");
        let mut letters = DeadLetters::open_in(config, dir).expect("a well disk opens");
        let mut found = HashSet::new();
        for listed in letters.list() {
            let (_, lines) = letters.read(&listed.name).expect("whole");
            for line in lines {
                found.extend(keys(&json::from_line(&line).expect("OTLP JSON").0));
            }
        }
        found
    }
}

struct Life<'a> {
    world: &'a mut World,
    shared: &'a Shared,
    worker: Worker<'a>,
    calls: Vec<Call>,
    unmarked: Unmarked,
}

impl Life<'_> {
    /// Says whether it ended this life.
    fn step(&mut self, step: Step) -> bool {
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

    fn end(&mut self) -> Result<(), TestCaseError> {
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
    fn check(&self) -> Result<(), String> {
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

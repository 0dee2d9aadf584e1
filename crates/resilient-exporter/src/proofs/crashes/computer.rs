//! One simulated computer: its disk outlives its processes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ::journal::{Config, SyncPolicy};
use breaker::Machine;
use file_fallback::Compression;
use file_fallback::dead_letters::DeadLetters;
use otlp_payload::{Encoder, json};
use proptest::prelude::*;
use safe_dir::Directory as _;
use safe_dir::sim::{Crash, Disk, Fault, Faults, Faulty, MemoryDir};
use span_buffer::Limits;

use super::clocks::Hands;
use super::process::Life;
use super::{Answer, Step};
use crate::core::{Core, Endpoint, Policy};
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

pub(super) type SpanKey = ([u8; 16], [u8; 8]);
type Dir = Faulty<MemoryDir>;

pub(super) fn keys(request: &[u8]) -> impl Iterator<Item = SpanKey> {
    otlp_payload::span_ids(request).expect("what the core holds can be read")
}

/// Small segments and a small buffer, so that a short history fills them.
const JOURNAL: Config =
    Config { segment_bytes: 4 << 10, max_bytes: 4 << 20, max_body_bytes: 64 << 10, free_space_reserve: 0 };
const LIMITS: Limits = Limits { max_count: 200, max_bytes: 60_000, max_age: Duration::from_secs(300) };

pub(super) struct World {
    pub(super) policy: SyncPolicy,
    pub(super) fallback: bool,
    pub(super) disk: Disk,
    pub(super) faults: Faults,
    pub(super) hands: Hands,
    pub(super) encoder: Encoder,
    pub(super) next_span: u64,
    pub(super) lives: u64,
    pub(super) made: HashSet<SpanKey>,
    /// Export returned, and nobody counted them as accepted but not durable.
    pub(super) durable: HashSet<SpanKey>,
    /// What a power cut may take by the policy, though a kill may not.
    pub(super) unsynced: HashSet<SpanKey>,
    /// How often the collector has each.
    pub(super) taken: HashMap<SpanKey, u32>,
    /// Refused for good, or in a partial success.
    pub(super) refused: HashSet<SpanKey>,
    /// Dropped and refused, by the ledgers of all lives, and dead letters that had to go.
    pub(super) lost: u64,
    /// The disk was well all the time, and no batch was split.
    pub(super) strict: bool,
    /// The faults that are planned end with the next life.
    pub(super) power_is_gone: bool,
    /// Duplicates that there may be.
    pub(super) bound: u64,
    /// And these: spans of letters that were put back on their way may be delivered, or be in a file and still a letter.
    pub(super) redriven: Arc<AtomicU64>,
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
        let mut life = Life::new(self, &shared, worker);
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
        let mut life = Life::new(&mut self, &shared, worker);
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

    pub(super) fn forget_unsynced(&mut self) {
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

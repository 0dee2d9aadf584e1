//! The simulated computer of a crash history: its disk outlives its processes.

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

use super::clocks::Clocks;
use super::process::Process;
use super::tree;
use super::{Answer, Step};
use crate::core::{Core, Endpoint, Policy};
use crate::seams::clock::Clock;
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::seams::settings::{DeadLetters as DeadLetterSettings, FallbackFormat, Files, ReplayOrder};
use crate::shell::commit::Committer;
use crate::shell::shared::{Parts, Shared};
use crate::stores::files::{FileStore, Place};
use crate::stores::home::Home;
use crate::stores::journal::FileJournal;
use crate::stores::none::NoFallback;
use crate::stores::old_layout::OldLayout;

pub(super) type SpanKey = ([u8; 16], [u8; 8]);
type Dir = Faulty<MemoryDir>;

pub(super) fn span_ids(request: &[u8]) -> impl Iterator<Item = SpanKey> {
    otlp_payload::span_ids(request).expect("the core holds well-formed payloads")
}

/// Small segments and a small buffer, so that a short history fills them.
const JOURNAL: Config = Config {
    segment_bytes: 4 << 10,
    max_bytes: 4 << 20,
    max_body_bytes: 64 << 10,
    free_space_reserve: 0,
    known_tags: &[0],
};
const LIMITS: Limits = Limits { max_count: 200, max_bytes: 60_000, max_age: Duration::from_secs(300) };

/// The state directory; the disk has others as well.
pub(super) const STATE: &str = "state";

/// The settings of a process that starts.
pub(super) struct Start {
    pub(super) is_durable: bool,
    /// The machine that it runs on.
    pub(super) host: u32,
    /// The limit for journals and files of all processes.
    pub(super) max_bytes: u64,
    pub(super) clocks: Clocks,
    pub(super) faults: Faults,
}

/// The stores of a process that has started.
pub(super) struct Stores {
    pub(super) fallback: Box<dyn Fallback>,
    /// None without durable mode.
    pub(super) committer: Option<Committer>,
    pub(super) clocks: Clocks,
    pub(super) faults: Faults,
}

/// The computer, its collector, and the number of spans that the test expects in each place.
pub(super) struct Computer {
    pub(super) policy: SyncPolicy,
    pub(super) fallback: bool,
    pub(super) disk: Disk,
    pub(super) faults: Faults,
    pub(super) clocks: Clocks,
    pub(super) encoder: Encoder,
    pub(super) next_span: u64,
    /// Processes that were started so far.
    pub(super) processes: u64,
    pub(super) made: HashSet<SpanKey>,
    /// Spans whose `export` call returned without a count of the batch as accepted but not durable.
    pub(super) durable: HashSet<SpanKey>,
    /// Spans on content that another program has removed, which no promise holds for any more.
    pub(super) forgotten: HashSet<SpanKey>,
    /// Spans of segments that another program has removed while a process had them.
    pub(super) removed: HashSet<SpanKey>,
    /// Spans that the ledgers of all processes count as lost with these.
    pub(super) vanished: u64,
    /// No file bears a time long ago: none is removed for its age, whatever a wall clock says at a start.
    pub(super) has_true_past: bool,
    /// A sync has failed since the start, and took its data along.
    pub(super) has_lied: bool,
    /// The disk takes only so many bytes.
    pub(super) is_full: bool,
    /// Spans that the sync policy exposes to a power cut, though not to a kill.
    pub(super) unsynced: HashSet<SpanKey>,
    /// How often the collector received each span.
    pub(super) received: HashMap<SpanKey, u32>,
    /// Spans that the ledgers of all processes count as dropped or refused, and spans of dead letters that their limits
    /// removed.
    pub(super) lost: u64,
    /// No call to the disk failed so far, and no batch was split as too large: duplicates are bounded.
    pub(super) strict: bool,
    /// A power cut during a turn ended the process: the next process starts without the planned fault.
    pub(super) power_is_off: bool,
    /// Spans that the collector may receive a second time.
    pub(super) max_duplicates: u64,
    /// More possible duplicates: spans of redriven dead letters, which a crash may leave in the letter and in a file.
    pub(super) redriven: Arc<AtomicU64>,
}

impl Computer {
    pub(super) fn new(policy: SyncPolicy, fallback: bool) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_000_000);
        Self {
            policy,
            fallback,
            disk: Disk::new(),
            faults: Faults::none(),
            clocks: Clocks::at(wall),
            encoder: Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build()),
            next_span: 1,
            processes: 0,
            made: HashSet::new(),
            durable: HashSet::new(),
            forgotten: HashSet::new(),
            removed: HashSet::new(),
            vanished: 0,
            has_true_past: false,
            has_lied: false,
            is_full: false,
            unsynced: HashSet::new(),
            received: HashMap::new(),
            lost: 0,
            strict: true,
            power_is_off: false,
            max_duplicates: 0,
            redriven: Arc::default(),
        }
    }

    /// Calls to the disk that have failed so far.
    pub(super) fn faults_fired(&self) -> u64 {
        self.faults.fired()
    }

    /// Runs one process until a step ends it, or kills it after the last step. Returns whether the history goes on with
    /// another process.
    pub(super) fn run_process(&mut self, steps: &mut VecDeque<Step>) -> Result<bool, TestCaseError> {
        let Some((shared, stores)) = self.start_next() else {
            // The process does not start on the failing disk. The next one finds a healthy disk.
            self.faults.clear();
            self.limit_disk(None);
            return Ok(true);
        };
        let mut process = Process::new(&shared, stores);
        let mut has_ended = false;
        while let Some(step) = steps.pop_front() {
            let name = format!("{step:?}");
            let ends = process.step(self, step);
            process.check_ledger().map_err(|error| TestCaseError::fail(format!("after {name}: {error}")))?;
            if ends {
                has_ended = true;
                break;
            }
        }
        if !has_ended {
            process.step(self, Step::Kill);
        }
        process.add_losses(self)?;
        Ok(has_ended)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.clocks.advance(by);
        self.disk.set_now(self.clocks.true_time());
    }

    pub(super) fn limit_disk(&mut self, bytes: Option<u64>) {
        self.is_full = bytes.is_some();
        self.disk.set_capacity(bytes);
    }

    /// The state directory, as the process that starts opens it.
    fn home(&self, start: &Start) -> Option<Home<Dir>> {
        let (disk, faults, host) = (self.disk.clone(), start.faults.clone(), start.host);
        let root = move || Faulty::new(disk.root_on(host), faults.clone()).subdirectory(STATE);
        let machine = safe_dir::Machine { boot_id: format!("boot-{host}"), host: format!("host-{host}") };
        let old = OldLayout::new(Vec::new(), None);
        let service = "sim".to_owned();
        Some(Home::open(Box::new(root), service, machine, self.processes, start.max_bytes, old).ok()?.0)
    }

    /// A process as those of a history on one computer: in durable mode, with the clocks and faults of all.
    fn start_next(&mut self) -> Option<(Shared, Stores)> {
        let start = Start {
            is_durable: true,
            host: 0,
            max_bytes: Files::default().max_bytes,
            clocks: self.clocks.clone(),
            faults: self.faults.clone(),
        };
        self.start_process(start)
    }

    pub(super) fn start_process(&mut self, start: Start) -> Option<(Shared, Stores)> {
        self.processes += 1;
        if std::mem::take(&mut self.power_is_off) {
            start.faults.plan(u64::MAX, Fault::Errno(5), false);
        }
        // Each process may use another format and compression than the one before.
        let format = if self.processes.is_multiple_of(3) { FallbackFormat::Protobuf } else { FallbackFormat::Json };
        let compression = [Compression::Never, Compression::Zstd, Compression::Gzip]
            [self.processes as usize % 2 * (1 + self.processes as usize / 2 % 2)];
        let max_bytes = start.max_bytes;
        let files = Files { format, compression, compress_above: 2_000, max_bytes, ..Files::default() };
        let home = Arc::new(self.home(&start)?);
        let clock: Arc<dyn Clock> = Arc::new(start.clocks.clone());
        let files_home = self.fallback.then(|| Arc::clone(&home));
        let journal = start
            .is_durable
            .then(|| FileJournal::open(Arc::clone(&home), files_home, JOURNAL, Arc::clone(&clock), &mut |_| Ok(false)));
        let mut journal = journal.transpose().ok()?;
        let fallback: Box<dyn Fallback> = match self.fallback {
            true => {
                let (files_home, letters) = (Arc::clone(&home), Arc::clone(&home));
                let journal = start.is_durable.then(|| Arc::clone(&home));
                let place = Place { files: files_home, letters, journal, clock: Arc::clone(&clock) };
                Box::new(FileStore::open(place, &files, &DeadLetterSettings::default(), 0).ok()?)
            }
            false => Box::new(NoFallback),
        };
        let policy = Policy {
            limits: LIMITS,
            max_calls: 3,
            request_max_bytes: 20_000,
            request_max_spans: usize::MAX,
            fallback: self.fallback,
            replay_rate: None,
            replay_order: ReplayOrder::Oldest,
            strict: false,
            incarnation: journal.as_ref().map_or(self.processes << 32, Journal::incarnation),
        };
        let breaker = breaker::Config::builder().with_failure_threshold(3).with_seed(self.processes).build();
        let backoff = backoff::Exponential::builder().build().expect("valid");
        let now = self.clocks.now();
        let endpoint = Endpoint::new(Machine::new(breaker.expect("valid")), now);
        let usage = fallback.usage();
        let mut core = Core::new(policy, endpoint, usage.spans, self.processes);
        if let Some(journal) = &mut journal {
            core = core.with_journal(journal.found(), journal.can_read(), now);
        }
        let shared = Shared::new(Parts {
            core,
            usage: Some(usage),
            age_rests_until: None,
            max_age_at_send: None,
            clock,
            backoff: Box::new(backoff),
            endpoints: vec!["sim".to_owned()],
            no_fallback: None,
            storage_notes: Vec::new(),
            journal_timeout: Duration::from_millis(100),
        });
        let committer = journal.map(|journal| Committer::new(Box::new(journal), self.policy));
        let Start { clocks, faults, .. } = start;
        Some((shared, Stores { fallback, committer, clocks, faults }))
    }

    /// Runs a last process with a healthy disk and collector. After that each durable span is at the collector or in a
    /// dead letter, apart from as many as the ledgers count as lost.
    pub(super) fn assert_nothing_is_missing(mut self) -> Result<(), TestCaseError> {
        self.faults.clear();
        self.limit_disk(None);
        let (shared, stores) = self.start_next().expect("a healthy disk opens");
        let mut process = Process::new(&shared, stores);
        self.drain(&mut process)?;
        self.disk.crash(if self.policy == SyncPolicy::Never { Crash::Best } else { Crash::Worst });
        process.add_losses(&mut self)?;
        drop(process);
        drop(shared);
        let (shared, stores) = self.start_next().expect("a healthy disk opens");
        drop(stores);
        let ledger = shared.core().ledger().clone();
        prop_assert_eq!(ledger.recovered, 0, "a delivered batch was recovered once more: {:?}", ledger);
        self.check_spans()
    }

    /// A healthy process sends everything that it has to a willing collector.
    pub(super) fn drain(&mut self, process: &mut Process<'_>) -> Result<(), TestCaseError> {
        for round in 0.. {
            process.check_ledger().map_err(TestCaseError::fail)?;
            let ledger = process.shared.core().ledger().clone();
            if ledger.buffered + ledger.in_flight + ledger.in_journal + ledger.in_fallback == 0 {
                break;
            }
            let health = process.shared.health();
            let files = || tree::paths(&self.disk);
            prop_assert!(round < 5_000, "the spans do not leave the process: {:?} {:?} {:?}", ledger, health, files());
            self.serve(process, 500);
        }
        // The disk thread writes and syncs the last marks: no later process recovers a batch.
        for _ in 0..3 {
            process.step(self, Step::Advance(200));
            process.step(self, Step::DiskTurn);
        }
        Ok(())
    }

    /// After `ms` milliseconds the collector accepts each call of the process, and its threads take a turn.
    pub(super) fn serve(&mut self, process: &mut Process<'_>, ms: u64) {
        process.step(self, Step::Advance(ms));
        while !process.calls.is_empty() {
            process.step(self, Step::Answer(0, Answer::Accepted));
        }
        process.step(self, Step::DiskTurn);
    }

    /// Each durable span is at the collector, in a dead letter, or counted; the collector has no span that was never
    /// exported, and as many duplicates as the crashes explain.
    pub(super) fn check_spans(&self) -> Result<(), TestCaseError> {
        let letters = self.spans_in_dead_letters();
        let known = |key: &&SpanKey| self.made.contains(*key);
        prop_assert!(
            self.received.keys().all(|key| self.made.contains(key)),
            "the collector received a span that was never exported"
        );
        prop_assert_eq!(
            letters.iter().filter(known).count(),
            letters.len(),
            "a dead letter holds a span that was never exported"
        );
        let missing = self.durable.iter().filter(|key| !self.received.contains_key(*key) && !letters.contains(*key));
        let missing = missing.collect::<Vec<_>>();
        prop_assert!(
            missing.len() as u64 <= self.lost,
            "{} durable spans are missing, {} are counted as lost; the first of the missing: {:?}",
            missing.len(),
            self.lost,
            missing.first()
        );
        // A span that counts as lost with a segment comes back nowhere, unless the collector had it already.
        let gone = self.removed.iter().filter(|key| !self.received.contains_key(*key) && !letters.contains(*key));
        let explained = gone.count() as u64 + self.max_duplicates;
        prop_assert!(
            !self.strict || self.vanished <= explained,
            "{} spans count as lost with their segments, {} are missing or were sent before",
            self.vanished,
            explained
        );
        let max_duplicates = self.max_duplicates + self.redriven.load(Ordering::Relaxed);
        let duplicates = self.received.values().map(|count| u64::from(*count) - 1).sum::<u64>();
        prop_assert!(
            !self.strict || duplicates <= max_duplicates,
            "{} duplicates, of at most {} that the crashes explain",
            duplicates,
            max_duplicates
        );
        Ok(())
    }

    pub(super) fn forget_unsynced(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.durable.retain(|key| !unsynced.contains(key));
    }

    /// The state directory, seen from outside.
    pub(super) fn state(&self) -> MemoryDir {
        self.disk.root().subdirectory(STATE).expect("a disk without faults")
    }

    /// The spans in the dead letters, read without the exporter.
    fn spans_in_dead_letters(&self) -> HashSet<SpanKey> {
        let config = DeadLetters::config("/sim/dead-letters").build().expect("valid");
        let mut found = HashSet::new();
        let root = self.state();
        for entry in root.list().expect("a healthy disk") {
            let process = root.existing_subdirectory(entry.name.to_str().expect("a name of this crate"));
            let Ok(Some(process)) = process else { continue };
            let Some(dir) = process.existing_subdirectory("dead-letters").expect("a healthy disk") else { continue };
            let mut letters = DeadLetters::open_in(config.clone(), dir).expect("a healthy disk opens");
            for listed in letters.list() {
                let (_, lines) = letters.read(&listed.name).expect("a readable letter");
                for line in lines {
                    found.extend(span_ids(&json::from_line(&line).expect("OTLP JSON").0));
                }
            }
        }
        found
    }
}

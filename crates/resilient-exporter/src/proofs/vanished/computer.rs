//! A computer with a real directory, and processes without threads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::journal::{Config, SyncPolicy};
use breaker::Machine;
use otlp_payload::{Encoder, Payload};
use otlp_transport::{Cause, Outcome};
use safe_dir::SafeDir;
use span_buffer::Limits;
use tempfile::TempDir;

use crate::core::{Core, Endpoint, Policy};
use crate::proofs::crashes::clocks::Clocks;
use crate::proofs::spans::spans;
use crate::report::ledger::Ledger;
use crate::seams::clock::Clock as _;
use crate::seams::journal::Journal as _;
use crate::seams::settings::ReplayOrder;
use crate::shell::commit::Committer;
use crate::shell::journal::JournalWorker;
use crate::shell::shared::{Parts, Shared};
use crate::stores::home::Home;
use crate::stores::journal::FileJournal;
use crate::stores::old_layout::OldLayout;

/// About five batches a segment.
pub(super) const JOURNAL: Config = Config {
    segment_bytes: 4 << 10,
    max_bytes: 4 << 20,
    max_body_bytes: 64 << 10,
    free_space_reserve: 0,
    known_tags: &[0],
};

/// Six batches.
pub(super) const LIMITS: Limits = Limits { max_count: 60, max_bytes: 60_000, max_age: Duration::from_secs(300) };

/// Spans of a batch.
pub(super) const BATCH: u64 = 10;

/// The number of the first span: no other bytes of a segment look like it.
pub(super) const FIRST: u64 = 0x5eed_f00d_5eed_0001;

pub(super) type Numbers = BTreeSet<u64>;

/// A computer with a real directory, and a collector that counts.
pub(super) struct Computer {
    pub(super) scratch: TempDir,
    pub(super) clocks: Clocks,
    encoder: Encoder,
    processes: u64,
    next_span: u64,
    /// How often the collector has received each span.
    pub(super) received: BTreeMap<u64, u32>,
}

impl Computer {
    pub(super) fn new() -> Self {
        Self {
            scratch: tempfile::tempdir().expect("a temporary directory"),
            clocks: Clocks::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_000_000)),
            encoder: Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build()),
            processes: 0,
            next_span: FIRST,
            received: BTreeMap::new(),
        }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// Starts a process in durable mode without a fallback.
    pub(super) fn start(&mut self, state: &Path) -> (Shared, Committer) {
        self.processes += 1;
        let (path, clock) = (state.to_owned(), Arc::new(self.clocks.clone()));
        let root = Box::new(move || SafeDir::open(&path));
        let machine = safe_dir::Machine { boot_id: "boot".to_owned(), host: "host".to_owned() };
        let old = OldLayout::new(Vec::new(), None);
        let home = Home::open(root, "proof".to_owned(), machine, self.processes, 1 << 30, old).expect("ours").0;
        let journal = FileJournal::open(Arc::new(home), None, JOURNAL, Arc::clone(&clock) as _, &mut |_| Ok(false));
        let mut journal = journal.expect("a well disk");
        let policy = Policy {
            limits: LIMITS,
            max_calls: 6,
            request_max_bytes: 1 << 20,
            request_max_spans: usize::MAX,
            fallback: false,
            replay_rate: None,
            replay_order: ReplayOrder::Oldest,
            strict: false,
            incarnation: journal.incarnation(),
        };
        let now = clock.now();
        let core = Core::new(policy, Endpoint::new(Machine::new(breaker::Config::default()), now), 0, 7);
        let shared = Shared::new(Parts {
            core: core.with_journal(journal.found(), journal.can_read(), now),
            usage: None,
            age_rests_until: None,
            max_age_at_send: None,
            clock,
            backoff: Box::new(backoff::Exponential::builder().build().expect("valid")),
            endpoints: vec!["proof".to_owned()],
            no_fallback: None,
            storage_notes: Vec::new(),
            journal_timeout: Duration::ZERO,
        });
        (shared, Committer::new(Box::new(journal), SyncPolicy::Batch))
    }
}

/// A process without threads.
pub(super) struct Process<'a> {
    pub(super) shared: &'a Shared,
    pub(super) worker: JournalWorker<'a>,
}

impl<'a> Process<'a> {
    pub(super) fn new(shared: &'a Shared, committer: Committer) -> Self {
        Self { shared, worker: JournalWorker::new(shared, committer) }
    }

    pub(super) fn ledger(&self) -> Ledger {
        let ledger = self.shared.core().ledger().clone();
        assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
        ledger
    }

    /// Spans that count as lost with a part of the journal; none for any other reason.
    pub(super) fn vanished(&self) -> u64 {
        let ledger = self.ledger();
        let vanished = ledger.dropped.get("vanished").copied().unwrap_or(0);
        assert_eq!(ledger.lost(), vanished, "{ledger:?}");
        vanished
    }

    pub(super) fn turn(&mut self) {
        self.worker.turn_within(Some(Duration::ZERO));
    }

    /// Does the same as `export`, with a turn of the journal thread in place of the wait. Returns whether the batch
    /// counts as durable.
    pub(super) fn export(&mut self, computer: &mut Computer) -> bool {
        let id = self.shared.core().next_id();
        let batch = spans(computer.next_span, BATCH as usize);
        computer.next_span += BATCH;
        let payload = computer.encoder.encode(id, self.shared.clock.wall(), &batch);
        assert!(self.shared.decide(|core| core.on_submitted(&payload)));
        self.turn();
        let now = computer.clocks.now();
        let before = self.shared.core().durable.accepted_not_durable();
        self.shared.core().durable.on_wait_ended(id, payload.item_count(), now);
        let is_durable = self.shared.core().durable.accepted_not_durable() == before;
        self.shared.decide(|core| core.on_offered(payload, now)).expect("there is room");
        is_durable
    }

    /// The journal thread's next maintenance, and the commits and marks that it causes.
    pub(super) fn maintain(&mut self, computer: &Computer) {
        for _ in 0..2 {
            computer.clocks.advance(Duration::from_millis(1_100));
            self.turn();
            self.turn();
        }
    }

    /// The collector asks for a pause of an hour. Batches of ended processes are read as far as memory takes them.
    pub(super) fn read_back(&mut self, computer: &Computer) {
        for _ in 0..40 {
            let now = computer.clocks.now();
            for call in self.shared.decide(|core| core.poll_calls(now)) {
                let cause = Cause::Http { status: 429, message: String::new() };
                let after = Some(Duration::from_secs(3_600));
                let pause = Outcome::Retryable { after, cause, possible_duplicate: false };
                let wall = self.shared.clock.wall();
                self.shared.decide(|core| core.on_answered(call.id, pause, Duration::ZERO, now, wall));
            }
            self.turn();
        }
    }

    /// The collector takes so many calls.
    pub(super) fn deliver(&mut self, computer: &mut Computer, mut most: usize) {
        // Beyond a pause that it asked for.
        computer.clocks.advance(Duration::from_secs(301));
        for _ in 0..2_000 {
            let (now, wall) = (computer.clocks.now(), self.shared.clock.wall());
            for call in self.shared.decide(|core| core.poll_calls(now)) {
                for number in numbers_of(&call.payload.request()) {
                    *computer.received.entry(number).or_default() += 1;
                }
                let taken = Outcome::Delivered { rejected: 0, message: None };
                self.shared.decide(|core| core.on_answered(call.id, taken, Duration::ZERO, now, wall));
                most = most.saturating_sub(1);
            }
            if most == 0 {
                break;
            }
            computer.clocks.advance(Duration::from_millis(100));
            self.turn();
        }
        self.maintain(computer);
    }

    pub(super) fn deliver_all(&mut self, computer: &mut Computer) {
        self.deliver(computer, usize::MAX);
        let ledger = self.ledger();
        assert_eq!((ledger.buffered, ledger.in_flight, ledger.in_journal), (0, 0, 0), "{ledger:?}");
    }

    /// The spans in memory.
    pub(super) fn in_memory(&self) -> Numbers {
        let core = self.shared.core();
        core.memory.waiting().flat_map(|entry| numbers_of(&entry.item.payload.request())).collect()
    }
}

pub(super) fn numbers_of(payload: &Payload) -> Vec<u64> {
    let ids = otlp_payload::span_ids(payload.bytes()).expect("well formed");
    ids.map(|(trace, _)| u64::try_from(u128::from_be_bytes(trace)).expect("a number of this test")).collect()
}

/// The segments below a directory, oldest first.
pub(super) fn segments(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("known").is_dir() {
            found.extend(segments(&entry.path()));
        } else if entry.file_name().to_string_lossy().starts_with("journal-") {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// How often each span stands in these files.
pub(super) fn spans_in(files: &[PathBuf]) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    for file in files {
        let content = fs::read(file).expect("readable");
        for window in content.windows(16) {
            let number = u64::try_from(u128::from_be_bytes(window.try_into().expect("16 bytes"))).ok();
            if let Some(number) = number.filter(|number| (FIRST..FIRST + 10_000).contains(number)) {
                *found.entry(number).or_default() += 1;
            }
        }
    }
    found
}

/// Copies a directory as `kill -9` leaves it at this moment.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a place to copy to");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("our own directory");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

/// The directory of the journal of the process that has this state directory for itself.
pub(super) fn journal_of(state: &Path) -> PathBuf {
    let processes = fs::read_dir(state).expect("readable").map(|entry| entry.expect("readable").path());
    let journals = processes.map(|process| process.join("journal")).filter(|journal| journal.exists());
    let journals = journals.collect::<Vec<_>>();
    let [journal] = &journals[..] else { panic!("not one journal: {journals:?}") };
    journal.clone()
}

/// The directory of a process whose name ends like this.
pub(super) fn process_of(state: &Path, end: &str) -> PathBuf {
    let mut found = fs::read_dir(state).expect("readable").map(|entry| entry.expect("readable").path());
    found.find(|path| path.to_string_lossy().ends_with(end)).expect("a directory of this name")
}

pub(super) fn numbers_in(files: &[PathBuf]) -> Numbers {
    spans_in(files).into_keys().collect()
}

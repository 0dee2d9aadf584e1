//! What the exporter, its handles and its two threads share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use breaker::State;
use otlp_payload::Payload;
use parking_lot::{Condvar, Mutex, MutexGuard};
use span_buffer::Entry;
use tokio::sync::Notify;

use crate::core::{Core, Effect};
use crate::report::events::Listeners;
use crate::report::health::{Health, STALLED, Status};
use crate::report::ledger::DropReason;
use crate::seams::clock::{Clock, SystemClock};
use crate::seams::fallback::Kept;
use crate::seams::fates::{Fate, Refusal};
use crate::seams::journal::Journaled;
use crate::shell::ask::Ask;

/// What no wait is longer than.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// What the disk thread is asked to do.
#[derive(Debug)]
pub(crate) enum Job {
    Spill(Vec<Entry<Payload>>),
    Bury(Vec<Refusal>),
    Read,
    Finish(Vec<Fate>),
    Ask(Ask),
    Stop,
}

/// The disk thread's work, and how it is doing.
#[derive(Default)]
pub(crate) struct DiskQueue {
    pub(crate) jobs: VecDeque<Job>,
    /// A batch waits for the journal.
    pub(crate) journal: bool,
    /// Since when it has been in one operation.
    pub(crate) busy_since: Option<Instant>,
    pub(crate) kept: Kept,
    /// In durable mode.
    pub(crate) journaled: Option<Journaled>,
    pub(crate) ended: bool,
}

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Something moved: for whoever waits for a flush or a shutdown.
    progress: Condvar,
    /// There is something new to send or to decide.
    pub(crate) net: Notify,
    disk: Option<Mutex<DiskQueue>>,
    disk_work: Condvar,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) listeners: Listeners,
    pub(crate) endpoint: String,
    /// Why there is no fallback although one was asked for.
    no_fallback: Option<String>,
    /// How long a batch waits for the journal.
    journal_timeout: Duration,
}

impl Shared {
    pub(crate) fn new(
        core: Core,
        kept: Option<Kept>,
        clock: Arc<dyn Clock>,
        endpoint: String,
        no_fallback: Option<String>,
        journal_timeout: Duration,
    ) -> Self {
        Self {
            core: Mutex::new(core),
            progress: Condvar::new(),
            net: Notify::new(),
            disk: kept.map(|kept| Mutex::new(DiskQueue { kept, ..DiskQueue::default() })),
            disk_work: Condvar::new(),
            clock,
            listeners: Listeners::default(),
            endpoint,
            no_fallback,
            journal_timeout,
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Takes a decision under the lock and carries it out outside of it; a shutdown waits for what is under way.
    pub(crate) fn decide<T>(&self, decision: impl FnOnce(&mut Core, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let mut core = self.core();
        let result = decision(&mut core, &mut effects);
        if effects.is_empty() {
            return result;
        }
        core.acting(1);
        drop(core);
        let acting = Acting(self);
        self.act(effects);
        drop(acting);
        result
    }

    /// In durable mode: has a batch written to the journal before it is offered, and waits for that no longer than the
    /// journal's time-out.
    pub(crate) fn make_durable(&self, payload: &Payload) {
        if !self.core().open_shadow(payload) {
            return;
        }
        if let Some(disk) = &self.disk {
            disk.lock().journal = true;
            self.disk_work.notify_one();
        }
        let id = payload.id();
        let now = SystemClock.now();
        let deadline = now.checked_add(self.journal_timeout).unwrap_or(now + FOR_EVER);
        self.wait(deadline, |core| !core.shadow_waits(id) || self.disk_ended());
        self.core().stop_waiting(id, payload.span_count(), self.clock.now());
    }

    fn act(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Spill(entries) => self.enqueue(Job::Spill(entries)),
                Effect::Bury(refusals) => self.enqueue(Job::Bury(refusals)),
                Effect::ReadGroup => self.enqueue(Job::Read),
                Effect::FinishGroup(fates) => self.enqueue(Job::Finish(fates)),
                Effect::Tell(event) => self.listeners.tell(event, self.clock.now()),
            }
        }
    }

    pub(crate) fn enqueue(&self, job: Job) {
        if let Some(disk) = &self.disk {
            let mut disk = disk.lock();
            if !disk.ended {
                disk.jobs.push_back(job);
                self.disk_work.notify_one();
                return;
            }
        }
        self.nobody_does(job);
    }

    /// No disk thread is there for this job: its spans stay accounted for.
    fn nobody_does(&self, job: Job) {
        let now = self.clock.now();
        self.decide(|core, effects| match job {
            Job::Spill(entries) => core.spill_failed(entries, "the disk thread has ended", now, effects),
            Job::Bury(refusals) => core.letters_kept(&refusals, false, effects),
            Job::Read => core.read_failed("the disk thread has ended", now, effects),
            Job::Finish(_) | Job::Ask(_) | Job::Stop => {}
        });
    }

    /// The next jobs of the disk thread; empty after `patience` without one. Spills that wait come together.
    pub(crate) fn next_jobs(&self, patience: Duration) -> Vec<Job> {
        let Some(disk) = &self.disk else { return vec![Job::Stop] };
        disk.lock().busy_since = None;
        // Whoever waits for an idle disk: told outside the lock, since they ask while they hold the core's.
        self.progress();
        let mut disk = disk.lock();
        if disk.jobs.is_empty() && !disk.journal {
            self.disk_work.wait_for(&mut disk, patience);
        }
        let jobs = disk.jobs.drain(..).collect::<Vec<_>>();
        disk.journal = false;
        disk.busy_since = Some(self.clock.now());
        jobs
    }

    /// After each operation of the disk thread.
    pub(crate) fn disk_did(&self, kept: Kept, journaled: Option<Journaled>) {
        if let Some(disk) = &self.disk {
            let mut disk = disk.lock();
            disk.kept = kept;
            disk.journaled = journaled;
            disk.busy_since = Some(self.clock.now());
        }
        self.moved();
    }

    /// The disk thread ends. What is asked of it from now on is done by nobody, and accounted for.
    pub(crate) fn disk_ends(&self) {
        let mut left = VecDeque::new();
        if let Some(disk) = &self.disk {
            let mut disk = disk.lock();
            disk.ended = true;
            disk.busy_since = None;
            left = std::mem::take(&mut disk.jobs);
        }
        left.into_iter().for_each(|job| self.nobody_does(job));
        self.moved();
    }

    /// Something changed: wakes the net thread and whoever waits.
    pub(crate) fn moved(&self) {
        self.net.notify_one();
        self.progress();
    }

    /// Something that somebody may wait for has changed. The lock orders this after the check of whoever is about to wait.
    pub(crate) fn progress(&self) {
        drop(self.core());
        self.progress.notify_all();
    }

    fn disk_idle(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| {
            let disk = disk.lock();
            disk.ended || (disk.jobs.is_empty() && disk.busy_since.is_none())
        })
    }

    pub(crate) fn disk_ended(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.lock().ended)
    }

    /// Waits until `done` or until `deadline`; says which.
    pub(crate) fn wait(&self, deadline: Instant, mut done: impl FnMut(&Core) -> bool) -> bool {
        let mut core = self.core();
        loop {
            if done(&core) {
                return true;
            }
            // The system's clock, not the user's: a wait must end.
            if SystemClock.now() >= deadline {
                return false;
            }
            self.progress.wait_until(&mut core, deadline);
        }
    }

    /// Ends everything within `timeout`; says how many spans were neither delivered nor kept.
    pub(crate) fn drain_and_stop(&self, timeout: Duration) -> Result<(), u64> {
        let start = SystemClock.now();
        let deadline = start + timeout;
        // With a disk the network gets three fifths, and the disk what is left.
        let network = timeout.mul_f64(if self.disk.is_some() { 0.6 } else { 0.9 });
        let until = self.clock.now() + network;
        self.core().drain(until);
        self.net.notify_one();
        if !self.wait(start + network + timeout.mul_f64(0.05), Core::handed_over) {
            // The net thread hangs in somebody's transport: we end the drain in its place.
            let now = self.clock.now();
            self.decide(|core, effects| core.stop_now(now, effects));
        }
        if self.disk.is_some() {
            self.enqueue(Job::Stop);
            self.wait(deadline, |_| self.disk_ended());
        }
        self.listeners.warn(self.clock.now(), true);
        let core = self.core();
        let stuck = (core.ledger.buffered + core.ledger.in_flight).saturating_sub(core.left_in_journal());
        let dropped = core.ledger.dropped.get(DropReason::Shutdown.as_str()).copied().unwrap_or(0);
        if stuck + dropped == 0 { Ok(()) } else { Err(stuck + dropped) }
    }

    /// Waits until nothing of what was accepted so far waits anywhere.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let called = self.clock.now();
        let now = SystemClock.now();
        let deadline = now.checked_add(timeout).unwrap_or(now + FOR_EVER);
        let done = |core: &Core| !core.waits_for(called) && core.ledger.in_fallback == 0;
        if self.wait(deadline, done) && self.disk_idle_by(deadline) {
            return Ok(());
        }
        let core = self.core();
        Err(FlushError { buffered: core.ledger.buffered + core.ledger.in_flight, in_fallback: core.ledger.in_fallback })
    }

    fn disk_idle_by(&self, deadline: Instant) -> bool {
        self.wait(deadline, |_| self.disk_idle())
    }

    pub(crate) fn health(&self) -> Health {
        let now = self.clock.now();
        let (kept, journaled, stalled) = self.disk.as_ref().map_or((Kept::default(), None, false), |disk| {
            let disk = disk.lock();
            let stalled = disk.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= STALLED);
            (disk.kept, disk.journaled, stalled)
        });
        let mut core = self.core();
        let mut issues = Vec::new();
        let loses = core.counters.loses(now);
        if loses {
            issues.push(
                "spans were dropped within the last minute; the log says how many, why, and what helps".to_owned(),
            );
        }
        let state = core.breaker_state();
        if state != State::Closed {
            let cause = core.counters.last_cause.clone().unwrap_or_default();
            issues.push(format!("circuit breaker is {state}; last failure: {cause}"));
        }
        if let Some(error) = core.disk.trouble.as_ref().filter(|_| core.disk_matters(now)) {
            issues.push(format!("fallback cannot be used, spans wait in memory: {error}"));
        }
        issues.extend(core.journal_issues(now));
        if stalled {
            issues.push("disk has not answered for 2 s or more; spans wait in memory".to_owned());
        }
        if let Some(why) = &self.no_fallback {
            issues.push(why.clone());
        }
        if core.ledger.in_fallback > 0 {
            issues.push(format!("{} spans wait in fallback files", core.ledger.in_fallback));
        }
        let snapshot = core.buffer.snapshot(now);
        let status = match (loses, issues.is_empty()) {
            (true, _) => Status::Unhealthy,
            (false, false) => Status::Degraded,
            (false, true) => Status::Healthy,
        };
        Health {
            status,
            issues,
            breaker: state,
            metrics: core.counters.metrics(core.ledger.buffered + core.ledger.in_flight, core.endpoint.trips()),
            ledger: core.ledger.clone(),
            buffered_batches: snapshot.batches,
            buffered_bytes: snapshot.bytes,
            oldest: snapshot.oldest_age,
            fallback_files: kept.files,
            fallback_bytes: kept.bytes,
            journal_batches: journaled.map(|journaled| journaled.batches),
            journal_bytes: journaled.map(|journaled| journaled.bytes),
            accepted_not_durable: core.accepted_not_durable(),
            possible_duplicates: core.counters.possible_duplicates,
            dead_letters_evicted: core.counters.letters_evicted,
            endpoint: self.endpoint.clone(),
        }
    }
}

/// While effects are carried out; ends with a listener's panic too.
struct Acting<'a>(&'a Shared);

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        self.0.core().acting(-1);
        self.0.progress.notify_all();
    }
}

/// A flush whose time ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("flush timed out: {buffered} spans still wait in memory and {in_fallback} in fallback files; all are kept")]
pub struct FlushError {
    /// Spans in memory, those in flight included.
    pub buffered: u64,
    /// Spans in fallback files.
    pub in_fallback: u64,
}

//! The state that the exporter, its handles and all threads share.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use otlp_payload::{Payload, Signal};
use tokio::sync::Notify;

use super::ending::ShutdownError;
use super::jobs::{Job, JournalQueue, Ticket};
use super::outage_span::OutageSpans;
use super::packer::PackQueue;
use super::process::Process;
use super::queue::{Activity, Contents, DiskQueue};
use super::staging::{Staging, StagingSettings};
use super::watch::{CallObservers, WakeupCounts, next_instance};
use crate::core::{AgeLimit, Core, Effect};
use crate::locks::{Condvar, Mutex, MutexGuard};
use crate::report::details::StorageLimits;
use crate::report::events::{Event, Listeners};
use crate::report::notes::StorageNote;
use crate::report::outage_records::{OutageRecord, Recorded};
use crate::report::position::Position;
use crate::report::warnings::Kind;
use crate::seams::backoff::Backoff;
use crate::seams::clock::{Clock, ContainedClock, SystemClock};
use crate::seams::fallback::Usage;
use crate::seams::journal::JournalUsage;

/// The longest wait: a deadline that a clock can still hold.
pub(super) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Traffic wakes the threads of the storage at most once in this time.
const STIR_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Shared {
    /// Asked by each call of a user's before it takes a lock.
    pub(crate) process: Process,
    core: Mutex<Core>,
    /// The spans that are no batch yet; none without a processor of ours. Its locks are taken before the core's, never
    /// after it.
    staging: OnceLock<Staging>,
    /// Wakes threads that wait for a commit, a flush or a shutdown.
    progress: Condvar,
    /// Wakes the net thread.
    pub(crate) net: Notify,
    /// Wakes the calls of the net thread: some were given up.
    pub(super) abandoned: Notify,
    /// The disk thread's work; none without a disk thread. Locked after the core, never before it.
    disk: Option<DiskQueue>,
    /// The journal thread's work; none without durable mode. Locked after the core, never before it.
    journal: Option<JournalQueue>,
    /// The job of the thread that compresses; none if waiting batches stay plain. Locked after the core, never before
    /// it.
    packer: OnceLock<Arc<PackQueue>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) backoff: Box<dyn Backoff>,
    pub(crate) listeners: Listeners,
    /// Threads that publish events of decisions they have taken.
    publishing: AtomicUsize,
    /// The names of the collectors, by their places.
    pub(crate) endpoints: Vec<String>,
    /// The signal of all batches.
    pub(crate) signal: Signal,
    /// The number of the exporter in this process.
    pub(super) instance: u64,
    /// The instant at which the exporter was built.
    pub(super) started: Instant,
    pub(super) wakeups: WakeupCounts,
    /// Locked alone.
    pub(crate) call_observers: CallObservers,
    /// The reason for which an enabled fallback is missing.
    pub(super) no_fallback: Option<String>,
    /// The trouble of storage that was found at the start.
    pub(super) storage_notes: Vec<StorageNote>,
    /// The limits on storage, for health.
    pub(super) storage_limits: StorageLimits,
    /// None: an outage has no span.
    pub(super) outage_spans: Option<OutageSpans>,
    /// The outages of earlier processes that the state directory has kept.
    pub(crate) earlier_outages: Vec<OutageRecord>,
    /// When traffic woke the threads of the storage last. Locked alone.
    stirred: Mutex<Option<Instant>>,
    /// The longest that an `export` call waits for the journal.
    journal_timeout: Duration,
    /// Older spans are not sent.
    max_age_at_send: Option<Duration>,
    /// The result of the shutdown, once that has ended. Locked alone.
    shutdown: Mutex<Option<Result<(), ShutdownError>>>,
}

/// The parts of a [`Shared`] that its builder chooses.
pub(crate) struct Parts {
    pub(crate) core: Core,
    /// The usage of the fallback at the start; none without a disk thread.
    pub(crate) usage: Option<Usage>,
    /// Until when the fallback does not believe the wall clock.
    pub(crate) age_rests_until: Option<SystemTime>,
    pub(crate) max_age_at_send: Option<Duration>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) backoff: Box<dyn Backoff>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) no_fallback: Option<String>,
    pub(crate) storage_notes: Vec<StorageNote>,
    pub(crate) journal_timeout: Duration,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { core, usage, age_rests_until, max_age_at_send, clock, backoff, endpoints, .. } = parts;
        let Parts { no_fallback, storage_notes, journal_timeout, .. } = parts;
        let signal = core.signal();
        let journal = core.durable.is_enabled().then(JournalQueue::new);
        let started = ContainedClock(Arc::clone(&clock)).now();
        Self {
            process: Process::current(),
            core: Mutex::new(core),
            staging: OnceLock::new(),
            progress: Condvar::new(),
            net: Notify::new(),
            abandoned: Notify::new(),
            disk: usage.map(|usage| DiskQueue::new(usage, age_rests_until)),
            journal,
            packer: OnceLock::new(),
            clock: Arc::new(ContainedClock(clock)),
            backoff,
            listeners: Listeners::new(endpoints.clone()),
            publishing: AtomicUsize::new(0),
            endpoints,
            signal,
            instance: next_instance(),
            started,
            wakeups: WakeupCounts::default(),
            call_observers: CallObservers::default(),
            no_fallback,
            storage_notes,
            storage_limits: StorageLimits::default(),
            outage_spans: None,
            earlier_outages: Vec::new(),
            stirred: Mutex::new(None),
            journal_timeout,
            max_age_at_send,
            shutdown: Mutex::new(None),
        }
    }

    /// Sets the limits on storage that health shows.
    pub(crate) fn with_storage_limits(mut self, limits: StorageLimits) -> Self {
        self.storage_limits = limits;
        self
    }

    /// There is a thread that compresses waiting batches.
    pub(crate) fn set_packer(&self, queue: Arc<PackQueue>) {
        // An exporter has one such thread.
        let _ = self.packer.set(queue);
    }

    /// The name of the primary collector.
    pub(crate) fn primary(&self) -> &str {
        self.endpoints.first().map_or("", String::as_str)
    }

    /// The name of the collector at this place.
    pub(crate) fn endpoint(&self, at: Position) -> &str {
        self.endpoints.get(at.index()).map_or("", String::as_str)
    }

    /// The record of an outage, with the name of its collector.
    pub(crate) fn record_of(&self, outage: Recorded) -> OutageRecord {
        let endpoint = self.endpoint(outage.endpoint);
        outage.of(endpoint)
    }

    /// Has each outage make a span, or none.
    pub(crate) fn with_outage_spans(mut self, is_on: bool) -> Self {
        self.outage_spans = is_on.then(OutageSpans::default);
        self
    }

    /// Sets the outages of earlier processes.
    pub(crate) fn with_earlier_outages(mut self, outages: Vec<OutageRecord>) -> Self {
        self.earlier_outages = outages;
        self
    }

    /// A processor of ours is in front of the exporter from now on.
    pub(crate) fn set_staging(&self, settings: StagingSettings) {
        // An exporter has one processor, which owns it.
        let _ = self.staging.set(Staging::new(settings));
    }

    pub(crate) fn staging(&self) -> Option<&Staging> {
        self.staging.get()
    }

    /// The core, for queries and for events without effects. Other events, and the commands, go through
    /// [`decide`](Self::decide), which hands their effects on.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Reports an event to the core and hands its effects on. Those of the disk thread enter its queue under the core's
    /// lock, so that the queue has the order of the decisions; events are published after the lock is released.
    pub(crate) fn decide<T>(&self, decision: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core();
        let result = decision(&mut core);
        let events = self.distribute(&mut core);
        if events.is_empty() {
            return result;
        }
        // Counted under the lock: a thread that sees the decision also sees that its events are not published yet.
        self.publishing.fetch_add(1, Ordering::AcqRel);
        drop(core);
        self.publish(events);
        self.publishing.fetch_sub(1, Ordering::AcqRel);
        self.progress();
        result
    }

    /// As [`decide`](Self::decide), but for threads that run no log subscriber: the net thread publishes the events
    /// once it is woken.
    pub(crate) fn decide_quietly(&self, decision: impl FnOnce(&mut Core)) {
        // A panic here would be a fault of ours: it ends no thread of the application's.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let mut core = self.core();
            decision(&mut core);
            while let Some(effect) = core.poll_work() {
                let event = self.act(effect, &mut core);
                debug_assert!(event.is_none(), "events are no work");
            }
        }));
    }

    fn distribute(&self, core: &mut Core) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(effect) = core.poll_effect() {
            events.extend(self.act(effect, core));
        }
        events
    }

    /// Hands an effect on. An event is returned.
    fn act(&self, effect: Effect, core: &mut Core) -> Option<Event> {
        if let Effect::Stop = effect {
            self.packer.get().into_iter().for_each(|packer| packer.end());
        }
        match (effect, &self.disk) {
            (Effect::Publish(event), _) => return Some(event),
            (effect @ (Effect::Commit(_) | Effect::LookForMarks | Effect::Recover(_) | Effect::RemoveOldest), _) => {
                let undone = match &self.journal {
                    Some(journal) => journal.push(effect).err().map(|effect| *effect),
                    None => Some(effect),
                };
                if let Some(effect) = undone {
                    core.on_undone(effect, SystemClock.now());
                }
            }
            (Effect::Pack(requests), _) => {
                let undone = match self.packer.get() {
                    Some(packer) => packer.push(requests).err().map(|effect| *effect),
                    None => Some(Effect::Pack(requests)),
                };
                undone.into_iter().for_each(|effect| core.on_undone(effect, SystemClock.now()));
            }
            (effect, Some(disk)) => {
                if let (Effect::Stop, Some(journal)) = (&effect, &self.journal) {
                    // The journal thread syncs at once from now on.
                    let _ = journal.push(Effect::Stop);
                }
                if let Err(undone) = disk.push(effect) {
                    let (effect, ended) = *undone;
                    core.on_undone(effect, ended);
                }
            }
            // Without a disk thread a refused batch is dropped, a group is never read, and a question is dropped:
            // its channel answers. The instant matters only where a fallback is tried again.
            (effect, None) => core.on_undone(effect, SystemClock.now()),
        }
        None
    }

    /// Runs code of a user's: log subscribers, whose panics the log contains.
    fn publish(&self, events: Vec<Event>) {
        for event in events {
            let ended = matches!(event, Event::OutageEnded { .. }).then(|| event.clone());
            self.listeners.publish(event, SystemClock.now());
            // After its own event come those of the span.
            ended.iter().for_each(|ended| self.offer_outage_span(ended));
        }
    }

    /// Has the log warn of something that is no event. The intervals between warnings are measured by the system's
    /// clock, not by a user's: a clock that stands still must not keep warnings back.
    pub(crate) fn note(&self, kind: Kind, detail: &str) {
        self.listeners.note(kind, detail, SystemClock.now());
    }

    /// Logs the warnings that are due, or `all`. Returns the time until the next ones are due.
    pub(crate) fn warn(&self, all: bool) -> Option<Duration> {
        let now = SystemClock.now();
        self.listeners.warn(now, all);
        self.listeners.next_due().map(|due| due.saturating_duration_since(now))
    }

    /// The longest wait for the journal.
    pub(super) fn journal_timeout(&self) -> Duration {
        self.journal_timeout
    }

    /// In durable mode: has a batch committed before it is offered, and waits for that no longer than the journal's
    /// time-out.
    pub(crate) fn make_durable(&self, payload: &Payload) {
        if !self.decide(|core| core.on_submitted(payload)) {
            return;
        }
        let id = payload.id();
        self.wait_for(self.journal_timeout, |core| !core.durable.is_committing(id) || self.has_journal_ended());
        let now = self.clock.now();
        self.core().durable.on_wait_ended(id, payload.item_count(), now);
    }

    // The disk thread's side.

    /// The storage has work that its threads do not know of: they ask for it.
    pub(crate) fn wake_storage(&self) {
        if let Some(disk) = &self.disk {
            disk.wake();
        }
        if let Some(journal) = &self.journal {
            journal.wake();
        }
    }

    /// The net thread is awake anyway: the threads of the storage may look for ended processes too, at most once in
    /// 5 s. A process without traffic does not wake for that.
    pub(crate) fn stir_storage(&self, now: Instant) {
        let mut stirred = self.stirred.lock();
        if stirred.is_none_or(|last| now.saturating_duration_since(last) >= STIR_EVERY) {
            *stirred = Some(now);
            drop(stirred);
            self.wake_storage();
        }
    }

    /// Waits for an effect, no longer than `patience`.
    pub(crate) fn wait_for_effect(&self, patience: Option<Duration>) {
        if let Some(disk) = &self.disk {
            // Wakes threads that wait for an idle disk: they check under the core's lock.
            disk.set_idle();
            self.progress();
            disk.wait(patience);
        }
    }

    /// Takes the next effect, if there is one.
    pub(crate) fn take_effect(&self) -> Option<Effect> {
        self.disk.as_ref()?.take(self.clock.now())
    }

    /// Repeats an effect after those that wait.
    pub(crate) fn repeat(&self, effect: Effect) {
        if let Some(disk) = &self.disk {
            // A queue that has ended has no use for it.
            let _ = disk.push(effect);
        }
    }

    pub(crate) fn has_disk_effects(&self) -> bool {
        self.disk.as_ref().is_some_and(DiskQueue::has_effects)
    }

    /// The batches of the files and dead letters that the disk thread is to write.
    #[cfg(test)]
    pub(crate) fn batches_to_write(&self) -> Vec<span_buffer::Entry<crate::core::Batch>> {
        self.disk.as_ref().map(DiskQueue::batches).unwrap_or_default()
    }

    /// The limit on the age of spans now. None without a limit, and until the fallback believes the wall clock.
    pub(crate) fn age_limit(&self) -> Option<AgeLimit> {
        let max_age = self.max_age_at_send?;
        let wall = self.clock.wall();
        let rests_until = self.disk.as_ref().and_then(DiskQueue::age_rests_until);
        if rests_until.is_some_and(|until| wall < until) {
            return None;
        }
        Some(AgeLimit { before: wall.checked_sub(max_age)?, max_age })
    }

    /// The disk thread has ended an operation.
    pub(crate) fn on_disk_operation(&self, contents: Contents) {
        if let Some(disk) = &self.disk {
            disk.on_operation(contents, self.clock.now());
        }
        self.core().on_files_size(contents.usage.bytes);
        self.progress();
    }

    /// The disk thread ends: effects that it leaves, and later ones, are reported as undone.
    pub(crate) fn on_disk_ended(&self) {
        if let Some(disk) = &self.disk {
            let now = self.clock.now();
            // Under the core's lock: a thread that sees the end also sees its consequences.
            self.decide(|core| disk.end(now).into_iter().for_each(|effect| core.on_undone(effect, now)));
        }
        if let Some(journal) = &self.journal {
            journal.set_last();
        }
        self.wake_all();
    }

    /// Takes the name of a file that the journal thread asks for.
    pub(crate) fn take_file_question(&self) -> Option<String> {
        self.disk.as_ref()?.take_question()
    }

    pub(crate) fn answer_journal(&self, file: String, has_file: io::Result<bool>) {
        if let Some(journal) = &self.journal {
            journal.answer(file, has_file);
        }
    }

    /// The queue of the journal thread, for hand-overs.
    pub(crate) fn journal(&self) -> Option<&JournalQueue> {
        self.journal.as_ref()
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    // The journal thread's side.

    /// Waits for a job, no longer than `patience`.
    pub(crate) fn wait_for_job(&self, patience: Option<Duration>) {
        if let Some(journal) = &self.journal {
            // Wakes threads that wait for an idle journal: they check under the core's lock.
            journal.set_idle();
            self.progress();
            journal.wait_for_job(patience);
        }
    }

    /// Takes all jobs.
    pub(crate) fn take_jobs(&self) -> VecDeque<Job> {
        let now = self.clock.now();
        self.journal.as_ref().map_or_else(VecDeque::new, |journal| journal.take(now))
    }

    pub(crate) fn set_announced(&self, ticket: Ticket) {
        self.journal.iter().for_each(|journal| journal.set_announced(ticket));
    }

    pub(crate) fn set_settled(&self, ticket: Ticket) {
        self.journal.iter().for_each(|journal| journal.set_settled(ticket));
    }

    /// Asks the disk thread whether the fallback has this file.
    pub(crate) fn ask_for_file(&self, name: &str, patience: Duration) -> io::Result<bool> {
        match (&self.journal, &self.disk) {
            (Some(journal), Some(disk)) => journal.ask_disk(name, || disk.ask_for_file(name), patience),
            _ => Ok(false),
        }
    }

    /// The journal thread has ended its jobs.
    pub(crate) fn on_journal_operation(&self, usage: JournalUsage) {
        let now = self.clock.now();
        self.journal.iter().for_each(|journal| journal.set_usage(usage, now));
        self.core().on_journal_size(usage.bytes);
    }

    /// The disk thread has ended, and the journal thread has no job left.
    pub(crate) fn is_journal_done(&self) -> bool {
        self.journal.as_ref().is_none_or(JournalQueue::is_done)
    }

    /// The journal thread ends: effects that it leaves, and later ones, are reported as undone.
    pub(crate) fn on_journal_ended(&self) {
        if let Some(journal) = &self.journal {
            let now = self.clock.now();
            self.decide(|core| journal.end().into_iter().for_each(|effect| core.on_undone(effect, now)));
        }
        self.wake_all();
    }

    // Waits.

    /// Wakes the net thread and every thread that waits for progress.
    pub(crate) fn wake_all(&self) {
        self.net.notify_one();
        self.progress();
    }

    /// Wakes threads that wait for progress. The lock orders this after the check of a thread that is about to wait.
    pub(crate) fn progress(&self) {
        drop(self.core());
        self.progress.notify_all();
    }

    /// Waits until `done` returns true, for `timeout` at most; returns the last result. Measured by the system's clock,
    /// not by a user's: a wait must end.
    pub(crate) fn wait_for(&self, timeout: Duration, mut done: impl FnMut(&Core) -> bool) -> bool {
        let now = SystemClock.now();
        let deadline = now.checked_add(timeout).unwrap_or(now + FOR_EVER);
        let mut core = self.core();
        loop {
            if done(&core) {
                return true;
            }
            let left = deadline.saturating_duration_since(SystemClock.now());
            if left.is_zero() {
                return false;
            }
            self.progress.wait_for(&mut core, left);
        }
    }

    /// The events of all decisions so far are published and logged.
    pub(crate) fn has_published(&self) -> bool {
        self.publishing.load(Ordering::Acquire) == 0
    }

    pub(crate) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Both threads of the storage have ended.
    pub(crate) fn has_disk_ended(&self) -> bool {
        self.disk.as_ref().is_none_or(DiskQueue::has_ended) && self.has_journal_ended()
    }

    pub(crate) fn has_journal_ended(&self) -> bool {
        self.journal.as_ref().is_none_or(JournalQueue::has_ended)
    }

    /// Keeps the result of the shutdown for handles, and returns it.
    pub(super) fn set_shutdown_result(&self, result: Result<(), ShutdownError>) -> Result<(), ShutdownError> {
        self.shutdown.lock().insert(result).clone()
    }

    pub(super) fn ended_shutdown(&self) -> Option<Result<(), ShutdownError>> {
        self.shutdown.lock().clone()
    }

    pub(crate) fn is_disk_idle(&self) -> bool {
        self.disk.as_ref().is_none_or(DiskQueue::is_idle) && self.journal.as_ref().is_none_or(JournalQueue::is_idle)
    }

    /// Both threads of the storage sleep until there is work.
    #[cfg(test)]
    pub(crate) fn sleeps(&self) -> bool {
        self.disk.as_ref().is_none_or(DiskQueue::sleeps) && self.journal.as_ref().is_none_or(JournalQueue::sleeps)
    }

    // Queries.

    pub(crate) fn activity(&self, now: Instant) -> Activity {
        self.disk.as_ref().map_or_else(Activity::default, |disk| disk.activity(now))
    }

    /// The usage of the journal as of its last job, and the time that its thread has been in one operation.
    pub(crate) fn journal_activity(&self, now: Instant) -> (Option<JournalUsage>, Option<Duration>) {
        self.journal.as_ref().map(|journal| journal.activity(now)).unwrap_or_default()
    }
}

impl Drop for Shared {
    /// Logs the warnings that came after the shutdown's last look, such as those of a disk that hung until then.
    fn drop(&mut self) {
        if self.process.forked().is_none() {
            self.warn(true);
        }
    }
}

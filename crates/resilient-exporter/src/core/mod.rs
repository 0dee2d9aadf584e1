//! All decisions: which batch is sent, stored, split or dropped, and when. Pure: no clock, no thread, no socket, no
//! file, no code of a user's. Time and chance are arguments.
//!
//! The methods of [`Core`] and its parts are of four kinds:
//!
//! - **Events**, `on_*`: something happened; the shell reports it. Effects are queued inside.
//! - **Commands**: `drain`, `stop`, `ask`, `retry_now`.
//! - **Queries**: `is_*`, `has_*` and nouns; they change nothing.
//! - **Polls**: `poll_calls`, `next_wakeup`, `poll_effect`. The net thread polls the calls; the thread that reported an
//!   event polls the effects and hands them to the disk thread or to the subscribers.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `accounts` | ledger, counters and the events that follow from them |
//! | `age` | spans that are too old to be sent |
//! | `answers` | the meaning of a call's outcome for its batch and the endpoint |
//! | `batch` | a batch in memory, and its refusals |
//! | `calls` | the calls that go out now, and the instant of the next poll |
//! | `counters` | counts of calls and losses beside the ledger |
//! | `credentials` | credentials that change: the call that repeats a refused one, looks for changes |
//! | `cuts` | requests that are too large |
//! | `drain` | a shutdown: live batches, then stored ones |
//! | `durable` | durable mode: the journal record of each batch |
//! | `effects` | the effects that the shell acts on |
//! | `endpoint` | one collector: breaker, waits, concurrency |
//! | `endpoints` | all collectors, and the one that gets the next call |
//! | `failover` | the moves between collectors |
//! | `group` | one group of stored batches |
//! | `journal` | the journal thread's results, and batches that leave memory for the journal and return |
//! | `kept` | the batches that the journal holds and memory does not |
//! | `memory` | the memory that batches take, and its limits |
//! | `packed` | the compressed form of a batch that waits |
//! | `packing` | the batches that are compressed while they wait |
//! | `outage` | the beginning and the end of an outage |
//! | `records` | the records of outages: sizes, lateness, and when they are kept |
//! | `replay` | stored batches on their way back to the collector |
//! | `returned` | stored batches that returned to the store without an answer that ends them |
//! | `saves` | a flush: batches that are answered, or moved to the disk |
//! | `sizes` | the sizes of requests that an endpoint takes |
//! | `spills` | batches on their way to fallback files |
//! | `storage` | the fallback: usable, or in trouble until a retry |
//! | `staged` | batches of the processor, whose threads wait for nothing |
//! | `stored` | the disk thread's results |
//! | `waits` | the oldest batch that waits |

mod accounts;
mod age;
mod answers;
mod batch;
mod calls;
mod counters;
mod credentials;
mod cuts;
mod drain;
mod durable;
mod effects;
mod endpoint;
mod endpoints;
mod failover;
mod group;
mod journal;
mod kept;
mod memory;
mod outage;
mod packed;
mod packing;
mod records;
mod replay;
mod returned;
mod saves;
mod sizes;
mod spills;
mod staged;
mod storage;
mod stored;
mod waits;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use breaker::{State, Ticket};
use otlp_payload::{BatchId, Payload, Signal};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use span_buffer::{Entry, Limits, Size};

use self::accounts::Accounts;
pub(crate) use self::age::AgeLimit;
pub(crate) use self::batch::Batch;
use self::cuts::Oversized;
use self::drain::Drain;
use self::durable::Durable;
pub(crate) use self::durable::Written;
pub(crate) use self::effects::{Answer, Commit, Effect, Letter, Operation, Question, Spill, refusals_of, requests_in};
pub(crate) use self::endpoint::{Attempts, Endpoint};
pub(crate) use self::endpoints::{Collector, Endpoints};
use self::group::Piece;
use self::memory::{Memory, SPILL_EARLY, SPILL_LATE, size_of};
pub(crate) use self::packed::{Content, Damaged, Packed, Packer};
use self::packing::Packing;
use self::records::{Keeping, OnDisk};
use self::replay::Replay;
pub(crate) use self::saves::Flush;
use self::saves::{Saving, Waiting};
use self::spills::Spills;
use self::staged::Expected;
use self::storage::Storage;
use self::stored::Replayed;
use crate::report::events::Event;
use crate::report::ledger::{DropReason, Ledger, Place, RefuseReason};
use crate::report::outage_records::Records;
use crate::report::position::Position;
use crate::seams::settings::ReplayOrder;

/// The settings of a core.
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    /// Charged calls of a batch before it goes to a file: the first and its retries.
    pub(crate) max_calls: u32,
    pub(crate) request_max_bytes: usize,
    /// `usize::MAX` for no limit.
    pub(crate) request_max_spans: usize,
    /// A fallback stores batches that memory has no room for.
    pub(crate) fallback: bool,
    pub(crate) replay_rate: Option<NonZeroU32>,
    pub(crate) replay_order: ReplayOrder,
    /// Strict mode: every refusal makes a dead letter at once.
    pub(crate) strict: bool,
    /// Names the batches of this process.
    pub(crate) incarnation: u64,
}

/// One call that the net thread makes now.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// The place of the endpoint that it goes to.
    pub(crate) endpoint: usize,
    pub(crate) payload: Content,
    /// The call uses a new connection.
    pub(crate) is_fresh: bool,
}

#[derive(Debug)]
enum Work {
    Live(Entry<Batch>),
    Replay(Piece),
}

struct InFlight {
    id: u64,
    /// The place of its endpoint.
    endpoint: usize,
    work: Work,
    ticket: Ticket,
    started: Instant,
    /// The call repeats one whose credentials were refused.
    is_repeat: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// A shutdown has begun.
    Draining(Drain),
    Stopped,
}

/// Every decision and its state: one lock guards all of it.
pub(crate) struct Core {
    pub(crate) accounts: Accounts,
    pub(crate) memory: Memory,
    pub(crate) durable: Durable,
    pub(crate) endpoints: Endpoints,
    pub(crate) storage: Storage,
    policy: Policy,
    /// The signal of all batches.
    signal: Signal,
    packing: Packing,
    spills: Spills,
    replay: Replay,
    /// Spans that no request can carry, until they are dead letters.
    oversized: Vec<Oversized>,
    /// Dropped spans by reason, as a drain found them when it began.
    dropped_before: BTreeMap<&'static str, u64>,
    records: Records,
    keeping: Keeping,
    on_disk: OnDisk,
    replayed: Replayed,
    /// Batches in memory may be suspects.
    has_suspects: bool,
    /// Older spans are not sent.
    age_limit: Option<AgeLimit>,
    in_flight: Vec<InFlight>,
    /// Calls of `in_flight` that repeat refused ones and have not gone out yet.
    repeats: Vec<Call>,
    saving: Option<Saving>,
    /// Flushes that wait.
    flushes: Vec<Waiting>,
    expected: Expected,
    has_abandoned: bool,
    phase: Phase,
    effects: VecDeque<Effect>,
    /// The instant of the next poll, as the last one found it.
    wakeup: Option<Instant>,
    calls: u64,
    /// Ordinary calls for live batches.
    turns: u64,
    batches: u64,
    chance: SmallRng,
}

impl Core {
    /// A core without durable mode, with `recovered` spans in the fallback.
    pub(crate) fn new(policy: Policy, endpoints: impl Into<Endpoints>, recovered: u64, seed: u64) -> Self {
        let mut accounts = Accounts::default();
        accounts.transfer(usize::try_from(recovered).unwrap_or(usize::MAX), Place::Recovered, Place::InFallback);
        Self {
            accounts,
            memory: Memory::new(policy.limits),
            durable: Durable::off(),
            endpoints: endpoints.into(),
            storage: Storage::new(policy.fallback),
            packing: Packing::default(),
            spills: Spills::default(),
            replay: Replay::new(policy.replay_rate, policy.replay_order),
            policy,
            signal: Signal::Traces,
            oversized: Vec::new(),
            dropped_before: BTreeMap::new(),
            records: Records::default(),
            keeping: Keeping::default(),
            on_disk: OnDisk::default(),
            replayed: Replayed::default(),
            has_suspects: false,
            age_limit: None,
            in_flight: Vec::new(),
            repeats: Vec::new(),
            saving: None,
            flushes: Vec::new(),
            expected: Expected::default(),
            has_abandoned: false,
            phase: Phase::Running,
            effects: VecDeque::new(),
            wakeup: None,
            calls: 0,
            turns: 0,
            batches: 0,
            chance: SmallRng::seed_from_u64(seed),
        }
    }

    /// The same for batches of this signal; traces are the default.
    pub(crate) fn of_signal(mut self, signal: Signal) -> Self {
        self.signal = signal;
        self
    }

    /// The same in durable mode, with `found` spans of earlier processes in the journal. `can_read`: the journal reads
    /// a batch by its id.
    pub(crate) fn with_journal(mut self, found: u64, can_read: bool, now: Instant) -> Self {
        self.durable.turn_on(can_read, now);
        self.on_found(found);
        self
    }

    /// Names the next batch.
    pub(crate) fn next_id(&mut self) -> BatchId {
        let seq = self.batches;
        self.batches += 1;
        BatchId { incarnation: self.policy.incarnation, seq }
    }

    // Events: a new batch.

    /// An `export` call has a new batch. In durable mode the disk thread commits it first: returns whether the call
    /// waits for that before it offers the batch.
    pub(crate) fn on_submitted(&mut self, payload: &Payload) -> bool {
        self.phase == Phase::Running && self.durable.on_submitted(payload)
    }

    /// An `export` call offers its batch.
    ///
    /// # Errors
    /// The reason for which the batch, or a span of it, is refused.
    pub(crate) fn on_offered(&mut self, payload: Payload, now: Instant) -> Result<(), RefuseReason> {
        let spans = payload.item_count();
        if self.phase != Phase::Running {
            self.durable.on_ended(payload.id());
            self.on_not_accepted(spans, RefuseReason::AlreadyShutdown);
            return Err(RefuseReason::AlreadyShutdown);
        }
        self.accounts.transfer(spans, Place::Offered, Place::Buffered);
        self.durable.on_offered(payload.id());
        let is_admitted = self.admit(payload, Place::Refused(RefuseReason::LargerThanBuffer), now);
        self.note_sizes();
        if is_admitted { Ok(()) } else { Err(RefuseReason::LargerThanBuffer) }
    }

    /// Spans are refused before they are in a batch.
    pub(crate) fn on_not_accepted(&mut self, spans: usize, reason: RefuseReason) {
        match reason {
            // The program has asked for the end.
            RefuseReason::AlreadyShutdown => {
                self.accounts.transfer(spans, Place::Offered, Place::Refused(reason));
            }
            _ => self.accounts.lose(spans, Place::Offered, Place::Refused(reason)),
        }
    }

    /// Adds a batch, which the ledger counts as buffered already, to memory. Returns false if a span of it is larger
    /// than the whole buffer; that span is in `too_large` then.
    fn admit(&mut self, payload: Payload, too_large: Place, now: Instant) -> bool {
        let mut fits = true;
        let mut parts = vec![payload];
        while let Some(payload) = parts.pop() {
            let size = size_of(&payload);
            if self.memory.is_larger_than_all(size) {
                let (left, right) = (self.next_id(), self.next_id());
                if let Some((left, right)) = payload.split(left, right) {
                    self.durable.on_cut(payload.id(), [&left, &right]);
                    parts.extend([right, left]);
                } else {
                    fits = false;
                    self.durable.on_ended(payload.id());
                    self.accounts.lose(size.count, Place::Buffered, too_large);
                }
                continue;
            }
            self.make_room(size, now);
            self.durable.on_present(&payload);
            for entry in self.memory.push(Batch::new(payload), size, now) {
                self.leave_or_end(&entry, self.full_reason());
            }
        }
        self.durable.append_anew();
        fits
    }

    /// Moves the oldest batches to the disk in time, and drops batches where memory has no other room.
    fn make_room(&mut self, size: Size, now: Instant) {
        self.spill_surplus(size, now);
        self.make_room_by_force(size, now);
        self.remove_oldest_of_journal(now);
    }

    /// Moves the oldest batches to the disk before a batch of this size is added.
    fn spill_surplus(&mut self, size: Size, now: Instant) {
        if self.storage.is_ready(now) {
            let marks = if self.is_unwilling(now) { SPILL_EARLY } else { SPILL_LATE };
            let surplus = self.memory.take_surplus(marks, size, now);
            self.spill(surplus);
        }
    }

    /// The endpoint in use is asked and accepts nothing.
    fn is_unwilling(&self, now: Instant) -> bool {
        let in_use = self.endpoints.in_use();
        let calls = self.in_flight.iter().filter(|call| call.endpoint == in_use);
        self.endpoints.current().is_unwilling(calls.map(|call| call.started).min(), now)
    }

    /// The reason for which memory has no room: the disk is slow only if it writes and the fallback has no trouble.
    fn full_reason(&self) -> DropReason {
        let is_slow = self.spills.is_writing() && self.storage.trouble().is_none();
        if is_slow { DropReason::DiskSlow } else { DropReason::BufferFull }
    }

    fn drop_entry(&mut self, entry: &Entry<Batch>, reason: DropReason) {
        // A batch that the fallback has refused waits for no disk.
        let reason = match reason {
            DropReason::DiskSlow if entry.item.spill_after.is_some() => DropReason::BufferFull,
            reason => reason,
        };
        self.durable.on_ended(entry.item.payload.id());
        self.on_dropped(entry);
        // Memory is full, or a batch too old, because the endpoint takes nothing.
        let cause = self.endpoints.current().refusing().or(self.accounts.counters.last_cause());
        let is_the_cause = self.endpoints.current().has_failed() && reason != DropReason::DiskSlow;
        let detail = cause.filter(|_| is_the_cause).map(ToString::to_string).unwrap_or_default();
        self.accounts.drop_spans(entry.size.count, Place::Buffered, reason, detail);
    }

    fn spill(&mut self, entries: Vec<Entry<Batch>>) {
        self.memory.on_write_begun(&entries);
        self.spills.push(entries);
        self.spill_next();
    }

    fn spill_next(&mut self) {
        if let Some(entries) = self.spills.next_file() {
            let handed_over = self.durable.whole_in(&entries);
            self.effects.push_back(Effect::Spill(Spill { entries, handed_over }));
        }
    }

    // Commands.

    /// An operator knows of a change at the collector: the next call passes backoff and breaker, but no pause of the
    /// peer's, no batch waits for itself, and the sizes that the endpoint has refused are forgotten.
    pub(crate) fn retry_now(&mut self) {
        self.grant_passes();
        self.endpoints.end_trial_waits();
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.sizes.forget_all());
        self.batches_mut().for_each(|batch| batch.suspicion.end_wait());
        self.replay.on_retry_now();
    }

    /// Has the disk thread run a user's operation on the fallback.
    pub(crate) fn ask(&mut self, question: Question) {
        self.effects.push_back(Effect::Ask(question));
    }

    // Polls of the shell; `poll_calls` and `next_wakeup` are in `calls`, `poll_work` is in `staged`.

    /// The next effect. Effects of the journal come first, events last, each kind in the order of its decisions.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        let durable = self.durable.poll_effect();
        durable.or_else(|| self.effects.pop_front()).or_else(|| self.accounts.poll_event().map(Effect::Publish))
    }

    pub(super) fn publish_changes(&mut self, now: Instant) {
        for at in 0..self.endpoints.len() {
            let collector = self.endpoints.collector_mut(at);
            for change in collector.endpoint.take_changes() {
                if change.to == State::Open {
                    collector.outage.on_breaker_opened(now);
                }
                let endpoint = Position::new(at);
                self.accounts.publish(Event::Breaker { endpoint, from: change.from, to: change.to });
            }
        }
        self.publish_moves();
    }

    // Queries.

    /// The signal of all batches.
    pub(crate) fn signal(&self) -> Signal {
        self.signal
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.accounts.ledger()
    }

    /// Spans that are lost if the process ends now: they wait or are in flight, and the journal does not have them.
    pub(crate) fn only_in_memory(&self) -> u64 {
        let ledger = self.ledger();
        // A journal of a user's may give back other spans than it was given.
        (ledger.buffered + ledger.in_flight).saturating_sub(self.durable.also_in_journal())
    }

    /// Spans that were dropped since a drain began, by reason.
    pub(crate) fn dropped_since_drain(&self) -> BTreeMap<&'static str, u64> {
        let dropped = self.ledger().dropped.iter().map(|(&reason, &spans)| {
            let before = self.dropped_before.get(reason).copied().unwrap_or(0);
            (reason, spans - before)
        });
        dropped.filter(|&(_, spans)| spans > 0).collect()
    }

    /// The state of the breaker of the endpoint in use.
    pub(crate) fn breaker_state(&self) -> State {
        self.endpoints.current().state()
    }

    /// A batch that was accepted up to `instant` waits in memory.
    pub(crate) fn has_waiting_since(&self, instant: Instant) -> bool {
        let early = |entry: &Entry<Batch>| entry.accepted <= instant;
        self.memory.waiting().any(early)
            || self.in_flight.iter().any(|call| matches!(&call.work, Work::Live(entry) if early(entry)))
            || self.memory.has_tried()
            // A batch that only the journal holds counts as old.
            || !self.durable.kept.is_empty()
            || self.memory.writing_size().count > 0
    }

    /// The disk's trouble keeps spans waiting, or has begun within the retry time.
    pub(crate) fn is_disk_trouble_felt(&self, now: Instant) -> bool {
        let ledger = self.ledger();
        !self.storage.is_ready(now) || ledger.buffered + ledger.in_journal + ledger.in_fallback > 0
    }

    /// The question to the backoff policy that precedes `on_answered`; none if the answer needs no delay: its call was
    /// abandoned, or its failure is one that another call has reported.
    pub(crate) fn attempts(&mut self, id: u64, hint: Option<Duration>) -> Option<Attempts> {
        let call = self.in_flight.iter().find(|call| call.id == id)?;
        let (endpoint, started) = (self.endpoints.of(call.endpoint), call.started);
        if hint.is_none() && endpoint.is_counted(started) {
            return None;
        }
        let unit = self.chance.random();
        Some(endpoint.attempts(unit))
    }

    /// The first failure of the endpoint in use since its last success, while there is an outage and its last call has
    /// failed.
    pub(crate) fn outage_since(&self) -> Option<Instant> {
        self.endpoints.collector(self.endpoints.in_use()).outage.down_since()
    }

    /// Spans that wait behind the file that the disk thread writes, or for the dead letter of their batch.
    pub(crate) fn spilling_spans(&self) -> usize {
        self.spills.waiting_spans() + self.oversized.iter().map(Oversized::spans).sum::<usize>()
    }

    #[cfg(test)]
    pub(crate) fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// The batches in memory that are neither in a call nor with the disk thread.
    #[cfg(test)]
    pub(crate) fn at_hand(&self) -> impl Iterator<Item = &Entry<Batch>> {
        let oversized = self.oversized.iter().flat_map(|oversized| &oversized.pieces);
        self.memory.waiting().chain(self.memory.tried()).chain(self.spills.waiting()).chain(oversized)
    }

    /// An answer to the call with this id counts.
    pub(crate) fn is_awaited(&self, id: u64) -> bool {
        self.in_flight.iter().any(|call| call.id == id)
    }

    /// The call with this id is out for a batch in memory.
    pub(crate) fn is_live(&self, id: u64) -> bool {
        self.in_flight.iter().any(|call| call.id == id && matches!(call.work, Work::Live(_)))
    }
}

impl Work {
    /// The request, as it is in memory.
    fn content(&self) -> Content {
        match self {
            Self::Live(entry) => entry.item.payload.clone(),
            Self::Replay(piece) => Content::from(piece.payload.clone()),
        }
    }

    fn item_count(&self) -> usize {
        match self {
            Self::Live(entry) => entry.item.payload.item_count(),
            Self::Replay(piece) => piece.payload.item_count(),
        }
    }

    fn request_len(&self) -> usize {
        match self {
            Self::Live(entry) => entry.item.payload.request_len(),
            Self::Replay(piece) => piece.payload.bytes().len(),
        }
    }
}

//! The decision core: what is kept, what goes out now, what an answer means. No clock, no thread, no socket, no file:
//! time and chance are arguments, and what is to be done comes back as values that the shell acts on after it has
//! released the lock.

mod answers;
mod durable;
pub(crate) mod endpoint;
mod memory;
pub(crate) mod replay;
mod stored;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use breaker::{State, Ticket};
use otlp_payload::{BatchId, Payload};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use span_buffer::{Buffer, Entry, Limits, Size};

use self::durable::Shadows;
pub(crate) use self::durable::Written;
use self::endpoint::{Endpoint, Wait};
use self::memory::{over, size_of, sum};
use self::replay::{Group, Pace, Piece};
use crate::report::events::Event;
use crate::report::health::Counters;
use crate::report::ledger::{Ledger, Place, RefuseReason};
use crate::seams::fates::{Fate, Refusal};

/// While files wait and the buffer is at most half full, at least one call in this many is a replay.
const REPLAY_SHARE: u32 = 4;

/// A batch that failed this often lets another one go first.
const STEP_ASIDE_AFTER: u32 = 2;

/// A refusal that names no time, while nothing is out whose answer could, is asked about again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the core is told once.
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    /// Calls that a batch gets: the first and its retries.
    pub(crate) max_calls: u32,
    pub(crate) request_max_bytes: usize,
    pub(crate) fallback: bool,
    pub(crate) replay_rate: Option<NonZeroU32>,
    pub(crate) incarnation: u64,
}

/// What the shell does after it has released the lock.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Write these to the fallback, then call `spilled` or `spill_failed`.
    Spill(Vec<Entry<Payload>>),
    /// Keep these refusals as dead letters, then call `letters_kept`.
    Bury(Vec<Refusal>),
    /// Read a group of stored batches, then call `group_read`.
    ReadGroup,
    /// Tell the fallback what became of the group it read last, then call `group_finished`.
    FinishGroup(Vec<Fate>),
    /// Tell whoever listens.
    Tell(Event),
}

/// One call that may go out now.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) payload: Payload,
}

/// What the net thread does next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) calls: Vec<Call>,
    pub(crate) effects: Vec<Effect>,
    /// Ask again at this instant at the latest.
    pub(crate) wake_at: Option<Instant>,
    /// A drain has ended: nothing more will be sent.
    pub(crate) finished: bool,
}

#[derive(Debug)]
enum Work {
    Live(Entry<Payload>),
    Replay(Piece),
}

struct InFlight {
    id: u64,
    work: Work,
    payload: Payload,
    ticket: Ticket,
    started: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// Shutdown has begun: each batch is tried once, `until` then.
    Draining {
        until: Instant,
    },
    Stopped,
}

enum Replay {
    Idle,
    Asked,
    Sending(Group),
    Finishing,
}

/// The fallback as the core sees it.
#[derive(Default)]
pub(crate) struct Disk {
    /// Handed to the disk thread, not yet in a file.
    pub(crate) writing: Size,
    /// No attempt before this instant: the last one failed.
    pub(crate) retry_at: Option<Instant>,
    /// What the last failure said.
    pub(crate) trouble: Option<String>,
}

/// Buffer, ledger and decision state: what one lock guards.
pub(crate) struct Core {
    pub(crate) policy: Policy,
    pub(crate) ledger: Ledger,
    pub(crate) buffer: Buffer<Payload>,
    pub(crate) endpoint: Endpoint,
    pub(crate) disk: Disk,
    pub(crate) counters: Counters,
    /// In durable mode.
    shadows: Option<Shadows>,
    in_flight: Vec<InFlight>,
    in_flight_size: Size,
    /// Batches that a drain has tried once.
    tried: Vec<Entry<Payload>>,
    replay: Replay,
    /// The fallback had nothing to give although something is accounted to it: not asked again before this instant.
    read_at: Option<Instant>,
    pace: Pace,
    live_since_replay: u32,
    phase: Phase,
    /// Decisions whose effects somebody is about to carry out.
    acting: usize,
    calls: u64,
    batches: u64,
    chance: SmallRng,
}

impl Core {
    pub(crate) fn new(policy: Policy, endpoint: Endpoint, recovered: u64, seed: u64) -> Self {
        let mut ledger = Ledger::default();
        ledger.transfer(usize::try_from(recovered).unwrap_or(usize::MAX), Place::Recovered, Place::InFallback);
        Self {
            buffer: Buffer::new(policy.limits),
            pace: Pace::new(policy.replay_rate),
            policy,
            ledger,
            endpoint,
            disk: Disk::default(),
            counters: Counters::default(),
            shadows: None,
            in_flight: Vec::new(),
            in_flight_size: Size::default(),
            tried: Vec::new(),
            replay: Replay::Idle,
            read_at: None,
            live_since_replay: 0,
            phase: Phase::Running,
            acting: 0,
            calls: 0,
            batches: 0,
            chance: SmallRng::seed_from_u64(seed),
        }
    }

    /// A name for the next batch.
    pub(crate) fn next_id(&mut self) -> BatchId {
        let seq = self.batches;
        self.batches += 1;
        BatchId { incarnation: self.policy.incarnation, seq }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// A drain has ended, and everything that was decided is in the disk thread's queue.
    pub(crate) fn handed_over(&self) -> bool {
        self.stopped() && self.acting == 0
    }

    /// Effects have left the lock with somebody, or have been carried out.
    pub(crate) fn acting(&mut self, more: isize) {
        self.acting = self.acting.saturating_add_signed(more);
    }

    /// Takes a new batch, or says why not.
    pub(crate) fn offer(&mut self, payload: Payload, now: Instant, effects: &mut Vec<Effect>) -> Option<RefuseReason> {
        let spans = payload.span_count();
        if self.phase != Phase::Running {
            self.settle(payload.id());
            self.ledger.transfer(spans, Place::Offered, Place::Refused(RefuseReason::AlreadyShutdown));
            return Some(RefuseReason::AlreadyShutdown);
        }
        self.ledger.transfer(spans, Place::Offered, Place::Buffered);
        let too_large = Place::Refused(RefuseReason::LargerThanBuffer);
        self.accept(payload, too_large, now, effects).then_some(RefuseReason::LargerThanBuffer)
    }

    /// Takes a batch that is accounted for as buffered; says whether a span of it was larger than the whole buffer, and is
    /// `too_large` now.
    fn accept(&mut self, payload: Payload, too_large: Place, now: Instant, effects: &mut Vec<Effect>) -> bool {
        let mut refused = false;
        let mut parts = vec![payload];
        while let Some(payload) = parts.pop() {
            let size = size_of(&payload);
            if size.bytes > self.policy.limits.max_bytes || size.count > self.policy.limits.max_count {
                let (left, right) = (self.next_id(), self.next_id());
                if let Some((left, right)) = payload.split(left, right) {
                    self.cut(payload.id(), [left.id(), right.id()]);
                    parts.extend([right, left]);
                } else {
                    refused = true;
                    self.settle(payload.id());
                    self.counters.lost();
                    self.ledger.transfer(size.count, Place::Buffered, too_large);
                }
                continue;
            }
            self.make_room(size, now, effects);
            for entry in self.buffer.push_beside(payload, size, self.away(), now) {
                self.drop_entry(&entry, self.full_reason(now), effects);
            }
        }
        refused
    }

    /// Refuses spans that never became a payload.
    pub(crate) fn refuse(&mut self, spans: usize, reason: RefuseReason) {
        self.counters.lost();
        self.ledger.transfer(spans, Place::Offered, Place::Refused(reason));
    }

    /// What may go out now, and when to ask again.
    pub(crate) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        if self.stopped() {
            plan.finished = true;
            return plan;
        }
        self.counters.stamp_loss(now);
        self.expire(now, &mut plan);
        if let Phase::Draining { until } = self.phase {
            if now >= until {
                self.end_drain(now, &mut plan);
                return plan;
            }
            plan.note(until);
        }
        let wait = self.start_calls(now, &mut plan);
        self.tell_changes(&mut plan.effects);
        if let Phase::Draining { .. } = self.phase
            && self.in_flight.is_empty()
        {
            let disk = self.policy.fallback && self.disk.trouble.is_none();
            if self.buffer.is_empty() && (self.tried.is_empty() || disk) || wait.is_some() && disk {
                // What could not be sent at once goes to the disk: nobody waits for a collector that is not willing now.
                self.end_drain(now, &mut plan);
            } else if self.buffer.is_empty() {
                // There is nowhere else to go: another round, as long as there is time.
                for entry in std::mem::take(&mut self.tried) {
                    self.buffer.give_back(entry);
                }
                plan.note(now);
            }
        }
        plan
    }

    fn tell_changes(&mut self, effects: &mut Vec<Effect>) {
        for change in self.endpoint.take_changes() {
            effects.push(Effect::Tell(Event::Breaker { from: change.from, to: change.to }));
        }
    }

    fn start_calls(&mut self, now: Instant, plan: &mut Plan) -> Option<Wait> {
        while self.in_flight.len() < self.endpoint.concurrency() {
            let replay = self.replay_is_next(now, plan);
            if !replay && self.buffer.is_empty() {
                return None;
            }
            let ticket = match self.endpoint.acquire(now) {
                Ok(ticket) => ticket,
                Err(wait) => {
                    self.note_wait(wait, now, plan);
                    return Some(wait);
                }
            };
            let Some(work) = (if replay { self.next_piece() } else { self.next_live() }) else {
                self.endpoint.neutral(ticket, now);
                return None;
            };
            let payload = work.payload().clone();
            if payload.bytes().len() > self.policy.request_max_bytes && payload.span_count() > 1 {
                self.endpoint.neutral(ticket, now);
                self.split(work, &payload, None, &mut plan.effects);
                continue;
            }
            self.calls += 1;
            match &work {
                Work::Live(entry) => {
                    self.live_since_replay = self.live_since_replay.saturating_add(1);
                    self.in_flight_size = sum(self.in_flight_size, entry.size);
                    self.ledger.transfer(entry.size.count, Place::Buffered, Place::InFlight);
                }
                Work::Replay(piece) => {
                    self.live_since_replay = 0;
                    self.pace.sent(piece.payload.span_count(), now);
                }
            }
            plan.calls.push(Call { id: self.calls, payload: payload.clone() });
            self.in_flight.push(InFlight { id: self.calls, work, payload, ticket, started: now });
        }
        None
    }

    fn note_wait(&self, wait: Wait, now: Instant, plan: &mut Plan) {
        match wait {
            Wait::Until(instant) => plan.note(instant),
            // Nothing of ours is out, so no answer of ours will come.
            Wait::Answer if self.in_flight.is_empty() => plan.note(now + ASK_AGAIN),
            Wait::Answer => {}
        }
    }

    /// Stops intake; `plan` tries each batch once more until `until`, then hands the rest to the disk.
    pub(crate) fn drain(&mut self, until: Instant) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining { until };
        }
    }

    /// Ends a drain at once: for a net thread that does not come back.
    pub(crate) fn stop_now(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Stopped {
            let mut plan = Plan::default();
            self.end_drain(now, &mut plan);
            effects.append(&mut plan.effects);
        }
    }

    /// No answer will come for what is in flight: it waits again.
    pub(crate) fn abandon_calls(&mut self, now: Instant) {
        for call in std::mem::take(&mut self.in_flight) {
            self.endpoint.neutral(call.ticket, now);
            self.counters.possible_duplicates += call.payload.span_count() as u64;
            match call.work {
                Work::Live(entry) => {
                    self.ledger.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                    self.buffer.give_back(entry);
                }
                Work::Replay(piece) => {
                    if let Replay::Sending(group) = &mut self.replay {
                        group.give_back(piece);
                    }
                }
            }
        }
        self.in_flight_size = Size::default();
    }

    fn end_drain(&mut self, now: Instant, plan: &mut Plan) {
        self.abandon_calls(now);
        let mut rest = std::mem::take(&mut self.tried);
        rest.extend(self.buffer.drain());
        rest.sort_by_key(|entry| entry.accepted);
        if self.policy.fallback {
            // Even a disk in trouble gets this last chance.
            self.spill(rest, &mut plan.effects);
        } else {
            for entry in &rest {
                self.leave_or_drop(entry, &mut plan.effects);
            }
        }
        if let Replay::Sending(group) = std::mem::replace(&mut self.replay, Replay::Finishing) {
            // The parts of a batch that is kept whole will be sent again.
            self.counters.possible_duplicates += group.delivered_in_part() as u64;
            plan.effects.push(Effect::FinishGroup(group.into_fates()));
        }
        self.phase = Phase::Stopped;
        plan.finished = true;
    }

    // Choice of the next call.

    fn next_live(&mut self) -> Option<Work> {
        // The oldest that has not failed twice; else the one that has failed the least: poison blocks nobody.
        let fresh = self.buffer.take_where(|entry| entry.calls < STEP_ASIDE_AFTER);
        let next = fresh.or_else(|| {
            let fewest = self.buffer.iter().map(|entry| entry.calls).min()?;
            self.buffer.take_where(|entry| entry.calls == fewest)
        });
        next.map(Work::Live)
    }

    fn next_piece(&mut self) -> Option<Work> {
        match &mut self.replay {
            Replay::Sending(group) => group.next().map(Work::Replay),
            Replay::Idle | Replay::Asked | Replay::Finishing => None,
        }
    }

    fn replay_is_next(&mut self, now: Instant, plan: &mut Plan) -> bool {
        if self.phase != Phase::Running || self.above_half() {
            return false;
        }
        match &self.replay {
            Replay::Idle if self.ledger.in_fallback > 0 && self.disk_ready(now) => {
                if let Some(instant) = self.read_at.filter(|&instant| now < instant) {
                    plan.note(instant);
                    return false;
                }
                // What is read takes memory and pins its file: not before it can be sent.
                match self.endpoint.acquire(now) {
                    Ok(ticket) => {
                        self.endpoint.neutral(ticket, now);
                        self.replay = Replay::Asked;
                        plan.effects.push(Effect::ReadGroup);
                    }
                    Err(wait) => self.note_wait(wait, now, plan),
                }
                false
            }
            Replay::Sending(group) if group.has_next() => {
                if let Some(instant) = self.pace.waits_until(now) {
                    plan.note(instant);
                    return false;
                }
                self.buffer.is_empty() || self.live_since_replay >= REPLAY_SHARE - 1
            }
            Replay::Idle | Replay::Asked | Replay::Sending(_) | Replay::Finishing => false,
        }
    }

    fn above_half(&self) -> bool {
        over(self.buffer.total(), self.policy.limits, (1, 2))
    }

    fn finish_group(&mut self, effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.replay, Replay::Finishing) {
            Replay::Sending(group) if group.finished() => effects.push(Effect::FinishGroup(group.into_fates())),
            other => self.replay = other,
        }
    }

    // What is seen.

    /// A batch accepted up to `instant` still waits in memory.
    pub(crate) fn waits_for(&self, instant: Instant) -> bool {
        let early = |entry: &Entry<Payload>| entry.accepted <= instant;
        // What was found at the start is old, wherever it stands.
        self.buffer.iter().any(early)
            || self.in_flight.iter().any(|call| matches!(&call.work, Work::Live(entry) if early(entry)))
            || !self.tried.is_empty()
            || self.unread() > 0
            || self.disk.writing.count > 0
    }

    #[cfg(test)]
    pub(crate) fn tried_spans(&self) -> usize {
        memory::total(&self.tried).count
    }

    #[cfg(test)]
    pub(crate) fn is_live(&self, id: u64) -> bool {
        self.in_flight.iter().any(|call| call.id == id && matches!(call.work, Work::Live(_)))
    }

    pub(crate) fn breaker_state(&self) -> State {
        self.endpoint.state()
    }
}

impl Work {
    fn payload(&self) -> &Payload {
        match self {
            Self::Live(entry) => &entry.item,
            Self::Replay(piece) => &piece.payload,
        }
    }
}

impl Plan {
    fn note(&mut self, instant: Instant) {
        self.wake_at = Some(self.wake_at.map_or(instant, |earlier| earlier.min(instant)));
    }
}

//! The decision core: what is kept, what goes out now, what an answer means. No clock, no thread, no socket, no file:
//! time and chance are arguments, and what is to be done comes back as values that the shell acts on after it has
//! released the lock.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use breaker::{Kind, Permit, State};
use otlp_payload::{BatchId, Payload};
use otlp_transport::{Cause, Outcome};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use span_buffer::{Buffer, Entry, Limits, Size};

use crate::endpoint::{Endpoint, Wait};
use crate::events::Event;
use crate::fallback::Change;
use crate::health::Counters;
use crate::ledger::{DropReason, Ledger, Place, RefuseReason};
use crate::replay::{Fate, Group, MAX_FAILURES, Pace, Piece, Refusal};

/// A full buffer moves its oldest to the disk from 7/8 of a limit down to 3/4 in one go: the eighth above is room for
/// what comes in while the disk writes.
const SPILL_ABOVE: (usize, usize) = (7, 8);
const SPILL_DOWN_TO: (usize, usize) = (3, 4);

/// While files wait and the buffer is at most half full, at least one call in this many is a replay.
const REPLAY_SHARE: u32 = 4;

/// After a disk failed, the next attempt to use it waits this long.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// A batch that failed this often in a row lets another one go first.
const STEP_ASIDE_AFTER: u32 = 2;

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
    kind: Kind,
    permit: Permit,
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
    in_flight: Vec<InFlight>,
    in_flight_size: Size,
    /// Batches that a drain has tried once.
    tried: Vec<Entry<Payload>>,
    replay: Replay,
    pace: Pace,
    live_since_replay: u32,
    step_aside: Option<(BatchId, u32)>,
    phase: Phase,
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
            in_flight: Vec::new(),
            in_flight_size: Size::default(),
            tried: Vec::new(),
            replay: Replay::Idle,
            live_since_replay: 0,
            step_aside: None,
            phase: Phase::Running,
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

    /// Takes a new batch, or says why not.
    pub(crate) fn offer(&mut self, payload: Payload, now: Instant, effects: &mut Vec<Effect>) -> Option<RefuseReason> {
        let spans = payload.span_count();
        if self.phase != Phase::Running {
            self.ledger.transfer(spans, Place::Offered, Place::Refused(RefuseReason::AlreadyShutdown));
            return Some(RefuseReason::AlreadyShutdown);
        }
        let mut refused = None;
        let mut parts = vec![payload];
        while let Some(payload) = parts.pop() {
            let size = size_of(&payload);
            let spans = size.count;
            if size.bytes > self.policy.limits.max_bytes || size.count > self.policy.limits.max_count {
                let (left, right) = (self.next_id(), self.next_id());
                if let Some((left, right)) = payload.split(left, right) {
                    parts.extend([right, left]);
                } else {
                    refused = Some(RefuseReason::LargerThanBuffer);
                    self.ledger.transfer(spans, Place::Offered, Place::Refused(RefuseReason::LargerThanBuffer));
                }
                continue;
            }
            self.ledger.transfer(spans, Place::Offered, Place::Buffered);
            self.make_room(size, now, effects);
            for entry in self.buffer.push_beside(payload, size, self.away(), now) {
                self.drop_entry(&entry, self.full_reason(now), effects);
            }
        }
        refused
    }

    /// Refuses spans that never became a payload.
    pub(crate) fn refuse(&mut self, spans: usize, reason: RefuseReason) {
        self.ledger.transfer(spans, Place::Offered, Place::Refused(reason));
    }

    /// What may go out now, and when to ask again.
    pub(crate) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        self.expire(now, &mut plan);
        if let Phase::Draining { until } = self.phase {
            if now >= until {
                self.end_drain(&mut plan);
                return plan;
            }
            plan.note(until);
        }
        let wait = self.start_calls(now, &mut plan);
        if let Phase::Draining { .. } = self.phase {
            // Nobody waits for a collector that is not willing now: the rest goes to the disk.
            let idle = self.in_flight.is_empty() && plan.calls.is_empty();
            if idle && (self.buffer.is_empty() || wait.is_some()) {
                self.end_drain(&mut plan);
            }
        }
        plan
    }

    fn start_calls(&mut self, now: Instant, plan: &mut Plan) -> Option<Wait> {
        while self.in_flight.len() < self.endpoint.concurrency() {
            let replay = self.replay_is_next(now, plan);
            if !replay && self.buffer.is_empty() {
                return None;
            }
            let permit = match self.endpoint.acquire(now) {
                Ok(permit) => permit,
                Err(wait) => {
                    if let Wait::Until(instant) = wait {
                        plan.note(instant);
                    }
                    return Some(wait);
                }
            };
            let Some(work) = (if replay { self.next_piece() } else { self.next_live() }) else {
                let _ = permit.neutral_at(now);
                return None;
            };
            let payload = work.payload().clone();
            if payload.bytes().len() > self.policy.request_max_bytes && payload.span_count() > 1 {
                let _ = permit.neutral_at(now);
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
            let kind = permit.kind();
            self.in_flight.push(InFlight { id: self.calls, work, payload, kind, permit, started: now });
        }
        None
    }

    /// Takes the outcome of one call.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        outcome: Outcome,
        now: Instant,
        wall: SystemTime,
        effects: &mut Vec<Effect>,
    ) {
        let Some(position) = self.in_flight.iter().position(|call| call.id == id) else { return };
        let saturated = self.in_flight.len() >= self.endpoint.concurrency();
        let InFlight { work, payload, kind, permit, started, .. } = self.in_flight.swap_remove(position);
        let before = self.endpoint.breaker.state();
        let unit = self.chance.random::<f64>();
        let spans = payload.span_count();
        if let Work::Live(entry) = &work {
            self.in_flight_size = less(self.in_flight_size, entry.size);
        }
        match outcome {
            Outcome::Delivered { rejected, message } => {
                self.counters.succeeded(wall);
                self.endpoint.succeeded(permit, now.saturating_duration_since(started), saturated, now);
                let rejected = rejected.min(spans);
                if rejected > 0 {
                    effects
                        .push(Effect::Tell(Event::Rejected { spans: rejected, message: message.unwrap_or_default() }));
                }
                self.delivered(work, rejected, effects);
            }
            Outcome::Retryable { after, cause, possible_duplicate } => {
                self.counters.failed(wall, &cause);
                if possible_duplicate {
                    self.counters.possible_duplicates += spans as u64;
                }
                match after {
                    Some(hint) => self.endpoint.throttled(permit, hint, unit, now),
                    None => self.endpoint.failed(permit, started, unit, now),
                }
                // Probes and throttles are not charged: an outage never spends a batch.
                let charged = after.is_none() && kind == Kind::Call;
                self.retry(work, cause, charged, now, effects);
            }
            Outcome::TooLarge { cause } => {
                self.counters.failed(wall, &cause);
                let _ = permit.neutral_at(now);
                self.back_to_buffered(&work);
                self.split(work, &payload, Some(cause), effects);
            }
            Outcome::Permanent { cause } => {
                self.counters.failed(wall, &cause);
                let _ = permit.neutral_at(now);
                self.back_to_buffered(&work);
                self.bury(work, cause, effects);
            }
            // `Outcome` may grow; what we do not know is treated as a failure that may be tried again.
            _ => {
                self.counters.failed(wall, &Cause::Foreign("an outcome unknown to this version".to_owned()));
                self.endpoint.failed(permit, started, unit, now);
                self.retry(work, Cause::Foreign(String::new()), kind == Kind::Call, now, effects);
            }
        }
        let after = self.endpoint.breaker.state();
        if before != after {
            effects.push(Effect::Tell(Event::Breaker { from: before, to: after }));
        }
    }

    fn delivered(&mut self, work: Work, rejected: usize, effects: &mut Vec<Effect>) {
        match work {
            Work::Live(entry) => {
                if self.step_aside.is_some_and(|(id, _)| id == entry.item.id()) {
                    self.step_aside = None;
                }
                self.ledger.transfer(rejected, Place::InFlight, Place::Rejected);
                self.ledger.transfer(entry.size.count - rejected, Place::InFlight, Place::Delivered);
            }
            Work::Replay(piece) => {
                if let Replay::Sending(group) = &mut self.replay {
                    group.delivered(&piece, rejected);
                }
                self.finish_group(effects);
            }
        }
    }

    fn retry(&mut self, work: Work, cause: Cause, charged: bool, now: Instant, effects: &mut Vec<Effect>) {
        match work {
            Work::Live(mut entry) => {
                self.ledger.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                entry.calls += u32::from(charged);
                self.step_aside = match self.step_aside {
                    Some((id, failures)) if id == entry.item.id() => Some((id, failures + 1)),
                    _ => Some((entry.item.id(), 1)),
                };
                if let Phase::Draining { .. } = self.phase {
                    self.tried.push(entry);
                } else if entry.calls >= self.policy.max_calls && self.disk_ready(now) {
                    self.spill(vec![entry], effects);
                } else {
                    self.buffer.give_back(entry);
                }
            }
            Work::Replay(mut piece) => {
                piece.failures += u32::from(charged);
                if let Replay::Sending(group) = &mut self.replay {
                    if piece.failures >= MAX_FAILURES {
                        let attempts = piece.failures;
                        group.refused(piece, cause, attempts);
                    } else {
                        group.give_back(piece);
                    }
                }
                self.finish_group(effects);
            }
        }
    }

    /// Two halves to the front, or, for a single span that nobody takes, a dead letter. `cause` is absent where our own
    /// limit asked for it before anything was sent.
    fn split(&mut self, work: Work, payload: &Payload, cause: Option<Cause>, effects: &mut Vec<Effect>) {
        let (left, right) = (self.next_id(), self.next_id());
        let Some((left, right)) = payload.split(left, right) else {
            let limit = self.policy.request_max_bytes;
            let cause = cause.unwrap_or(Cause::RequestLimit { size: payload.bytes().len(), limit });
            self.bury(work, cause, effects);
            return;
        };
        match work {
            Work::Live(entry) => {
                for payload in [right, left] {
                    let size = size_of(&payload);
                    self.buffer.give_back(Entry { item: payload, size, calls: 0, ..entry.clone() });
                }
            }
            Work::Replay(piece) => {
                if let Replay::Sending(group) = &mut self.replay {
                    group.split(&piece, left, right);
                }
            }
        }
    }

    /// Refused for good.
    fn bury(&mut self, work: Work, cause: Cause, effects: &mut Vec<Effect>) {
        match work {
            Work::Live(entry) => {
                self.disk.writing = sum(self.disk.writing, entry.size);
                let attempts = entry.calls + 1;
                effects.push(Effect::Bury(vec![Refusal { payload: entry.item, cause, attempts }]));
            }
            Work::Replay(piece) => {
                if let Replay::Sending(group) = &mut self.replay {
                    let attempts = piece.failures + 1;
                    group.refused(piece, cause, attempts);
                }
                self.finish_group(effects);
            }
        }
    }

    fn back_to_buffered(&mut self, work: &Work) {
        if let Work::Live(entry) = work {
            self.ledger.transfer(entry.size.count, Place::InFlight, Place::Buffered);
        }
    }

    /// Stops intake; `plan` tries each batch once more until `until`, then hands the rest to the disk.
    pub(crate) fn drain(&mut self, until: Instant) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining { until };
        }
    }

    /// Ends a drain at once: for a net thread that does not come back.
    pub(crate) fn stop_now(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Stopped {
            let mut plan = Plan::default();
            self.end_drain(&mut plan);
            effects.append(&mut plan.effects);
        }
    }

    /// No answer will come for what is in flight: it waits again.
    pub(crate) fn abandon_calls(&mut self) {
        for call in std::mem::take(&mut self.in_flight) {
            match call.work {
                Work::Live(entry) => {
                    self.ledger.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                    self.counters.possible_duplicates += entry.size.count as u64;
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

    fn end_drain(&mut self, plan: &mut Plan) {
        self.abandon_calls();
        let mut rest = std::mem::take(&mut self.tried);
        rest.extend(self.buffer.drain());
        rest.sort_by_key(|entry| entry.accepted);
        if self.policy.fallback {
            // Even a disk in trouble gets this last chance.
            self.spill(rest, &mut plan.effects);
        } else {
            for entry in &rest {
                self.drop_entry(entry, DropReason::Shutdown, &mut plan.effects);
            }
        }
        if let Replay::Sending(group) = std::mem::replace(&mut self.replay, Replay::Finishing) {
            plan.effects.push(Effect::FinishGroup(group.into_fates()));
        }
        self.phase = Phase::Stopped;
        plan.finished = true;
    }

    // What the disk thread reports.

    /// These batches are in a file.
    pub(crate) fn spilled(&mut self, entries: &[Entry<Payload>], file: &str, effects: &mut Vec<Effect>) {
        let size = total(entries);
        self.disk.writing = less(self.disk.writing, size);
        self.disk.retry_at = None;
        self.disk.trouble = None;
        self.counters.spills += 1;
        self.ledger.transfer(size.count, Place::Buffered, Place::InFallback);
        effects.push(Effect::Tell(Event::Spilled { spans: size.count, file: file.to_owned() }));
    }

    /// The disk would not take these batches: they wait in memory again.
    pub(crate) fn spill_failed(
        &mut self,
        entries: Vec<Entry<Payload>>,
        error: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.disk_failed(error, now, effects);
        self.disk.writing = less(self.disk.writing, total(&entries));
        for entry in entries.into_iter().rev() {
            if self.phase == Phase::Stopped {
                self.drop_entry(&entry, DropReason::Shutdown, effects);
            } else {
                self.buffer.give_back(entry);
            }
        }
    }

    /// The disk is in trouble: memory only until it has been tried again.
    pub(crate) fn disk_failed(&mut self, error: &str, now: Instant, effects: &mut Vec<Effect>) {
        if self.disk.trouble.is_none() {
            effects.push(Effect::Tell(Event::DiskTrouble { error: error.to_owned() }));
        }
        self.disk.trouble = Some(error.to_owned());
        self.disk.retry_at = Some(now + DISK_RETRY);
    }

    /// Refusals of live batches: kept as dead letters, or not.
    pub(crate) fn letters_kept(&mut self, refusals: &[Refusal], kept: bool, effects: &mut Vec<Effect>) {
        for refusal in refusals {
            self.disk.writing = less(self.disk.writing, size_of(&refusal.payload));
            let spans = refusal.payload.span_count();
            self.ledger.transfer(spans, Place::Buffered, self.grave(kept));
            effects.push(self.obituary(refusal, kept));
        }
    }

    fn grave(&self, kept: bool) -> Place {
        if kept { Place::DeadLettered } else { Place::Dropped(DropReason::Permanent) }
    }

    fn obituary(&mut self, refusal: &Refusal, kept: bool) -> Effect {
        let spans = refusal.payload.span_count();
        let reason = refusal.cause.to_string();
        if kept {
            Effect::Tell(Event::DeadLettered { spans, reason })
        } else {
            self.counters.lost();
            Effect::Tell(Event::Dropped { spans, reason: DropReason::Permanent, detail: reason })
        }
    }

    /// Stored batches to send; none when the fallback has none.
    pub(crate) fn group_read(&mut self, batches: Vec<Payload>) {
        if batches.is_empty() {
            self.replay = Replay::Idle;
        } else {
            self.replay = Replay::Sending(Group::new(batches));
        }
    }

    /// Reading stored batches failed.
    pub(crate) fn read_failed(&mut self, error: &str, now: Instant, effects: &mut Vec<Effect>) {
        self.replay = Replay::Idle;
        self.disk_failed(error, now, effects);
    }

    /// The fallback has taken note of what became of a group, and its refusals are dead letters, or not.
    pub(crate) fn group_finished(&mut self, fates: &[Fate], letters_kept: bool, effects: &mut Vec<Effect>) {
        self.replay = Replay::Idle;
        for fate in fates {
            let Fate::Finished { delivered, rejected, refused } = fate else { continue };
            let refused_spans = refused.iter().map(|refusal| refusal.payload.span_count()).sum::<usize>();
            // A file can hold more than its name says: what is sent beyond that was found just now.
            let stands = usize::try_from(self.ledger.in_fallback).unwrap_or(usize::MAX);
            let more = (delivered + rejected + refused_spans).saturating_sub(stands);
            self.ledger.transfer(more, Place::Recovered, Place::InFallback);
            self.ledger.transfer(*delivered, Place::InFallback, Place::Delivered);
            self.ledger.transfer(*rejected, Place::InFallback, Place::Rejected);
            for refusal in refused {
                self.ledger.transfer(refusal.payload.span_count(), Place::InFallback, self.grave(letters_kept));
                let obituary = self.obituary(refusal, letters_kept);
                effects.push(obituary);
            }
        }
        if self.ledger.in_fallback == 0 {
            effects.push(Effect::Tell(Event::Replayed));
        }
    }

    /// Stored spans came or went by themselves.
    pub(crate) fn fallback_changed(&mut self, change: Change, effects: &mut Vec<Effect>) {
        let stands = self.ledger.in_fallback;
        let at_most = |spans: u64| usize::try_from(spans.min(stands)).unwrap_or(usize::MAX);
        match change {
            Change::Dropped { spans, reason } if spans > 0 => {
                let spans = at_most(spans);
                self.ledger.transfer(spans, Place::InFallback, Place::Dropped(reason));
                self.counters.lost();
                effects.push(Effect::Tell(Event::Dropped { spans, reason, detail: String::new() }));
            }
            Change::Dropped { .. } => {}
            Change::TakenOver { spans } => {
                self.ledger.transfer(at_most(spans), Place::InFallback, Place::TakenOver);
            }
            Change::Recovered { spans } => {
                let spans = usize::try_from(spans).unwrap_or(usize::MAX);
                self.ledger.transfer(spans, Place::Recovered, Place::InFallback);
            }
        }
    }

    // Room.

    /// Taken from the buffer and not finished: it counts against the limits.
    fn away(&self) -> Size {
        sum(sum(self.in_flight_size, self.disk.writing), total(&self.tried))
    }

    fn disk_ready(&self, now: Instant) -> bool {
        self.policy.fallback && self.disk.retry_at.is_none_or(|instant| now >= instant)
    }

    fn full_reason(&self, now: Instant) -> DropReason {
        if self.disk_ready(now) { DropReason::DiskSlow } else { DropReason::BufferFull }
    }

    /// Moves the oldest to the disk in time, and gives them up where there is no other way.
    fn make_room(&mut self, size: Size, now: Instant, effects: &mut Vec<Effect>) {
        let limits = self.policy.limits;
        let mut held = sum(sum(self.buffer.total(), self.in_flight_size), size);
        if self.disk_ready(now) && over(held, limits, SPILL_ABOVE) {
            let mut spill = Vec::new();
            while over(held, limits, SPILL_DOWN_TO) {
                let Some(entry) = self.buffer.take() else { break };
                held = less(held, entry.size);
                spill.push(entry);
            }
            self.spill(spill, effects);
        }
        let reason = self.full_reason(now);
        while over(sum(sum(self.buffer.total(), self.away()), size), limits, (1, 1)) {
            let Some(entry) = self.buffer.take() else { break };
            self.drop_entry(&entry, reason, effects);
        }
    }

    fn spill(&mut self, entries: Vec<Entry<Payload>>, effects: &mut Vec<Effect>) {
        if !entries.is_empty() {
            self.disk.writing = sum(self.disk.writing, total(&entries));
            effects.push(Effect::Spill(entries));
        }
    }

    fn expire(&mut self, now: Instant, plan: &mut Plan) {
        if self.policy.fallback && !self.disk_ready(now) {
            // Age moves spans to the disk; while that is in trouble they stay until the limits remove them.
            if let Some(instant) = self.disk.retry_at {
                plan.note(instant);
            }
            return;
        }
        let old = self.buffer.expire(now);
        if self.policy.fallback {
            self.spill(old, &mut plan.effects);
        } else {
            for entry in &old {
                self.drop_entry(entry, DropReason::BufferAge, &mut plan.effects);
            }
        }
        if let Some(instant) = self.buffer.next_expiry() {
            plan.note(instant);
        }
    }

    fn drop_entry(&mut self, entry: &Entry<Payload>, reason: DropReason, effects: &mut Vec<Effect>) {
        self.ledger.transfer(entry.size.count, Place::Buffered, Place::Dropped(reason));
        self.counters.lost();
        effects.push(Effect::Tell(Event::Dropped { spans: entry.size.count, reason, detail: String::new() }));
    }

    // Choice of the next call.

    fn next_live(&mut self) -> Option<Work> {
        let sour = self.step_aside.filter(|&(_, failures)| failures >= STEP_ASIDE_AFTER).map(|(id, _)| id);
        let other = sour.and_then(|sour| self.buffer.take_where(|entry| entry.item.id() != sour));
        other.or_else(|| self.buffer.take()).map(Work::Live)
    }

    fn next_piece(&mut self) -> Option<Work> {
        match &mut self.replay {
            Replay::Sending(group) => group.next().map(Work::Replay),
            Replay::Idle | Replay::Asked | Replay::Finishing => None,
        }
    }

    fn replay_is_next(&mut self, now: Instant, plan: &mut Plan) -> bool {
        if self.phase != Phase::Running || over(self.buffer.total(), self.policy.limits, (1, 2)) {
            return false;
        }
        match &self.replay {
            Replay::Idle if self.ledger.in_fallback > 0 && self.disk_ready(now) => {
                self.replay = Replay::Asked;
                plan.effects.push(Effect::ReadGroup);
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
        self.buffer.iter().next().is_some_and(early)
            || self.in_flight.iter().any(|call| matches!(&call.work, Work::Live(entry) if early(entry)))
            || self.disk.writing.count > 0
    }

    #[cfg(test)]
    pub(crate) fn tried_spans(&self) -> usize {
        total(&self.tried).count
    }

    #[cfg(test)]
    pub(crate) fn is_live(&self, id: u64) -> bool {
        self.in_flight.iter().any(|call| call.id == id && matches!(call.work, Work::Live(_)))
    }

    pub(crate) fn breaker_state(&self) -> State {
        self.endpoint.breaker.state()
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

pub(crate) fn size_of(payload: &Payload) -> Size {
    Size { count: payload.span_count(), bytes: payload.bytes().len() }
}

pub(crate) fn total(entries: &[Entry<Payload>]) -> Size {
    entries.iter().fold(Size::default(), |size, entry| sum(size, entry.size))
}

fn sum(one: Size, other: Size) -> Size {
    Size { count: one.count + other.count, bytes: one.bytes + other.bytes }
}

fn less(whole: Size, part: Size) -> Size {
    Size { count: whole.count - part.count, bytes: whole.bytes - part.bytes }
}

fn over(size: Size, limits: Limits, (part, whole): (usize, usize)) -> bool {
    let above = |value: usize, limit: usize| value > limit / whole * part + limit % whole * part / whole;
    above(size.count, limits.max_count) || above(size.bytes, limits.max_bytes)
}

//! Replay: one group of stored batches at a time on its way back to the collector.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use otlp_payload::Payload;
use otlp_transport::Cause;

use super::storage;
use crate::seams::fates::{Failures, Fate, Refusal};

/// While files wait and the buffer is at most half full, at least one call in this many is a replay.
const SHARE: u32 = 4;

/// A stored batch that fails this often while others succeed becomes a dead letter: the first call and five retries, as
/// for live batches.
const MAX_FAILURES: u32 = 6;

pub(super) struct Replay {
    state: State,
    /// The last read found no batch although the ledger has some: no further read before this instant.
    read_at: Option<Instant>,
    pace: Pace,
    /// Calls for live batches since the last replay call.
    live_calls: u32,
}

enum State {
    Idle,
    /// The disk thread reads a group.
    Reading,
    Sending(Group),
    /// The disk thread marks the group.
    Settling,
}

/// The next step of a replay.
pub(super) enum Next {
    /// A call for a batch of the group, if the endpoint is willing.
    Call,
    /// A read of the next group, if the endpoint is willing: a group takes memory and pins its file.
    Read,
    /// Not before this instant.
    Wait(Instant),
    /// Nothing until the disk thread or the collector has answered, or until live batches have had their share.
    Nothing,
}

impl Replay {
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { state: State::Idle, read_at: None, pace: Pace { rate, next: None }, live_calls: 0 }
    }

    // Events.

    /// The disk thread reads a group from now on.
    pub(super) fn on_read_begun(&mut self) {
        self.state = State::Reading;
    }

    /// The disk thread has read these batches.
    pub(super) fn on_read(&mut self, batches: Vec<Payload>, others: Others) {
        self.state = State::Sending(Group::new(batches, others));
        self.read_at = None;
    }

    /// The disk thread has no stored batch to give now.
    pub(super) fn on_read_in_vain(&mut self, now: Instant) {
        self.state = State::Idle;
        self.read_at = Some(now + storage::RETRY);
    }

    /// The disk thread has marked the group, or failed to read one.
    pub(super) fn on_group_ended(&mut self) {
        self.state = State::Idle;
    }

    /// The store has a batch that no read has looked for.
    pub(super) fn on_stored(&mut self) {
        self.read_at = None;
    }

    /// A live batch was sent.
    pub(super) fn on_live_call(&mut self) {
        self.live_calls = self.live_calls.saturating_add(1);
    }

    /// A stored batch was sent.
    pub(super) fn on_replay_call(&mut self, piece: &Piece, now: Instant) {
        self.live_calls = 0;
        self.pace.on_sent(piece.payload.span_count(), now);
    }

    pub(super) fn on_delivered(&mut self, piece: &Piece, rejected: usize) {
        if let State::Sending(group) = &mut self.state {
            group.on_delivered(piece, rejected);
        }
    }

    pub(super) fn on_refused(&mut self, piece: Piece, cause: Cause) {
        let attempts = piece.failures + 1;
        self.refuse(piece, cause, attempts, true);
    }

    /// A call failed and may be repeated. `charged`: the failure may be the batch's own.
    pub(super) fn on_failed(&mut self, mut piece: Piece, cause: Cause, charged: bool, others: Others) {
        if charged {
            piece.count_failure(others);
        }
        match piece.failures {
            MAX_FAILURES.. => {
                let attempts = piece.failures;
                self.refuse(piece, cause, attempts, false);
            }
            _ => self.give_back(piece),
        }
    }

    pub(super) fn on_split(&mut self, piece: &Piece, left: Payload, right: Payload) {
        if let State::Sending(group) = &mut self.state {
            group.on_split(piece, left, right);
        }
    }

    /// A call ends without an answer.
    pub(super) fn give_back(&mut self, piece: Piece) {
        if let State::Sending(group) = &mut self.state {
            group.queue.push_back(piece);
        }
    }

    fn refuse(&mut self, piece: Piece, cause: Cause, attempts: u32, permanent: bool) {
        if let State::Sending(group) = &mut self.state {
            group.on_refused(piece, cause, attempts, permanent);
        }
    }

    // Queries and polls.

    /// The next step, if the fallback `has_spans` and `is_ready`, and `live_waits` in memory.
    pub(super) fn next(&self, has_spans: bool, is_ready: bool, live_waits: bool, now: Instant) -> Next {
        match &self.state {
            State::Idle if has_spans && is_ready => match self.read_at.filter(|&instant| now < instant) {
                Some(instant) => Next::Wait(instant),
                None => Next::Read,
            },
            State::Sending(group) if !group.queue.is_empty() => match self.pace.next.filter(|&instant| now < instant) {
                Some(instant) => Next::Wait(instant),
                None if !live_waits || self.live_calls >= SHARE - 1 => Next::Call,
                None => Next::Nothing,
            },
            State::Idle | State::Reading | State::Sending(_) | State::Settling => Next::Nothing,
        }
    }

    /// Takes the batch of the next call.
    pub(super) fn take_next(&mut self) -> Option<Piece> {
        match &mut self.state {
            State::Sending(group) => group.queue.pop_front(),
            State::Idle | State::Reading | State::Settling => None,
        }
    }

    /// Takes the fates of a group whose batches have all ended.
    pub(super) fn take_ended(&mut self) -> Option<Vec<Fate>> {
        match std::mem::replace(&mut self.state, State::Settling) {
            State::Sending(group) if group.has_ended() => Some(group.into_fates()),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Takes the fates of a group that is interrupted, and the number of spans that the collector has of batches which
    /// will be sent again.
    pub(super) fn take_interrupted(&mut self) -> Option<(Vec<Fate>, u64)> {
        match std::mem::replace(&mut self.state, State::Settling) {
            State::Sending(group) => {
                let repeated = group.delivered_in_part() as u64;
                Some((group.into_fates(), repeated))
            }
            State::Idle | State::Reading | State::Settling => None,
        }
    }
}

/// A part of a stored batch that can be sent: the whole, or one part of a split.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its batch's place in the group.
    batch: usize,
    pub(super) payload: Payload,
    /// Failures of its own: see `MAX_FAILURES`.
    failures: u32,
    /// The other calls at the time of its last failure.
    seen: Others,
}

/// The other calls, by which a batch that fails is told from a collector that does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Others {
    /// Calls that succeeded.
    pub(super) successes: u64,
    /// How often the breaker opened.
    pub(super) trips: u64,
}

impl Piece {
    /// Counts a failure as the batch's own if other calls succeeded since its last one. If the breaker opened in
    /// between, the collector was away, and no earlier failure counts.
    fn count_failure(&mut self, others: Others) {
        if others.trips != self.seen.trips {
            self.failures = 0;
        } else if others.successes > self.seen.successes {
            self.failures += 1;
        }
        self.seen = others;
    }
}

struct Account {
    /// Pieces that have not ended.
    pieces: usize,
    delivered: usize,
    rejected: usize,
    refused: Vec<Refusal>,
}

/// The batches of one group, the pieces that are still to be sent, and the answers so far.
struct Group {
    accounts: Vec<Account>,
    /// A piece that failed goes to the end: the others go first.
    queue: VecDeque<Piece>,
}

impl Group {
    fn new(batches: Vec<Payload>, others: Others) -> Self {
        let account = || Account { pieces: 1, delivered: 0, rejected: 0, refused: Vec::new() };
        let accounts = batches.iter().map(|_| account()).collect();
        let pieces = batches.into_iter().enumerate();
        let queue = pieces.map(|(batch, payload)| Piece { batch, payload, failures: 0, seen: others }).collect();
        Self { accounts, queue }
    }

    fn on_delivered(&mut self, piece: &Piece, rejected: usize) {
        let account = &mut self.accounts[piece.batch];
        account.pieces -= 1;
        account.delivered += piece.payload.span_count() - rejected;
        account.rejected += rejected;
    }

    fn on_refused(&mut self, piece: Piece, cause: Cause, attempts: u32, permanent: bool) {
        let account = &mut self.accounts[piece.batch];
        account.pieces -= 1;
        account.refused.push(Refusal { payload: piece.payload, cause, attempts, permanent });
    }

    fn on_split(&mut self, piece: &Piece, left: Payload, right: Payload) {
        self.accounts[piece.batch].pieces += 1;
        for payload in [right, left] {
            self.queue.push_front(Piece { batch: piece.batch, payload, failures: 0, seen: piece.seen });
        }
    }

    fn has_ended(&self) -> bool {
        self.accounts.iter().all(|account| account.pieces == 0)
    }

    /// Spans that the collector has of batches that have not ended.
    fn delivered_in_part(&self) -> usize {
        self.accounts.iter().filter(|account| account.pieces > 0).map(|account| account.delivered).sum()
    }

    /// The fate of each batch, in the order in which the batches were read.
    fn into_fates(self) -> Vec<Fate> {
        let fate = |account: Account| match account.pieces {
            // A batch that was delivered in part stays whole: at least once.
            1.. => Fate::Pending(Failures::default()),
            0 => Fate::Finished { delivered: account.delivered, rejected: account.rejected, refused: account.refused },
        };
        self.accounts.into_iter().map(fate).collect()
    }
}

/// Spaces replay calls out to a number of spans a second.
struct Pace {
    rate: Option<NonZeroU32>,
    next: Option<Instant>,
}

impl Pace {
    fn on_sent(&mut self, spans: usize, now: Instant) {
        if let Some(rate) = self.rate {
            let took = Duration::from_secs_f64(spans as f64 / f64::from(rate.get()));
            self.next = Some(self.next.map_or(now, |next| next.max(now)) + took);
        }
    }
}

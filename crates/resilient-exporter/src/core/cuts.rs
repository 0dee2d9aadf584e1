//! Requests that are too large: batches are cut before and after their calls, and spans that no request can carry
//! become one dead letter a batch.

use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use otlp_transport::Cause;
use span_buffer::Entry;

use super::age::attempts;
use super::batch::Batch;
use super::memory::{size_of, total};
use super::{Core, Effect, Letter, Phase, Work};
use crate::report::position::Position;

/// A batch that the collector found too large waits for this time before its pieces go.
const PAUSE: Duration = Duration::from_secs(1);

/// The same in a shutdown, whose time is short.
const PAUSE_IN_DRAIN: Duration = Duration::from_millis(50);

/// Spans of one batch that no request can carry.
pub(super) struct Oversized {
    origin: BatchId,
    pub(super) pieces: Vec<Entry<Batch>>,
    /// The place of the endpoint that takes none of them.
    endpoint: usize,
    cause: Cause,
}

impl Oversized {
    pub(super) fn spans(&self) -> usize {
        total(&self.pieces).count
    }
}

impl Core {
    /// Cuts the batch of the next call to the age and the sizes that the settings and the endpoint allow. Returns the
    /// batch if it may go as it is.
    pub(super) fn fit(&mut self, work: Work, endpoint: usize, now: Instant) -> Option<Work> {
        let work = self.without_old(work, endpoint, now)?;
        let (bytes, items) = (work.request_len(), work.item_count());
        if let Some((limit, cause)) = self.endpoints.of_mut(endpoint).sizes.single_limit(now)
            && bytes >= limit
            && !self.is_trial(endpoint, now)
        {
            if items == 1 {
                self.set_oversized(work, endpoint, cause, now);
                return None;
            }
            let payload = self.request_of(&work)?;
            if let Some(separated) = payload.separate(limit, || self.next_id())
                && let Some(large) = separated.large
            {
                self.separate(work, endpoint, separated.small, large, cause, now);
                return None;
            }
        }
        let own = Some(self.policy.request_max_bytes).filter(|&limit| bytes > limit);
        let limit = self.endpoints.of_mut(endpoint).sizes.limit(bytes, now).into_iter().chain(own).min();
        let has_too_many = items > self.policy.request_max_spans;
        match limit.or(has_too_many.then_some(usize::MAX)) {
            Some(limit) if items > 1 => self.cut(work, endpoint, limit, None, now),
            _ => Some(work),
        }
    }

    /// The collector found this request too large.
    pub(super) fn cut_refused(&mut self, work: Work, endpoint: usize, cause: Cause, now: Instant) {
        let (bytes, spans) = (work.request_len(), work.item_count());
        let is_own_limit = matches!(cause, Cause::RequestLimit { .. });
        let is_merged = matches!(&work, Work::Replay(piece) if piece.is_merged());
        if !is_own_limit && !is_merged {
            self.endpoints.of_mut(endpoint).sizes.on_refused(bytes, (spans == 1).then(|| cause.clone()), now);
        }
        let limit = match &cause {
            Cause::RequestLimit { limit, .. } if *limit < bytes => *limit,
            _ => self.endpoints.of_mut(endpoint).sizes.cut(bytes, now),
        };
        let pause = if self.phase == Phase::Running { PAUSE } else { PAUSE_IN_DRAIN };
        if let Some(mut work) = self.cut(work, endpoint, limit, Some(now + pause), now) {
            if let Work::Live(entry) = &mut work {
                entry.item.tries.add_failed(endpoint);
            }
            if self.is_trial(endpoint, now)
                && let Work::Live(entry) = work
            {
                // The endpoint in use may take it.
                return self.memory.give_back(entry);
            }
            self.set_oversized(work, endpoint, cause, now);
        }
    }

    /// Cuts a batch into pieces of at most `limit` bytes and of no more spans than a request may have, which wait until
    /// `not_before`. Returns a batch that cannot be cut.
    fn cut(
        &mut self,
        work: Work,
        endpoint: usize,
        limit: usize,
        not_before: Option<Instant>,
        now: Instant,
    ) -> Option<Work> {
        if let Work::Replay(piece) = &work
            && piece.is_merged()
        {
            self.with_group(|group| group.take_apart(piece));
            return None;
        }
        let payload = self.request_of(&work)?;
        let max_spans = self.policy.request_max_spans;
        let Some(pieces) = payload.cut_within(limit, max_spans, || self.next_id()) else { return Some(work) };
        match work {
            Work::Live(entry) => {
                let mut tries = entry.item.tries.clone();
                if not_before.is_some() {
                    tries.add_failed(endpoint);
                }
                self.durable.on_cut(payload.id(), &pieces);
                for payload in pieces.into_iter().rev() {
                    let size = size_of(&payload);
                    let mut item = entry.item.piece(payload);
                    item.tries = tries.clone();
                    item.suspicion.wait_until(not_before);
                    self.memory.give_back(Entry { item, size, calls: 0, ..entry.clone() });
                }
            }
            Work::Replay(piece) => {
                self.with_group(|group| group.on_cut(&piece, pieces));
                if let Some(instant) = not_before {
                    self.replay.on_cut(instant);
                }
                self.settle_group(now);
            }
        }
        None
    }

    /// Takes the spans that no request can carry out of a batch.
    fn separate(
        &mut self,
        work: Work,
        endpoint: usize,
        small: Option<Payload>,
        large: Payload,
        cause: Cause,
        now: Instant,
    ) {
        match work {
            Work::Live(entry) => {
                self.durable.on_cut(entry.item.payload.id(), small.iter().chain([&large]));
                if let Some(small) = small {
                    let (item, size) = (entry.item.piece(small.clone()), size_of(&small));
                    self.memory.give_back(Entry { item, size, ..entry.clone() });
                }
                let (item, size) = (entry.item.piece(large.clone()), size_of(&large));
                self.add_oversized(Entry { item, size, ..entry }, endpoint, cause);
            }
            Work::Replay(piece) if piece.is_merged() => self.with_group(|group| group.take_apart(&piece)),
            Work::Replay(piece) => {
                self.with_group(|group| group.on_separated(&piece, endpoint, small, large, cause));
                self.settle_group(now);
            }
        }
    }

    /// No request can carry this batch of one span, or one that cannot be cut.
    fn set_oversized(&mut self, work: Work, endpoint: usize, cause: Cause, now: Instant) {
        match work {
            Work::Live(entry) => {
                let (origin, is_piece) = (entry.item.origin, entry.item.is_piece());
                self.add_oversized(entry, endpoint, cause.clone());
                if !is_piece {
                    return;
                }
                // Pieces of the same batch that wait: their spans of this size share the dead letter.
                let Some((limit, _)) = self.endpoints.of_mut(endpoint).sizes.single_limit(now) else { return };
                for entry in self.memory.take_all_where(|batch| batch.origin == origin) {
                    let payload = match self.memory.plain_within(&entry.item.payload) {
                        Ok(Some(payload)) => payload,
                        // The next call for this batch looks at its size again.
                        Ok(None) => {
                            self.memory.give_back(entry);
                            continue;
                        }
                        Err(damaged) => {
                            self.end_damaged(&entry, &damaged);
                            continue;
                        }
                    };
                    let separated = payload.separate(limit, || self.next_id());
                    match separated {
                        _ if payload.item_count() == 1 && payload.bytes().len() >= limit => {
                            self.add_oversized(entry, endpoint, cause.clone());
                        }
                        Some(separated) if separated.large.is_some() && payload.item_count() > 1 => {
                            let large = separated.large.unwrap_or(payload);
                            self.separate(Work::Live(entry), endpoint, separated.small, large, cause.clone(), now);
                        }
                        _ => self.memory.give_back(entry),
                    }
                }
            }
            Work::Replay(piece) => {
                self.with_group(|group| group.on_dead(piece, endpoint, cause));
                self.settle_group(now);
            }
        }
    }

    /// The request of a batch that was taken for a call, or has been in one. A batch whose compressed form is damaged
    /// is dropped.
    pub(super) fn request_of(&mut self, work: &Work) -> Option<Payload> {
        match work {
            Work::Live(entry) => self.plain_or_drop(entry),
            Work::Replay(piece) => Some(piece.payload.clone()),
        }
    }

    fn add_oversized(&mut self, entry: Entry<Batch>, endpoint: usize, cause: Cause) {
        self.memory.on_write_begun(std::slice::from_ref(&entry));
        let origin = entry.item.origin;
        // Only a piece has others of its batch: thousands of batches of one span are searched for none.
        let mut others = entry.item.is_piece().then_some(&mut self.oversized).into_iter().flatten();
        match others.find(|oversized| oversized.origin == origin) {
            Some(oversized) => oversized.pieces.push(entry),
            None => self.oversized.push(Oversized { origin, pieces: vec![entry], endpoint, cause }),
        }
    }

    /// Has the disk thread store the oversized spans of each batch of which no piece is in a call.
    pub(super) fn store_oversized(&mut self) {
        if self.oversized.is_empty() {
            return;
        }
        let is_out = |origin: BatchId| {
            self.in_flight.iter().any(|call| matches!(&call.work, Work::Live(entry) if entry.item.origin == origin))
        };
        let (wait, ready) = std::mem::take(&mut self.oversized).into_iter().partition(|one| is_out(one.origin));
        self.oversized = wait;
        for Oversized { pieces, endpoint, cause, .. } in ready {
            self.store_letter(pieces, endpoint, cause);
        }
    }

    /// Has the disk thread store refused pieces of one batch as one dead letter.
    pub(super) fn end_as_dead_letter(&mut self, pieces: Vec<Entry<Batch>>, endpoint: usize, cause: Cause) {
        self.memory.on_write_begun(&pieces);
        self.store_letter(pieces, endpoint, cause);
    }

    fn store_letter(&mut self, pieces: Vec<Entry<Batch>>, endpoint: usize, cause: Cause) {
        let attempts = attempts(pieces.iter().map(|entry| entry.item.tries.failed()).max().unwrap_or_default(), &cause);
        let letter = Letter { pieces, endpoint: Position::new(endpoint), cause, attempts };
        self.effects.push_back(Effect::StoreDeadLetters(vec![letter]));
    }
}

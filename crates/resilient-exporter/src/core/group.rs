//! One group of stored records: the pieces that are still to be sent, and the answers so far.
//!
//! Small records share a request. A request of several records that is refused, or fails, is taken apart: its records
//! go singly, and only single calls count against a record. The group ends when each record was tried once; those
//! without an answer return to the store with their failures.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use otlp_payload::{BatchId, Merged, Payload, Signal};
use otlp_transport::{Cause, RefusalKind};

use super::age::attempts;
use super::batch::Suspicion;
use super::endpoint::Blame;
use super::returned::Returned;
use crate::report::ledger::Taken;
use crate::report::position::Position;
use crate::seams::fallback::StoredBatch;
use crate::seams::fates::{Fate, Refusal};

/// A piece is throttled so many times within one group.
const MAX_THROTTLED: u32 = 6;

/// The bytes of one request for some records of the group, or for a piece of one record.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) records: Range<usize>,
    pub(super) payload: Payload,
    throttled: u32,
}

impl Piece {
    fn new(records: Range<usize>, payload: Payload) -> Self {
        Self { records, payload, throttled: 0 }
    }

    /// The records share the request.
    pub(super) fn is_merged(&self) -> bool {
        self.records.len() > 1
    }

    /// The first record, which is the only one of a piece that is not merged.
    fn record(&self) -> usize {
        self.records.start
    }
}

/// A refusal of one record.
pub(super) struct Refused<'a> {
    /// The place of its endpoint.
    pub(super) endpoint: usize,
    /// None for a failure that may be repeated: it counts as a refusal of the kind `sender`.
    pub(super) kind: Option<RefusalKind>,
    pub(super) cause: Cause,
    pub(super) blame: Blame,
    /// Whether the endpoint accepts nearly all other batches, if so many of its recent calls were the record's.
    pub(super) accepts_others: &'a dyn Fn(u64) -> bool,
}

pub(super) struct Group {
    records: Vec<Record>,
    queue: VecDeque<Piece>,
    /// Pieces in calls.
    out: usize,
    /// The endpoint refused a record, or failed for one, while it accepted others.
    has_suspect: bool,
}

struct Record {
    payload: Payload,
    /// Pieces in the queue or in calls; a record in a merged request has one.
    pieces: usize,
    /// A piece was tried and has no answer that ends it: the whole record stays stored.
    stays: bool,
    /// Calls that did not deliver it.
    calls: u32,
    suspicion: Suspicion,
    /// A piece was refused in this group, and the endpoint was not the cause.
    is_refused: bool,
    delivered: usize,
    rejected: usize,
    /// The same by endpoint.
    shares: Shares,
    refused: Vec<Refusal>,
}

/// The spans that endpoints took of one record.
pub(super) type Shares = Vec<(Position, Taken)>;

impl Group {
    /// The records that were read, and the requests that send them; `calls` have gone out.
    pub(super) fn new(
        batches: Vec<StoredBatch>,
        requests: Vec<Merged>,
        calls: u64,
        mut payload: impl FnMut(bytes::Bytes, usize) -> Payload,
    ) -> Self {
        let records = batches.into_iter().map(|batch| Record {
            suspicion: Suspicion::of(&batch.failures, calls),
            payload: payload(batch.request, batch.spans),
            pieces: 1,
            stays: false,
            is_refused: false,
            calls: batch.failures.calls,
            delivered: 0,
            rejected: 0,
            shares: Shares::new(),
            refused: Vec::new(),
        });
        let mut group = Self { records: records.collect(), queue: VecDeque::new(), out: 0, has_suspect: false };
        for Merged { bytes, requests } in requests {
            let records = group.records.get(requests.clone()).unwrap_or_default();
            let payload = match records {
                [record] => record.payload.clone(),
                records => payload(bytes, records.iter().map(|record| record.payload.item_count()).sum()),
            };
            group.queue.push_back(Piece::new(requests, payload));
        }
        group
    }

    pub(super) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn take_next(&mut self) -> Option<Piece> {
        let piece = self.queue.pop_front()?;
        self.out += 1;
        Some(piece)
    }

    // Answers to a piece.

    pub(super) fn on_delivered(&mut self, piece: &Piece, endpoint: usize, mut rejected: usize) {
        self.out -= 1;
        let is_merged = piece.is_merged();
        for record in &mut self.records[piece.records.clone()] {
            let spans = if is_merged { record.payload.item_count() } else { piece.payload.item_count() };
            // The answer does not say which spans of a merged request were rejected.
            let rejected_here = rejected.min(spans);
            rejected -= rejected_here;
            record.pieces -= 1;
            record.delivered += spans - rejected_here;
            record.rejected += rejected_here;
            let taken = Taken { delivered: spans - rejected_here, rejected: rejected_here };
            record.shares.push((Position::new(endpoint), taken));
        }
    }

    /// The call ends without an answer that says anything about its records.
    pub(super) fn give_back(&mut self, piece: Piece) {
        self.out -= 1;
        self.queue.push_front(piece);
    }

    /// The peer throttled the call: the others go first. It may throttle these bytes alone, for ever, by a limit that
    /// they exceed: after some throttles a merged request is taken apart, and a record returns to the store behind
    /// those that were tried less.
    pub(super) fn on_throttled(&mut self, mut piece: Piece) {
        piece.throttled += 1;
        if piece.throttled < MAX_THROTTLED {
            self.out -= 1;
            self.queue.push_back(piece);
        } else if piece.is_merged() {
            self.take_apart(&piece);
        } else {
            self.try_later(&piece);
        }
    }

    /// Sends the records of a merged request singly, after the others.
    pub(super) fn take_apart(&mut self, piece: &Piece) {
        self.out -= 1;
        self.queue_singly(piece);
    }

    fn queue_singly(&mut self, piece: &Piece) {
        for index in piece.records.clone() {
            let payload = self.records[index].payload.clone();
            self.queue.push_back(Piece::new(index..index + 1, payload));
        }
    }

    /// A call for one record was refused, or failed as if it were.
    pub(super) fn on_refused(&mut self, piece: Piece, refused: Refused, calls: u64, now: Instant) {
        let Refused { endpoint, kind, cause, blame, accepts_others } = refused;
        let record = &self.records[piece.record()];
        let is_its = record.suspicion.is_of(endpoint);
        let makes_dead_letter =
            is_its && record.suspicion.makes_dead_letter(accepts_others(record.suspicion.recent(now)));
        if blame == Blame::Batch && makes_dead_letter {
            // Its earlier refusals count already.
            return self.end_refused(piece, endpoint, cause, kind.is_some());
        }
        self.try_later(&piece);
        let record = &mut self.records[piece.record()];
        match blame {
            // The pieces of a record are one batch: their refusals in one group are one.
            Blame::Batch if !record.is_refused => {
                record.is_refused = true;
                match kind {
                    Some(kind) => record.suspicion.on_refused(endpoint, kind, cause, calls, now),
                    None => record.suspicion.on_failed(endpoint, cause, calls, now),
                }
                record.suspicion.set_of_piece(piece.payload.item_count() < record.payload.item_count());
                self.has_suspect = true;
            }
            Blame::Batch | Blame::Endpoint => record.suspicion.note(now),
        }
    }

    /// A call for one record failed, and the endpoint is the cause.
    pub(super) fn on_failed(&mut self, piece: &Piece, now: Instant) {
        self.try_later(piece);
        self.records[piece.record()].suspicion.note(now);
    }

    fn try_later(&mut self, piece: &Piece) {
        self.out -= 1;
        let record = &mut self.records[piece.record()];
        record.pieces -= 1;
        record.calls = record.calls.saturating_add(1);
        record.stays = true;
    }

    /// One piece of a record was cut into these.
    pub(super) fn on_cut(&mut self, piece: &Piece, pieces: Vec<Payload>) {
        self.out -= 1;
        let record = piece.record();
        self.records[record].pieces += pieces.len() - 1;
        self.records[record].calls = self.records[record].calls.saturating_add(1);
        for payload in pieces.into_iter().rev() {
            self.queue.push_front(Piece::new(record..record + 1, payload));
        }
    }

    /// No request can carry the spans of `large`, which a piece of a record held, or they are too old for one.
    pub(super) fn on_separated(
        &mut self,
        piece: &Piece,
        endpoint: usize,
        small: Option<Payload>,
        large: Payload,
        cause: Cause,
    ) {
        self.out -= 1;
        let index = piece.record();
        let record = &mut self.records[index];
        record.pieces -= 1;
        let attempts = attempts(record.calls, &cause);
        let endpoint = Position::new(endpoint);
        record.refused.push(Refusal { payload: large, endpoint, cause, attempts, permanent: true });
        if let Some(payload) = small {
            record.pieces += 1;
            self.queue.push_front(Piece::new(index..index + 1, payload));
        }
    }

    /// The collector refused one piece of a record for good: it ends as a dead letter.
    pub(super) fn on_dead(&mut self, piece: Piece, endpoint: usize, cause: Cause) {
        self.end_refused(piece, endpoint, cause, true);
    }

    fn end_refused(&mut self, piece: Piece, endpoint: usize, cause: Cause, permanent: bool) {
        self.out -= 1;
        let record = &mut self.records[piece.record()];
        record.pieces -= 1;
        record.calls = record.calls.saturating_add(1);
        let attempts = record.calls;
        let endpoint = Position::new(endpoint);
        record.refused.push(Refusal { payload: piece.payload, endpoint, cause, attempts, permanent });
        self.has_suspect |= !permanent;
    }

    // Answers to other calls.

    /// The endpoint accepted the batch of call number `call`, readably: records whose refusals count now may end.
    pub(super) fn on_other_accepted(
        &mut self,
        call: u64,
        endpoint: usize,
        accepts_others: impl Fn(u64) -> bool,
        now: Instant,
    ) {
        for record in &mut self.records {
            if record.suspicion.is_suspect() {
                record.suspicion.on_other_accepted(call, endpoint);
            }
        }
        self.end_dead_letters(endpoint, accepts_others, now);
    }

    /// Ends the records whose refusals make them dead letters. A record of which a piece was refused goes out again:
    /// each piece that is refused once more ends alone, and the others are delivered.
    pub(super) fn end_dead_letters(&mut self, endpoint: usize, accepts_others: impl Fn(u64) -> bool, now: Instant) {
        let ended = self.records.iter().enumerate().filter(|(_, record)| {
            let is_whole = record.is_whole() && !record.suspicion.is_of_piece() && record.suspicion.is_of(endpoint);
            is_whole && record.suspicion.makes_dead_letter(accepts_others(record.suspicion.recent(now)))
        });
        for index in ended.map(|(index, _)| index).collect::<Vec<_>>() {
            self.end_as_dead_letter(index);
        }
    }

    /// Ends a record as a dead letter, unless a call is out for it or its last refusal is one of another group.
    fn end_as_dead_letter(&mut self, index: usize) {
        let record = &mut self.records[index];
        let Some(cause) = record.suspicion.cause().cloned() else { return };
        if record.pieces > 0 {
            let Some(at) = self.queue.iter().position(|piece| piece.records == (index..index + 1)) else { return };
            self.queue.remove(at);
            record.pieces = 0;
        }
        record.stays = false;
        let (payload, attempts, permanent) = (record.payload.clone(), record.calls, record.suspicion.is_permanent());
        let endpoint = Position::new(record.suspicion.endpoint().unwrap_or_default());
        record.refused.push(Refusal { payload, endpoint, cause, attempts, permanent });
    }

    /// This endpoint has refused the record of this piece before.
    pub(super) fn is_suspect(&self, piece: &Piece, endpoint: usize) -> bool {
        self.records[piece.record()].suspicion.is_suspect_of(endpoint)
    }

    pub(super) fn on_endpoint_refused(&mut self, endpoint: usize) {
        for record in &mut self.records {
            record.suspicion.on_endpoint_refused(endpoint);
        }
    }

    // The store.

    /// The records were read: those that this process has tried before have their history again. They share no request,
    /// although the marks by which the disk thread has merged them may be missing in the store.
    pub(super) fn recall(&mut self, returned: &mut Returned) {
        for record in &mut self.records {
            returned.recall(&record.payload, &mut record.calls, &mut record.suspicion);
        }
        for piece in std::mem::take(&mut self.queue) {
            if piece.is_merged() && self.records[piece.records.clone()].iter().any(|record| record.calls > 0) {
                self.queue_singly(&piece);
            } else {
                self.queue.push_back(piece);
            }
        }
    }

    /// The group ends: the histories of the records that return to the store.
    pub(super) fn remember(&self, returned: &mut Returned, now: Instant) {
        for record in self.records.iter().filter(|record| !record.has_ended() && record.calls > 0) {
            returned.remember(&record.payload, record.calls, record.suspicion.clone(), now);
        }
    }

    // The end.

    /// Each record was tried.
    pub(super) fn has_ended(&self) -> bool {
        self.queue.is_empty() && self.out == 0
    }

    /// No answer ended a record, and the endpoint is not the cause of all that. A record that failed too often stays if
    /// the store keeps no dead letters.
    pub(super) fn is_in_vain(&self) -> bool {
        let may_stay = |record: &Record| record.stays || record.refused.iter().any(|refusal| !refusal.permanent);
        self.has_suspect && self.records.iter().all(may_stay)
    }

    /// Spans that the collector has of records that stay.
    pub(super) fn delivered_in_part(&self) -> usize {
        self.records.iter().filter(|record| !record.has_ended()).map(|record| record.delivered).sum()
    }

    /// The fate of each record, in the order in which the records were read, and its spans that endpoints took.
    pub(super) fn into_fates(self) -> (Vec<Fate>, Vec<Shares>) {
        self.records.into_iter().map(Record::into_fate).unzip()
    }
}

impl Record {
    fn has_ended(&self) -> bool {
        self.pieces == 0 && !self.stays
    }

    /// No part of it has an answer.
    fn is_whole(&self) -> bool {
        self.delivered + self.rejected == 0 && self.refused.is_empty() && self.pieces <= 1
    }

    fn into_fate(self) -> (Fate, Shares) {
        if !self.has_ended() {
            // A record that was delivered in part stays whole: at least once.
            return (Fate::Pending(self.suspicion.failures(self.calls)), Shares::new());
        }
        let refused = one_letter(self.refused);
        (Fate::Finished { delivered: self.delivered, rejected: self.rejected, refused }, self.shares)
    }
}

/// The refusals of one record as one dead letter.
fn one_letter(refused: Vec<Refusal>) -> Vec<Refusal> {
    let mut pieces = refused.into_iter();
    let Some(mut first) = pieces.next() else { return Vec::new() };
    let rest = pieces.collect::<Vec<_>>();
    if !rest.is_empty() {
        first.attempts = rest.iter().map(|refusal| refusal.attempts).fold(first.attempts, u32::max);
        first.permanent &= rest.iter().all(|refusal| refusal.permanent);
        let all = std::iter::once(&first.payload).chain(rest.iter().map(|refusal| &refusal.payload));
        first.payload = joined(all.cloned().collect());
    }
    vec![first]
}

/// Pieces of one batch as one payload, under the id of the first. Encoded messages that follow each other are one
/// message (Protocol Buffers, "Last One Wins": repeated fields are concatenated).
pub(super) fn joined(pieces: Vec<Payload>) -> Payload {
    let items = pieces.iter().map(Payload::item_count).sum();
    let first = pieces.first();
    let id = first.map_or(BatchId { incarnation: 0, seq: 0 }, Payload::id);
    let created = first.map_or(std::time::SystemTime::UNIX_EPOCH, Payload::created);
    let signal = first.map_or(Signal::Traces, Payload::signal);
    let bytes = pieces.iter().map(|piece| &piece.bytes()[..]).collect::<Vec<_>>().concat();
    Payload::of(signal, id, created, items, bytes.into())
}

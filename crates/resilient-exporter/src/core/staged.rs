//! Batches of the processor. The thread that seals one belongs to the application: it waits neither for the journal nor
//! for a log subscriber.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use span_buffer::Size;

use super::{Core, Effect, Phase};
use crate::report::ledger::RefuseReason;

/// Batches whose spans count as accepted but not durable unless the journal has them by an instant.
#[derive(Default)]
pub(super) struct Expected(VecDeque<(Instant, BatchId, usize)>);

impl Core {
    /// A part of the staging area gets spans: this room is kept for them. The next poll makes it where memory is full.
    pub(crate) fn on_staging_opened(&mut self, room: Size) {
        self.memory.reserve(room);
    }

    /// Makes the room that is kept for staged spans.
    pub(super) fn make_reserved_room(&mut self, now: Instant) {
        if self.memory.has_room_for(Size::default()) {
            return;
        }
        self.spill_surplus(Size::default(), now);
        // A batch that is nearly as large as memory took the room, and keeps it.
        if !self.memory.has_batch_for_all() {
            self.make_room_by_force(Size::default(), now);
        }
    }

    /// A part of the staging area is empty.
    pub(crate) fn on_staging_released(&mut self, room: Size) {
        self.memory.release(room);
    }

    /// Spans of the staging area are a batch. In durable mode the journal has `sync_within` to make it durable.
    pub(crate) fn on_sealed(&mut self, payload: Payload, now: Instant, sync_within: Duration) {
        let (id, spans) = (payload.id(), payload.item_count());
        if self.phase == Phase::Running && self.durable.on_submitted(&payload) {
            // A time-out that no clock can hold never ends.
            if let Some(until) = now.checked_add(sync_within) {
                self.expected.0.push_back((until, id, spans));
            }
        }
        // The ledger and an event have the refusal; the thread that has ended the span has no use for it.
        let _: Result<(), RefuseReason> = self.on_offered(payload, now);
    }

    /// Counts the batches that the journal did not have in time.
    pub(super) fn look_for_expected(&mut self, now: Instant) {
        while let Some(&(until, id, spans)) = self.expected.0.front() {
            if until > now && self.durable.is_expected(id) {
                self.wake_at(until);
                return;
            }
            self.expected.0.pop_front();
            self.durable.on_wait_ended(id, spans, now);
        }
    }

    /// The next effect for a thread of the storage. Events stay for [`poll_effect`](Self::poll_effect).
    pub(crate) fn poll_work(&mut self) -> Option<Effect> {
        while let Some(effect) = self.durable.poll_effect().or_else(|| self.effects.pop_front()) {
            match effect {
                Effect::Publish(event) => self.accounts.publish(event),
                effect => return Some(effect),
            }
        }
        None
    }
}

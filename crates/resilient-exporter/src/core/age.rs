//! Spans that are too old to be sent: they become a dead letter before the call of their batch.

use std::time::{Duration, Instant, SystemTime};

use otlp_payload::Aged;
use otlp_transport::Cause;
use span_buffer::Entry;

use super::memory::size_of;
use super::{Core, Work};

/// The limit on the age of spans, at one instant of the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AgeLimit {
    /// Spans that ended before this time are too old.
    pub(crate) before: SystemTime,
    pub(crate) max_age: Duration,
}

impl Core {
    /// The limit for the calls from now on; none while the wall clock is not believed, or without a limit.
    pub(crate) fn on_age_limit(&mut self, limit: Option<AgeLimit>) {
        self.age_limit = limit;
    }

    /// Takes the spans that are too old out of the batch of the next call. Returns the batch if it has none.
    pub(super) fn without_old(&mut self, work: Work, endpoint: usize, now: Instant) -> Option<Work> {
        let Some(AgeLimit { before, max_age }) = self.age_limit else { return Some(work) };
        if let Work::Live(entry) = &work
            && entry.item.payload.is_known_younger(before)
        {
            return Some(work);
        }
        let payload = self.request_of(&work)?;
        let Some(Aged { old: Some(old), young }) = payload.separate_ended_before(before, || self.next_id()) else {
            return Some(work);
        };
        let cause = Cause::TooOld { max_age };
        match work {
            Work::Live(entry) => {
                let old = match young {
                    None => entry,
                    Some(young) => {
                        self.durable.on_cut(payload.id(), [&young, &old]);
                        let (item, size) = (entry.item.piece(young.clone()), size_of(&young));
                        self.memory.give_back(Entry { item, size, ..entry.clone() });
                        let (item, size) = (entry.item.piece(old.clone()), size_of(&old));
                        Entry { item, size, ..entry }
                    }
                };
                self.end_as_dead_letter(vec![old], endpoint, cause);
            }
            Work::Replay(piece) if piece.is_merged() => self.with_group(|group| group.take_apart(&piece)),
            Work::Replay(piece) => {
                self.with_group(|group| group.on_separated(&piece, endpoint, young, old, cause));
                self.settle_group(now);
            }
        }
        None
    }
}

/// The calls that a dead letter tells of: for spans that were too old there may have been none.
pub(super) fn attempts(calls: u32, cause: &Cause) -> u32 {
    match cause {
        Cause::TooOld { .. } => calls,
        _ => calls.max(1),
    }
}

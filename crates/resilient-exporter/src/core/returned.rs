//! Stored records that returned to the store without an answer that ends them.
//!
//! The mark of a record in the store has the numbers of its calls and refusals. It has neither the instants of its
//! calls nor the call after which a refusal counts: a record that goes alone into each group is never in memory while
//! the endpoint accepts another batch. This process remembers both from group to group.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use otlp_payload::Payload;

use super::batch::{Suspicion, WINDOW};

/// Records that are remembered at a time: as many as one group of small records holds.
const MAX_RECORDS: usize = 1_024;

/// The histories of records that are in the store, by the hash of their request.
#[derive(Default)]
pub(super) struct Returned {
    histories: BTreeMap<u64, History>,
    /// A refusal that does not count yet may be among them.
    has_uncounted: bool,
    /// The last endpoint that has refused a batch which is no suspect since this process began.
    refused_by: Option<usize>,
}

struct History {
    /// The instant of the record's return.
    at: Instant,
    calls: u32,
    suspicion: Suspicion,
}

impl Returned {
    /// A record returns to the store after so many calls that did not deliver it.
    pub(super) fn remember(&mut self, request: &Payload, calls: u32, suspicion: Suspicion, now: Instant) {
        if self.histories.len() >= MAX_RECORDS {
            // Twice the window: a record may wait for a whole window until it is tried again.
            self.histories.retain(|_, history| now.saturating_duration_since(history.at) < WINDOW * 2);
        }
        if self.histories.len() < MAX_RECORDS {
            self.has_uncounted = true;
            self.histories.insert(key(request), History { at: now, calls, suspicion });
        }
    }

    /// A record was read again, after so many calls and with these refusals by its mark: its history goes on.
    pub(super) fn recall(&mut self, request: &Payload, calls: &mut u32, suspicion: &mut Suspicion) {
        // The usual case: no request is hashed.
        let history = if self.histories.is_empty() { None } else { self.histories.remove(&key(request)) };
        match history {
            Some(history) => {
                *calls = history.calls.max(*calls);
                *suspicion = history.suspicion;
            }
            // The mark is of another process, or of a record for which there was no room here. It may be older than
            // the endpoint's own refusal.
            None => self.refused_by.into_iter().for_each(|endpoint| suspicion.on_endpoint_refused(endpoint)),
        }
    }

    /// The endpoint accepted the batch of call number `call`, readably.
    pub(super) fn on_other_accepted(&mut self, call: u64, endpoint: usize) {
        if std::mem::take(&mut self.has_uncounted) {
            for history in self.histories.values_mut() {
                history.suspicion.on_other_accepted(call, endpoint);
                self.has_uncounted |= history.suspicion.has_uncounted();
            }
        }
    }

    /// The endpoint refused a batch that is no suspect.
    pub(super) fn on_endpoint_refused(&mut self, endpoint: usize) {
        self.refused_by = Some(endpoint);
        self.histories.values_mut().for_each(|history| history.suspicion.on_endpoint_refused(endpoint));
    }
}

fn key(request: &Payload) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.bytes().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use otlp_payload::BatchId;
    use otlp_transport::RefusalKind;

    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};
    use crate::seams::fates::{Failures, Refusals};

    /// A refusal by the mark of an ended process says nothing once the endpoint has refused all.
    #[test]
    fn a_refusal_of_the_endpoint_clears_those_of_an_earlier_process() {
        let mut uncounted = Refusals::default();
        uncounted.add(RefusalKind::Batch);
        let now = SystemClock.wall();
        let mark = Failures { calls: 1, uncounted, ..Failures::default() };
        for is_refused in [false, true] {
            let mut returned = Returned::default();
            if is_refused {
                returned.on_endpoint_refused(0);
            }
            let (mut calls, mut suspicion) = (mark.calls, Suspicion::of(&mark, 0));
            let request = Payload::new(BatchId { incarnation: 1, seq: 1 }, now, 1, Bytes::from_static(b"request"));
            returned.recall(&request, &mut calls, &mut suspicion);
            suspicion.on_other_accepted(1, 0);
            assert_eq!((calls, suspicion.makes_dead_letter(false)), (1, !is_refused));
        }
    }
}

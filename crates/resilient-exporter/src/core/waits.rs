//! The oldest batch that waits.

use std::time::Instant;

use super::{Core, Work};

impl Core {
    /// The instant at which the oldest batch was accepted that waits in memory, is in a call, is being written, or that
    /// the journal alone holds; batches of earlier processes in the journal count from the start of this one. Batches
    /// in files are none of these. Cost: one look at each batch that is away from the buffer.
    pub(crate) fn oldest_accepted(&self) -> Option<Instant> {
        let out = self.in_flight.iter().filter_map(|call| match &call.work {
            Work::Live(entry) => Some(entry.accepted),
            Work::Replay(_) => None,
        });
        let oversized = self.oversized.iter().flat_map(|oversized| &oversized.pieces).map(|entry| entry.accepted);
        let kept = self.durable.kept.oldest();
        self.memory.oldest_accepted().into_iter().chain(out).chain(oversized).chain(kept).min()
    }
}

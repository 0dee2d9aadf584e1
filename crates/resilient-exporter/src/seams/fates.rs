//! The end of a replayed batch.

use otlp_payload::Payload;
use otlp_transport::{Cause, RefusalKind};

/// The fate of one stored batch after its calls.
#[derive(Clone, Debug)]
pub enum Fate {
    /// No answer ended the batch: it stays stored, together with the calls that did not deliver it.
    Pending(Failures),
    /// Every span of the batch has an answer.
    Finished {
        /// Spans that the collector took.
        delivered: usize,
        /// Spans that the collector rejected in partial successes.
        rejected: usize,
        /// Parts that became dead letters, each with the cause.
        refused: Vec<Refusal>,
    },
}

/// The calls of a stored batch that did not deliver it. The store keeps them with the batch: over groups always, over
/// restarts where it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failures {
    /// All of them, throttles aside. A store gives batches with fewer of them first.
    pub calls: u32,
    /// Refusals that count against the batch: the same endpoint accepted a batch that was sent after them.
    pub counted: Refusals,
    /// Refusals that do not count yet.
    pub uncounted: Refusals,
}

/// Refusals of one batch, by kind. A failure of a stored batch that may be repeated counts as one of the kind `sender`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// Refusals of the kind [`RefusalKind::Batch`].
    pub batch: u32,
    /// Refusals of the kind [`RefusalKind::Unclear`].
    pub unclear: u32,
    /// Refusals of the kind [`RefusalKind::Sender`].
    pub sender: u32,
}

impl Refusals {
    /// Adds one refusal. A kind that is unknown to this version is unclear.
    pub fn add(&mut self, kind: RefusalKind) {
        let count = match kind {
            RefusalKind::Batch => &mut self.batch,
            RefusalKind::Sender => &mut self.sender,
            _ => &mut self.unclear,
        };
        *count = count.saturating_add(1);
    }

    /// Takes all refusals of `other` over.
    pub fn take_over(&mut self, other: &mut Self) {
        let Self { batch, unclear, sender } = std::mem::take(other);
        self.batch = self.batch.saturating_add(batch);
        self.unclear = self.unclear.saturating_add(unclear);
        self.sender = self.sender.saturating_add(sender);
    }
}

/// Spans that leave the pipeline for a dead letter, and the cause.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The refused spans.
    pub payload: Payload,
    /// The collector's answer.
    pub cause: Cause,
    /// Calls that were made with these bytes.
    pub attempts: u32,
    /// The collector refused them for good. Otherwise their calls failed again and again while others did not: if they
    /// cannot be stored as dead letters, they stay in the fallback.
    pub permanent: bool,
}

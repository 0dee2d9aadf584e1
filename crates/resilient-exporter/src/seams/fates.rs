//! The end of a replayed batch.

use otlp_payload::Payload;
use otlp_transport::Cause;

/// The fate of one stored batch after its calls.
#[derive(Clone, Debug)]
pub enum Fate {
    /// No answer ended the batch: it stays stored.
    Pending,
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

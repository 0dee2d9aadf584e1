//! The end of a replayed batch.

use otlp_payload::Payload;
use otlp_transport::Cause;

/// What became of one stored batch.
#[derive(Clone, Debug)]
pub enum Fate {
    /// No answer that ends it: it stays in the fallback.
    Kept,
    /// Every span of it has an answer.
    Finished {
        /// Spans the collector took.
        delivered: usize,
        /// Spans the collector rejected in partial successes.
        rejected: usize,
        /// Parts that the collector refused for good, each with the reason.
        refused: Vec<Refusal>,
    },
}

/// Spans that leave the pipeline for a dead letter, and why.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The refused spans.
    pub payload: Payload,
    /// The collector's answer.
    pub cause: Cause,
    /// Calls that were made with these bytes.
    pub attempts: u32,
    /// The collector refused them for good. Otherwise they failed again and again while others did not: where they cannot
    /// be kept as dead letters, they stay in the fallback.
    pub permanent: bool,
}

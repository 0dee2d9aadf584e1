//! Encoded bytes with their span count, id and time.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

/// Names one batch for its life in memory, across all retries. It does not survive a file: a replayed batch has a new
/// one.
///
/// `incarnation` tells one run of one process from every other, `seq` counts within it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BatchId {
    /// Random, chosen once per writer.
    pub incarnation: u64,
    /// Counts from 0 within one incarnation.
    pub seq: u64,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.incarnation, self.seq)
    }
}

/// The incarnation, then the number.
impl From<BatchId> for (u64, u64) {
    fn from(id: BatchId) -> Self {
        (id.incarnation, id.seq)
    }
}

/// The incarnation, then the number.
impl From<(u64, u64)> for BatchId {
    fn from((incarnation, seq): (u64, u64)) -> Self {
        Self { incarnation, seq }
    }
}

/// One encoded `ExportTraceServiceRequest`, its span count, its name and its birth, kept together. A clone is a
/// reference count.
#[derive(Clone)]
pub struct Payload {
    id: BatchId,
    created: SystemTime,
    spans: usize,
    bytes: Bytes,
}

impl Payload {
    /// A payload of these parts; `bytes` is trusted to hold `spans` spans.
    #[must_use]
    pub fn new(id: BatchId, created: SystemTime, spans: usize, bytes: Bytes) -> Self {
        Self { id, created, spans, bytes }
    }

    /// The batch's name.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// When the batch was accepted, by the wall clock.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// How many spans the bytes hold.
    #[must_use]
    pub fn span_count(&self) -> usize {
        self.spans
    }

    /// The protobuf bytes of the `ExportTraceServiceRequest`.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("id", &format_args!("{}", self.id))
            .field("spans", &self.spans)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

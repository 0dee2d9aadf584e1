//! Encoded bytes with their signal, item count, id and time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use crate::signal::Signal;

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

/// One encoded request of a [`Signal`], its item count, its name and its birth, kept together. A clone is two reference
/// counts.
#[derive(Clone)]
pub struct Payload {
    id: BatchId,
    created: SystemTime,
    signal: Signal,
    items: usize,
    bytes: Bytes,
    /// The time of the youngest item in nanoseconds since 1970, as the encoder saw it; 0 where only the bytes have it.
    newest: u64,
    /// Shared by all clones.
    coded: Arc<Mutex<Option<Coded>>>,
}

/// The bytes in a coding.
struct Coded {
    coding: &'static str,
    bytes: Bytes,
}

impl Payload {
    /// An `ExportTraceServiceRequest`; `bytes` is trusted to hold `spans` spans.
    #[must_use]
    pub fn new(id: BatchId, created: SystemTime, spans: usize, bytes: Bytes) -> Self {
        Self::of(Signal::Traces, id, created, spans, bytes)
    }

    /// A request of this signal; `bytes` is trusted to hold `items` items.
    #[must_use]
    pub fn of(signal: Signal, id: BatchId, created: SystemTime, items: usize, bytes: Bytes) -> Self {
        Self { id, created, signal, items, bytes, newest: 0, coded: Arc::default() }
    }

    /// The same, whose encoder has seen the time of its youngest item.
    pub(crate) fn with_newest(mut self, nanos: u64) -> Self {
        self.newest = nanos;
        self
    }

    /// That time, if it was seen.
    pub(crate) fn seen_newest(&self) -> Option<u64> {
        Some(self.newest).filter(|nanos| *nanos > 0)
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

    /// The kind of telemetry: decides about the path, the gRPC method and the settings of a call, and about file names.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// How many items the bytes hold: spans, log records or data points.
    #[must_use]
    pub fn item_count(&self) -> usize {
        self.items
    }

    /// The protobuf bytes of the request.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes in a coding such as gzip, which `encode` makes of the plain ones. The payload keeps them for the next
    /// call with this coding, by any clone, beside the plain ones, unless they take more than half as much memory; of
    /// two codings it keeps the last. Pieces of the payload begin without.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use otlp_payload::{BatchId, Payload};
    ///
    /// let id = BatchId { incarnation: 1, seq: 0 };
    /// let payload = Payload::new(id, SystemTime::UNIX_EPOCH, 1, vec![7; 100].into());
    /// let mut made = 0;
    /// for attempt in [payload.clone(), payload] {
    ///     let coded = attempt.coded("run-length", |bytes| {
    ///         made += 1;
    ///         vec![bytes.len() as u8, bytes[0]].into()
    ///     });
    ///     assert_eq!(&coded[..], [100, 7]);
    /// }
    /// assert_eq!(made, 1, "the second attempt uses the bytes of the first");
    /// ```
    pub fn coded(&self, coding: &'static str, encode: impl FnOnce(&[u8]) -> Bytes) -> Bytes {
        // Held for a look: two calls at a time may both encode.
        let lock = || self.coded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*lock()
            && kept.coding == coding
        {
            return kept.bytes.clone();
        }
        let bytes = encode(&self.bytes);
        if bytes.len() <= self.bytes.len() / 2 {
            *lock() = Some(Coded { coding, bytes: bytes.clone() });
        }
        bytes
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("id", &format_args!("{}", self.id))
            .field("signal", &self.signal)
            .field("items", &self.items)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(size: usize) -> Payload {
        Payload::new(BatchId { incarnation: 1, seq: 1 }, SystemTime::UNIX_EPOCH, 3, vec![7; size].into())
    }

    /// Whether a clone of the payload has a form in this coding already.
    fn keeps(payload: &Payload, coding: &'static str) -> bool {
        let mut made = false;
        payload.clone().coded(coding, |bytes| {
            made = true;
            Bytes::copy_from_slice(bytes)
        });
        !made
    }

    #[test]
    fn a_form_of_more_than_half_the_bytes_is_not_kept() {
        for (size, coded, is_kept) in [(100, 50, true), (100, 51, false), (101, 51, false), (1, 0, true), (1, 1, false)]
        {
            let payload = payload(size);
            assert_eq!(payload.coded("gzip", |_| vec![1; coded].into()).len(), coded);
            assert_eq!(keeps(&payload, "gzip"), is_kept, "{coded} of {size}");
        }
    }

    #[test]
    fn of_two_codings_the_last_form_is_kept() {
        let payload = payload(100);
        payload.coded("gzip", |_| vec![1; 10].into());
        assert_eq!(payload.coded("zstd", |_| vec![2; 10].into()), [2; 10][..]);
        assert!(keeps(&payload, "zstd") && !keeps(&payload, "gzip"));
    }

    #[test]
    fn a_form_ends_with_the_last_clone_of_its_payload() {
        let coded = Bytes::from(vec![1; 10]);
        let (first, shared) = (payload(100), coded.clone());
        let second = first.clone();
        first.coded("gzip", |_| shared);
        drop(first);
        assert!(!coded.is_unique() && keeps(&second, "gzip"));
        drop(second);
        assert!(coded.is_unique());
    }
}

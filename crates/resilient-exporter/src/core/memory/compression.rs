//! The compression of waiting batches: which are due, and the room that they need when a call takes them.
//!
//! Compressed batches count with the bytes that they take. A call needs the request itself beside the compressed form,
//! so that a failed call costs no second compression. The room for that is kept beside the limit of the buffer: one
//! request that was compressed always fits, however full the buffer is, and the limit on all bytes holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use span_buffer::{Entry, Limits, Size};

use super::{Memory, sum};
use crate::core::batch::Batch;
use crate::core::packed::{Content, Damaged, Packed};

/// A batch that waits for longer than this is compressed.
const RIPE_AFTER: Duration = Duration::from_secs(1);

/// Requests that are compressed in one go have so many bytes together, about, and are no more than this.
const PACKED_AT_ONCE: usize = 256 * 1_024;
const MOST_PACKED_AT_ONCE: usize = 256;

/// Requests of fewer bytes than this stay plain.
const SHORTEST: usize = 128;

/// The dictionaries of compressed batches take no more bytes than this.
const DICTIONARIES: usize = 16 * 1_024;

/// The room that compressed batches need beside the limit of the buffer.
pub(super) struct Compression {
    /// The limit on all bytes: that of the buffer, the room for unpacked requests, and for dictionaries.
    max_bytes: usize,
    /// The bytes of all dictionaries, at most.
    dictionaries: usize,
    /// The longest request that is compressed: one fits into the room for unpacked requests.
    longest: usize,
    /// The bytes of the requests that are unpacked for their calls.
    pub(super) unpacked: usize,
    /// No batch is to be compressed before this instant.
    ripe_at: Option<Instant>,
}

impl Compression {
    /// An eighth of the limit on bytes is room for unpacked requests: 1 MiB, unless that is more than half of it.
    fn new(max_bytes: usize) -> (Self, usize) {
        let room = (max_bytes / 8).max(1 << 20).min(max_bytes / 2);
        let dictionaries = (room / 8).min(DICTIONARIES);
        let longest = room - dictionaries;
        (Self { max_bytes, dictionaries, longest, unpacked: 0, ripe_at: None }, max_bytes - room)
    }

    fn is_packable(&self, batch: &Batch) -> bool {
        let is_long_enough = |request: &Payload| (SHORTEST..=self.longest).contains(&request.bytes().len());
        !batch.stays_plain && batch.payload.as_plain().is_some_and(is_long_enough)
    }
}

impl Memory {
    /// The same, whose waiting batches are compressed.
    pub(in crate::core) fn with_compression(limits: Limits) -> Self {
        let (compression, max_bytes) = Compression::new(limits.max_bytes);
        Self { compression: Some(compression), ..Self::new(Limits { max_bytes, ..limits }) }
    }

    /// The oldest requests that are to be compressed now, in one go.
    pub(in crate::core) fn ripe(&mut self, now: Instant) -> Vec<Payload> {
        let (mut ripe, mut bytes, mut next) = (Vec::new(), 0, None);
        let Some(compression) = &mut self.compression else { return ripe };
        if compression.ripe_at.is_none_or(|instant| now < instant) {
            return ripe;
        }
        for entry in self.buffer.iter().filter(|entry| compression.is_packable(&entry.item)) {
            let ripe_at = entry.accepted + RIPE_AFTER;
            if ripe_at > now || bytes >= PACKED_AT_ONCE || ripe.len() >= MOST_PACKED_AT_ONCE {
                next = Some(ripe_at);
                break;
            }
            bytes += entry.item.payload.request_len();
            ripe.extend(entry.item.payload.as_plain().cloned());
        }
        compression.ripe_at = next;
        ripe
    }

    /// The instant at which [`ripe`](Self::ripe) may have requests.
    pub(in crate::core) fn ripe_at(&self) -> Option<Instant> {
        self.compression.as_ref()?.ripe_at
    }

    /// These requests were compressed, or are not worth it. Those of batches that left the buffer meanwhile end here.
    pub(in crate::core) fn on_packed(&mut self, results: Vec<(BatchId, Option<Packed>)>) {
        let mut results = results.into_iter().collect::<BTreeMap<_, _>>();
        self.buffer.resize(|batch, size| {
            if results.is_empty() || batch.payload.as_plain().is_none() {
                return size;
            }
            match results.remove(&batch.payload.id()) {
                Some(Some(packed)) => {
                    let size = Size { bytes: packed.len(), ..size };
                    batch.payload = Content::Packed(packed);
                    size
                }
                Some(None) => {
                    batch.stays_plain = true;
                    size
                }
                None => size,
            }
        });
    }

    /// The bytes of all dictionaries, at most. None if waiting batches stay plain.
    pub(crate) fn dictionary_room(&self) -> Option<usize> {
        self.compression.as_ref().map(|compression| compression.dictionaries)
    }

    /// A batch waits that was accepted at this instant.
    pub(super) fn note_ripe(&mut self, batch: &Batch, accepted: Instant) {
        if let Some(compression) = self.compression.as_mut().filter(|compression| compression.is_packable(batch)) {
            let ripe_at = accepted + RIPE_AFTER;
            compression.ripe_at = Some(compression.ripe_at.map_or(ripe_at, |first| first.min(ripe_at)));
        }
    }

    /// The longest request that may be unpacked now. While none is, each one that was compressed may be.
    pub(super) fn room_to_unpack(&self) -> usize {
        let Some(Compression { max_bytes, dictionaries, longest, unpacked, .. }) = self.compression else {
            return usize::MAX;
        };
        let taken = self.taken_size().bytes + unpacked + dictionaries;
        let free = max_bytes.saturating_sub(taken);
        let is_within = !self.is_over(self.held_size(), (1, 1));
        if unpacked == 0 && is_within { free.max(longest) } else { free }
    }

    /// The request of a batch whose pieces are to be in memory, plain. None without room for it.
    pub(in crate::core) fn plain_within(&self, content: &Content) -> Result<Option<Payload>, Damaged> {
        if content.unpacked_len() > self.room_to_unpack() {
            return Ok(None);
        }
        content.plain().map(Some)
    }

    // Queries.

    pub(crate) fn limits(&self) -> Limits {
        let limits = self.buffer.limits();
        let max_bytes = self.compression.as_ref().map_or(limits.max_bytes, |compression| compression.max_bytes);
        Limits { max_bytes, ..limits }
    }

    /// The memory that all batches take, and the requests that are unpacked for their calls.
    pub(crate) fn occupied_size(&self) -> Size {
        let unpacked = self.compression.as_ref().map_or(0, |compression| compression.unpacked);
        sum(self.held_size(), Size { count: 0, bytes: unpacked })
    }
}

/// A call may take the batch now, as far as it is concerned, with this room for its request.
pub(super) fn is_ready(entry: &Entry<Batch>, room: usize, now: Instant) -> bool {
    entry.item.waits_until(now).is_none() && entry.item.payload.unpacked_len() <= room
}

//! The seam to the store of batches that memory has no room for.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use otlp_payload::Payload;

use super::dead_letters::{DeadLetter, DeadLetterError, Redriven};
use super::fates::{Failures, Fate, Refusal};
use crate::report::ledger::DropReason;

/// Stores batches that could not be delivered, until they are. One thread at a time calls it, the disk thread, which
/// may block in it for as long as the storage takes; the net thread goes on meanwhile. A panic is contained and counts
/// as an error.
pub trait Fallback: Send + 'static {
    /// The files and spans that are stored now. Must not touch the storage: the disk thread calls it after every
    /// operation.
    fn usage(&self) -> Usage;

    /// The damaged files that wait for an operator. Must not touch the storage, as [`usage`](Self::usage).
    fn set_aside(&self) -> SetAside {
        SetAside::default()
    }

    /// The [dead letters](Self::store_dead_letters) that are stored now, for health. Must not touch the storage, as
    /// [`usage`](Self::usage).
    fn dead_letter_usage(&self) -> Usage {
        Usage::default()
    }

    /// The limit on the bytes that are stored, for health: where it is shared, what the others leave of it now. `None`
    /// stands for the limit of the settings. Must not touch the storage, as [`usage`](Self::usage).
    fn max_bytes(&self) -> Option<u64> {
        None
    }

    /// The time until stored batches must be removed, at the rate at which batches are stored now, for health. Called
    /// after every operation: cheap, and at most a question to the file system about its free space.
    fn full_in(&mut self, now: SystemTime) -> Option<Duration> {
        let _ = now;
        None
    }

    /// When the oldest stored batch was accepted, by the wall clock, or was stored if that is not known: health shows
    /// its age. Called after every operation; must not touch the storage.
    fn oldest(&mut self) -> Option<SystemTime> {
        None
    }

    /// Until when no batch is removed for its age, because the wall clock at the start was far beyond the newest time
    /// that an earlier process had seen: health names it. Must not touch the storage.
    fn age_rests_until(&self) -> Option<SystemTime> {
        None
    }

    /// Stores batches so that they survive this process.
    ///
    /// # Errors
    /// No part of `batches` is stored. The batches stay in memory, and the disk thread tries again later.
    fn store(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError>;

    /// As [`store`](Self::store), beside a journal that must know which file takes the batches over: the implementation
    /// calls `announce` with the file's name before the file can be found under it. Without an override no name is
    /// announced, and a crash in between delivers the batches twice.
    ///
    /// # Errors
    /// As `store`.
    fn store_announced(
        &mut self,
        batches: &[Payload],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Stored, FallbackError> {
        let _ = announce;
        self.store(batches, now)
    }

    /// The file with this name, which was announced before a crash, is stored durably. Called while a journal is
    /// opened, also one of a process that has ended.
    ///
    /// # Errors
    /// If the storage cannot answer now.
    fn has_file(&mut self, name: &str) -> io::Result<bool> {
        let _ = name;
        Ok(false)
    }

    /// Reads stored batches for a replay in this order: one at least, and about `max_bytes` together. They stay stored
    /// until [`settle`](Self::settle) is called with one fate for each; there is one such group at a time.
    ///
    /// # Errors
    /// The storage failed; all batches stay stored.
    fn read(&mut self, order: Order, max_bytes: usize) -> Result<ReadBack, FallbackError>;

    /// Reads ahead: prepares the group that the next [`read`](Self::read) in this order and of this size returns, so
    /// that it need not wait for the storage. The disk thread calls it behind a `read`, while that group is being sent
    /// and no other work waits. The batches stay stored, and nothing changes if no `read` follows: limits may remove
    /// them, and a group that is prepared need not be the one that is read. Failures are those of the next `read`.
    /// Without an override nothing is prepared.
    fn read_ahead(&mut self, order: Order, max_bytes: usize) {
        let _ = (order, max_bytes);
    }

    /// Marks the batches of the last group by their fates, in the order of the group: finished batches are never read
    /// again, the others are.
    ///
    /// # Errors
    /// The storage failed: finished batches may be read again after a restart, but not before it.
    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError>;

    /// Removes stored batches that exceed the store's limits; called when [`next_clean_up`](Self::next_clean_up) has
    /// passed, and about once a second while the fallback is in use.
    fn clean_up(&mut self, now: SystemTime);

    /// The time after which [`clean_up`](Self::clean_up) has work to do if no other method is called before. `None`:
    /// none; the disk thread sleeps until the fallback is used. Must not touch the storage.
    fn next_clean_up(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    /// Takes the changes by other ways than `store` and `settle` since the last call. Called after every operation.
    fn changes(&mut self) -> Vec<Change>;

    /// Stores spans that a collector refused for good, or that fail while others do not, as dead letters for an
    /// operator. Returns how many of them are stored, counted from the first; the others stay where they are, and the
    /// disk thread tries again later. `None`, as without an override: this fallback keeps no dead letters, and the
    /// spans are dropped.
    fn store_dead_letters(&mut self, refusals: &[Refusal], endpoint: &str, now: SystemTime) -> Option<usize> {
        let _ = (refusals, endpoint, now);
        None
    }

    /// The ids of all [dead letters](Self::store_dead_letters), oldest first.
    ///
    /// # Errors
    /// If the storage cannot answer now.
    fn dead_letter_ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        Ok(Vec::new())
    }

    /// The description of one dead letter, without a read of its spans.
    ///
    /// # Errors
    /// If no letter has this id, or the letter cannot be read.
    fn describe_dead_letter(&mut self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }

    /// The description of one dead letter, and its spans as lines of OTLP JSON.
    ///
    /// # Errors
    /// If no letter has this id, or the letter cannot be read.
    fn dead_letter(&mut self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }

    /// Moves one dead letter to the stored batches, from which [`read`](Self::read) takes it: stores its spans before
    /// it removes the letter, and removes no other batch for it. [`usage`](Self::usage) counts its spans from then on.
    ///
    /// # Errors
    /// The letter stays, and none of its spans is stored.
    fn redrive(&mut self, id: &str, now: SystemTime) -> Result<Redriven, DeadLetterError> {
        let _ = now;
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }

    /// Removes one dead letter for good; returns the number of its spans.
    ///
    /// # Errors
    /// If no letter has this id, or the letter cannot be removed.
    fn remove_dead_letter(&mut self, id: &str) -> Result<u64, DeadLetterError> {
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }
}

/// The storage that a fallback takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Files, objects or rows: the fallback's own unit.
    pub files: u64,
    /// Spans that are neither finished nor lost.
    pub spans: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Files that hold something that could not be read as spans. All spans that could be read were delivered; the rest
/// left the ledger as dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAside {
    /// Files, objects or rows: the fallback's own unit.
    pub files: u64,
    /// Spans that they held when they were written: no fewer than were lost with them.
    pub spans: u64,
}

/// Batches were stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// The place: a file name for people.
    pub name: String,
}

/// A stored batch on its way back to the collector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredBatch {
    /// An encoded request of the pipeline's signal, for an exporter of spans an `ExportTraceServiceRequest`.
    pub request: Bytes,
    /// The number of items in it.
    pub spans: usize,
    /// The failures of the [fate](Fate::Pending) with which it was marked last.
    pub failures: Failures,
}

impl StoredBatch {
    /// A batch of `spans` spans that no call has failed to deliver.
    #[must_use]
    pub fn new(request: Bytes, spans: usize) -> Self {
        Self { request, spans, failures: Failures::default() }
    }
}

/// The order in which stored batches are read for a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Order {
    /// Those with the fewest failed calls first, the oldest first among equals: a batch that always fails keeps no
    /// other one waiting.
    FewestFailures,
    /// The oldest first, however often they have failed. Each eighth group is read so: where new batches are stored as
    /// fast as others are delivered, those that failed once would wait for ever. A store whose batches have no age may
    /// treat this as [`FewestFailures`](Self::FewestFailures).
    Oldest,
    /// Those with the fewest failed calls first, the newest first among equals; in place of `FewestFailures` where
    /// [`ReplayOrder::Newest`](crate::ReplayOrder::Newest) is set. A store may order files or other units in place of
    /// single batches. A store that cannot read the newest first may treat this as
    /// [`FewestFailures`](Self::FewestFailures).
    FewestFailuresNewest,
}

/// The result of a read for a replay.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReadBack {
    /// Stored batches; one at least.
    Group(Vec<StoredBatch>),
    /// The read has searched for a while without a batch to send, and more files are left: the disk thread does other
    /// work and reads again. A store that finds its batches at once never returns this.
    Pause,
    /// No batch is stored, or all of them are read.
    Empty,
}

/// Stored spans arrived or left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A limit removed them, or they were damaged.
    Dropped {
        /// How many.
        spans: u64,
        /// The limit or the damage.
        reason: DropReason,
    },
    /// Another process took them.
    TakenOver {
        /// How many.
        spans: u64,
    },
    /// Dead letters were removed by their own limits. Their spans had ended before: no number of the ledger changes.
    /// Log their names: the exporter does not know them.
    DeadLettersEvicted {
        /// How many.
        spans: u64,
    },
    /// They were found: of a process that has ended, or beyond the number that a file's name promised.
    Recovered {
        /// How many.
        spans: u64,
    },
}

/// An operation on the fallback failed. `Display` names the cause, the place and the next step.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FallbackError {
    #[source]
    error: Box<dyn Error + Send + Sync>,
    of_batches: bool,
}

impl FallbackError {
    /// The storage is in trouble: all batches stay where they are, and the disk thread tries again.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), of_batches: false }
    }

    /// The storage works and refuses these batches together. The disk thread stores fewer at a time; a batch that is
    /// refused alone delays no other.
    pub fn of_batches(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), of_batches: true }
    }

    /// The error concerns the batches and not the storage.
    #[must_use]
    pub fn is_of_batches(&self) -> bool {
        self.of_batches
    }
}

//! The seam to where batches go when memory is not enough.

use std::error::Error;
use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use otlp_payload::Payload;

use crate::report::ledger::DropReason;
use crate::seams::dead_letters::{DeadLetter, DeadLetterError, Redriven};
use crate::seams::fates::{Fate, Refusal};

/// Keeps batches that could not be delivered, until they are. Called by one thread at a time, the disk thread, which
/// may block in it for as long as the storage takes; the network goes on meanwhile. A panic is contained and counts as
/// an error.
pub trait Fallback: Send + 'static {
    /// What is kept now. Must not touch the storage: it is asked after every operation.
    fn kept(&self) -> Kept;

    /// Stores batches so that they survive this process.
    ///
    /// # Errors
    /// Nothing of `batches` is kept; the caller keeps them in memory and tries again later.
    fn keep(&mut self, batches: &[Payload], now: SystemTime) -> Result<Stored, FallbackError>;

    /// As [`keep`](Self::keep), with a journal that must know which file will have the batches: `announce` is to be told the name before the
    /// file can be found under it. Without an override nobody is told, and a crash in between brings the batches twice.
    ///
    /// # Errors
    /// As `keep`.
    fn keep_announced(
        &mut self,
        batches: &[Payload],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Stored, FallbackError> {
        let _ = announce;
        self.keep(batches, now)
    }

    /// Whether a file that was announced stands, durably. Asked when a journal is opened.
    ///
    /// # Errors
    /// If that is not known now.
    fn holds(&mut self, name: &str) -> io::Result<bool> {
        let _ = name;
        Ok(false)
    }

    /// The oldest stored batches, of about `max_bytes` together and at least one, each an encoded
    /// `ExportTraceServiceRequest` and its span count; none when nothing is stored, or when it [gave way](Self::gave_way). They
    /// stay stored until `finish` is called
    /// with one fate for each; there is one such group at a time.
    ///
    /// # Errors
    /// The storage failed; what is stored stays.
    fn read(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, usize)>, FallbackError>;

    /// Whether the last `read` found nothing of use for so long that others were to have their turn: it is called again
    /// after them. A store that never looks through much in vain need not say so; false by default.
    fn gave_way(&self) -> bool {
        false
    }

    /// Takes note of what became of each batch that `read` gave last, in its order: finished batches are never given
    /// again, the others are.
    ///
    /// # Errors
    /// The storage failed: finished batches may be given again after a restart, not before it.
    fn finish(&mut self, fates: &[Fate]) -> Result<(), FallbackError>;

    /// Removes what its caps do not allow any more; called about once a second.
    fn clean_up(&mut self, now: SystemTime);

    /// What came or went by other ways than `keep` and `finish` since it was asked last. Asked after every operation.
    fn changes(&mut self) -> Vec<Change>;

    /// Keeps spans that a collector refused for good, or that fail while others do not, where a person finds them. Says whether they are kept.
    fn bury(&mut self, refusals: &[Refusal], endpoint: &str, now: SystemTime) -> bool {
        let _ = (refusals, endpoint, now);
        false
    }

    /// The ids of all that [`bury`](Self::bury) keeps, oldest first.
    ///
    /// # Errors
    /// If that is not known now.
    fn dead_letter_ids(&mut self) -> Result<Vec<String>, DeadLetterError> {
        Ok(Vec::new())
    }

    /// What is known of one of them, without reading its spans.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be read.
    fn describe_dead_letter(&mut self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }

    /// The same, and its spans as lines of OTLP JSON.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be read.
    fn dead_letter(&mut self, id: &str) -> Result<(DeadLetter, Vec<String>), DeadLetterError> {
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }

    /// Moves one of them to what is stored, from where [`read`](Self::read) gives it; stores it before it removes the letter, and drops
    /// nothing for it. [`kept`](Self::kept) has its spans then.
    ///
    /// # Errors
    /// The letter stays, and nothing of it is stored.
    fn redrive(&mut self, id: &str, now: SystemTime) -> Result<Redriven, DeadLetterError> {
        let _ = now;
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }

    /// Removes one of them for good; says how many spans were in it.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be removed.
    fn remove_dead_letter(&mut self, id: &str) -> Result<u64, DeadLetterError> {
        Err(DeadLetterError::Unknown { id: id.to_owned() })
    }
}

/// What a fallback holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Files, objects or whatever it counts.
    pub files: u64,
    /// Spans that are neither finished nor lost.
    pub spans: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Batches were stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// Where: a file name for people.
    pub name: String,
}

/// Stored spans came or went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A cap removed them, or they were damaged.
    Dropped {
        /// How many.
        spans: u64,
        /// Why.
        reason: DropReason,
    },
    /// Another process took them.
    TakenOver {
        /// How many.
        spans: u64,
    },
    /// Dead letters were removed to keep their own limits. They had ended before: no number of the ledger changes.
    LettersEvicted {
        /// How many spans were in them.
        spans: u64,
    },
    /// Of a process that has ended, or more than a file's name promised.
    Recovered {
        /// How many.
        spans: u64,
    },
}

/// The storage would not do it. `Display` names the place and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FallbackError {
    #[source]
    error: Box<dyn Error + Send + Sync>,
    of_batches: bool,
}

impl FallbackError {
    /// The storage is in trouble: everything waits, and it is tried again.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), of_batches: false }
    }

    /// The storage works, but will not take these batches together: fewer at a time may pass, and one that does not pass
    /// alone holds up no other.
    pub fn of_batches(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), of_batches: true }
    }

    /// Whether it is about the batches and not about the storage.
    #[must_use]
    pub fn is_of_batches(&self) -> bool {
        self.of_batches
    }
}

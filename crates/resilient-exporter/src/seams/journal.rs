//! The seam to the store of accepted batches that survives a crash.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use otlp_payload::{BatchId, Payload};

/// Stores a copy of each accepted batch until it is marked as done. One thread at a time calls it, the journal thread,
/// which may block in it; `export` waits for that thread no longer than the journal's time-out, and the disk thread
/// writes and reads fallback files meanwhile. A panic is contained and counts as an error.
///
/// Appended batches must survive the end of the process; a power cut may take everything since the last
/// [`sync`](Self::sync) that returned `Ok`.
pub trait Journal: Send + 'static {
    /// A number that the ids of this process's batches carry, and no other batch.
    fn incarnation(&self) -> u64;

    /// Writes one batch.
    ///
    /// # Errors
    /// No part of the batch is stored: the batch is in memory only. [`JournalError::full`] says that older batches are
    /// in the way, by the journal's own limit or because the disk takes no more bytes: the exporter makes room and
    /// appends the batch again. After any other error it appends the batch once more when another append succeeds.
    fn append(&mut self, batch: &Payload) -> Result<(), JournalError>;

    /// Marks batches as done: delivered, refused, dropped or in a file. After the next `sync` no start returns them.
    /// Unknown ids are passed over.
    ///
    /// # Errors
    /// The mark was not written; a restart may return the batches.
    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError>;

    /// Notes that a fallback file of this name takes these batches over once it is stored; called before the file is
    /// written. A later announcement of the same batches replaces this one.
    ///
    /// # Errors
    /// The note was not written; a crash during the hand-over may deliver the batches twice.
    fn announce(&mut self, file: &str, ids: &[BatchId]) -> Result<(), JournalError>;

    /// The announced file was not written: these batches stay in the journal.
    ///
    /// # Errors
    /// The note was not written. The file's absence has the same meaning.
    fn take_back(&mut self, ids: &[BatchId]) -> Result<(), JournalError>;

    /// Makes every append and mark so far durable.
    ///
    /// # Errors
    /// Appends and marks since the last success are not durable; the journal thread syncs again soon.
    fn sync(&mut self) -> Result<(), JournalError>;

    /// Takes the number of spans that were found since the last call: those of the process before at open, later those
    /// of other processes that have ended. [`next_recovered`](Self::next_recovered) returns their batches.
    fn found(&mut self) -> u64;

    /// The next batch that was found. The batch stays in the journal, under its id, until it is done.
    fn next_recovered(&mut self, now: SystemTime) -> Recovered;

    /// Reads a batch that was appended or recovered and that is not done. The batch stays in the journal, under its id.
    /// Called for batches that left memory, if [`can_read`](Self::can_read); [`Recovered::End`] says that the journal
    /// does not have the batch.
    fn read(&mut self, id: BatchId, now: SystemTime) -> Recovered {
        let _ = (id, now);
        Recovered::Later(JournalError::new("this journal reads no batch back by its id"))
    }

    /// [`read`](Self::read) works. Without it each batch stays in memory until it has ended, also where the journal has
    /// it. Asked once, before the first batch.
    fn can_read(&self) -> bool {
        false
    }

    /// Takes the batches that the journal has lost since the last call although they were not done, such as by another
    /// program's removal of its directory or of a file in it. Called after each call that may touch the storage. The
    /// exporter appends the batches that are in memory again, under their ids, and counts the others as lost; the
    /// journal returns none of them unless they are appended. A journal that loses nothing keeps the default.
    fn take_vanished(&mut self) -> Vanished {
        Vanished::default()
    }

    /// Gives up the oldest batches at once, as many as are stored together (a segment), without a new byte on the
    /// disk. Called when the disk takes no more bytes and memory has no room. Returns the batches that were not done;
    /// [`next_recovered`](Self::next_recovered) returns none of them afterwards. `None`: nothing can go.
    ///
    /// # Errors
    /// The storage failed; nothing was given up.
    fn remove_oldest_finished(&mut self) -> Result<Option<Lost>, JournalError> {
        Ok(None)
    }

    /// The time after which [`maintain`](Self::maintain) has work to do if no other method is called before. `None`:
    /// none; the journal thread sleeps until it has a batch or a mark. Must not touch the storage.
    fn next_maintenance(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    /// Clears up, in a bounded step; called when [`next_maintenance`](Self::next_maintenance) has passed, and about
    /// once a second while the journal is in use. `has_file` asks the fallback for a file, for journals of processes
    /// that have ended; its answer is an error while the disk thread is busy.
    ///
    /// # Errors
    /// The storage failed; the journal thread calls again.
    fn maintain(&mut self, has_file: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError>;

    /// The batches and bytes that are stored now. Must not touch the storage.
    fn usage(&self) -> JournalUsage;
}

/// The storage that a journal takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JournalUsage {
    /// Batches that are not done.
    pub batches: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The limit of `bytes`; 0 if there is none, or none is known.
    pub max_bytes: u64,
}

/// Batches that a journal no longer has although they were not done.
///
/// ```
/// use otlp_payload::BatchId;
/// use resilient_exporter::{Lost, Vanished};
///
/// // One batch that was appended; and one of 40 spans that an earlier process has left and that was not read.
/// let lost = Lost { batches: vec![BatchId { incarnation: 7, seq: 3 }], unread: 40 };
/// assert_ne!(Vanished::from(lost), Vanished::default());
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Those that were appended, or that [`Journal::next_recovered`] has returned.
    pub batches: Vec<BatchId>,
    /// The spans of all others: [`Journal::found`] has counted them, and `next_recovered` does not return them.
    pub unread: u64,
}

/// The batches that vanished from a journal; see [`Journal::take_vanished`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vanished {
    /// These batches; none, by default.
    Batches {
        /// No process has them any more, this one's memory aside.
        lost: Lost,
        /// Another process has them, or the next [`Journal::found`] counts them.
        taken_over: Lost,
    },
    /// All that the journal had, which is to say all but those that the next [`Journal::found`] counts: for a journal
    /// that does not know its batches one by one.
    All,
}

impl Default for Vanished {
    fn default() -> Self {
        Lost::default().into()
    }
}

impl From<Lost> for Vanished {
    /// No process has these batches any more.
    fn from(lost: Lost) -> Self {
        Self::Batches { lost, taken_over: Lost::default() }
    }
}

impl Vanished {
    pub(crate) fn is_all(&self) -> bool {
        *self == Self::All
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Batches { lost, taken_over } => lost.is_empty() && taken_over.is_empty(),
            Self::All => false,
        }
    }

    /// This batch is one of them.
    pub(crate) fn has(&self, id: BatchId) -> bool {
        match self {
            Self::Batches { lost, taken_over } => lost.batches.contains(&id) || taken_over.batches.contains(&id),
            Self::All => true,
        }
    }

    /// Adds those that vanished after these.
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Batches { lost, taken_over }, Self::Batches { lost: more_lost, taken_over: more_taken_over }) => {
                lost.add(more_lost);
                taken_over.add(more_taken_over);
            }
            (Self::All, _) | (_, Self::All) => *self = Self::All,
        }
    }
}

impl Lost {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.unread == 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.batches.extend(other.batches);
        self.unread += other.unread;
    }
}

/// A batch that is read from the journal.
#[derive(Debug)]
pub enum Recovered {
    /// A batch.
    Batch(Payload),
    /// Spans that damage has taken.
    Damaged {
        /// How many.
        spans: u64,
    },
    /// The storage failed: the journal thread asks again later.
    Later(JournalError),
    /// Every batch was returned; of [`Journal::read`]: the journal does not have this one.
    End,
}

/// An operation on the journal failed. `Display` names the cause, the place and the next step.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct JournalError {
    #[source]
    error: Box<dyn Error + Send + Sync>,
    is_full: bool,
}

impl JournalError {
    /// With the cause, for people.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), is_full: false }
    }

    /// Older batches are in the way of an append: the journal has reached its limit, or the disk takes no more bytes.
    pub fn full(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), is_full: true }
    }

    /// The append succeeds once older batches have gone.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

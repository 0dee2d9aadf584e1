//! The seam to the store of accepted batches that survives a crash.

use std::error::Error;
use std::io;
use std::time::SystemTime;

use otlp_payload::{BatchId, Payload};

/// Stores a copy of each accepted batch until it is marked as done. One thread at a time calls it, the disk thread,
/// which may block in it; `export` waits for that thread no longer than the journal's time-out. A panic is contained
/// and counts as an error.
///
/// Appended batches must survive the end of the process; a power cut may take everything since the last
/// [`sync`](Self::sync) that returned `Ok`.
pub trait Journal: Send + 'static {
    /// A number that the ids of this process's batches carry, and no other batch.
    fn incarnation(&self) -> u64;

    /// Writes one batch.
    ///
    /// # Errors
    /// No part of the batch is stored: the batch is in memory only.
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
    /// Appends and marks since the last success are not durable; the disk thread syncs again soon.
    fn sync(&mut self) -> Result<(), JournalError>;

    /// Takes the number of spans that were found since the last call: those of the process before at open, later those
    /// of other processes that have ended. [`next_recovered`](Self::next_recovered) returns their batches.
    fn found(&mut self) -> u64;

    /// The next batch that was found. The batch stays in the journal, under its id, until it is done.
    fn next_recovered(&mut self, now: SystemTime) -> Recovered;

    /// Clears up, in a bounded step; called about once a second. `has_file` asks the fallback for a file, for journals
    /// of processes that have ended.
    ///
    /// # Errors
    /// The storage failed; the disk thread calls again.
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
}

/// The next of the batches that were found.
#[derive(Debug)]
pub enum Recovered {
    /// A batch.
    Batch(Payload),
    /// Spans that damage has taken.
    Damaged {
        /// How many.
        spans: u64,
    },
    /// The storage failed: the disk thread asks again later.
    Later(JournalError),
    /// Every batch was returned.
    End,
}

/// An operation on the journal failed. `Display` names the cause, the place and the next step.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JournalError(#[source] Box<dyn Error + Send + Sync>);

impl JournalError {
    /// With the cause, for people.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

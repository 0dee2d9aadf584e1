//! The seam to where accepted batches have a shadow on disk, so that they survive this process.

use std::error::Error;
use std::io;
use std::time::SystemTime;

use otlp_payload::{BatchId, Payload};

/// Keeps a copy of each accepted batch until it is marked as done. Called by one thread at a time, the disk thread, which may block
/// in it; `export` waits for that thread, but no longer than the journal's time-out. A panic is contained and counts as an error.
///
/// Nothing needs to survive a power cut before [`sync`](Self::sync) has returned `Ok`; what was appended survives the
/// end of the process.
pub trait Journal: Send + 'static {
    /// Names the batches of this life of the program: no batch of another life has it in its id.
    fn incarnation(&self) -> u64;

    /// Writes one batch.
    ///
    /// # Errors
    /// Nothing of it is kept; it stays in memory only.
    fn append(&mut self, batch: &Payload) -> Result<(), JournalError>;

    /// Marks batches as done: delivered, refused, dropped or in a file. They do not come back after the next `sync`. Ids that it
    /// does not have are passed over.
    ///
    /// # Errors
    /// The mark was not written; they may come back after a restart.
    fn done(&mut self, ids: &[BatchId]) -> Result<(), JournalError>;

    /// Notes that the fallback's file of this name will have these batches, once it stands: told before the file is written. A
    /// later announcement of the same batches replaces this one.
    ///
    /// # Errors
    /// It was not written; a crash during the hand-over may bring the batches twice.
    fn announce(&mut self, file: &str, ids: &[BatchId]) -> Result<(), JournalError>;

    /// The announced file was not written: these batches stay here.
    ///
    /// # Errors
    /// It was not written. The file that is not there says the same.
    fn take_back(&mut self, ids: &[BatchId]) -> Result<(), JournalError>;

    /// Makes everything durable that was appended and marked.
    ///
    /// # Errors
    /// Nothing since the last success is durable; it is asked again soon.
    fn sync(&mut self) -> Result<(), JournalError>;

    /// How many spans were found since it was asked last: at open those of the life before, later those of other processes that have
    /// ended. [`next_recovered`](Self::next_recovered) gives them out.
    fn found(&mut self) -> u64;

    /// The next batch that was found; it stays in the journal, under the id that it has here, until it is done.
    fn next_recovered(&mut self, now: SystemTime) -> Recovered;

    /// Clears up, a bounded step; called about once a second. `holds` says whether the fallback has a file, for journals of other processes that
    /// have ended.
    ///
    /// # Errors
    /// The storage failed; it is asked again.
    fn maintain(&mut self, holds: &mut dyn FnMut(&str) -> io::Result<bool>) -> Result<(), JournalError>;

    /// What it holds now. Must not touch the storage.
    fn kept(&self) -> Journaled;
}

/// What a journal holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Journaled {
    /// Batches that are not done.
    pub batches: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// One of the batches that were found.
#[derive(Debug)]
pub enum Recovered {
    /// Whole.
    Batch(Payload),
    /// Lost to damage.
    Damaged {
        /// How many spans.
        spans: u64,
    },
    /// The storage failed: ask again later.
    Later(JournalError),
    /// All were given out.
    End,
}

/// The journal would not do it. `Display` names the place and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JournalError(#[source] Box<dyn Error + Send + Sync>);

impl JournalError {
    /// With the reason, for people.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

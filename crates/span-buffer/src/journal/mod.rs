//! A crash-safe shadow of batches that wait: what was appended and synced is there after `kill -9` and power cut, until it is
//! marked as done.
//!
//! It keeps bytes with an id and a count, in segment files in a directory of its own (a [`Directory`](safe_dir::Directory), which it locks). It has no
//! thread and no clock, and decides nothing: one thread appends, marks and syncs, and [`SyncSchedule`] tells that thread when. Format,
//! promises and loss windows are in `docs/journal.md`.
//!
//! ```
//! use safe_dir::SafeDir;
//! use span_buffer::journal::{BatchId, Config, Journal};
//!
//! # let scratch = tempfile::tempdir()?;
//! # let path = scratch.path().join("journal");
//! let open = |incarnation| -> Result<_, Box<dyn std::error::Error>> {
//!     let (journal, _report) = Journal::open(SafeDir::open(&path)?, Config::default(), incarnation, |_file| Ok(false))?;
//!     Ok(journal)
//! };
//! let mut journal = open(0x5eed)?; // a random number in earnest
//! let id = |seq| BatchId { incarnation: 0x5eed, seq };
//! journal.append(id(1), 512, b"a batch of 512")?;
//! journal.append(id(2), 1, b"a batch of one")?;
//! journal.sync()?; // one sync for both: only now they are safe
//! journal.done(&[id(1)])?;
//! journal.sync()?;
//! drop(journal); // or kill -9
//!
//! let mut journal = open(0xfeed)?;
//! let batch = journal.next_recovered().expect("one was not done")?;
//! assert_eq!((batch.id, batch.count, &batch.body[..]), (id(2), 1, &b"a batch of one"[..]));
//! assert!(journal.next_recovered().is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod error;
mod frame;
mod index;
mod maintain;
mod notice;
mod read;
mod recover;
mod scan;
mod schedule;
mod segment;
mod tail;
mod write;

pub use config::Config;
pub use error::{AppendError, MaintainError, MarkError, OpenError, ReadError, SyncError};
pub use notice::{Notice, Report, Status};
pub use read::Batch;
pub use schedule::{SyncPolicy, SyncSchedule};
pub use write::Journal;

/// Names one batch for good: no two batches ever have the same, in this life of the program or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// Which life of the program: [`Journal::incarnation`] for batches of this one.
    pub incarnation: u64,
    /// Which batch of that life; never used twice, also not after the batch is done.
    pub seq: u64,
}

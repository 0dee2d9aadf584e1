#![doc = include_str!("../README.md")]

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

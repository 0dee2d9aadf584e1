#![doc = include_str!("../README.md")]

mod config;
mod error;
mod frame;
mod index;
mod limits;
mod maintain;
mod notice;
mod peek;
mod read;
mod recover;
mod scan;
mod schedule;
mod segment;
mod tail;
mod take_over;
mod vanish;
mod write;

pub use config::Config;
pub use error::{AppendError, MaintainError, MarkError, OpenError, ReadError, SyncError, TakeOverError};
pub use notice::{Kept, Notice, Report, Status};
pub use peek::first_body;
pub use read::Batch;
pub use schedule::{SyncPolicy, SyncSchedule};
pub use take_over::TakenOver;
pub use write::Journal;

/// The id of a batch: the incarnation of its writer, which stands for one run of a program, and the number of the batch
/// in that run, by which the batches of one run are ordered.
///
/// No two batches ever have the same id. [`Journal::incarnation`] is the first half for batches of this run; a number
/// is not used again after its batch is done. Methods accept any type that converts into this pair.
pub type Id = (u64, u64);

#![doc = include_str!("../README.md")]
//!
//! # Source files
//!
//! Each part has private state and is used through its methods; imports run down this list only.
//!
//! | File | Purpose |
//! | --- | --- |
//! | `dead_letters` | records that a receiver refused for good, with the reason; on top of a store |
//! | `store` | the store: composes the parts below |
//! | `write` | encodes records, writes and publishes a new file |
//! | `limits` | removes files until the limits hold, or refuses a new one |
//! | `files` | the files on the disk and their state: start, replay, verdicts, quarantine, taking over |
//! | `read` | from the bytes of a file to groups of records |
//! | `books` | the files in memory: settled records, failed attempts, sums, and the log of the progress |
//! | `clock_file` | the newest time that was seen, for the next process |
//! | `config` | the settings |
//! | `form` | formats of records, names of files |
//! | `error`, `outcome`, `notice` | errors, results, and the events that no result reports |

mod books;
mod clock_file;
mod config;
pub mod dead_letters;
mod error;
mod files;
mod form;
mod limits;
mod notice;
mod outcome;
mod read;
mod store;
mod write;

pub use books::progress::LOG as PROGRESS_LOG;
pub use clock_file::{ClockFile, Remembered};
pub use config::{Builder, Compression, Config, InvalidConfig};
pub use error::{AdoptError, OpenError, RecordProblem, ReplayError, SettleError, SpillError};
pub use form::format::Format;
pub use form::record::Record;
pub use notice::{Damage, Notice};
pub use outcome::{Attempts, Evicted, Reason, SetAside, Settled, Spilled, Stored, TakenOver, Verdict};
pub use read::group::{Group, Next, Source};
pub use read::peek::record_in;
pub use store::{FileFallback, count_in_name, holds_in};

#![doc = include_str!("../README.md")]

mod adopt;
mod clock;
mod config;
pub mod dead_letters;
mod encode;
mod error;
mod evict;
mod forecast;
mod format;
mod name;
mod notice;
mod open;
mod progress;
mod quarantine;
mod ranges;
mod read;
mod replay;
mod settle;
mod spill;
mod store;
mod unpack;

pub use config::{Builder, Compression, Config, InvalidConfig, SecondProcess};
pub use error::{AdoptError, OpenError, RecordProblem, ReplayError, SettleError, SpillError};
pub use format::Format;
pub use notice::{Damage, Notice};
pub use replay::{Group, Next};
pub use settle::{Settled, Verdict};
pub use spill::{Record, Spilled};
pub use store::{Evicted, FileFallback, Reason, Stored};

#![doc = include_str!("../README.md")]

mod books;
mod config;
pub mod dead_letters;
mod error;
mod files;
mod form;
mod limits;
mod notice;
mod read;
mod store;
mod write;

pub use config::{Builder, Compression, Config, InvalidConfig, SecondProcess};
pub use error::{AdoptError, OpenError, RecordProblem, ReplayError, SettleError, SpillError};
pub use files::settle::{Settled, Verdict};
pub use form::format::Format;
pub use notice::{Damage, Notice};
pub use read::reader::{Group, Next};
pub use store::{Evicted, FileFallback, Reason, Stored};
pub use write::writer::{Record, Spilled};

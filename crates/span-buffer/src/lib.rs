#![doc = include_str!("../README.md")]

mod buffer;
#[cfg(feature = "journal")]
pub mod journal;

pub use buffer::{Buffer, Entry, Limits, Size, Snapshot};

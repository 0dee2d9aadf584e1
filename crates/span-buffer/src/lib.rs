#![doc = include_str!("../README.md")]

mod buffer;

pub use buffer::{Buffer, Entry, Limits, Size, Snapshot};

//! The buffer and, with its feature, the journal from outside.

mod buffer;
#[cfg(feature = "journal")]
mod journal;

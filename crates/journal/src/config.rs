//! Sizes.

use super::OpenError;
use super::frame::MAX_BODY;

/// Limits of a journal, in bytes. [`Journal::open`](super::Journal::open) checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A new segment begins rather than one growing beyond this; a larger batch has a segment of its own. Also the most
    /// that is kept in memory until it is synced, one batch aside. 8 MiB by default; 4 KiB to 256 MiB.
    pub segment_bytes: u64,
    /// The most that all segments may take together before batches are refused; marks are always let in, and clearing up
    /// may go 1 MiB beyond. 256 MiB by default; at least two segments.
    pub max_bytes: u64,
    /// The longest body of a batch. 16 MiB by default; at most 64 MiB.
    pub max_body_bytes: u32,
    /// No new segment for batches begins when less than this is free on the disk, so that marks and other programs have
    /// room. 16 MiB by default.
    pub free_space_reserve: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, max_bytes: 256 << 20, max_body_bytes: 16 << 20, free_space_reserve: 16 << 20 }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let checks = [
            ("segment_bytes", self.segment_bytes, MIN_SEGMENT, MAX_SEGMENT),
            ("max_bytes", self.max_bytes, self.segment_bytes.saturating_mul(2), u64::MAX),
            ("max_body_bytes", u64::from(self.max_body_bytes), 0, u64::from(MAX_BODY)),
        ];
        for (field, value, min, max) in checks {
            if !(min..=max).contains(&value) {
                return Err(OpenError::Config { field, value, min, max });
            }
        }
        Ok(())
    }

    /// With more on disk a batch may be copied to let its segment go: early enough that one that waits long does not make a small journal
    /// full of what is done.
    pub(crate) fn bytes_before_moving(&self) -> u64 {
        self.segment_bytes.saturating_mul(4).min(self.max_bytes / 2)
    }
}

/// Less would be all headers.
const MIN_SEGMENT: u64 = 4 << 10;

/// More would be kept in memory between two syncs.
const MAX_SEGMENT: u64 = 256 << 20;

//! The limits of a journal.

use super::OpenError;
use super::frame::MAX_BODY;

/// Limits of a journal, in bytes. [`Journal::open`](super::Journal::open) checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A segment that would become longer than this is finished and the next one begins; a longer batch has a segment
    /// of its own. Also the most memory that records take between two syncs, plus one batch. 8 MiB by default; 4 KiB to
    /// 256 MiB.
    pub segment_bytes: u64,
    /// The most that all segments may take together before batches are refused; segments that no batch needs are
    /// removed first. Marks are always accepted, and while waiting batches are copied out of an old segment, they may
    /// take up to a segment more. A journal that has more bytes already opens all the same. 256 MiB by default; at
    /// least two segments. See [`set_max_bytes`](super::Journal::set_max_bytes).
    pub max_bytes: u64,
    /// The longest body of a batch. 16 MiB by default; at most 64 MiB.
    pub max_body_bytes: u32,
    /// No segment for batches begins while the disk has fewer free bytes than this, or than a tenth of its size if that
    /// is less: marks and other programs have space. 16 MiB by default.
    pub free_space_reserve: u64,
    /// The tags of [`append_tagged`](super::Journal::append_tagged) that the caller can use; 0 stands for batches
    /// without one. A batch with another tag counts as one of a newer version: the batch is not read, and its segment
    /// is set aside in quarantine as soon as no other batch in it waits. Only 0 by default.
    pub known_tags: &'static [u8],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 8 << 20,
            max_bytes: 256 << 20,
            max_body_bytes: 16 << 20,
            free_space_reserve: 16 << 20,
            known_tags: &[0],
        }
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

    /// If the segments take more than this, a waiting batch may be copied so that its old segment can be removed: early
    /// enough that one batch that waits for long does not fill a small journal with batches that are done.
    pub(crate) fn bytes_before_copying(&self) -> u64 {
        self.segment_bytes.saturating_mul(4).min(self.max_bytes / 2)
    }
}

/// A shorter segment would consist of headers for the most part.
const MIN_SEGMENT: u64 = 4 << 10;

/// The records of a longer segment would take too much memory between two syncs.
const MAX_SEGMENT: u64 = 256 << 20;

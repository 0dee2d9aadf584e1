//! Records that are handed out together.

use std::ops::Range;

use crate::books::catalog::Key;
use crate::form::format::Format;

/// Records of one file, handed out to be delivered. Give it to [`settle`](crate::FileFallback::settle) or one of its
/// shorter forms: a record that is not settled is not read again before the next start, and its file is not removed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "settle it, or give it back"]
pub struct Group {
    key: Key,
    /// The number of the first record in its file, from 0; the others follow.
    first: u64,
    format: Format,
    /// The bytes of each record, without the line feed or length that separates records in the file.
    pub records: Vec<Vec<u8>>,
}

/// The answer of [`next_group`](crate::FileFallback::next_group).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a group that is dropped is not read again before the next start"]
pub enum Next {
    /// Records to deliver: one at least.
    Group(Group),
    /// The call has read 8 MiB of text or 16 files without finding a record to deliver, and more is left to read. Do
    /// other work on the disk, and call again.
    Pause,
    /// Every record in the store is settled or handed out.
    Empty,
}

impl Group {
    pub(super) fn new(key: Key, format: Format) -> Self {
        Self { key, first: 0, format, records: Vec::new() }
    }

    /// Adds a record: its number is `number`, one more than that of the record before it.
    pub(super) fn push(&mut self, number: u64, record: &[u8]) {
        if self.records.is_empty() {
            self.first = number;
        }
        self.records.push(record.to_vec());
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The numbers of its records.
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first + self.records.len() as u64
    }

    /// The name of the file that the records are from.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.key.name
    }

    /// The number of its first record in the file, from 0. The others follow.
    #[must_use]
    pub const fn first_record(&self) -> u64 {
        self.first
    }

    /// The format of the file, which may have been written with other settings.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }
}

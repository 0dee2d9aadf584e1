//! One record as bytes: a line, or a frame; the largest record, part and file.

use std::io::{self, Write};

/// How the records stand in new files. A file is always read in the format of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `.jsonl`: a record is a line of text, and ends with a line feed.
    #[default]
    Lines,
    /// `.binpb`: a record is any bytes, behind its length in four bytes, the highest first. The OpenTelemetry
    /// Collector's file exporter writes the same with `format: proto` and no compression.
    Framed,
}

impl Format {
    /// The bytes that a record takes in a file besides its own.
    pub(crate) const fn overhead(self) -> usize {
        match self {
            Self::Lines => 1,
            Self::Framed => HEAD,
        }
    }

    /// Writes one record that the caller has checked: it is within the limit, and a line holds no line feed.
    pub(crate) fn put(self, out: &mut impl Write, record: &[u8]) -> io::Result<()> {
        match self {
            Self::Lines => {
                out.write_all(record)?;
                out.write_all(b"\n")
            }
            Self::Framed => {
                let len = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                out.write_all(&len.to_be_bytes())?;
                out.write_all(record)
            }
        }
    }

    /// Whether a file that begins like this is not compressed, although its name has the extension of a compressed one.
    pub(crate) fn is_plain(self, first: &[u8]) -> bool {
        match self {
            Self::Lines => first.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()),
            // No compressed file begins with the length of a record: it would be far too long.
            Self::Framed => first.first_chunk().is_some_and(|head| length(*head, MAX_RECORD_BYTES as usize).is_some()),
        }
    }
}

/// The length of a record, if it can be one.
pub(crate) fn length(head: [u8; HEAD], max: usize) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(head)).ok().filter(|len| (1..=max).contains(len))
}

/// The bytes of a length.
pub(crate) const HEAD: usize = 4;

/// The longest record that any settings allow.
pub(crate) const MAX_RECORD_BYTES: u64 = 64 << 20;

/// A compressed part ends with the record that reaches so many bytes of text.
pub(crate) const PART_BYTES: usize = 256 << 10;

/// The most text and the most records in one file, 256 MiB and 1,048,576. A file that holds more was not written by
/// this crate, and reading it would block the disk thread for long.
pub(crate) const MAX_FILE_TEXT: u64 = 256 << 20;
pub(crate) const MAX_FILE_RECORDS: u64 = 1 << 20;

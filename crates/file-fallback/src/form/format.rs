//! How a record stands in a file.

use std::io::{self, Write};

/// How the records stand in new files. Each file is read in the form that its name says, whatever this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `.jsonl`: a record is a line of text, and ends with a line feed.
    #[default]
    Lines,
    /// `.binpb`: a record is any bytes, and before it stands how many, in four bytes, the highest first. The OpenTelemetry Collector's
    /// file exporter writes so with `format: proto`, as long as it does not compress.
    Framed,
}

impl Format {
    /// What a record takes in a file besides its own bytes.
    pub(crate) const fn overhead(self) -> usize {
        match self {
            Self::Lines => 1,
            Self::Framed => HEAD,
        }
    }

    /// Writes one record, which has been checked: it keeps the limit, and as a line holds no line feed.
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

    /// Whether a file that begins like this is not compressed, whatever its name says.
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

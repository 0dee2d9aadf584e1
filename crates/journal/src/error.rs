//! The errors of each operation.

use std::fmt;
use std::io;
use std::path::PathBuf;

use safe_dir::{FileError, LockError};

use super::Id;

/// Why a journal was not opened. No segment was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is out of its range.
    Config {
        /// The name of the setting.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// Another process uses the directory, or its lock file cannot be used.
    Lock(LockError),
    /// A segment was written by a newer version of this program.
    Newer {
        /// The path of the segment.
        path: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// The caller does not know whether the file of a spill exists.
    Spill {
        /// The file's name.
        name: String,
        /// The caller's reason.
        source: io::Error,
    },
    /// The directory or a segment cannot be read now.
    File(FileError),
}

/// Why a record was not appended. The journal has no part of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum AppendError {
    /// The body is longer than the limit.
    TooLarge {
        /// The length of the body.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A batch with this id is in the journal already.
    Duplicate(Id),
    /// The tag is none of [`Config::known_tags`](crate::Config): no later start of the caller would read the batch.
    UnknownTag(u8),
    /// A spill was announced without the name of its file.
    NoName,
    /// The segments together would exceed their limit.
    Full {
        /// Bytes that all segments would take.
        needed: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The disk has too few free bytes for another segment.
    NoRoom {
        /// Bytes that must be free.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The file system refused.
    File(FileError),
}

/// The batches are done, but their mark is not on the disk yet: a later call writes it, and after a crash before that
/// the batches come back.
#[derive(Debug)]
pub struct MarkError(pub FileError);

/// Records that were appended since the last sync are not durable. They are all in memory; the next sync writes them to
/// a new segment.
#[derive(Debug)]
#[non_exhaustive]
pub enum SyncError {
    /// The file system refused.
    File(FileError),
    /// Another program has removed the directory of this path: no batch is durable any more.
    Vanished(PathBuf),
}

impl SyncError {
    /// Whether another program has removed the directory: [`renew`](super::Journal::renew) the journal.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::Vanished(_))
    }
}

/// A maintenance step failed. No batch is lost.
#[derive(Debug)]
pub struct MaintainError(pub FileError);

/// Why a batch was not read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The journal has no batch with this id.
    Unknown(Id),
    /// The batch is damaged, or the disk failed to read it three times: it is lost, and its segment will be moved to
    /// the quarantine.
    Damaged {
        /// The id of the batch.
        id: Id,
        /// The number of its items.
        count: u32,
    },
    /// Another program has removed the segment of the batch: the journal no longer has it.
    Vanished {
        /// The id of the batch.
        id: Id,
        /// The number of its items.
        count: u32,
    },
    /// The disk failed; the batch stays.
    File(FileError),
}

/// Why a step of [`take_over`](super::Journal::take_over) ended early. No batch is lost or in neither journal.
#[derive(Debug)]
#[non_exhaustive]
pub enum TakeOverError {
    /// A batch of the other journal cannot be read now.
    Read(FileError),
    /// This journal does not accept a batch.
    Append(AppendError),
    /// This journal was not synced: the batches are not marked in the other one.
    Sync(SyncError),
    /// The other journal was not synced: after a crash now its batches come again.
    Mark(SyncError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { field, value, min, max } => {
                write!(f, "the journal's {field} is {value}, and must be from {min} to {max}")
            }
            Self::Lock(_) => f.write_str("the journal's directory was not locked"),
            Self::Newer { path, version } => write!(
                f,
                "journal segment \"{}\" has format version {version} and was left untouched: start the newer program that \
                 wrote it, or move the file to another directory",
                path.display()
            ),
            Self::Spill { name, .. } => write!(f, "whether the fallback file {name:?} exists is not known"),
            Self::File(_) => f.write_str("the journal cannot be read now"),
        }
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, max_bytes } => {
                write!(f, "a record of {bytes} bytes was not journalled, as {max_bytes} are allowed: split it")
            }
            Self::Duplicate((incarnation, seq)) => {
                write!(f, "batch {incarnation:016x}-{seq} is in the journal already: give each batch an id of its own")
            }
            Self::UnknownTag(tag) => {
                write!(
                    f,
                    "tag {tag} is none of the journal's known_tags: no later start would read the batch; add the tag"
                )
            }
            Self::NoName => f.write_str("a spill was announced without a name: give the name that its file will have"),
            Self::Full { needed, max_bytes } => write!(
                f,
                "the journal is full: {needed} bytes needed, {max_bytes} allowed: mark batches as done, or raise max_bytes"
            ),
            Self::NoRoom { needed, available } => write!(
                f,
                "no room for the journal: {needed} bytes must be free, {available} are: free some space, or lower the \
                 free-space reserve"
            ),
            Self::File(_) => f.write_str("the batch was not journalled"),
        }
    }
}

impl fmt::Display for MarkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mark was not written to the journal: a crash now would bring batches back")
    }
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(_) => f.write_str("the journal was not synced: a crash now would lose what was appended last"),
            Self::Vanished(path) => write!(
                f,
                "the journal's directory \"{}\" was removed: no batch is durable until it is made again",
                path.display()
            ),
        }
    }
}

impl fmt::Display for MaintainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the journal was not cleared up")
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown((incarnation, seq)) => write!(f, "batch {incarnation:016x}-{seq} is not in the journal"),
            Self::Damaged { id: (incarnation, seq), count } => {
                write!(f, "batch {incarnation:016x}-{seq} with {count} items is damaged and was given up")
            }
            Self::Vanished { id: (incarnation, seq), count } => {
                write!(f, "batch {incarnation:016x}-{seq} with {count} items is gone: its segment was removed")
            }
            Self::File(_) => f.write_str("the batch cannot be read from the journal now"),
        }
    }
}

impl fmt::Display for TakeOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read(_) => "a batch of an ended process cannot be read from its journal now",
            Self::Append(_) => "a batch of an ended process was not taken over",
            Self::Sync(_) => "batches of an ended process are not durable in this journal yet",
            Self::Mark(_) => "batches of an ended process were taken over, and are not marked in its journal yet",
        })
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config { .. } | Self::Newer { .. } => None,
            Self::Lock(error) => Some(error),
            Self::Spill { source, .. } => Some(source),
            Self::File(error) => Some(error),
        }
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            _ => None,
        }
    }
}

impl std::error::Error for MarkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl std::error::Error for SyncError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Vanished(_) => None,
        }
    }
}

impl std::error::Error for MaintainError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            _ => None,
        }
    }
}

impl std::error::Error for TakeOverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Append(error) => Some(error),
            Self::Sync(error) | Self::Mark(error) => Some(error),
        }
    }
}

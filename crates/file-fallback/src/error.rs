//! The errors of each operation.

use std::fmt;

use safe_dir::{FileError, LockError};

use crate::outcome::{Evicted, Settled};

/// Why a store was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory does not exist, or is not safe.
    Directory(safe_dir::OpenError),
    /// Another process uses it.
    Lock(LockError),
    /// The directory cannot be read.
    File(FileError),
}

/// Why records were not written. The caller still has them; no file of theirs is left.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpillError {
    /// The caller gave no record.
    Empty,
    /// A record cannot stand in a file as one record.
    Record {
        /// Which one, from 0.
        index: usize,
        /// Its problem.
        problem: RecordProblem,
    },
    /// The records as written are larger than the whole store may be.
    TooLarge {
        /// How many bytes they take on disk.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The file does not fit beside the stored files, and none of them was to be removed for it.
    Full {
        /// The bytes that it takes on disk.
        needed: u64,
        /// The bytes that the limits leave; 0 also where the number of files is at its limit.
        left: u64,
    },
    /// The file system is full, and removing older files does not free enough.
    NoRoom {
        /// The bytes that must be free, the reserve included.
        needed: u64,
        /// The bytes that are free, and those that removals would free.
        available: u64,
        /// The files that were removed before the spill was refused.
        evicted: Vec<Evicted>,
    },
    /// The file system refused.
    File {
        /// Where and why.
        source: FileError,
        /// The files that were removed before.
        evicted: Vec<Evicted>,
    },
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Why a record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordProblem {
    /// The record has no bytes, or is a line of white space.
    Empty,
    /// The record is a line and contains a line feed.
    LineFeed,
    /// The record is longer than the settings allow.
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit.
        max_record_bytes: usize,
    },
}

/// Why no group was read. No record is lost: the file stays for the next call, and one that fails three times in a row
/// is set aside.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// A file cannot be opened or read now.
    File(FileError),
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Why the verdicts about a group were not taken, or only in memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettleError {
    /// The verdicts count and are not on the disk: after a crash the records are read, and delivered, once more.
    NotDurable {
        /// The result all the same.
        settled: Settled,
        /// Where and why.
        source: FileError,
    },
    /// The group was settled before, or another store handed it out; nothing was changed.
    UnknownGroup,
    /// The number of verdicts is not that of the records; nothing was changed, and the records are read again.
    WrongLength {
        /// Verdicts given.
        verdicts: usize,
        /// Records in the group.
        records: usize,
    },
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Why a file of a process that has ended was not taken over. It stays in its directory; other files may have been
/// moved, and are in the notices.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptError {
    /// A file was not moved: the first failure.
    File(FileError),
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Whether a call of a directory failed because the directory is not there any more.
pub(crate) fn is_lost(error: &FileError) -> bool {
    let stale = |io: &std::io::Error| io.kind() == std::io::ErrorKind::StaleNetworkFileHandle;
    error.is_not_found() || error.io().is_some_and(stale)
}

impl ReplayError {
    /// Whether the directory of the store was removed: see [`FileFallback::renew`](crate::FileFallback::renew).
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::File(error) if is_lost(error))
    }
}

impl AdoptError {
    /// Whether one of the two directories was removed: see [`FileFallback::renew`](crate::FileFallback::renew).
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::File(error) if is_lost(error))
    }
}

impl SpillError {
    /// Whether the directory of the store was removed: see [`FileFallback::renew`](crate::FileFallback::renew).
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::File { source, .. } if is_lost(source))
    }

    /// The files that were removed before the spill failed.
    #[must_use]
    pub fn evicted(&self) -> &[Evicted] {
        match self {
            Self::NoRoom { evicted, .. } | Self::File { evicted, .. } => evicted,
            Self::Empty | Self::Record { .. } | Self::TooLarge { .. } | Self::Full { .. } | Self::Forked => &[],
        }
    }
}

/// The whole chain, down to the answer of the file system, and the remedy: a program may print this text alone.
impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(error) => {
                write!(f, "the fallback directory cannot be used: {}", Chain(error))?;
                // The other variants name their remedy.
                let needs_remedy = matches!(error, safe_dir::OpenError::Io { .. });
                f.write_str(if needs_remedy { REMEDY } else { "" })
            }
            Self::Lock(LockError::Held { path }) => write!(
                f,
                "the fallback directory \"{}\" is used by another process: give this one a directory of its own, such as \
                 one of `safe_dir::SharedDir`, or end the other",
                path.display()
            ),
            Self::Lock(error) => write!(f, "the fallback directory was not locked: {}{REMEDY}", Chain(error)),
            Self::File(error) => write!(f, "the fallback directory cannot be read: {}{REMEDY}", Chain(error)),
        }
    }
}

/// An error and all its sources.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

impl fmt::Display for SpillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no record to write"),
            Self::Record { index, problem } => write!(f, "record {index} was not written: {problem}"),
            Self::TooLarge { bytes, max_bytes } => write!(
                f,
                "{bytes} bytes were not written, as the limit is {max_bytes}: raise max_bytes or spill less at once"
            ),
            Self::Full { needed, left } => write!(
                f,
                "no room beside the stored files: {needed} bytes are needed, the limits leave {left}: wait until files \
                 were replayed, or raise max_bytes or max_files"
            ),
            Self::NoRoom { needed, available, .. } => write!(
                f,
                "no room for a fallback file: {needed} bytes must be free, at most {available} can be: free some space, \
                 or lower the free-space reserve"
            ),
            Self::File { .. } => f.write_str("the fallback file was not written"),
            Self::Forked => f.write_str(FORKED),
        }
    }
}

impl fmt::Display for RecordProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::LineFeed => f.write_str("it contains a line feed: escape it"),
            Self::TooLong { bytes, max_record_bytes } => {
                write!(f, "it has {bytes} bytes, and {max_record_bytes} are allowed: split it")
            }
        }
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "a fallback file cannot be read now",
            Self::Forked => FORKED,
        })
    }
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDurable { .. } => {
                f.write_str("the replay progress was not written: after a crash some records are delivered again")
            }
            Self::UnknownGroup => f.write_str("the group was settled before, or is from another store"),
            Self::WrongLength { verdicts, records } => {
                write!(f, "{verdicts} verdicts for {records} records: give one each")
            }
            Self::Forked => f.write_str(FORKED),
        }
    }
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "a file of a process that has ended was not taken over",
            Self::Forked => FORKED,
        })
    }
}

/// Without a source: the text has all of them.
impl std::error::Error for OpenError {}

impl std::error::Error for SpillError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Empty
            | Self::Record { .. }
            | Self::TooLarge { .. }
            | Self::Full { .. }
            | Self::NoRoom { .. }
            | Self::Forked => None,
        }
    }
}

impl std::error::Error for ReplayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Forked => None,
        }
    }
}

impl std::error::Error for SettleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotDurable { source, .. } => Some(source),
            Self::UnknownGroup | Self::WrongLength { .. } | Self::Forked => None,
        }
    }
}

impl std::error::Error for AdoptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Forked => None,
        }
    }
}

const REMEDY: &str = "; let this user read and write it, or choose another directory";

const FORKED: &str = "this process was forked from the one that opened the store: open a store of its own";

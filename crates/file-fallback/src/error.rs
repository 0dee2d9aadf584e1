//! What each operation can fail with.

use std::fmt;

use safe_dir::{FileError, LockError};

use crate::outcome::{Evicted, Settled};

/// Why a store was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory is not there, or not safe.
    Directory(safe_dir::OpenError),
    /// Another process uses it.
    Lock(LockError),
    /// It cannot be read.
    File(FileError),
}

/// Why records were not written. The caller still has them; no file of theirs is left.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpillError {
    /// There was no record.
    Empty,
    /// A record cannot be kept as one record of a file.
    Record {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        problem: RecordProblem,
    },
    /// The records as written are larger than the whole store may be.
    TooLarge {
        /// How many bytes they take on disk.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// It does not fit beside what is kept, and nothing was to be removed for it.
    Full {
        /// How many bytes it takes on disk.
        needed: u64,
        /// How many the limits leave; 0 also where there may be no more files.
        left: u64,
    },
    /// There is no room, and removing older files does not make enough.
    NoRoom {
        /// How many bytes must be free, the reserve included.
        needed: u64,
        /// How many could be, at most.
        available: u64,
        /// What was removed before that turned out.
        evicted: Vec<Evicted>,
    },
    /// The file system refused.
    File {
        /// Where and why.
        source: FileError,
        /// What was removed before.
        evicted: Vec<Evicted>,
    },
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// What is wrong with a record that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordProblem {
    /// There is nothing in it, or, of a line, nothing but space.
    Empty,
    /// It is to be a line and contains a line feed.
    LineFeed,
    /// It is longer than a record may be.
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit.
        max_record_bytes: usize,
    },
}

/// Why no group was read. Nothing is lost: the file stays for the next attempt, and one that fails
/// again and again is set aside.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// A file cannot be opened or read now.
    File(FileError),
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Why the outcome of a group was not kept, or only in memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettleError {
    /// The outcome counts, but the disk does not know: after a crash the records are read, and delivered, once more.
    NotDurable {
        /// What it came to.
        settled: Settled,
        /// Where and why.
        source: FileError,
    },
    /// The group is not one that this store has handed out and not settled yet; nothing was changed.
    UnknownGroup,
    /// Not one verdict a record; nothing was changed, and the records are read again.
    WrongLength {
        /// Verdicts given.
        verdicts: usize,
        /// Records in the group.
        records: usize,
    },
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Why a dead process's files were not adopted. Those that were not stay where they are.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptError {
    /// A subdirectory is not safe.
    Directory(safe_dir::OpenError),
    /// A subdirectory's lock cannot be used.
    Lock(LockError),
    /// A file was not moved.
    File(FileError),
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

impl SpillError {
    /// What was removed to make room before it failed.
    #[must_use]
    pub fn evicted(&self) -> &[Evicted] {
        match self {
            Self::NoRoom { evicted, .. } | Self::File { evicted, .. } => evicted,
            Self::Empty | Self::Record { .. } | Self::TooLarge { .. } | Self::Full { .. } | Self::Forked => &[],
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory(_) => "the fallback directory cannot be used",
            Self::Lock(_) => "the fallback directory was not locked",
            Self::File(_) => "the fallback directory cannot be read",
        })
    }
}

impl fmt::Display for SpillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no record to write"),
            Self::Record { index, problem } => write!(f, "record {index} was not written: {problem}"),
            Self::TooLarge { bytes, max_bytes } => write!(
                f,
                "{bytes} bytes were not written, as at most {max_bytes} may be kept: raise max_bytes or spill less at once"
            ),
            Self::Full { needed, left } => write!(
                f,
                "no room beside the files that are kept: {needed} bytes are needed, the limits leave {left}: wait until files were \
                 replayed, or raise max_bytes or max_files"
            ),
            Self::NoRoom { needed, available, .. } => write!(
                f,
                "no room for a fallback file: {needed} bytes must be free, {available} could be: free some space, or lower \
                 the free-space reserve"
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
            Self::Directory(_) | Self::Lock(_) => "the directory of another process cannot be adopted",
            Self::File(_) => "a file of another process was not adopted",
            Self::Forked => FORKED,
        })
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory(error) => Some(error),
            Self::Lock(error) => Some(error),
            Self::File(error) => Some(error),
        }
    }
}

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
            Self::Directory(error) => Some(error),
            Self::Lock(error) => Some(error),
            Self::File(error) => Some(error),
            Self::Forked => None,
        }
    }
}

const FORKED: &str = "this process was forked from the one that opened the store: open a store of its own";

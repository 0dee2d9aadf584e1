//! Errors of each operation on dead letters.

use std::fmt;

use safe_dir::FileError;

use crate::dead_letters::letter::MAX_TEXT;
use crate::error::{SpillError, is_lost};
use crate::notice::Damage;

/// Why a dead letter was not read or removed.
#[derive(Debug)]
#[non_exhaustive]
pub enum LetterError {
    /// There is no letter of that name.
    Unknown {
        /// The name that the caller gave.
        name: String,
    },
    /// The letter is damaged, and was set aside.
    Damaged {
        /// Its name.
        name: String,
        /// The damage.
        damage: Damage,
    },
    /// The file system refused.
    File(FileError),
    /// This process is a child, by `fork`, of the one that opened the store, which alone may use it.
    Forked,
}

/// Why the records of a letter were not moved to a store. The letter stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum RedriveError<E> {
    /// The letter was not read.
    Letter(LetterError),
    /// The caller could not convert its lines.
    Unusable(E),
    /// The store did not take the records.
    Store(SpillError),
}

impl LetterError {
    /// Whether the directory was removed: see [`FileFallback::renew`](crate::FileFallback::renew).
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::File(error) if is_lost(error))
    }
}

impl fmt::Display for LetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                let shown: String = name.chars().take(MAX_TEXT).collect();
                write!(f, "there is no dead letter {shown:?}: list them")
            }
            Self::Damaged { name, damage } => {
                write!(f, "dead letter {name:?} was set aside in the quarantine: {}", damage.as_str())
            }
            Self::File(_) => f.write_str("the dead letter cannot be read or removed now"),
            Self::Forked => f.write_str("this process was forked from the one that opened the dead letters"),
        }
    }
}

impl std::error::Error for LetterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Unknown { .. } | Self::Damaged { .. } | Self::Forked => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for RedriveError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Letter(error) => error.fmt(f),
            Self::Unusable(error) => write!(f, "the dead letter cannot be used: {error}"),
            Self::Store(_) => f.write_str("the dead letter stays, as the store did not take it"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RedriveError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Letter(error) => error.source(),
            Self::Unusable(error) => error.source(),
            Self::Store(error) => Some(error),
        }
    }
}

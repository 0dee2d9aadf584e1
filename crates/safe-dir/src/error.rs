//! The errors, each with the path and a remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::name::NameProblem;
use crate::{Kind, name};

/// Why a directory was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The path is empty, or ends in something that is not a plain name.
    InvalidPath {
        /// The path as given.
        path: PathBuf,
    },
    /// The name of a subdirectory cannot be used.
    InvalidName {
        /// The directory.
        path: PathBuf,
        /// The name as given.
        name: String,
        /// The reason.
        problem: NameProblem,
    },
    /// The path leads to a symbolic link.
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The path leads to a file that is neither a directory nor a symbolic link.
    NotADirectory {
        /// That file.
        path: PathBuf,
    },
    /// The directory belongs to another user.
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that this process acts for.
        user: u32,
    },
    /// A link in the path belongs to another user, who can thus choose the directory.
    ForeignLink {
        /// The link.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that this process acts for.
        user: u32,
    },
    /// The file system refused.
    Io {
        /// The directory.
        path: PathBuf,
        /// The action that failed, such as "create".
        action: &'static str,
        /// The answer of the file system.
        source: io::Error,
    },
}

/// Why a call for a file failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileError {
    /// The name cannot be used.
    InvalidName {
        /// The directory.
        path: PathBuf,
        /// The name as given.
        name: String,
        /// The reason.
        problem: NameProblem,
    },
    /// It is not a regular file.
    NotAFile {
        /// Its path.
        path: PathBuf,
        /// Its kind.
        kind: Kind,
    },
    /// The file belongs to another user.
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that this process acts for.
        user: u32,
    },
    /// The file has a second name, which may be in any directory.
    SeveralLinks {
        /// The file.
        path: PathBuf,
        /// The number of its names.
        links: u64,
    },
    /// The file system refused.
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// The action that failed, such as "write".
        action: &'static str,
        /// The answer of the file system.
        source: io::Error,
    },
}

/// Why the lock was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// Another process, or another handle in this one, holds it.
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// The lock file cannot be used, or the file system refused.
    File(FileError),
}

/// Why a process has no directory in a shared one, or did not take that of an ended process.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShareError {
    /// The directory cannot be opened or made.
    Directory(OpenError),
    /// Its lock cannot be used.
    Lock(LockError),
    /// Another call for it failed.
    File(FileError),
}

impl OpenError {
    /// Whether the file system refused; else the path leads to something that is no directory of this user.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// Whether the directory, or one above it, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_not_found(source))
    }

    /// Whether the name exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// Whether a name does not exist, or a handle leads to a file that another machine has removed.
fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}

impl From<OpenError> for ShareError {
    fn from(error: OpenError) -> Self {
        Self::Directory(error)
    }
}

impl From<LockError> for ShareError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

impl From<FileError> for ShareError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl FileError {
    /// The answer of the file system, if it caused the failure.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether the file, or its directory, does not exist (any more: `ESTALE` of a network file system counts).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.io().is_some_and(is_not_found)
    }

    /// Whether the name exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.io().is_some_and(|source| source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether the file may not be opened here: it is not a regular file, belongs to another user, or has a second
    /// name.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::NotAFile { .. } | Self::ForeignOwner { .. } | Self::SeveralLinks { .. })
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidPath { path } => {
                write!(f, "\"{}\" does not end in the name of a directory: give its path", path.display())
            }
            Self::InvalidName { path, name, problem } => write_invalid_name(f, path, name, *problem),
            Self::Symlink { path } => {
                write!(f, "\"{}\" is a symbolic link: give the path that it leads to", path.display())
            }
            Self::NotADirectory { path } => {
                write!(f, "\"{}\" is not a directory: remove it or choose another path", path.display())
            }
            Self::ForeignOwner { path, owner, user } => write!(
                f,
                "directory \"{}\" belongs to user {owner}, not to user {user}, who runs this: choose another directory, \
                 or change its owner",
                path.display()
            ),
            Self::ForeignLink { path, owner, user } => write!(
                f,
                "the symbolic link \"{}\" belongs to user {owner}, neither to root nor to user {user}, who runs this: \
                 give the path that it leads to",
                path.display()
            ),
            Self::Io { path, action, source } => write_io(f, "directory ", path, action, source),
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName { path, name, problem } => write_invalid_name(f, path, name, *problem),
            Self::NotAFile { path, kind } => {
                let kind = match kind {
                    Kind::File => "a file",
                    Kind::Directory => "a directory",
                    Kind::Symlink => "a symbolic link",
                    Kind::Special => "a pipe, socket or device",
                };
                write!(f, "\"{}\" is {kind}, not a regular file: remove it", path.display())
            }
            Self::ForeignOwner { path, owner, user } => write!(
                f,
                "\"{}\" belongs to user {owner}, not to user {user}, who runs this: remove it or change its owner",
                path.display()
            ),
            Self::SeveralLinks { path, links } => {
                write!(f, "\"{}\" has {links} hard links instead of one: remove the others", path.display())
            }
            Self::Io { path, action, source } => write_io(f, "", path, action, source),
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path } => write!(
                f,
                "directory \"{}\" is used by another process: end that one, or choose another directory",
                path.display()
            ),
            Self::File(_) => f.write_str("the lock file cannot be used"),
        }
    }
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(_) => f.write_str("the directory of a process cannot be used"),
            Self::Lock(_) => f.write_str("the directory of a process was not locked"),
            Self::File(_) => f.write_str("the directory of a process was not taken"),
        }
    }
}

/// The path and the action; the reason is the `source()`, and only the remedy follows here.
fn write_io(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    path: &std::path::Path,
    action: &str,
    source: &io::Error,
) -> fmt::Result {
    use io::ErrorKind as K;
    write!(f, "cannot {action} {what}\"{}\"", path.display())?;
    let remedy = match source.kind() {
        K::PermissionDenied => "check the permissions of it and of the directories above",
        K::StorageFull | K::QuotaExceeded => "free some space",
        K::FileTooLarge => "raise the limit of file sizes (ulimit -f)",
        K::ReadOnlyFilesystem => "the file system is read-only: choose another directory or mount it for writing",
        _ => return Ok(()),
    };
    write!(f, ": {remedy}")
}

fn write_invalid_name(
    f: &mut fmt::Formatter<'_>,
    path: &std::path::Path,
    name: &str,
    problem: NameProblem,
) -> fmt::Result {
    let shown: String = name.chars().take(name::MAX_NAME_LEN).collect();
    write!(f, "{shown:?} cannot be a name in \"{}\": {problem}", path.display())
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Held { .. } => None,
            Self::File(error) => Some(error),
        }
    }
}

impl std::error::Error for ShareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory(error) => Some(error),
            Self::Lock(error) => Some(error),
            Self::File(error) => Some(error),
        }
    }
}

//! A name in a directory, and its metadata.

use std::ffi::OsString;
use std::time::SystemTime;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, which may be any bytes.
    pub name: OsString,
    /// The kind of the file, if listing the directory reveals it.
    pub kind: Option<Kind>,
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; its target does not matter.
    Symlink,
    /// A named pipe, socket or device.
    Special,
}

/// The metadata that the file system has for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The kind of the file.
    pub kind: Kind,
    /// The length in bytes; of a sparse file more than it takes on disk.
    pub len: u64,
    /// The bytes that the file system has allocated for it on disk.
    pub allocated: u64,
    /// The user id of the owner.
    pub owner: u32,
    /// The number of names (hard links).
    pub links: u64,
    /// When the content was changed last, by the wall clock.
    pub modified: Option<SystemTime>,
}

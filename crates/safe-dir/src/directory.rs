//! The seam: what a store needs of its directory.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::{FileError, LockError, OpenError};

/// One directory and the files in it. [`SafeDir`](crate::SafeDir) is the real one; feature `sim` has one in memory that crashes, and a
/// wrapper that fails at the n-th call.
///
/// Implementations answer for every name by themselves: a name that is not one plain component is refused. All calls
/// may block on the disk. Nothing is durable before the sync that is named for it.
pub trait Directory: Sized + Send {
    /// An open file.
    type File: File;
    /// Held while the lock is; released by drop.
    type Lock: Send + std::fmt::Debug;

    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// All names in it, in no order, without `.` and `..`. Reads no file and asks for no metadata.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    fn list(&self) -> Result<Vec<Entry>, FileError>;

    /// What stands under `name`; a symbolic link is not followed.
    ///
    /// # Errors
    ///
    /// If there is no such name or it cannot be looked at.
    fn metadata(&self, name: &str) -> Result<Metadata, FileError>;

    /// Opens a file for reading from its start. Never waits for another process.
    ///
    /// # Errors
    ///
    /// If it does not exist, or is anything but a regular file of our own user with a single name.
    fn open_read(&self, name: &str) -> Result<Self::File, FileError>;

    /// Opens a file for writing at its end; makes it if it does not exist. The new name is durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If it cannot be made, or is anything but a regular file of our own user with a single name.
    fn open_append(&self, name: &str) -> Result<Self::File, FileError>;

    /// Makes a new file for writing, readable and writable by its owner only. Its name is durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If something of that name exists, whatever it is, or the file cannot be made.
    fn create(&self, name: &str) -> Result<Self::File, FileError>;

    /// Moves a file to `to` in the directory `target`, which may be this one, on the same file system. Never overwrites:
    /// an existing name is an error. Durable after both directories are synced.
    ///
    /// # Errors
    ///
    /// If `to` exists, `from` does not, or the file system refuses.
    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError>;

    /// Moves a file to `to` in the same directory, in place of what was there, so that `to` names the old or the new file
    /// at every moment. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If `from` does not exist or the file system refuses.
    fn replace(&self, from: &str, to: &str) -> Result<(), FileError>;

    /// Removes a name that is not a directory. Needs no space. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If there is no such name or the file system refuses.
    fn remove(&self, name: &str) -> Result<(), FileError>;

    /// Makes all names durable that were made, moved or removed here.
    ///
    /// # Errors
    ///
    /// If the file system reports a failure; what it was about is then unknown.
    fn sync(&self) -> Result<(), FileError>;

    /// How many bytes can still be written here by this user.
    ///
    /// # Errors
    ///
    /// If the file system does not say.
    fn free_bytes(&self) -> Result<u64, FileError>;

    /// Opens a directory inside this one under the same rules; makes it, durably, if it does not exist.
    ///
    /// # Errors
    ///
    /// As for opening the directory itself.
    fn subdirectory(&self, name: &str) -> Result<Self, OpenError>;

    /// Removes an empty directory inside this one. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If it is not empty, not there, or the file system refuses.
    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError>;

    /// Takes the lock of this directory: at most one holder at a time, on this machine. Never waits. The operating system
    /// releases it when the process ends, however it ends.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if another process, or another handle in this one, has it.
    fn lock(&self) -> Result<Self::Lock, LockError>;
}

/// An open file.
pub trait File: io::Read + io::Write + io::Seek + Send {
    /// Makes its content durable. After a failure nothing of it may be relied on, also if a later call succeeds: write the
    /// data to a new file.
    ///
    /// # Errors
    ///
    /// If the file system reports that something was not written.
    fn sync(&mut self) -> io::Result<()>;

    /// Its length in bytes now.
    ///
    /// # Errors
    ///
    /// If the file system does not say.
    fn len(&self) -> io::Result<u64>;

    /// Cuts it to `len` bytes; what follows is written at its end. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If the file is not open for writing or the file system refuses.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Whether it has no content now.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, of whatever bytes.
    pub name: OsString,
    /// What stands under it, if the directory says so without a further look.
    pub kind: Option<Kind>,
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, whatever it points to.
    Symlink,
    /// A named pipe, socket or device.
    Special,
}

/// What the file system knows about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes; for a sparse file more than it takes on disk.
    pub len: u64,
    /// The bytes allocated for it on disk, by the file system's own count.
    pub allocated: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
    /// How many names it has.
    pub links: u64,
    /// When its content was last changed, by the wall clock.
    pub modified: Option<SystemTime>,
}

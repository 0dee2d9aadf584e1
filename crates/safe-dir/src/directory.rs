//! The trait that stores are written against: a directory and its files.

use std::io;
use std::path::Path;

use crate::{Entry, FileError, LockError, Metadata, OpenError};

/// One directory and the files in it. [`SafeDir`](crate::SafeDir) is the real one; the feature `sim` has one in memory
/// that crashes, and a wrapper that fails at the n-th call.
///
/// Each implementation checks names itself: it refuses a name that is not one plain component. All calls may block on
/// the disk. No change is durable before the sync that its method names.
pub trait Directory: Sized + Send {
    /// An open file.
    type File: File;
    /// The lock; dropping it releases the lock.
    type Lock: Send + std::fmt::Debug;

    /// The path of the directory, for messages.
    fn path(&self) -> &Path;

    /// All names in it, in no order, without `.` and `..`. Reads no file and asks for no metadata.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    fn list(&self) -> Result<Vec<Entry>, FileError>;

    /// The metadata of `name`; a symbolic link is not followed.
    ///
    /// # Errors
    ///
    /// If there is no such name, or the file system refuses.
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
    /// If the name exists, for a file of any kind, or the file cannot be made.
    fn create(&self, name: &str) -> Result<Self::File, FileError>;

    /// Moves a file to `to` in the directory `target`, which may be this one, on the same file system. Never
    /// overwrites: an existing name is an error. Durable after both directories are synced.
    ///
    /// # Errors
    ///
    /// If `to` exists, `from` does not, or the file system refuses.
    fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), FileError>;

    /// Moves a file to `to` in the same directory, in place of the file of that name, so that `to` names the old or the
    /// new file at every moment. Durable after [`sync`](Self::sync).
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
    /// If the file system reports a failure; whether these changes are durable is then unknown.
    fn sync(&self) -> Result<(), FileError>;

    /// How many more bytes this user can write here.
    ///
    /// # Errors
    ///
    /// If the file system does not report it.
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
    /// If it is not empty or does not exist, or the file system refuses.
    fn remove_subdirectory(&self, name: &str) -> Result<(), FileError>;

    /// Takes the lock of this directory: at most one holder at a time, on this machine. Never waits. The operating
    /// system releases it when the process ends, even by a signal.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if another process, or another handle in this one, has it.
    fn lock(&self) -> Result<Self::Lock, LockError>;
}

/// An open file.
pub trait File: io::Read + io::Write + io::Seek + Send {
    /// Makes its content durable. After a failure no part of the content may be relied on, even if a later call
    /// succeeds: write the data to a new file.
    ///
    /// # Errors
    ///
    /// If the file system reports that some bytes were not written.
    fn sync(&mut self) -> io::Result<()>;

    /// Its length in bytes now.
    ///
    /// # Errors
    ///
    /// If the file system does not report it.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file to `len` bytes; later writes append to that. Durable after [`sync`](Self::sync).
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

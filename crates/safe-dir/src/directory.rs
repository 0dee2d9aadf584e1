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
    /// If `to` exists, `from` does not, or the file system refuses, as it does with
    /// [`CrossesDevices`](io::ErrorKind::CrossesDevices) between two: [`move_file`](crate::move_file) copies then.
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

    /// The size of the file system and the part of it that this user can still fill.
    ///
    /// # Errors
    ///
    /// If the file system does not report it.
    fn space(&self) -> Result<Space, FileError>;

    /// How many more bytes this user can write here: [`Space::free`].
    ///
    /// # Errors
    ///
    /// As [`space`](Self::space).
    fn free_bytes(&self) -> Result<u64, FileError> {
        self.space().map(|space| space.free)
    }

    /// Whether another program has removed this directory: it is open and has no name any more. `false` if the file
    /// system does not tell. A directory that was renamed is not gone; [`holds_subdirectory`](Self::holds_subdirectory)
    /// of the one above tells.
    fn is_gone(&self) -> bool;

    /// Whether this directory is on a network or FUSE file system, where a lock may bind the processes of one machine
    /// only. `false` if the file system does not tell.
    fn is_on_network(&self) -> bool;

    /// Opens a directory inside this one under the same rules; makes it, durably, if it does not exist.
    ///
    /// # Errors
    ///
    /// As for opening the directory itself.
    fn subdirectory(&self, name: &str) -> Result<Self, OpenError>;

    /// Makes a directory inside this one, durably. Of several processes that call this at once one succeeds, also on
    /// several machines.
    ///
    /// # Errors
    ///
    /// If the name exists, for a file of any kind, or the directory cannot be made or opened.
    fn create_subdirectory(&self, name: &str) -> Result<Self, OpenError>;

    /// Opens a directory inside this one under the same rules; `None` if the name does not exist.
    ///
    /// # Errors
    ///
    /// As for opening the directory itself.
    fn existing_subdirectory(&self, name: &str) -> Result<Option<Self>, OpenError>;

    /// Whether `name` in this directory leads to `dir` now: not to another directory that has taken its name, and not
    /// through a link.
    ///
    /// # Errors
    ///
    /// If the file system refuses to tell. A name that does not exist is `false`.
    fn holds_subdirectory(&self, name: &str, dir: &Self) -> Result<bool, FileError>;

    /// Gives the directory `from` inside this one the name `to`. Never overwrites: an existing name is an error. Where
    /// the file system cannot do that as one step (NFS), an empty directory that another process makes at the same
    /// moment may be replaced. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// If `to` exists, `from` does not or is no directory, or the file system refuses.
    fn rename_subdirectory(&self, from: &str, to: &str) -> Result<(), FileError>;

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

/// The size of a file system and the part of it that is free, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The bytes that this user can still write; those that the file system keeps for root do not count.
    pub free: u64,
    /// All bytes, whether written or free.
    pub total: u64,
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

    /// Cuts the file to `len` bytes; later writes append to that. Durable after [`sync`](Self::sync). Needs no space;
    /// sets the time of the last modification even if the length stays.
    ///
    /// # Errors
    ///
    /// If the file is not open for writing or the file system refuses.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Whether another program has removed this file: it is open and has no name any more. Bytes that are written to it
    /// vanish when it is closed. A file that was renamed is not gone.
    ///
    /// # Errors
    ///
    /// If the file system does not report it.
    fn is_gone(&self) -> io::Result<bool>;

    /// Whether it has no content now.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
